"""F_AEB, the accuracy-energy-balanced fitness.

Auto-Spikformer scores candidates by F_AEB; its formula could not be read. Both forms here are **ours**:

    power:     F_AEB = accuracy * (energy / reference) ** -beta          (the form of AutoSNN, ICML 2022; beta 0.07)
    weighted:  F_AEB = alpha * accuracy + (1 - alpha) * (1 - energy / reference)

with the energy of the space's largest subnet as reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autospike.config import FitnessConfig
from autospike.measurement import Evaluation
from autospike.space.architecture import Architecture


def f_aeb(accuracy: float, energy_mj: float, *, reference_mj: float, config: FitnessConfig) -> float:
    """The accuracy-energy-balanced fitness, in the configured form."""
    ratio = energy_mj / reference_mj
    if config.form == "power":
        return accuracy * ratio**-config.beta
    return config.alpha * accuracy + (1 - config.alpha) * (1 - ratio)


def refitted(evaluations: Sequence[Evaluation], largest: Architecture, config: FitnessConfig) -> list[Evaluation]:
    """The same candidates with the fitness that follows from their energies; of any, the space's largest subnet is one."""
    reference_mj = next((e.energy.energy_mj for e in evaluations if e.measurement.architecture == largest), 0.0)
    return [
        replace(e, f_aeb=f_aeb(e.measurement.accuracy, e.energy.energy_mj, reference_mj=reference_mj, config=config))
        for e in evaluations
    ]
