"""Conventions: which counted operations cost what. Each is a small named value, so any of them scores the same counts.

    E = pj_per_mac * MACs + pj_per_ac * ACs

| name          | consecutive linear maps | sums of spikes | accumulations        | still image | source                        |
|---------------|-------------------------|----------------|----------------------|-------------|-------------------------------|
| `exact`       | fused                   | accumulations  | value x true fan-out | once        | ours: what a search uses      |
| `rate`        | fused                   | accumulations  | firing rate x MACs   | once        | `exact`, by papers' arithmetic|
| `spikformer`  | separate                | accumulations  | firing rate x MACs   | every step  | Spikformer, ICLR 2023         |
| `binary-only` | separate                | dense MACs     | firing rate x MACs   | every step  | Spikingformer's logs          |
| `fused`       | fused                   | accumulations  | firing rate x MACs   | every step  | Meta-SpikeFormer, ICLR 2024   |
| `memory`      | fused                   | accumulations  | value x true fan-out | once        | Lemaire et al., ICONIP 2022   |

`memory` is `exact` with the memory traffic of each operation. A sum of n spikes is n accumulations where it is not a dense MAC.
Real values are multiplied in all of them: the image, and the head where it reads a mean, once per image, for it is linear. Batch
normalisation folds into weights; neurons, pooling, residual additions and means are not counted: the papers' practice.

A convention is written `name`, or `name/cost/...` with a cost table (`fp16`) and when still images and means are computed
(`image-once`, `image-every-step`, `head-once`, `head-every-step`): `spikformer/int8/image-once`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autospike.energy.counts import LayerCount
from autospike.errors import UserError

MJ_PER_PJ = 1e-9
UJ_PER_MJ = 1000

When = Literal["once", "every-step"]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Energy of one operation in pJ."""

    name: str
    source: str
    pj_per_mac: float
    pj_per_ac: float


# Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9: 45 nm CMOS at 0.9 V. A MAC is a multiplication and an addition.
FP32 = Costs(name="fp32", source="45 nm, 32-bit float: 3.7 + 0.9 pJ", pj_per_mac=4.6, pj_per_ac=0.9)
FP16 = Costs(name="fp16", source="45 nm, 16-bit float: 1.1 + 0.4 pJ", pj_per_mac=1.5, pj_per_ac=0.4)
INT8 = Costs(name="int8", source="45 nm, 8-bit integer: 0.2 + 0.03 pJ", pj_per_mac=0.23, pj_per_ac=0.03)

# A 32-bit word of a 32 KB memory; the same table has 20 pJ for 64 bits.
PJ_PER_WORD = 10.0
# Lemaire et al., "An analytical estimation of spiking neural networks energy efficiency", ICONIP 2022: event-driven, each
# accumulation reads a weight and reads and writes a potential; a MAC reads a weight and an input, its sum stays in a register.
# Their model sizes a memory for each layer and adds addressing; this is one memory for all, without.
SRAM = Costs(
    name="sram",
    source="fp32, and 2 words of a 32 KB memory a MAC, 3 an accumulation, at 10 pJ",
    pj_per_mac=FP32.pj_per_mac + 2 * PJ_PER_WORD,
    pj_per_ac=FP32.pj_per_ac + 3 * PJ_PER_WORD,
)

COSTS = {costs.name: costs for costs in (FP32, FP16, INT8, SRAM)}


@dataclass(frozen=True, kw_only=True)
class Convention:
    """Which operations count as what.

    `fused`: consecutive linear maps count as the one kernel that they merge into. `integers`: whether a layer that reads sums of
    spikes accumulates or multiplies densely. `accumulations`: values times their `true fan-out`, or the mean `rate` times dense
    MACs, which counts zero padding too. `image`, `head`: whether what a still image or a mean enters is computed `once`.
    """

    name: str
    source: str
    fused: bool
    integers: Literal["accumulations", "macs"] = "accumulations"
    accumulations: Literal["true fan-out", "rate"]
    image: When
    head: When = "once"
    costs: Costs = FP32

    def macs(self, count: LayerCount) -> float:
        """Multiply-accumulates of one image, over all its steps."""
        once = (count.reads == "image" and self.image == "once") or (count.reads == "mean" and self.head == "once")
        steps = 1 if once else count.time_steps
        return float(count.macs * steps) if self.takes(count) and self._multiplies(count) else 0.0

    def acs(self, count: LayerCount) -> float:
        """Accumulations of one image, over all its steps."""
        if not self.takes(count) or self._multiplies(count):
            return 0.0
        return sum(count.acs) if self.accumulations == "true fan-out" else count.macs * sum(count.rate)

    def energy_mj(self, count: LayerCount) -> float:
        return (self.costs.pj_per_mac * self.macs(count) + self.costs.pj_per_ac * self.acs(count)) * MJ_PER_PJ

    def takes(self, count: LayerCount) -> bool:
        """Whether the operations of a count are among those that run."""
        return count.form in ("always", "fused" if self.fused else "separate")

    def _multiplies(self, count: LayerCount) -> bool:
        return count.input == "real" or (count.input == "integer" and self.integers == "macs")


