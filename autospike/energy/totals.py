"""Sums over images, from which counts follow. They are whole numbers: parts of a split add up to the same bits in any order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from autospike.energy.counts import KINDS, Form, LayerCount, Reads

REAL = KINDS.index("real")


@dataclass(frozen=True, kw_only=True)
class OperandTotal:
    """One path into an operation, over all images, at each step `[T]`: the widest kind of value seen (an index into `KINDS`), the
    sum of the values, and the accumulations that they cause. `elements`: how many values there are in an image and step."""

    kinds: tuple[int, ...]
    sums: tuple[float, ...]
    acs: tuple[float, ...]
    elements: int

    def __add__(self, other: OperandTotal) -> OperandTotal:
        return replace(
            self,
            kinds=tuple(map(max, self.kinds, other.kinds)),
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            acs=tuple(a + b for a, b in zip(self.acs, other.acs, strict=True)),
        )

    def per_step(self, images: int) -> Iterator[tuple[int, float, float]]:
        """What kind of values, accumulations and mean value, at each step."""
        values = images * self.elements
        return zip(self.kinds, (acs / images for acs in self.acs), (total / values for total in self.sums), strict=True)


@dataclass(frozen=True, kw_only=True)
class LayerTotal:
    """One layer or operation, over all images. Without operands it reads real values.

    Where several operands could drive it (k and v of k^T v), at each step the one that causes fewest accumulations does; spikes
    before sums of spikes, and these before real values.
    """

    layer: str
    macs: int
    time_steps: int
    operands: tuple[OperandTotal, ...] = ()
    form: Form = "always"
    reads: Reads = "stream"

    def __add__(self, other: LayerTotal) -> LayerTotal:
        return replace(self, operands=tuple(a + b for a, b in zip(self.operands, other.operands, strict=True)))

    def count(self, images: int) -> LayerCount:
        """Means over the images."""
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
