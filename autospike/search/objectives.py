"""What a search may trade off: numbers of a measurement, each to be large or small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
