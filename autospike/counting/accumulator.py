"""Running totals of one operation, as tensors on the device of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autospike.counting.input_values import InputStatistics
from autospike.energy.counts import Form, Reads
from autospike.energy.totals import LayerTotal, OperandTotal


@dataclass(kw_only=True)
class OperandAccumulator:
    """Running totals of one input of an operation, with the fields of `OperandTotal`.

    Attributes:
        kinds: The widest kind of value so far, an index into `KINDS`, `[T]`.
        sums: The sum of the values, `[T]` float64.
        acs: The accumulations that the values cause, `[T]` float64.
        elements: Number of values for one image and time step.
    """

    kinds: Tensor
    sums: Tensor
    acs: Tensor
    elements: int

    @classmethod
    def of(cls, statistics: InputStatistics, *, elements: int, fan_out: float | Tensor) -> OperandAccumulator:
        """Build the totals of one batch.

        Args:
            statistics: Of the input.
            elements: Number of values for one image and time step.
            fan_out: Number of outputs that each value reaches: one number, or one for each position, `[positions]`.

        Returns:
            The totals.
        """
        sums = statistics.sums
        return cls(kinds=statistics.kinds, sums=sums.sum(dim=1), acs=(sums * fan_out).sum(dim=1), elements=elements)

    def add(self, other: OperandAccumulator) -> None:
        """Add the totals of another batch in place.

        Args:
            other: Totals of the same operand.
        """
        self.kinds = torch.maximum(self.kinds, other.kinds)
        self.sums, self.acs = self.sums + other.sums, self.acs + other.acs

    def total(self) -> OperandTotal:
        """Return the totals as Python numbers."""
        kinds, sums, acs = (tuple(x.tolist()) for x in (self.kinds, self.sums, self.acs))
        return OperandTotal(kinds=kinds, sums=sums, acs=acs, elements=self.elements)


@dataclass(kw_only=True)
class OperationAccumulator:
    """Running totals of one operation over the batches that this process counted, with the fields of `LayerTotal`.

    Attributes:
        layer: Name of the operation.
        macs: Dense multiply-accumulates for one image and time step.
        time_steps: T of the operation.
        operands: The inputs that may drive it; none if it reads real values.
        form: Whether it is counted always, or only if linear layers are taken as separate or as fused.
        reads: What enters: the stream, a still image, or a mean.
        regions: Number of regions so far that the operation read; None for an operation that reads one input for each image.
            `macs`, and `elements` of the operands, are then those of a region.
    """

    layer: str
    macs: int
    time_steps: int
    operands: Sequence[OperandAccumulator] = ()
    form: Form = "always"
    reads: Reads = "stream"
    regions: int | None = None

    def add(self, other: OperationAccumulator) -> None:
        """Add the totals of another batch in place.

        Args:
            other: Totals of the same operation.
        """
        if self.regions is not None and other.regions is not None:
            self.regions += other.regions
        for own, new in zip(self.operands, other.operands, strict=True):
            own.add(new)

    def total(self) -> LayerTotal:
        """Return the totals as Python numbers."""
        return LayerTotal(
            layer=self.layer,
            macs=self.macs,
            time_steps=self.time_steps,
            operands=tuple(operand.total() for operand in self.operands),
            form=self.form,
            reads=self.reads,
            regions=self.regions,
        )
