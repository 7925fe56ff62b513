"""Classification: cross-entropy, and the images that are classified correctly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from autospike.models.early_exit import confidence_margins, confident_steps, running_means
from autospike.statistics import pack_mask
from autospike.supernet import Logits
from autospike.tasks.contract import Quality, Task


@dataclass(frozen=True, kw_only=True)
class CorrectPredictions:
    """Which images are classified correctly.

    Attributes:
        shards: By the position of the first image of each shard, one byte for each image: 1 if it is classified correctly, else 0.
    """

    shards: dict[int, bytes]

    def __add__(self, other: CorrectPredictions) -> CorrectPredictions:
        return CorrectPredictions(shards={**self.shards, **other.shards})

    @property
    def mask(self) -> bytes:
        """One byte for each image, in the order of the images."""
        return b"".join(self.shards[start] for start in sorted(self.shards))


def correct_predictions(outputs: Sequence[Tensor], targets: Tensor, start: int = 0) -> list[CorrectPredictions]:
    """Find the correct predictions.

    Args:
        outputs: Logits at each T, `[B, num_classes]`.
        targets: Labels, `[B]`.
        start: Position of the first image in the split.

    Returns:
        For each T which images are classified correctly.
    """
    masks = [logits.argmax(dim=1) == targets for logits in outputs]
    return [CorrectPredictions(shards={start: mask.cpu().numpy().tobytes()}) for mask in masks]


def classified_at_every_step(logits: Tensor, targets: Tensor, start: int) -> dict[int, CorrectPredictions]:
    """Find the correct predictions at every T. The output at T = t is the mean over the first t steps.

    Args:
        logits: Of each single step, `[T, B, num_classes]`.
        targets: Labels, `[B]`.
        start: Position of the first image in the split.

    Returns:
        By T which images are classified correctly.
    """
    steps = range(1, len(logits) + 1)
    return dict(zip(steps, correct_predictions([logits[:t].mean(dim=0) for t in steps], targets, start), strict=True))


@dataclass(frozen=True, kw_only=True)
class ConfidentSteps:
    """At which step each image is confident enough to stop, at one exit margin. Those of disjoint images add up.

    Attributes:
        shards: By the position of the first image of each shard, for each image the number of the step, 0 if there is none.
    """

    shards: dict[int, NDArray[np.uint16]]

    def __add__(self, other: ConfidentSteps) -> ConfidentSteps:
        return ConfidentSteps(shards={**self.shards, **other.shards})

    def exits(self, time_steps: int) -> NDArray[np.int64]:
        """Return the number of steps that each image runs, `[N]`, in the order of the images.

        Args:
            time_steps: T, at which the other images stop.
        """
        steps = np.concatenate([self.shards[start] for start in sorted(self.shards)]).astype(np.int64)
        return np.where((steps == 0) | (steps > time_steps), time_steps, steps)


def confident_at(logits: Tensor, margins: Iterable[float], start: int) -> dict[float, ConfidentSteps]:
    """Find the step at which each image is confident enough, for each of some exit margins.

    Args:
        logits: Of each single step, `[T, B, num_classes]`.
        margins: The exit margins.
        start: Position of the first image in the split.

    Returns:
        By margin the steps; see `autospike.models.early_exit.confident_steps`.
    """
    confidence = confidence_margins(running_means(logits))
    found = {margin: confident_steps(confidence, margin).cpu().numpy().astype(np.uint16) for margin in margins}
    return {margin: ConfidentSteps(shards={start: steps}) for margin, steps in found.items()}


@dataclass(frozen=True, kw_only=True)
class Exits:
    """Where the images of a split stop, and which of them are then classified correctly.

    Attributes:
        steps: Number of steps of each image, `[N]`.
        time_steps: T, the largest possible number.
        correct: One byte for each image: 1 if it is classified correctly, else 0.
    """

    steps: NDArray[np.int64]
    time_steps: int
    correct: bytes

    @classmethod
    def of(cls, metric_states: Mapping[int, CorrectPredictions], confident: ConfidentSteps, time_steps: int) -> Exits:
        """Return the exits at one margin.

        Args:
            metric_states: By T which images are classified correctly.
            confident: When each image is confident enough.
            time_steps: T, at which the other images stop.
        """
        steps = confident.exits(time_steps)
        masks = np.stack([np.frombuffer(metric_states[t].mask, dtype=np.uint8) for t in range(1, time_steps + 1)])
        return cls(steps=steps, time_steps=time_steps, correct=masks[steps - 1, np.arange(len(steps))].tobytes())

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the images that run each step, `[T]`."""
        return tuple(float((self.steps >= t).mean()) for t in range(1, self.time_steps + 1))

    @property
    def mean_time_steps(self) -> float:
        """Mean number of steps."""
        return float(self.steps.mean())


def cross_entropy(logits: Logits, targets: Tensor, teacher_targets: Tensor) -> Tensor:
    """Cross-entropy, as a mean over the batch, over the values of T, and over the heads.

    Args:
        logits: `[B, num_classes]` or `[S, B, num_classes]` for S values of T; a pair of them if there are two heads.
        targets: Of the head, or of the first of two: labels `[B]` or probabilities `[B, num_classes]`.
        teacher_targets: Of the second head; as `targets`.

    Returns:
        The loss, a scalar.
    """
    if isinstance(logits, Tensor):
        return _head_loss(logits, targets)
    first, second = logits
    return (_head_loss(first, targets) + _head_loss(second, teacher_targets)) / 2


def _head_loss(logits: Tensor, targets: Tensor) -> Tensor:
    by_time_steps = logits if logits.dim() == 3 else logits.unsqueeze(0)
    return torch.stack([F.cross_entropy(at_one, targets) for at_one in by_time_steps]).mean()


def _quality(state: CorrectPredictions) -> Quality:
    return Quality(correct=state.mask.count(1), correct_mask=pack_mask(state.mask))


CLASSIFICATION = Task(name="classification", loss=cross_entropy, compare=correct_predictions, quality=_quality)
