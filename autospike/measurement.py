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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autospike.energy.conventions import Convention, Energy, energy
from autospike.energy.counts import LayerCount
from autospike.space.architecture import Architecture
from autospike.statistics import Interval, jackknife_interval, wilson_interval

TaskName = Literal["classification", "segmentation", "detection"]
METRICS: dict[TaskName, str] = {"classification": "accuracy", "segmentation": "mean IoU", "detection": "box AP"}
"""Name of the metric of each task in tables, figures and messages. Files and options call its value the accuracy."""


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

    Two measurements are equal if they agree in everything but `seconds` and `spikes`.

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
        spikes: Spikes that layers and products of attention read, mean over the images, summed over layers and time steps; an
            integer v is v spikes. None if it is unknown: archives of older versions have none.
        mean_time_steps: Mean number of steps that an image runs, with early exit in a search. `counts` and `spikes`, and the energy
            that follows from them, are then estimates (`LayerCount.running`). None if every image runs all T steps.
    """

    architecture: Architecture
    correct: int
    images: int
    counts: tuple[LayerCount, ...]
    params: int
    seconds: float = field(compare=False)
    correct_mask: bytes = b""
    score: Score | None = None
    spikes: float | None = field(default=None, compare=False)
    mean_time_steps: float | None = None

    @property
    def accuracy(self) -> float:
        """Value of the metric of the task, a fraction between 0 and 1: top-1 accuracy, or that of the score."""
        return self.correct / self.images if self.score is None else self.score.value

    @property
    def metric(self) -> str:
        """Name of the metric of the task."""
        return METRICS["classification"] if self.score is None else self.score.metric

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
class Latency:
    """Measured duration of a forward pass.

    Attributes:
        device: Where it was measured: processor or GPU, number of threads, and size of the batch.
        image_ms: Median duration of a pass of one image, in ms.
        batch_ms: The same of a batch, divided by its number of images.
    """

    device: str
    image_ms: float
    batch_ms: float


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
        latency: Measured latency, if an objective of the search is one.
    """

    measurement: Measurement
    energy: Energy
    f_aeb: float
    generation: int
    by_product: bool = False
    latency: Latency | None = None
