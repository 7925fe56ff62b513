"""Running totals of one operation, where its values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autospike.counting.input_values import Values
from autospike.energy.counts import Form, Reads
from autospike.energy.totals import LayerTotal, OperandTotal


@dataclass(kw_only=True)
class Operand:
    """One path into an operation. `kinds`, `sums` and `acs` are `[T]`, as those of `OperandTotal`."""

    kinds: Tensor
    sums: Tensor
    acs: Tensor
    elements: int

    @classmethod
    def of(cls, values: Values, *, elements: int, fan_out: float | Tensor) -> Operand:
        """Args:
        elements: values in an image and step.
        fan_out: how many outputs each reaches: one number, or one for each position, `[positions]`.
        """
        return cls(kinds=values.kinds, sums=values.sums.sum(dim=1), acs=(values.sums * fan_out).sum(dim=1), elements=elements)

    def add(self, other: Operand) -> None:
        self.kinds = torch.maximum(self.kinds, other.kinds)
        self.sums, self.acs = self.sums + other.sums, self.acs + other.acs

    def total(self) -> OperandTotal:
        kinds, sums, acs = (tuple(x.tolist()) for x in (self.kinds, self.sums, self.acs))
        return OperandTotal(kinds=kinds, sums=sums, acs=acs, elements=self.elements)


@dataclass(kw_only=True)
class OperationAccumulator:
    """One operation, as `LayerTotal`, of the batches that this process has counted."""

    layer: str
    macs: int
    time_steps: int
    operands: Sequence[Operand] = ()
    form: Form = "always"
    reads: Reads = "stream"

    def add(self, other: OperationAccumulator) -> None:
        for own, new in zip(self.operands, other.operands, strict=True):
            own.add(new)

    def total(self) -> LayerTotal:
        return LayerTotal(
            layer=self.layer,
            macs=self.macs,
            time_steps=self.time_steps,
            operands=tuple(operand.total() for operand in self.operands),
            form=self.form,
            reads=self.reads,
        )
