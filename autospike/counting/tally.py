"""Running totals of one operation over all images, from which its count follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from autospike.counting.values import REAL, Values
from autospike.energy.counts import KINDS, Form, LayerCount, Reads


@dataclass(kw_only=True)
class Operand:
    """One path into an operation: the values on it, how many there are in an image and step, and how many outputs each reaches
    (one number, or one for each position, `[positions]`)."""

    values: Values
    elements: int
    fan_out: float | Tensor

    def per_step(self, images: int) -> Iterator[tuple[int, float, float]]:
        """What kind of values, accumulations and mean value, at each step."""
        acs = (self.values.sums * self.fan_out).sum(dim=1) / images
        rate = self.values.sums.sum(dim=1) / (images * self.elements)
        return zip(self.values.kinds.tolist(), acs.tolist(), rate.tolist(), strict=True)


@dataclass(kw_only=True)
class Tally:
    """One operation. Without operands it reads real values.

    Where several operands could drive it (k and v of k^T v), at each step the one that causes fewest accumulations does; spikes
    before sums of spikes, and these before real values.
    """

    layer: str
    macs: int
    time_steps: int
    operands: Sequence[Operand] = ()
    form: Form = "always"
    reads: Reads = "stream"

    def add(self, other: Tally) -> None:
        for own, new in zip(self.operands, other.operands, strict=True):
            own.values = own.values + new.values

    def count(self, images: int) -> LayerCount:
        driven = [min(of_step) for of_step in zip(*(operand.per_step(images) for operand in self.operands), strict=True)]
        kinds = tuple(KINDS[kind] for kind, _, _ in driven)
        spiking = [] if set(kinds) <= {"real"} else [step if step[0] < REAL else (REAL, 0.0, 0.0) for step in driven]
        return LayerCount(
            layer=self.layer,
            input=max(kinds, key=KINDS.index, default="real"),
            input_by_step=kinds if len(set(kinds)) > 1 else (),
            form=self.form,
            reads=self.reads,
            time_steps=self.time_steps,
            macs=self.macs,
            acs=tuple(acs for _, acs, _ in spiking),
            rate=tuple(rate for _, _, rate in spiking),
        )
