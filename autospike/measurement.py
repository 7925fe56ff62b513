"""Results of measuring an architecture, from a forward pass to an individual of a search.

Three values follow from each other:

1. `Measurement` is what a forward pass over a labelled split gave: correct predictions and operation counts. Accuracy and, under
   an energy convention, energy follow from it by arithmetic.
2. `Evaluation` is a measurement as a search uses it: its energy under one convention, its fitness, and the generation in which it
   was made. The archive (`autospike.searching.archive`) stores one row for each.
3. `autospike.searching.algorithms.Individual` is an evaluation with DEAP's fitness vector. It lives in a population and is
   not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from autospike.energy.conventions import Convention, Energy, energy
from autospike.energy.counts import LayerCount
from autospike.space.architecture import Architecture
from autospike.statistics import Interval, wilson_interval


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Result of one forward pass of a calibrated model over a labelled split.

    Two measurements are equal if they agree in everything but `seconds`.

    Attributes:
        architecture: The architecture of the model.
        correct: Number of images that are classified correctly.
        images: Number of images in the split, or in the part of it that was evaluated.
        counts: Operations of each layer, mean over the images.
        params: Number of parameters of the model.
        seconds: Wall-clock time of the pass. A population's time is divided equally among its architectures.
        correct_mask: For each image whether it is classified correctly, as `autospike.statistics.pack_mask` returns it. Empty if it
            is unknown: archives of older versions have none.
    """

    architecture: Architecture
    correct: int
    images: int
    counts: tuple[LayerCount, ...]
    params: int
    seconds: float = field(compare=False)
    correct_mask: bytes = b""

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, a fraction between 0 and 1."""
        return self.correct / self.images

    @property
    def accuracy_interval(self) -> Interval:
        """The 95 % Wilson interval of the accuracy."""
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


OBJECTIVES: dict[str, Objective] = {
    "accuracy": Objective(value=lambda e: e.measurement.accuracy, maximise=True),
    "energy_mj": Objective(value=lambda e: e.energy.energy_mj),
    "params": Objective(value=lambda e: e.measurement.params),
    "time_steps": Objective(value=lambda e: e.measurement.architecture.time_steps),
    "acs": Objective(value=lambda e: e.energy.acs),
}
"""Objectives by the name that the configuration field `search.objectives` uses."""
