"""Energy conventions: rules that convert operation counts to energy.

    E = pj_per_mac * MACs + pj_per_ac * ACs

| name          | consecutive linear layers | sums of spikes | accumulations        | still image | source                       |
|---------------|---------------------------|----------------|----------------------|-------------|------------------------------|
| `exact`       | fused                     | accumulations  | value x true fan-out | once        | this package; default        |
| `rate`        | fused                     | accumulations  | firing rate x MACs   | once        | `exact`, papers' arithmetic  |
| `spikformer`  | separate                  | accumulations  | firing rate x MACs   | every step  | Spikformer, ICLR 2023        |
| `binary-only` | separate                  | dense MACs     | firing rate x MACs   | every step  | Spikingformer, energy logs   |
| `fused`       | fused                     | accumulations  | firing rate x MACs   | every step  | Meta-SpikeFormer, ICLR 2024  |
| `integer`     | fused                     | accumulations  | mean integer x MACs  | once        | SpikeYOLO, E-SpikeFormer     |
| `memory`      | fused                     | accumulations  | value x true fan-out | once        | Lemaire et al., ICONIP 2022  |

`memory` is `exact` with the memory traffic of each operation. A sum of n spikes is n accumulations unless it is a dense MAC. Real
values are multiplied under all conventions. The image, and the mean that a head reads, are computed once per image where the table
or a modifier says so, because the layer is linear. As in the papers, batch normalisation merges into weights, and neurons, pooling,
residual additions and means are not counted.

A convention is written as its name, optionally followed by modifiers: a cost table (`fp16`), and how often the first layer of a
still image and a head that reads a mean are computed (`image-once`, `image-every-step`, `head-once`, `head-every-step`). For
example: `spikformer/int8/image-once`.
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
"""How often a layer is computed if its input is the same at every time step."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Energy of one operation.

    Attributes:
        name: Name in a convention, for example `fp16`.
        source: Where the numbers come from.
        pj_per_mac: Energy of a multiply-accumulate in pJ.
        pj_per_ac: Energy of an accumulation in pJ.
    """

    name: str
    source: str
    pj_per_mac: float
    pj_per_ac: float


# Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9: 45 nm CMOS at 0.9 V. A MAC is a multiplication and an addition.
FP32 = Costs(name="fp32", source="45 nm, 32-bit float: 3.7 + 0.9 pJ", pj_per_mac=4.6, pj_per_ac=0.9)
FP16 = Costs(name="fp16", source="45 nm, 16-bit float: 1.1 + 0.4 pJ", pj_per_mac=1.5, pj_per_ac=0.4)
INT8 = Costs(name="int8", source="45 nm, 8-bit integer: 0.2 + 0.03 pJ", pj_per_mac=0.23, pj_per_ac=0.03)

# Access to a 32-bit word of a 32 KB memory: half of the 20 pJ that the same figure gives for 64 bits.
PJ_PER_WORD = 10.0
# Lemaire et al., "An analytical estimation of spiking neural networks energy efficiency", ICONIP 2022. Event-driven: an
# accumulation reads a weight, and reads and writes a membrane potential. A MAC reads a weight and an input; its sum stays in a
# register.
# Simplified: their model has a memory of its own size for each layer, and the energy of addressing.
SRAM = Costs(
    name="sram",
    source="fp32, and 2 words of a 32 KB memory a MAC, 3 an accumulation, at 10 pJ",
    pj_per_mac=FP32.pj_per_mac + 2 * PJ_PER_WORD,
    pj_per_ac=FP32.pj_per_ac + 3 * PJ_PER_WORD,
)

COSTS = {costs.name: costs for costs in (FP32, FP16, INT8, SRAM)}


@dataclass(frozen=True, kw_only=True)
class Convention:
    """A rule that converts operation counts to energy.

    Attributes:
        name: Name with its modifiers, for example `spikformer/int8`.
        source: Where the rule comes from.
        fused: Whether consecutive linear layers count as the one layer into which they merge.
        integers: Whether a layer that reads sums of spikes accumulates (`accumulations`) or multiplies densely (`macs`).
        accumulations: How accumulations are counted: input values times their `true fan-out`, or the mean `rate` times dense MACs,
            which includes zero padding.
        image: How often a layer that reads a still image is computed.
        head: How often a layer that reads a mean over time is computed.
        costs: Energy of one operation.
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
        """Return the multiply-accumulates of a layer for one image, over all time steps.

        Args:
            count: Operation counts of the layer.
        """
        once = (count.reads == "image" and self.image == "once") or (count.reads == "mean" and self.head == "once")
        steps = 1 if once else count.time_steps
        return float(count.macs * steps) if self.includes(count) and self._multiplies(count) else 0.0

    def acs(self, count: LayerCount) -> float:
        """Return the accumulations of a layer for one image, over all time steps.

        Args:
            count: Operation counts of the layer.
        """
        if not self.includes(count) or self._multiplies(count):
            return 0.0
        return sum(count.acs) if self.accumulations == "true fan-out" else count.macs * sum(count.rate)

    def energy_mj(self, count: LayerCount) -> float:
        """Return the energy of a layer for one image in mJ, over all time steps.

        Args:
            count: Operation counts of the layer.
        """
        return (self.costs.pj_per_mac * self.macs(count) + self.costs.pj_per_ac * self.acs(count)) * MJ_PER_PJ

    def includes(self, count: LayerCount) -> bool:
        """Return whether a count is part of the network, with consecutive linear layers fused or separate as the convention says.

        Args:
            count: Operation counts of a layer.
        """
        return count.form in ("always", "fused" if self.fused else "separate")

    def _multiplies(self, count: LayerCount) -> bool:
        """Whether the layer performs dense MACs instead of accumulations."""
        return count.input == "real" or (count.input == "integer" and self.integers == "macs")


