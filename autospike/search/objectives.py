"""What a search may trade off: numbers of a candidate, each to be large or small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autospike.measurement import Evaluation


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One number of a candidate, and whether it is to be large or small."""

    value: Callable[[Evaluation], float]
    maximise: bool = False


OBJECTIVES = {
    "accuracy": Objective(value=lambda e: e.measurement.score.accuracy, maximise=True),
    "energy_mj": Objective(value=lambda e: e.energy.energy_mj),
    "params": Objective(value=lambda e: e.measurement.params),
    "time_steps": Objective(value=lambda e: e.measurement.architecture.time_steps),
    "acs": Objective(value=lambda e: e.energy.acs),
}
