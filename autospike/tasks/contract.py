"""What training, evaluation and export know of a task.

A task is a loss, a metric state that adds up over shards of a split, and the numbers that follow from it. Its data are
a split whose samples have the targets of the task (`autospike.data`); its head is part of the network: the classification head, or
the decoder of the architecture (`autospike.space.decoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor

from autospike.measurement import METRICS, Score, TaskName


class MetricState(Protocol):
    """Predictions on some images, compared with their targets. Metric states of disjoint images add up, in any order."""

    def __add__(self, other: Self) -> Self:
        """Return the metric state of the images of both."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a measurement states about the predictions on a split; see `autospike.measurement.Measurement`.

    Attributes:
        correct: Number of images that are classified correctly; 0 for a task with a score.
        correct_mask: One bit for each image: 1 if it is classified correctly; empty for a task with a score.
        score: The value of the metric; None for classification, whose metric is the accuracy.
    """

    correct: int = 0
    correct_mask: bytes = b""
    score: Score | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of prediction.

    Attributes:
        name: The field `task` of an experiment.
        loss: Compares the training output of a network with the targets of a batch; called with the output, the targets of the
            (first) head, and those of a distillation head.
        compare: Compares the outputs at several T with targets; called with the outputs, the targets and the position of the first
            image in the split. Returns one metric state for each T.
        quality: Computes the numbers of a measurement from the metric state of a split.
        reads_targets: Whether a network in training is called with the targets of the batch, because it computes its losses.
    """

    name: TaskName
    loss: Callable[[Any, Any, Any], Tensor]
    compare: Callable[[Any, Any, int], Sequence[MetricState]]
    quality: Callable[[Any], Quality]
    reads_targets: bool = False

    @property
    def metric(self) -> str:
        """Name of the metric, a fraction between 0 and 1."""
        return METRICS[self.name]
