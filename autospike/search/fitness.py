"""F_AEB, the accuracy-energy-balanced fitness.

Auto-Spikformer scores candidates by F_AEB; its formula could not be read. Both forms here are **ours**:

    power:     F_AEB = accuracy * (energy / reference) ** -beta          (the form of AutoSNN, ICML 2022; beta 0.07)
    weighted:  F_AEB = alpha * accuracy + (1 - alpha) * (1 - energy / reference)

with the energy of the space's largest subnet as reference.
"""

from __future__ import annotations

from autospike.config import FitnessConfig


def f_aeb(accuracy: float, energy_mj: float, *, reference_mj: float, config: FitnessConfig) -> float:
    """The accuracy-energy-balanced fitness, in the configured form."""
    ratio = energy_mj / reference_mj
    if config.form == "power":
        return accuracy * ratio**-config.beta
    return config.alpha * accuracy + (1 - config.alpha) * (1 - ratio)
