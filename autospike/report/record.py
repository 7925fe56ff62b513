"""A measurement as JSON: the same fields wherever one is written."""

from __future__ import annotations

from typing import Any, Literal

from autospike.energy.conventions import Convention, energies_mj
from autospike.energy.counts import to_rows
from autospike.measurement import Measurement


def record(measured: Measurement, convention: Convention, split: Literal["search", "test"]) -> dict[str, Any]:
    """What was measured on a split, its energy under the convention and under every other, and the counts that these rest on."""
    architecture, total = measured.architecture, measured.energy(convention)
    return {
        "architecture_id": architecture.id,
        "architecture": architecture.to_dict(),
        f"{split}_accuracy": measured.accuracy,
        f"{split}_images": measured.images,
        "energy_mj": total.energy_mj,
        "energy_mj_by_convention": energies_mj(measured.counts),
        "convention": total.convention,
        "macs": total.macs,
        "acs": total.acs,
        "pj_per_mac": convention.costs.pj_per_mac,
        "pj_per_ac": convention.costs.pj_per_ac,
        "params": measured.params,
        "time_steps": architecture.time_steps,
        "layers": to_rows(measured.counts),
    }
