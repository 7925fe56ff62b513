"""Operation counts of a network for one image, from which the energy under any convention is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

InputKind = Literal["binary", "integer", "real"]
"""Kind of input values: spikes, small integers (sums of spikes), or real values."""
KINDS: tuple[InputKind, ...] = ("binary", "integer", "real")
"""The kinds from narrow to wide: each contains the one before it."""
Form = Literal["always", "separate", "fused"]
"""Whether an operation runs if consecutive linear layers run separately, if they are fused, or always."""
Reads = Literal["stream", "image", "mean"]
"""Source of the input: the stream of the network, a still image, or a mean over time."""


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """Operation counts of one layer, or of one operation of attention, for one image.

    Counts are means over the images that were measured.

    Attributes:
        layer: Path of the layer in the model, with the name of the operation if it has several.
        input: Kind of the input values. If it differs between time steps, the widest kind.
        input_by_step: Kind at each time step, `[T]`; empty if it is the same at all of them.
        form: Consecutive linear layers without a neuron between them are counted twice: as `separate` layers, and as the one layer
            to which they are `fused`. All other operations are `always`.
        reads: `image` if the input is a still image, which is the same at every time step; `mean` if it is a mean over positions
            that the network also averages over time, as in a head; otherwise `stream`.
        time_steps: T of this layer. If images stop at different steps, the mean number of steps that they run.
        macs: Dense multiply-accumulates of one time step, including zero padding.
        acs: Accumulations at each time step, `[T]`: input values times true fan-out, without zero padding. Zero at a step with real
            input; empty if all steps have real input.
        rate: Mean input value at each time step, `[T]`; for spikes the firing rate. Zero or empty as `acs`.
    """

    layer: str
    input: InputKind
    input_by_step: tuple[InputKind, ...] = ()
    form: Form = "always"
    reads: Reads = "stream"
    time_steps: float
    macs: int
    acs: tuple[float, ...]
    rate: tuple[float, ...]

    def first(self, steps: int) -> LayerCount:
        """Return the counts at a smaller T.

        A network is causal in time, so its first time steps do not depend on the number of steps that follow.

        Args:
            steps: The smaller T.
        """
        kinds = self.input_by_step[:steps]
        real = set(kinds) == {"real"}
        return replace(
            self,
            input=max(kinds, key=KINDS.index, default=self.input),
            input_by_step=kinds if len(set(kinds)) > 1 else (),
            time_steps=min(steps, self.time_steps),
            acs=() if real else self.acs[:steps],
            rate=() if real else self.rate[:steps],
        )

    def running(self, shares: Sequence[float]) -> LayerCount:
        """Return the counts if not every image runs every step, an estimate.

        An image that runs a step is charged the mean operations of that step over all images.

        Args:
            shares: Share of the images that run each step, `[T]`.
        """
        return replace(
            self,
            time_steps=sum(shares[: int(self.time_steps)]),
            acs=tuple(acs * share for acs, share in zip(self.acs, shares, strict=False)),
            rate=tuple(rate * share for rate, share in zip(self.rate, shares, strict=False)),
        )


def to_rows(counts: Sequence[LayerCount]) -> list[dict[str, Any]]:
    """Convert counts to values for JSON.

    Args:
        counts: The counts.

    Returns:
        One dictionary for each count, with the attributes of `LayerCount` as keys.
    """
    names = [field.name for field in fields(LayerCount)]
    return [{name: getattr(count, name) for name in names} for count in counts]


def from_rows(rows: Sequence[dict[str, Any]]) -> tuple[LayerCount, ...]:
    """Convert values from JSON to counts.

    Args:
        rows: Dictionaries as `to_rows` returns them; lists in place of tuples are accepted.

    Returns:
        The counts.
    """
    return tuple(LayerCount(**_with_tuples(row)) for row in rows)


def _with_tuples(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: tuple(row[name]) for name in ("input_by_step", "acs", "rate") if name in row}
