"""Classification: cross-entropy, and the images that are classified correctly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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


def _quality(tally: CorrectPredictions) -> Quality:
    return Quality(correct=tally.mask.count(1), correct_mask=pack_mask(tally.mask))


CLASSIFICATION = Task(name="classification", loss=cross_entropy, tally=correct_predictions, quality=_quality)