EXACT = Convention(
    name="exact",
    source="ours: true fan-out, networks as they run fused, a still image once",
    fused=True,
    accumulations="true fan-out",
    image="once",
)
RATE = replace(EXACT, name="rate", source="as exact, by the papers' arithmetic", accumulations="rate")
# Every row of the paper's energy table is 0.9 pJ x OPs + the first convolution as MACs at each of T = 4 steps.
SPIKFORMER = Convention(
    name="spikformer",
    source="Zhou et al., Spikformer, ICLR 2023",
    fused=False,
    accumulations="rate",
    image="every-step",
)
# Its published logs, layer by layer: a layer whose input is not binary is dense; the head stands behind the mean over time.
BINARY_ONLY = replace(SPIKFORMER, name="binary-only", source="Zhou et al., Spikingformer, published energy logs", integers="macs")
# Only this gives usual firing rates for the paper's published energies.
FUSED = replace(SPIKFORMER, name="fused", source="Yao et al., Spike-driven Transformer V2, ICLR 2024", fused=True)
MEMORY = replace(EXACT, name="memory", source="exact, with memory traffic after Lemaire et al., ICONIP 2022", costs=SRAM)

CONVENTIONS = {c.name: c for c in (EXACT, RATE, SPIKFORMER, BINARY_ONLY, FUSED, MEMORY)}

DEFAULT = EXACT

WHEN: tuple[When, ...] = ("once", "every-step")


def convention_of(text: str) -> Convention:
    """The convention that a text names; its own name is then the text, in canonical order.

    Raises:
        UserError: no convention is called so, or what follows it is no cost and no flag.
    """
    name, *modifiers = text.split("/")
    flags = {f"{part}-{when}": (part, when) for part in ("image", "head") for when in WHEN}
    kinds = ["cost" if modifier in COSTS else flags.get(modifier, ("",))[0] for modifier in modifiers]
    costs = COSTS.keys() & set(modifiers)
    mixed = name == MEMORY.name and not costs <= {SRAM.name}  # whose costs are what it is
    if name not in CONVENTIONS or "" in kinds or len(set(kinds)) < len(kinds) or mixed:
        raise UserError(
            f"no energy convention {text!r}; choose from {', '.join(CONVENTIONS)}, optionally followed by one cost "
            f"(/{', /'.join(COSTS)}; memory has its own) and by /{', /'.join(flags)}, as in spikformer/int8/image-once"
        )
    found = CONVENTIONS[name]
    for modifier in modifiers:
        changed = {"costs": COSTS[modifier]} if modifier in COSTS else dict([flags[modifier]])
        found = replace(found, **changed)
    return replace(found, name="/".join([name, *_departures(found, CONVENTIONS[name])]))


def _departures(found: Convention, usual: Convention) -> list[str]:
    """What is written behind a name: where a convention differs from the usual one of this name."""
    costs = [found.costs.name] if found.costs != usual.costs else []
    return costs + [f"{part}-{getattr(found, part)}" for part in ("image", "head") if getattr(found, part) != getattr(usual, part)]


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Operations of one image over all time steps, and what they cost."""

    convention: str
    macs: float
    acs: float
    energy_mj: float


def energy(counts: Sequence[LayerCount], convention: Convention = DEFAULT) -> Energy:
    """Total over the layers of a model."""
    macs, acs = sum(map(convention.macs, counts)), sum(map(convention.acs, counts))
    total_mj = (convention.costs.pj_per_mac * macs + convention.costs.pj_per_ac * acs) * MJ_PER_PJ
    return Energy(convention=convention.name, macs=macs, acs=acs, energy_mj=total_mj)


def energies_mj(counts: Sequence[LayerCount]) -> dict[str, float]:
    """Energy under every convention, by name."""
    return {name: energy(counts, convention).energy_mj for name, convention in CONVENTIONS.items()}
