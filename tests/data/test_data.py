"""Splits are disjoint and fixed; training batches depend only on (seed, step)."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from autospike.config import AugmentationConfig, DataConfig
from autospike.data.batches import Batch, TrainingBatches
from autospike.data.images import Split
from autospike.data.loading import load_images
from autospike.errors import UserError
from autospike.memory.cache import ByteBudgetCache
from autospike.randomness import global_random

DIGITS = DataConfig(name="digits", image_size=8)


def image_folder(root: Path, classes: dict[str, int], size: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (size, size + 3, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def batches(**changes: Any) -> TrainingBatches:
    images = load_images(DIGITS, seed=0)
    settings: dict[str, Any] = {
        "split": images.splits["train"],
        "num_classes": 10,
        "channels": 1,
        "image_size": 8,
        "batch_size": 64,
        "augmentation": AugmentationConfig(min_scale=0.5, flip=0.5, erasing=0.5, mixup=0.5, auto_augment="rand-m5-n2-inc1"),
        "smoothing": 0.1,
        "workers": 0,
        "seed": 0,
    }
    return TrainingBatches(**{**settings, **changes})


def equal_batches(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)


def test_splits_of_digits_are_fixed_by_the_seed() -> None:
    images = load_images(DIGITS, seed=0)
    sizes = {name: len(split) for name, split in images.splits.items()}
    assert sizes == {"train": 1077, "search": 360, "test": 360}
    assert sorted(i for split in images.splits.values() for i in split.indices) == list(range(1797))
    assert load_images(DIGITS, seed=0).splits["test"].indices == images.splits["test"].indices
    assert load_images(DIGITS, seed=1).splits["test"].indices != images.splits["test"].indices


def test_splits_are_stratified() -> None:
    for split in load_images(DIGITS, seed=0).splits.values():
        counts = Counter(split.labels)
        assert len(counts) == 10
        assert max(counts.values()) - min(counts.values()) <= max(3, len(split) // 100 + 1)


def test_samples_of_a_folder_sorted_by_class_contain_every_class(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", {"cat": 20, "dog": 20, "eel": 20})
    train = load_images(DataConfig(name="folder", root=root, image_size=8), seed=0).splits["train"]
    sampled = train.sample(12, random.Random(0))
    assert len(sampled) == 12
    assert set(sampled.labels) == {0, 1, 2}
    assert sampled == train.sample(12, random.Random(0))
    assert all(train.labels[train.indices.index(i)] == label for i, label in zip(sampled.indices, sampled.labels, strict=True))
    assert len(train.sample(500, random.Random(0))) == len(train)


def test_splits_can_be_pickled(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", {"cat": 10, "dog": 10})
    for images in (load_images(DIGITS, seed=0), load_images(DataConfig(name="folder", root=root, image_size=8), seed=0)):
        split = images.splits["train"]
        assert pickle.loads(pickle.dumps(split)).image(3).tobytes() == split.image(3).tobytes()


def test_the_fingerprint_depends_on_the_files(tmp_path: Path) -> None:
    config = DataConfig(name="folder", root=image_folder(tmp_path / "images", {"cat": 10, "dog": 10}), image_size=8)
    before = load_images(config, seed=0).fingerprint
    assert load_images(config, seed=0).fingerprint == before
    (tmp_path / "images" / "cat" / "0.png").rename(tmp_path / "images" / "cat" / "00.png")
    assert load_images(config, seed=0).fingerprint != before
    assert load_images(DIGITS, seed=0).fingerprint != load_images(DIGITS, seed=1).fingerprint


def test_without_augmentation_images_are_scaled_as_in_measurement() -> None:
    """A wide image: the shorter side is resized without distortion, and the crop along the other side is random."""
    stripes = Image.fromarray(np.tile(np.arange(0, 160, 10, dtype=np.uint8), (8, 1)))
    split = Split(name="train", indices=(0, 1), labels=(0, 1), read=lambda _i: stripes)
    batch = next(iter(batches(split=split, augmentation=AugmentationConfig(), batch_size=2)(0, 1)))
    rows = (batch.images[:, 0, 0] + 1) * 127.5
    torch.testing.assert_close(
        rows.diff(dim=1), torch.full((2, 7), 10.0), rtol=0, atol=1.5
    )  # a distorted image would have differences of 20


def test_splits_of_a_folder_without_train_and_test_are_samples_of_all_images(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", {"cat": 10, "dog": 20})
    images = load_images(DataConfig(name="folder", root=root, image_size=8), seed=0)
    assert images.classes == ("cat", "dog")
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 18, "search": 6, "test": 6}
    assert images.splits["test"].image(0).mode == "RGB"


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_test_images_of_a_folder_are_its_test_split(tmp_path: Path, held_out: str) -> None:
    image_folder(tmp_path / "train", {"cat": 10, "dog": 10})
    image_folder(tmp_path / held_out, {"cat": 2, "dog": 3})
    images = load_images(DataConfig(name="folder", root=tmp_path, image_size=8), seed=0)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 16, "search": 4, "test": 5}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda _root: None, "is not a folder"),
        (lambda root: root.mkdir(), "is not a valid image folder"),
        (lambda root: image_folder(root, {"cat": 1, "dog": 5}), "in 2 classes, the smallest of which has 1; both parts"),
        (lambda root: image_folder(root / "train", {"cat": 5}), "neither test/ nor val/"),
        (
            lambda root: (image_folder(root / "train", {"a": 5, "b": 5}), image_folder(root / "test", {"a": 5, "c": 5})),
            "the same classes",
        ),
    ],
)
def test_an_invalid_folder_is_a_one_line_error(tmp_path: Path, build: Any, message: str) -> None:
    build(tmp_path / "images")
    with pytest.raises(UserError, match=message) as error:
        load_images(DataConfig(name="folder", root=tmp_path / "images", image_size=8), seed=0)
    assert "\n" not in str(error.value)


def test_a_batch_depends_only_on_seed_and_step() -> None:
    whole = list(batches()(0, 20))
    assert all(equal_batches(a, b) for a, b in zip(batches()(13, 20), whole[13:], strict=True))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert equal_batches(next(iter(batches()(0, 1))), whole[0])
    assert not equal_batches(whole[0], whole[1])
    assert not equal_batches(next(iter(batches(seed=1)(0, 1))), whole[0])


@pytest.mark.slow
def test_batches_are_independent_of_the_number_of_workers() -> None:
    assert all(equal_batches(a, b) for a, b in zip(batches(workers=2)(5, 9), batches()(5, 9), strict=True))


def test_an_epoch_is_a_permutation() -> None:
    plain = batches(augmentation=AugmentationConfig(), batch_size=8, split=load_images(DIGITS, seed=0).splits["search"])
    assert plain.per_epoch == 45
    positions = [position for step in range(45) for position, _ in plain.sample_keys(step)]
    assert sorted(positions) == list(range(360))
    assert positions != [position for step in range(45, 90) for position, _ in plain.sample_keys(step)]


def test_targets_are_smoothed() -> None:
    batch = next(iter(batches(augmentation=AugmentationConfig(), smoothing=0.2)(0, 1)))
    assert batch.targets.shape == (64, 10)
    torch.testing.assert_close(batch.targets.max(dim=1).values, torch.full((64,), 0.8 + 0.02))
    torch.testing.assert_close(batch.targets.sum(dim=1), torch.ones(64))


def test_without_augmentation_pixels_are_those_of_the_image() -> None:
    plain = batches(augmentation=AugmentationConfig())
    batch, keys = next(iter(plain(0, 1))), plain.sample_keys(0)
    expected = torch.tensor(np.asarray(plain.split.image(keys[3][0])), dtype=torch.float32) / 127.5 - 1
    torch.testing.assert_close(batch.images[3, 0], expected)


def test_an_unknown_augmentation_policy_is_a_one_line_error() -> None:
    with pytest.raises(UserError, match="auto_augment"):
        next(iter(batches(augmentation=AugmentationConfig(auto_augment="rand-q9"))(0, 1)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "augmentation",
    [
        AugmentationConfig(min_scale=0.6, flip=0.5, color_jitter=0.4),
        AugmentationConfig(),
        AugmentationConfig(min_scale=0.8, erasing=0.7),
        AugmentationConfig(min_scale=0.8, flip=0.5, auto_augment="rand-m5-n2-inc1"),
    ],
    ids=["jitter", "none", "erasing", "policy"],
)
def test_a_training_batch_equals_timms_transforms_of_each_image(
    tmp_path: Path, augmentation: AugmentationConfig, channels: int
) -> None:
    """Normalising a batch at once, and a grey image with one channel, give the same bits as timm's transforms of RGB images."""
    root = image_folder(tmp_path / "images", {"cat": 12, "dog": 12})
    images = load_images(DataConfig(name="folder", root=root, image_size=8, channels=channels), seed=0)
    made = batches(split=images.splits["train"], num_classes=2, channels=channels, batch_size=4, augmentation=augmentation)
    transform = create_transform(
        8,
        is_training=True,
        scale=(augmentation.min_scale, 1.0),
        train_crop_mode="rrc" if augmentation.min_scale < 1 else "rkrc",
        hflip=augmentation.flip,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.auto_augment,
        re_prob=augmentation.erasing,
        interpolation="bilinear",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    for step, batch in enumerate(made(0, 4)):
        for image, (position, seed) in zip(batch.images, made.sample_keys(step), strict=True):
            with global_random(seed), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                expected = transform(made.split.image(position).convert("RGB"))[:channels]
            assert torch.equal(image, expected)


def test_a_still_image_is_decoded_once_while_the_cache_has_space() -> None:
    read: Counter[int] = Counter()
    split = load_images(DIGITS, seed=0).splits["train"]

    def counted(index: int) -> Any:
        read[index] += 1
        return split.read(index)

    made = batches(split=replace(split, read=counted), augmentation=AugmentationConfig())
    first, *_ = list(made(0, 3 * made.per_epoch))
    assert set(read.values()) == {1}
    small = batches(
        split=replace(split, read=counted), augmentation=AugmentationConfig(), cache=ByteBudgetCache(budget_bytes=64 * 10)
    )
    read.clear()
    assert equal_batches(next(small(0, 1)), first)
    first_batch = set(read)
    list(small(0, small.per_epoch))
    cached = [small.split.indices[position] for position, _ in small.sample_keys(0)[:10]]
    assert [read[index] for index in cached] == [1] * 10
    list(small(0, small.per_epoch))
    assert all(number == (1 if index in cached else 3 if index in first_batch else 2) for index, number in read.items())


def test_an_epoch_may_have_fewer_images() -> None:
    """20 of 64 images are two batches of 8. The next epoch draws others, and the order is that of a whole epoch."""
    split = replace(load_images(DIGITS, seed=0).splits["train"], indices=tuple(range(64)), labels=(0,) * 64)
    whole, part = batches(split=split, batch_size=8), batches(split=split, batch_size=8, images_per_epoch=20)
    assert (whole.per_epoch, part.per_epoch) == (8, 2)
    assert batches(split=split, batch_size=8, images_per_epoch=1000).per_epoch == 8
    assert batches(split=split, batch_size=8, images_per_epoch=2).per_epoch == 1
    positions = [[position for position, _ in part.sample_keys(step)] for step in range(40)]
    assert positions[:2] == [[position for position, _ in whole.sample_keys(step)] for step in range(2)]
    for first, second in zip(positions[::2], positions[1::2], strict=True):
        assert len({*first, *second}) == 16
    assert {position for batch in positions for position in batch} == set(range(64))
