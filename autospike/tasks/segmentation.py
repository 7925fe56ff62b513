"""Semantic segmentation: cross-entropy of pixels, and the mean intersection over union from confusion matrices that add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from autospike.data.masks import IGNORED, fitted_size
from autospike.measurement import Score
from autospike.tasks.contract import Quality, Task

# Images are divided into this many groups, by their position in the split. The noise of the score is that of leaving out one group
# (delete-a-group jackknife). Our choice: 15 degrees of freedom, and a confusion matrix for each group.
GROUPS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfusionMatrices:
    """Confusion matrices of pixels, one for each group of images.

    Attributes:
        counts: `[GROUPS, classes, classes]`: pixels by true class (rows) and predicted class (columns).
    """

    counts: NDArray[np.int64]

    def __add__(self, other: ConfusionMatrices) -> ConfusionMatrices:
        return ConfusionMatrices(counts=self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfusionMatrices) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment]


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """Compute the mean intersection over union of the classes that occur, in the targets or in the predictions.

    Of a class with true positives TP, false positives FP and false negatives FN it is TP / (TP + FP + FN).

    Args:
        confusion: `[classes, classes]`, pixels by true and predicted class.

    Returns:
        A fraction; 0 if there are no pixels.
    """
    intersection, union = _intersection_and_union(confusion)
    occurs = union > 0
    return float((intersection[occurs] / union[occurs]).mean()) if occurs.any() else 0.0


def _intersection_and_union(confusion: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pixels of each class in both target and prediction, and in at least one of them.

    Args:
        confusion: Number of pixels by target (rows) and prediction (columns), `[classes, classes]`.
    """
    intersection = np.diagonal(confusion)
    return intersection, confusion.sum(axis=0) + confusion.sum(axis=1) - intersection


def confusion_matrices(outputs: Sequence[Tensor], targets: Sequence[Tensor], start: int = 0) -> list[ConfusionMatrices]:
    """Compare predictions with masks, at the size of the masks.

    The whole image was resized to fit into the square that the network read, and padded. Logits are resized bilinearly to the mask;
    then the largest one is the prediction.

    Args:
        outputs: Logits at each T, `[B, classes, S, S]`.
        targets: Masks `[H, W]` of integers, in any sizes.
        start: Position of the first image in the split.

    Returns:
        The confusion matrices of each T.
    """
    return [_confusion(logits, targets, start) for logits in outputs]


def predicted_classes(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return the most likely class of each pixel of an image.

    Args:
        logits: `[classes, S, S]`, of the image resized to fit into S x S and padded at the right or at the bottom.
        size: Height and width of the image.

    Returns:
        `[H, W]`.
    """
    height, width = fitted_size(size, logits.shape[-1])
    inside = logits[:, :height, :width]
    if (height, width) != tuple(size):
        inside = F.interpolate(inside[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    return inside.argmax(dim=0)


def _confusion(logits: Tensor, targets: Sequence[Tensor], start: int) -> ConfusionMatrices:
    classes = logits.shape[1]
    counts = np.zeros((GROUPS, classes, classes), dtype=np.int64)
    for i, (of_image, mask) in enumerate(zip(logits, targets, strict=True)):
        predicted = predicted_classes(of_image, mask.shape)
        true = mask.to(predicted.device, torch.int64)
        counted = true != IGNORED
        pairs = torch.bincount(true[counted] * classes + predicted[counted], minlength=classes**2)
        counts[(start + i) % GROUPS] += pairs.view(classes, classes).cpu().numpy()
    return ConfusionMatrices(counts=counts)


def pixel_cross_entropy(logits: Tensor, targets: Tensor, _teacher_targets: Tensor) -> Tensor:
    """Cross-entropy, as a mean over the pixels that are not ignored and over the values of T.

    Args:
        logits: `[B, classes, H, W]`, or `[S, B, classes, H, W]` for S values of T.
        targets: Classes `[B, H, W]`; `IGNORED` where there is none.

    Returns:
        The loss, a scalar; 0 if all pixels are ignored.
    """
    by_time_steps = logits if logits.dim() == 5 else logits.unsqueeze(0)
    counted = (targets != IGNORED).sum().clamp(min=1)
    losses = [F.cross_entropy(at_one, targets, ignore_index=IGNORED, reduction="sum") / counted for at_one in by_time_steps]
    return torch.stack(losses).mean()


def _quality(state: ConfusionMatrices) -> Quality:
    whole = state.counts.sum(axis=0)
    intersection, union = _intersection_and_union(whole)
    return Quality(
        score=Score(
            metric=SEGMENTATION.metric,
            value=mean_iou(whole),
            without=tuple(mean_iou(whole - group) for group in state.counts),
            details={"intersection": intersection.tolist(), "union": union.tolist()},
        )
    )


SEGMENTATION = Task(name="segmentation", loss=pixel_cross_entropy, compare=confusion_matrices, quality=_quality)
