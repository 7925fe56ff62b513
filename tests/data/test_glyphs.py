"""Glyphs: every image depends on its key alone, shows the letter of its class, and is equal on every machine for equal masks."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest

from autospike.config import DataConfig
from autospike.data import glyphs
from autospike.data.loading import load_images
from autospike.data.source import open_images

CONFIG = DataConfig(name="glyphs", image_size=32, search_share=0.1)


def block_masks(*, without: int | None = None) -> glyphs.Masks:
    """One font; the mask of letter c is a block of 30 + c rows and 30 columns, or empty for the letter `without`."""
    masks = np.zeros((1, 26, glyphs.BOX, glyphs.BOX), dtype=np.float32)
    for c in range(26):
        if c != without:
            masks[0, c, 4 : 34 + c, 17:47] = 1
    return masks


def test_splits_have_every_class_equally_often() -> None:
    images = load_images(CONFIG, seed=0)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 18_720, "search": 2_080, "test": 5_200}
    assert {name: set(Counter(split.labels).values()) for name, split in images.splits.items()} == {
        "train": {720},
        "search": {80},
        "test": {200},
    }
    assert (images.channels, images.time_steps, "".join(images.classes)) == (3, None, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_the_seed_of_an_experiment_changes_the_search_split_but_not_the_test_split() -> None:
    first, second = (load_images(CONFIG, seed=seed).splits for seed in (0, 1))
    assert first["search"].indices != second["search"].indices
    assert first["test"] == second["test"]


def test_an_image_does_not_depend_on_the_number_of_images() -> None:
    masks = block_masks()
    together = glyphs.images("train", range(3, 9), masks=masks)
    for position, index in enumerate(range(3, 9)):
        assert np.array_equal(glyphs.images("train", range(index, index + 1), masks=masks)[0], together[position])


def test_a_split_reads_the_images_of_its_indices_in_any_order_and_process() -> None:
    reader = pickle.loads(pickle.dumps(glyphs.Glyphs(split="test")))
    for index in (70, 3):
        expected = glyphs.images("test", range(index, index + 1), masks=glyphs.letter_masks())[0]
        assert np.array_equal(np.asarray(reader(index)), expected)


def test_splits_and_seeds_have_different_images() -> None:
    masks = block_masks()
    train, test, other = (
        glyphs.images("train", range(4), masks=masks),
        glyphs.images("test", range(4), masks=masks),
        glyphs.images("train", range(4), masks=masks, seed=1),
    )
    assert not any(np.array_equal(train[i], x[i]) for x in (test, other) for i in range(4))


def test_equal_masks_give_the_same_bytes_on_every_machine() -> None:
    """The digest was computed once; only operations that IEEE 754 rounds correctly are used after the masks."""
    pixels = glyphs.images("test", range(26), masks=block_masks())
    assert pixels.shape == (26, 32, 32, 3)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:12] == "b5b9331105a3"


def test_the_letter_in_the_middle_is_that_of_the_class() -> None:
    """Without the mask of D, the middle of the images of class D changes; others change only where D was behind the letter."""
    indices = range(26 * 8)
    changed = [glyphs.images("train", indices, masks=block_masks(without=w)) for w in (None, 3)]
    differs = (changed[0] != changed[1]).any(axis=3)[:, 12:20, 12:20].mean(axis=(1, 2))
    of_class = np.arange(len(indices)) % 26 == 3
    assert (differs[of_class] > 0.4).all()
    assert (differs[~of_class] > 0).mean() < 0.15  # three of 25 letters are behind, at the border


def test_neighbouring_pixels_of_an_empty_image_differ_by_the_noise() -> None:
    """Median absolute difference of two normal values: 0.6745 sqrt(2) sigma. Lines and ellipses touch few pairs of neighbours."""
    empty = np.zeros((1, 26, glyphs.BOX, glyphs.BOX), dtype=np.float32)
    values = glyphs.images("train", range(64), masks=empty).astype(float) / 255
    left, right = values[:, :, :-1], values[:, :, 1:]
    unclipped = (np.minimum(left, right) > 0.15) & (np.maximum(left, right) < 0.85)
    assert np.median(abs(left - right)[unclipped]) == pytest.approx(0.6745 * 2**0.5 * glyphs.NOISE, rel=0.1)


def test_every_letter_of_every_font_is_rendered_inside_its_box() -> None:
    masks = glyphs.letter_masks()
    assert masks.shape == (len(glyphs.FONTS), 26, glyphs.BOX, glyphs.BOX)
    assert masks[..., [0, -1], :].max() == masks[..., [0, -1]].max() == 0
    ink = masks.sum(axis=(2, 3))
    assert ink.min() > 80
    assert ink.max() < 0.4 * glyphs.BOX**2
    flat = masks.reshape(len(masks), 26, -1)
    for font in flat:  # a font without letters would show the same box for each
        assert all(abs(font[a] - font[b]).sum() > 20 for a in range(26) for b in range(a))


def test_the_command_line_opens_glyphs_by_name() -> None:
    assert (
        open_images("glyphs", image_size=32).fingerprint
        == load_images(DataConfig(name="glyphs", image_size=32), seed=0).fingerprint
    )


def test_the_fingerprint_covers_the_masks() -> None:
    images = load_images(CONFIG, seed=0)
    assert images.files == (glyphs.fingerprint(),)
