"""The embedded scenes: their keys, their masks, and how little colours say about them."""

from __future__ import annotations

import numpy as np
import pytest

from autospike.data import scenes
from autospike.data.scenes import CLASSES, COUNTS, SIZE, SceneImages, SceneMasks


@pytest.fixture(scope="module")
def drawn() -> scenes.Scenes:
    return scenes.draw("train", range(60))


def test_an_image_depends_on_seed_split_and_index_only(drawn: scenes.Scenes) -> None:
    alone = scenes.draw("train", range(7, 8))
    assert np.array_equal(alone.pixels[0], drawn.pixels[7]) and np.array_equal(alone.owners[0], drawn.owners[7])
    assert not np.array_equal(scenes.draw("test", range(7, 8)).pixels[0], drawn.pixels[7])
    assert not np.array_equal(scenes.draw("train", range(7, 8), seed=1).pixels[0], drawn.pixels[7])


def test_the_first_image_is_pinned(drawn: scenes.Scenes) -> None:
    """A change of the images needs another VERSION."""
    assert (int(drawn.pixels[0].sum()), int(drawn.owners[0].sum()), drawn.classes[0].tolist()) == PINNED


PINNED = (1031204, 1886, [4, 5, 3, 1])


def test_reader_and_mask_agree(drawn: scenes.Scenes) -> None:
    image, mask = SceneImages(split="train")(3), SceneMasks(split="train")(3)
    assert np.array_equal(np.asarray(image), drawn.pixels[3])
    assert mask.shape == (SIZE, SIZE)
    for number in range(1, scenes.SHAPES + 1):
        visible = drawn.owners[3] == number
        assert visible.sum() == 0 or visible.sum() >= scenes.SMALLEST
        assert set(mask[visible]) <= {drawn.classes[3, number - 1]}


def test_shapes_cover_each_other_and_every_class_occurs(drawn: scenes.Scenes) -> None:
    assert COUNTS["test"] >= 500
    assert set(np.unique(drawn.classes)) == set(range(len(CLASSES)))
    shares = np.bincount(np.concatenate([c[o] for c, o in zip(with_background(drawn), drawn.owners, strict=True)]).ravel())
    assert 0.5 < shares[0] / shares.sum() < 0.85


def with_background(drawn: scenes.Scenes) -> np.ndarray:
    return np.concatenate([np.zeros((len(drawn.classes), 1), int), drawn.classes], axis=1)


def mean_iou(true: np.ndarray, predicted: np.ndarray) -> float:
    ious = [((true == c) & (predicted == c)).sum() / ((true == c) | (predicted == c)).sum() for c in range(len(CLASSES))]
    return float(np.mean(ious))


def test_colours_do_not_tell_the_class(drawn: scenes.Scenes) -> None:
    """The most frequent class of each colour, of 512, in half of the images, applied to the other half; and a threshold."""
    classes = np.stack([c[o] for c, o in zip(with_background(drawn), drawn.owners, strict=True)])
    levels = drawn.pixels.astype(int) // 32
    colours = levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]
    table = np.zeros((512, len(CLASSES)))
    np.add.at(table, (colours[:30].ravel(), classes[:30].ravel()), 1)
    weighted = table / np.bincount(classes[:30].ravel(), minlength=len(CLASSES))  # so that rare classes are predicted too
    for by_colour in (table, weighted):
        assert mean_iou(classes[30:], by_colour.argmax(axis=1)[colours[30:]]) < 0.16
    grey = drawn.pixels.mean(axis=3)
    distance = abs(grey - np.median(grey, axis=(1, 2), keepdims=True))
    for threshold in (20, 40, 60, 80):
        assert mean_iou(classes, np.where(distance > threshold, 2, 0)) < 0.16
