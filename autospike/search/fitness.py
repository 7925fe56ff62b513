"""Objectives of a search, and F_AEB, the accuracy-energy-balanced fitness.

Auto-Spikformer scores candidates by F_AEB; its formula could not be read. Both forms here are **ours**:

    power:     F_AEB = accuracy * (energy / reference) ** -beta          (the form of AutoSNN, ICML 2022; beta 0.07)
    weighted:  F_AEB = alpha * accuracy + (1 - alpha) * (1 - energy / reference)

with the energy of the space's largest subnet as reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autospike.config import FitnessConfig
from autospike.errors import UserError
from autospike.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One number of a measurement, and whether it is to be large or small."""

    value: Callable[[Measurement], float]
    maximise: bool = False


OBJECTIVES = {
    "accuracy": Objective(value=lambda m: m.score.accuracy, maximise=True),
    "energy_mj": Objective(value=lambda m: m.score.energy.energy_mj),
    "params": Objective(value=lambda m: m.params),
    "time_steps": Objective(value=lambda m: m.architecture.time_steps),
    "acs": Objective(value=lambda m: m.score.energy.acs),
}


def objectives(names: tuple[str, ...]) -> list[Objective]:
    """Raises:
    UserError: an objective is unknown, or stands twice.
    """
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown or len(set(names)) < len(names) or not names:
        given = ", ".join(names) or "none"
        raise UserError(f"search.objectives: choose different ones from {', '.join(OBJECTIVES)}; got {given}")
    return [OBJECTIVES[name] for name in names]


def f_aeb(accuracy: float, energy_mj: float, *, reference_mj: float, config: FitnessConfig) -> float:
    """The accuracy-energy-balanced fitness, in the configured form."""
    ratio = energy_mj / reference_mj
    if config.form == "power":
        return accuracy * ratio**-config.beta
    return config.alpha * accuracy + (1 - config.alpha) * (1 - ratio)
