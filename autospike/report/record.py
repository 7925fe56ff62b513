"""Conversion of a measurement to JSON, with the same fields in every file that contains one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from autospike.energy.conventions import UJ_PER_MJ, Convention, energies_mj
from autospike.energy.counts import to_rows
from autospike.measurement import Measurement

Split = Literal["search", "test"]


def record(measurement: Measurement, convention: Convention, split: Split) -> dict[str, Any]:
    """Convert a measurement to a value for JSON.

    Args:
        measurement: The measurement.
        convention: The energy convention of `energy_mj`, `macs` and `acs`.
        split: The split that was measured. It is part of the names of some fields.

    Returns:
        Architecture, accuracy with its 95 % Wilson interval, correct predictions (one bit for each image, as hexadecimal digits of
        `numpy.packbits`), energy in mJ (and uJ) under the convention and in mJ under all others, cost of an operation in pJ, size,
        and the operation counts of each layer, from which the energy under any convention can be computed again. For a dense
        task the accuracy is the value of its `score`, which is added.
    """
    architecture, total, score = measurement.architecture, measurement.energy(convention), measurement.score
    return {
        "architecture_id": architecture.id,
        "architecture": architecture.to_dict(),
        f"{split}_accuracy": measurement.accuracy,
        f"{split}_images": measurement.images,
        f"{split}_correct": measurement.correct,
        f"{split}_accuracy_interval": list(measurement.accuracy_interval),
        "correct_mask": measurement.correct_mask.hex(),
        **({} if score is None else {"score": asdict(score)}),
        "energy_mj": total.energy_mj,
        "energy_uj": total.energy_mj * UJ_PER_MJ,
        "energy_mj_by_convention": energies_mj(measurement.counts),
        "convention": total.convention,
        "macs": total.macs,
        "acs": total.acs,
        "pj_per_mac": convention.costs.pj_per_mac,
        "pj_per_ac": convention.costs.pj_per_ac,
        "params": measurement.params,
        "time_steps": architecture.time_steps,
        "layers": to_rows(measurement.counts),
    }


def record_at_every_time_step(measurements: Sequence[Measurement], convention: Convention, split: Split) -> list[dict[str, Any]]:
    """Convert the measurements of one network at several T to values for JSON.

    Args:
        measurements: The measurements.
        convention: The energy convention.
        split: The split that was measured.

    Returns:
        For each T the accuracy with its interval, the correct predictions and the energy, with the keys of `record`. The operation
        counts at a smaller T are the first steps of those at the largest (`LayerCount.first`).
    """
    left_out = ("architecture_id", "architecture", "layers", "pj_per_mac", "pj_per_ac", "convention", "params", f"{split}_images")
    records = [record(measurement, convention, split) for measurement in measurements]
    return [{name: value for name, value in found.items() if name not in left_out} for found in records]
