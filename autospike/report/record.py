"""Conversion of a measurement to JSON, with the same fields in every file that contains one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from autospike.energy.conventions import UJ_PER_MJ, Convention, energies_mj, energy, with_int8_costs
from autospike.energy.counts import LayerCount, to_rows
from autospike.measurement import Measurement
from autospike.statistics import pack_mask, wilson_interval

Split = Literal["search", "test"]


def record(measurement: Measurement, convention: Convention, split: Split) -> dict[str, Any]:
    """Convert a measurement to a value for JSON.

    Args:
        measurement: The measurement.
        convention: The energy convention of `energy_mj`, `macs` and `acs`.
        split: The split that was measured. It is part of the names of some fields.

    Returns:
        Architecture, accuracy with its 95 % Wilson interval, correct predictions (one bit for each image, as hexadecimal digits of
        `numpy.packbits`), energy in mJ (and uJ) under the convention, with 8-bit costs and under all others, cost of an operation
        in pJ, size, and the operation counts of each layer, from which the energy under any convention can be computed again. For a
        dense task the accuracy is the value of its `score`, which is added. With early exit, counts and energy are estimates, and
        `mean_time_steps` is added.
    """
    architecture, score = measurement.architecture, measurement.score
    return {
        "architecture_id": architecture.id,
        "architecture": architecture.to_dict(),
        f"{split}_accuracy": measurement.accuracy,
        f"{split}_images": measurement.images,
        f"{split}_correct": measurement.correct,
        f"{split}_accuracy_interval": list(measurement.accuracy_interval),
        "correct_mask": measurement.correct_mask.hex(),
        **({} if score is None else {"score": asdict(score)}),
        **_operations(measurement.counts, convention),
        "params": measurement.params,
        "time_steps": architecture.time_steps,
        **({} if measurement.mean_time_steps is None else {"mean_time_steps": measurement.mean_time_steps}),
        "layers": to_rows(measurement.counts),
    }


def record_rival(
    name: str, correct: bytes, counts: Sequence[LayerCount], params: int, convention: Convention, split: Split
) -> dict[str, Any]:
    """Convert the measurement of a network without spikes to a value for JSON, with the fields of `record`.

    Args:
        name: The network.
        correct: One byte for each image: 1 if it is classified correctly, else 0.
        counts: Its dense operations.
        params: Number of its parameters.
        convention: The energy convention.
        split: The split that was measured.

    Returns:
        A dictionary.
    """
    return {
        "name": name,
        f"{split}_accuracy": correct.count(1) / len(correct),
        f"{split}_images": len(correct),
        f"{split}_correct": correct.count(1),
        f"{split}_accuracy_interval": list(wilson_interval(correct.count(1), len(correct))),
        "correct_mask": pack_mask(correct).hex(),
        **_operations(counts, convention),
        "params": params,
        "time_steps": 1,
        "layers": to_rows(counts),
    }


def _operations(counts: Sequence[LayerCount], convention: Convention) -> dict[str, Any]:
    total, int8 = energy(counts, convention), with_int8_costs(convention)
    return {
        "energy_mj": total.energy_mj,
        "energy_uj": total.energy_mj * UJ_PER_MJ,
        "energy_mj_int8": int8 and energy(counts, int8).energy_mj,
        "energy_mj_by_convention": energies_mj(counts),
        "convention": total.convention,
        "macs": total.macs,
        "acs": total.acs,
        "pj_per_mac": convention.costs.pj_per_mac,
        "pj_per_ac": convention.costs.pj_per_ac,
    }


def record_point(measurement: Measurement, convention: Convention, split: Split) -> dict[str, Any]:
    """Convert a measurement to a value for JSON without architecture, layers and costs.

    It is used where many measurements are written beside each other. The operation counts of a network at a smaller T are the first
    steps of those at the largest (`LayerCount.first`).

    Args:
        measurement: The measurement.
        convention: The energy convention.
        split: The split that was measured.

    Returns:
        A dictionary with the other fields of `record`.
    """
    left_out = ("architecture_id", "architecture", "layers", "pj_per_mac", "pj_per_ac", "convention")
    return {name: value for name, value in record(measurement, convention, split).items() if name not in left_out}
