"""Energy from counted operations, under a named convention.

    E = E_MAC * MACs + E_AC * ACs        (45 nm CMOS, 32-bit float: E_MAC = 4.6 pJ, E_AC = 0.9 pJ; Horowitz, ISSCC 2014)

A layer whose input is real-valued multiplies: every weight costs a MAC. A layer whose input is spikes, or an integer sum of spikes,
accumulates: a value n costs n accumulations for each output that it reaches. Batch normalisation folds into the weights and is
not counted; neurons and pooling are not counted either (the papers' practice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

PJ_PER_MAC = 4.6
PJ_PER_AC = 0.9
MJ_PER_PJ = 1e-9

InputKind = Literal["real", "integer", "binary"]
Form = Literal["always", "separate", "fused"]


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """What one layer does for one image, counted on real data.

    `form`: consecutive linear maps without a neuron between are counted twice, as `separate` maps and as the one that they are
    `fused` to; a convention takes either, and all that is `always`.
    `macs`: dense multiply-accumulates per time step. `acs`: accumulations at each time step, mean over the images.
    `rate`: mean input value at each time step: the firing rate where the input is binary. Both are empty where the input is real.
    """

    layer: str
    input: InputKind
    form: Form = "always"
    time_steps: int
    macs: int
    acs: tuple[float, ...]
    rate: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Which operations count as what."""

    name: str
    source: str
    fused: bool = False
    """Whether consecutive linear maps count as the one kernel that they merge into."""

    def macs(self, count: LayerCount) -> float:
        return float(count.macs * count.time_steps) if count.input == "real" and self.takes(count) else 0.0

    def acs(self, count: LayerCount) -> float:
        return sum(count.acs) if self.takes(count) else 0.0

    def takes(self, count: LayerCount) -> bool:
        """Whether the operations of a count are among those that run."""
        return count.form in ("always", "fused" if self.fused else "separate")


# Every row of the paper's energy table equals 0.9 pJ x OPs + the first convolution as MACs at each of T = 4 steps.
SPIKFORMER = Convention(
    name="spikformer",
    source="Zhou et al., Spikformer, ICLR 2023: integers as accumulations; real-valued inputs (the image, and the head's mean over "
    "tokens) as MACs at every time step",
)

# Only this gives usual firing rates for Meta-SpikeFormer's published energies. Equal to the former where nothing can be fused.
FUSED = Convention(
    name="fused",
    source="Yao et al., Spike-driven Transformer V2, ICLR 2024: as spikformer, with RepConv and SepConv's separable convolution "
    "as the dense kernel that each merges into",
    fused=True,
)

CONVENTIONS = (SPIKFORMER, FUSED)

# What a search minimises: networks run fused.
DEFAULT = FUSED


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Operations of one image over all time steps, and what they cost."""

    convention: str
    macs: float
    acs: float

    @property
    def energy_mj(self) -> float:
        return (PJ_PER_MAC * self.macs + PJ_PER_AC * self.acs) * MJ_PER_PJ


def energy(counts: Sequence[LayerCount], convention: Convention = DEFAULT) -> Energy:
    """Total over the layers of a model."""
    return Energy(
        convention=convention.name,
        macs=sum(convention.macs(count) for count in counts),
        acs=sum(convention.acs(count) for count in counts),
    )


def to_rows(counts: Sequence[LayerCount]) -> list[dict[str, Any]]:
    """As JSON for the archive, from which any convention can score a candidate again."""
    return [asdict(count) for count in counts]


def from_rows(rows: Sequence[dict[str, Any]]) -> tuple[LayerCount, ...]:
    return tuple(LayerCount(**{**row, "acs": tuple(row["acs"]), "rate": tuple(row["rate"])}) for row in rows)
