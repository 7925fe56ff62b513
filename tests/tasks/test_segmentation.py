"""Mean IoU from added confusion matrices against torchmetrics, the loss of pixels, and the comparison by the jackknife."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from autospike.data.masks import IGNORED
from autospike.statistics import JackknifeComparison, jackknife_deviation, jackknife_interval
from autospike.tasks.segmentation import SEGMENTATION, ConfusionMatrices, confusion_matrices, mean_iou, pixel_cross_entropy

CLASSES, SIDE = 5, 12


def predictions(images: int) -> tuple[Tensor, list[Tensor]]:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(images, CLASSES, SIDE, SIDE, generator=rng)
    masks = torch.randint(0, CLASSES, (images, SIDE, SIDE), generator=rng).to(torch.uint8)
    masks[torch.rand(images, SIDE, SIDE, generator=rng) < 0.1] = IGNORED
    return logits, list(masks)


def test_the_mean_iou_is_that_of_torchmetrics() -> None:
    logits, masks = predictions(20)
    metric = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=IGNORED)
    expected = float(metric(logits.argmax(dim=1), torch.stack(masks).long()))
    (state,) = confusion_matrices([logits], masks)
    score = SEGMENTATION.quality(state).score
    assert score is not None and score.value == pytest.approx(expected, abs=1e-6)
    assert len(score.without) == 16
    left = [i for i in range(20) if i % 16 != 3]
    (without,) = confusion_matrices([logits[left]], [masks[i] for i in left])
    assert score.without[3] == mean_iou(without.counts.sum(axis=0))


def test_tallies_of_shards_add_up_exactly() -> None:
    logits, masks = predictions(9)
    (whole,) = confusion_matrices([logits], masks)
    shards = [confusion_matrices([logits[a:b]], masks[a:b], a)[0] for a, b in ((5, 9), (0, 2), (2, 5))]
    assert shards[0] + shards[1] + shards[2] == whole
    assert shards[0] != whole


def test_mean_iou_by_hand() -> None:
    """Class 0: 3 of 4 pixels; class 1: 1 of 2; class 2 does not occur."""
    confusion = np.array([[3, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert mean_iou(confusion) == (3 / 4 + 1 / 2) / 2
    assert mean_iou(np.zeros((2, 2), dtype=np.int64)) == 0


def test_predictions_are_compared_at_the_size_of_the_mask() -> None:
    """The left half of an image of 6 x 12 pixels is class 1. The network reads 8 x 8 pixels, of which the image fills 4 x 8."""
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1, :4, :4] = 1
    logits[:, 0, :4, 4:] = 1
    logits[:, 1, 4:] = 9  # padding
    mask = torch.zeros(6, 12, dtype=torch.uint8)
    mask[:, :6] = 1
    (state,) = confusion_matrices([logits], [mask])
    assert state.counts[0].tolist() == [[36, 0], [0, 36]]


def test_the_loss_ignores_pixels_without_class() -> None:
    logits, masks = predictions(3)
    targets = torch.stack(masks).long()
    counted = targets != IGNORED
    picked = logits.log_softmax(1).permute(0, 2, 3, 1)[counted].gather(1, targets[counted][:, None])
    torch.testing.assert_close(pixel_cross_entropy(logits, targets, targets), -picked.mean())
    twice = torch.stack([logits, 2 * logits])
    expected = (pixel_cross_entropy(logits, targets, targets) + pixel_cross_entropy(2 * logits, targets, targets)) / 2
    torch.testing.assert_close(pixel_cross_entropy(twice, targets, targets), expected)
    assert pixel_cross_entropy(logits, torch.full_like(targets, IGNORED), targets) == 0


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.array([0.2, 0.5, 0.4, 0.9])
    without = [float(np.delete(values, i).mean()) for i in range(4)]
    assert jackknife_deviation(without) == pytest.approx(values.std(ddof=1) / 2)
    low, high = jackknife_interval(0.5, without)
    half = 3.182446 * values.std(ddof=1) / 2  # quantile of Student's t with 3 degrees of freedom, from a table
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_a_difference_is_significant_by_the_t_test() -> None:
    """T = -0.1 / 0.05 = -2 with 3 degrees of freedom: p = 0.0697."""
    compared = JackknifeComparison(difference=-0.1, without=tuple(-0.1 + 0.05 / np.sqrt(3) * s for s in (1, -1, 1, -1)))
    assert jackknife_deviation(compared.without) == pytest.approx(0.05)
    assert compared.p_value_below == pytest.approx(0.0697, abs=1e-4)
    assert not compared.significantly_below
    assert JackknifeComparison(difference=0.0, without=(0.0,) * 4).p_value_below == 1


def test_an_empty_group_adds_nothing() -> None:
    zeros = ConfusionMatrices(counts=np.zeros((16, 2, 2), dtype=np.int64))
    score = SEGMENTATION.quality(zeros).score
    assert score is not None and score.value == 0
