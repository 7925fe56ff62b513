"""F_AEB, the accuracy-energy-balanced fitness.

Auto-Spikformer ranks candidates by F_AEB. Its formula was not available to us, so both forms here are our own definitions:

    power:     F_AEB = accuracy * (energy / reference) ** -beta
    weighted:  F_AEB = alpha * accuracy + (1 - alpha) * (1 - energy / reference)

`reference` is the energy of the largest subnet of the space. The power form follows AutoSNN (ICML 2022), with beta = 0.07.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autospike.config import FitnessConfig
from autospike.measurement import Evaluation
from autospike.space.architecture import Architecture


def f_aeb(accuracy: float, energy_mj: float, *, reference_mj: float, config: FitnessConfig) -> float:
    """Compute F_AEB in the configured form.

    Args:
        accuracy: Accuracy, a fraction.
        energy_mj: Energy per image in mJ.
        reference_mj: Energy per image of the largest subnet in mJ.
        config: Form, alpha and beta.

    Returns:
        The fitness; larger is better.
    """
    ratio = energy_mj / reference_mj
    if config.form == "power":
        return accuracy * ratio**-config.beta
    return config.alpha * accuracy + (1 - config.alpha) * (1 - ratio)


def f_aeb_of_all(points: Sequence[tuple[float, float]], *, reference_mj: float, config: FitnessConfig) -> list[float]:
    """Compute F_AEB of many candidates.

    Args:
        points: Accuracy, and energy per image in mJ, of each candidate.
        reference_mj: Energy per image of the largest subnet in mJ.
        config: Form, alpha and beta.

    Returns:
        The fitness of each candidate.
    """
    return [f_aeb(accuracy, energy_mj, reference_mj=reference_mj, config=config) for accuracy, energy_mj in points]


def refitted(evaluations: Sequence[Evaluation], largest: Architecture, config: FitnessConfig) -> list[Evaluation]:
    """Compute F_AEB of evaluations again, from their energies.

    Args:
        evaluations: The evaluations, empty or with that of the largest subnet.
        largest: The largest subnet of the space.
        config: Form, alpha and beta.

    Returns:
        The evaluations with the new fitness, in the same order.
    """
    reference_mj = next((e.energy.energy_mj for e in evaluations if e.measurement.architecture == largest), 0.0)
    return [
        replace(e, f_aeb=f_aeb(e.measurement.accuracy, e.energy.energy_mj, reference_mj=reference_mj, config=config))
        for e in evaluations
    ]
