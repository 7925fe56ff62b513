"""Running totals over images, from which operation counts are computed.

Totals are whole numbers in double precision. Those of parts of a split can be added in any order, with bit-identical results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from autospike.energy.counts import KINDS, Form, LayerCount, Reads

REAL = KINDS.index("real")


@dataclass(frozen=True, kw_only=True)
class OperandTotal:
    """Totals of one operand of an operation, over all images.

    A layer has one operand, its input. A product of two spike tensors, for example k^T v, has two.

    Attributes:
        kinds: Widest kind of value at each time step, as an index into `KINDS`; `[T]`.
        sums: Sum of the values at each time step; `[T]`.
        acs: Accumulations that the values cause at each time step; `[T]`.
        elements: Number of values in one image and time step.
    """

    kinds: tuple[int, ...]
    sums: tuple[float, ...]
    acs: tuple[float, ...]
    elements: int

    def __add__(self, other: OperandTotal) -> OperandTotal:
        """Return the totals over the images of both."""
        return replace(
            self,
            kinds=tuple(map(max, self.kinds, other.kinds)),
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            acs=tuple(a + b for a, b in zip(self.acs, other.acs, strict=True)),
        )

    def driven(self, images: int) -> Iterator[tuple[int, float, float]]:
        """Return, for each time step: the kind of value, the accumulations in one image, the sum of the values of all images.

        Args:
            images: Number of images that the totals are of.
        """
        return zip(self.kinds, (acs / images for acs in self.acs), self.sums, strict=True)

    def per_step(self, images: int, inputs: int) -> Iterator[tuple[int, float, float]]:
        """Return means over the images, for each time step.

        Args:
            images: Number of images in the totals.
            inputs: Number of inputs of `elements` values each: the same, or the number of regions.

        Returns:
            For each time step: the kind of value, the accumulations in one image, and the mean value.
        """
        values = max(1, inputs) * self.elements
        return zip(self.kinds, (acs / images for acs in self.acs), (total / values for total in self.sums), strict=True)


@dataclass(frozen=True, kw_only=True)
class LayerTotal:
    """Totals of one layer, or of one operation of attention, over all images.

    Attributes:
        layer: Path of the layer in the model, with the name of the operation if it has several.
        macs: Dense multiply-accumulates of one image and time step.
        time_steps: T of the layer.
        operands: Totals of the operands; empty if the layer reads real values.
        form: See `LayerCount.form`.
        reads: See `LayerCount.reads`.
        regions: Number of regions that the layer read in all images; None for a layer that reads one input for each image. `macs`,
            and `elements` of the operands, are then those of a region.
    """

    layer: str
    macs: int
    time_steps: int
    operands: tuple[OperandTotal, ...] = ()
    form: Form = "always"
    reads: Reads = "stream"
    regions: int | None = None

    def __add__(self, other: LayerTotal) -> LayerTotal:
        """Return the totals over the images of both."""
        regions = None if self.regions is None or other.regions is None else self.regions + other.regions
        return replace(self, operands=tuple(a + b for a, b in zip(self.operands, other.operands, strict=True)), regions=regions)

    def spikes(self, images: int, time_steps: int) -> float:
        """Return the spikes of one image that the operation reads in its first time steps; an integer v is v spikes.

        Those of the operand that `count` selects; 0 at steps with real values.

        Args:
            images: Number of images in the totals.
            time_steps: Number of time steps.
        """
        of_steps = zip(*(operand.driven(images) for operand in self.operands), strict=True)
        return sum(total / images for kind, _, total in map(min, islice(of_steps, time_steps)) if kind < REAL)

    def count(self, images: int) -> LayerCount:
        """Return the counts of one image, as means over the images.

        An operation with several operands runs over the values of one of them: at each time step the operand with the narrowest
        kind of value, and of equal kinds the one that causes fewer accumulations.

        Args:
            images: Number of images in the totals.
        """
        inputs = images if self.regions is None else self.regions
        steps = [min(of_step) for of_step in zip(*(operand.per_step(images, inputs) for operand in self.operands), strict=True)]
        kinds = tuple(KINDS[kind] for kind, _, _ in steps)
        spiking = [] if set(kinds) <= {"real"} else [step if step[0] < REAL else (REAL, 0.0, 0.0) for step in steps]
        return LayerCount(
            layer=self.layer,
            input=max(kinds, key=KINDS.index, default="real"),
            input_by_step=kinds if len(set(kinds)) > 1 else (),
            form=self.form,
            reads=self.reads,
            time_steps=self.time_steps,
            macs=self.macs if self.regions is None else round(self.macs * self.regions / images),
            acs=tuple(acs for _, acs, _ in spiking),
            rate=tuple(rate for _, _, rate in spiking),
        )
