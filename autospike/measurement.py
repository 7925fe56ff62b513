"""Results of measuring an architecture, from a forward pass to an individual of a search.

Three values follow from each other:

1. `Measurement` is what a forward pass over a labelled split gave: correct predictions, or the score of a dense task, and operation
   counts. Accuracy and, under an energy convention, energy follow from it by arithmetic.
2. `Evaluation` is a measurement as a search uses it: its energy under one convention, its fitness, and the generation in which it
   was made. The archive (`autospike.searching.archive`) stores one row for each.
3. `autospike.searching.algorithms.Individual` is an evaluation with DEAP's fitness vector. It lives in a population and is
   not stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from autospike import import_path
from autospike.energy.conventions import UJ_PER_MJ, Convention, Energy, convention_of, energy
from autospike.energy.counts import LayerCount
from autospike.errors import UserError, quoted
from autospike.space.architecture import Architecture
from autospike.space.costs import BYTES_PER_KB, BYTES_PER_VALUE
from autospike.statistics import Interval, jackknife_interval, wilson_interval


@dataclass(frozen=True, kw_only=True)
class Score:
    """Value of the metric of a task other than classification.

    Attributes:
        metric: Name of the metric.
        value: Its value on the split, a fraction between 0 and 1.
        without: Its values on the split without one group of images each (`autospike.statistics.jackknife_deviation`).
        details: Numbers from which the value follows, such as intersection and union of each class; JSON values.
    """

    metric: str
    value: float
    without: tuple[float, ...]
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Result of one forward pass of a calibrated model over a labelled split.

    Two measurements are equal if they agree in everything but `seconds`.

    Attributes:
        architecture: The architecture of the model.
        correct: Number of images that are classified correctly; 0 for a task with a score.
        images: Number of images in the split, or in the part of it that was evaluated.
        counts: Operations of each layer, mean over the images.
        params: Number of parameters of the model.
        seconds: Wall-clock time of the pass. A population's time is divided equally among its architectures.
        correct_mask: For each image whether it is classified correctly, as `autospike.statistics.pack_mask` returns it. Empty if it
            is unknown: archives of older versions have none.
        score: The score of a dense task; None for classification.
    """

    architecture: Architecture
    correct: int
    images: int
    counts: tuple[LayerCount, ...]
    params: int
    seconds: float = field(compare=False)
    correct_mask: bytes = b""
    score: Score | None = None

    @property
    def accuracy(self) -> float:
        """Value of the metric of the task, a fraction between 0 and 1: top-1 accuracy, or that of the score."""
        return self.correct / self.images if self.score is None else self.score.value

    @property
    def accuracy_interval(self) -> Interval:
        """The 95 % interval of the accuracy: Wilson's, or that of the jackknife for a score."""
        if self.score is not None:
            return jackknife_interval(self.score.value, self.score.without)
        return wilson_interval(self.correct, self.images)

    def energy(self, convention: Convention) -> Energy:
        """Return the energy of one image under a convention.

        Args:
            convention: Decides which operations are counted and what they cost.

        Returns:
            Operations and energy in mJ, over all time steps.
        """
        return energy(self.counts, convention)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A measurement with energy and fitness, as a search uses it.

    Attributes:
        measurement: The measurement.
        energy: Energy under the convention of the search.
        f_aeb: Accuracy-energy-balanced fitness (`autospike.searching.fitness`).
        generation: Generation in which the architecture was first measured.
        by_product: True if no algorithm proposed the architecture: it was measured together with a proposed one, without extra
            cost (`autospike.searching.by_products`).
    """

    measurement: Measurement
    energy: Energy
    f_aeb: float
    generation: int
    by_product: bool = False


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One number of an evaluated candidate that a multi-objective search optimises.

    Attributes:
        value: Returns the number.
        maximise: True if larger values are better, False if smaller values are better.
    """

    value: Callable[[Evaluation], float]
    maximise: bool = False


def _dense_macs(evaluation: Evaluation) -> float:
    """Dense multiply-accumulates of one image over all time steps, with linear layers fused or not as the convention says."""
    convention = convention_of(evaluation.energy.convention)
    return sum(count.macs * count.time_steps for count in evaluation.measurement.counts if convention.includes(count))


OBJECTIVES: dict[str, Objective] = {
    "accuracy": Objective(value=lambda e: e.measurement.accuracy, maximise=True),
    "energy_mj": Objective(value=lambda e: e.energy.energy_mj),
    "params": Objective(value=lambda e: e.measurement.params),
    "time_steps": Objective(value=lambda e: e.measurement.architecture.time_steps),
    "acs": Objective(value=lambda e: e.energy.acs),
    "macs": Objective(value=lambda e: e.energy.macs),
    "dense_macs": Objective(value=lambda e: _dense_macs(e)),
    "energy_uj": Objective(value=lambda e: e.energy.energy_mj * UJ_PER_MJ),
    "weights_kb": Objective(value=lambda e: e.measurement.params * BYTES_PER_VALUE / BYTES_PER_KB),
}
"""Objectives by the name that the configuration field `search.objectives` uses."""


def objective_of(name: str) -> Objective:
    """Return the objective that a name means.

    Args:
        name: A key of `OBJECTIVES`, or the import path of an `Objective`, or of a function of an `Evaluation`, which is minimised.

    Raises:
        UserError: Nothing can be imported from the path, or it is no function.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    found = import_path.load(name, source="search.objectives")
    objective = found if isinstance(found, Objective) else Objective(value=found)
    if not callable(objective.value):
        raise UserError(f"search.objectives: {name}: a {type(found).__name__}; write a function of an Evaluation, or an Objective")

    def value(evaluation: Evaluation) -> float:
        number = objective.value(evaluation)
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise UserError(f"search.objectives: {name}: returned {quoted(number)}; an objective returns a finite number")
        return float(number)

    return Objective(value=value, maximise=objective.maximise)