EXACT = Convention(
    name="exact",
    source="autospike: true fan-out, linear layers merged, a still image computed once",
    fused=True,
    accumulations="true fan-out",
    image="once",
)
RATE = replace(EXACT, name="rate", source="as exact, by the papers' arithmetic", accumulations="rate")
# Reproduces every row of the paper's energy table: 0.9 pJ x OPs + the MACs of the first convolution at each of T = 4 time steps.
SPIKFORMER = Convention(
    name="spikformer",
    source="Zhou et al., Spikformer, ICLR 2023",
    fused=False,
    accumulations="rate",
    image="every-step",
)
# Reproduces the published logs by layer: a layer whose input is not binary is dense; the head reads the mean over time.
BINARY_ONLY = replace(SPIKFORMER, name="binary-only", source="Zhou et al., Spikingformer, published energy logs", integers="macs")
# Inferred: of the variants here, only this one gives usual firing rates for the energies that the paper publishes.
FUSED = replace(SPIKFORMER, name="fused", source="Yao et al., Spike-driven Transformer V2, ICLR 2024", fused=True)
# An integer v is v accumulations: the mean integer of the neurons before a layer, not the share of non-zeros, times its MACs; the
# first convolution is multiplied once. Reproduces the published 34.6 mJ of SpikeYOLO from its 89 layers.
INTEGER = replace(RATE, name="integer", source="SpikeYOLO, ECCV 2024, and E-SpikeFormer: published spreadsheet")
MEMORY = replace(EXACT, name="memory", source="exact, with memory traffic after Lemaire et al., ICONIP 2022", costs=SRAM)

CONVENTIONS = {c.name: c for c in (EXACT, RATE, SPIKFORMER, BINARY_ONLY, FUSED, INTEGER, MEMORY)}
"""Conventions by name, without modifiers."""

DEFAULT = EXACT
"""Convention of a search unless its configuration names another one."""

WHEN: tuple[When, ...] = ("once", "every-step")


def convention_of(text: str) -> Convention:
    """Parse the name of a convention with its modifiers.

    Args:
        text: A name, optionally followed by modifiers in any order, for example `spikformer/int8/image-once`.

    Returns:
        The convention. Its name has the modifiers in canonical order, without those that equal the default of the convention.

    Raises:
        UserError: The name or a modifier is unknown, or two modifiers contradict each other.
    """
    name, *modifiers = text.split("/")
    flags = {f"{part}-{when}": (part, when) for part in ("image", "head") for when in WHEN}
    kinds = ["cost" if modifier in COSTS else flags.get(modifier, ("",))[0] for modifier in modifiers]
    costs = COSTS.keys() & set(modifiers)
    replaces_memory_costs = name == MEMORY.name and not costs <= {SRAM.name}  # the convention is defined by its costs
    if name not in CONVENTIONS or "" in kinds or len(set(kinds)) < len(kinds) or replaces_memory_costs:
        raise UserError(
            f"no energy convention {text!r}; choose from {', '.join(CONVENTIONS)}, optionally followed by one cost "
            f"(/{', /'.join(COSTS)}; memory has its own) and by /{', /'.join(flags)}, as in spikformer/int8/image-once"
        )
    base = modified = CONVENTIONS[name]
    for modifier in modifiers:
        changed = {"costs": COSTS[modifier]} if modifier in COSTS else dict([flags[modifier]])
        modified = replace(modified, **changed)
    return replace(modified, name="/".join([name, *_modifiers(modified, base)]))


def _modifiers(modified: Convention, base: Convention) -> list[str]:
    """Modifiers, in canonical order, by which a convention differs from its base."""
    costs = [modified.costs.name] if modified.costs != base.costs else []
    return costs + [
        f"{part}-{getattr(modified, part)}" for part in ("image", "head") if getattr(modified, part) != getattr(base, part)
    ]


def with_int8_costs(convention: Convention) -> Convention | None:
    """Return a convention with the costs of 8-bit integers.

    Args:
        convention: The convention.

    Returns:
        The convention, or None if it is defined by costs of its own (`memory`).
    """
    if convention.costs == SRAM:
        return None
    name, *modifiers = convention.name.split("/")
    return convention_of("/".join([name, *(modifier for modifier in modifiers if modifier not in COSTS), INT8.name]))


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of one image under a convention, over all time steps and layers.

    Attributes:
        convention: Name of the convention.
        macs: Multiply-accumulates.
        acs: Accumulations.
        energy_mj: Energy in mJ.
    """

    convention: str
    macs: float
    acs: float
    energy_mj: float


def energy(counts: Sequence[LayerCount], convention: Convention = DEFAULT) -> Energy:
    """Compute the energy of one image: the sum over the layers of a model.

    Args:
        counts: Operation counts of the layers.
        convention: The convention.

    Returns:
        The energy in mJ, with the operations that the convention counts.
    """
    macs, acs = sum(map(convention.macs, counts)), sum(map(convention.acs, counts))
    total_mj = (convention.costs.pj_per_mac * macs + convention.costs.pj_per_ac * acs) * MJ_PER_PJ
    return Energy(convention=convention.name, macs=macs, acs=acs, energy_mj=total_mj)


def energies_mj(counts: Sequence[LayerCount]) -> dict[str, float]:
    """Compute the energy of one image under every convention.

    Args:
        counts: Operation counts of the layers.

    Returns:
        Energy in mJ by the name of the convention.
    """
    return {name: energy(counts, convention).energy_mj for name, convention in CONVENTIONS.items()}
