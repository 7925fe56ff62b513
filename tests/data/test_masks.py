"""Images with masks: the formats of ADE20K and PASCAL VOC, broken trees, and the transforms of training and measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from masked_trees import CLASSES, write_ade20k, write_voc
from PIL import Image

from autospike.config import AugmentationConfig, DataConfig
from autospike.data.batches import FixedBatches, TrainingBatches
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.data.masks import IGNORED, fitted_size
from autospike.data.preparation import DenseTransforms
from autospike.errors import UserError


def opened(name: str, root: Path) -> Images:
    return load_images(DataConfig.model_validate({"name": name, "root": str(root), "image_size": 16}), seed=0)


def training_batches(images: Images, augmentation: AugmentationConfig) -> TrainingBatches:
    return TrainingBatches(
        split=images.splits["train"],
        num_classes=3,
        channels=3,
        image_size=16,
        batch_size=4,
        augmentation=augmentation,
        smoothing=0.0,
        workers=0,
        seed=0,
    )


def test_ade20k_ignores_zero_and_counts_classes_from_one(tmp_path: Path) -> None:
    write_ade20k(tmp_path)
    images = opened("ade20k", tmp_path)
    assert images.classes == CLASSES
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 19, "search": 5, "test": 8}
    mask = images.splits["test"].target_at(0)
    written = np.array(Image.open(tmp_path / "annotations" / "validation" / "scene_000.png")).astype(int)
    assert (mask[written > 0] == written[written > 0] - 1).all()
    assert set(mask[written == 0]) == {IGNORED}


def test_voc_masks_are_palette_indices(tmp_path: Path) -> None:
    write_voc(tmp_path)
    split = opened("voc", tmp_path).splits["test"]
    assert (len(split), split.image(0).size) == (2, (20, 16))
    mask = split.target_at(0)
    assert set(np.unique(mask)) <= {0, 1, 2, IGNORED}
    assert (mask[-1] == IGNORED).all()


def break_mode(root: Path) -> None:
    path = root / "annotations" / "validation" / "scene_000.png"
    Image.open(path).convert("RGB").save(path)


def break_value(root: Path) -> None:
    Image.fromarray(np.full((16, 20), 9, np.uint8)).save(root / "annotations" / "validation" / "scene_000.png")


def break_size(root: Path) -> None:
    Image.fromarray(np.ones((16, 16), np.uint8)).save(root / "annotations" / "validation" / "scene_000.png")


def break_file(root: Path) -> None:
    (root / "annotations" / "validation" / "scene_000.png").write_bytes(b"not an image")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_mode, "mode RGB"),
        (break_value, "value 9 is no class; there are 3 classes"),
        (break_size, "has 16 x 16 pixels, its image 20 x 16"),
        (break_file, "cannot be read"),
    ],
)
def test_a_broken_mask_is_one_line_with_its_file(tmp_path: Path, damage: object, message: str) -> None:
    write_ade20k(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    split = opened("ade20k", tmp_path).splits["test"]
    with pytest.raises(UserError, match=message) as error:
        split.target_at(0)
    assert "scene_000.png" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_mask_is_found_before_training(tmp_path: Path) -> None:
    write_ade20k(tmp_path)
    (tmp_path / "annotations" / "training" / "scene_003.png").unlink()
    with pytest.raises(UserError, match=r"scene_003\.png: no such file"):
        opened("ade20k", tmp_path)


@pytest.mark.parametrize(
    ("size", "side", "expected"), [((16, 20), 16, (13, 16)), ((20, 10), 10, (10, 5)), ((7, 7), 14, (14, 14)), ((1, 900), 9, (1, 9))]
)
def test_the_longer_side_is_fitted(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert fitted_size(size, side) == expected


def test_the_whole_image_is_measured_with_padding(tmp_path: Path) -> None:
    write_ade20k(tmp_path)
    split = opened("ade20k", tmp_path).splits["test"]
    batch = FixedBatches(split=split, channels=3, image_size=16).batch((0, 3))
    assert batch.images.shape == (3, 3, 16, 16)
    assert batch.images[:, :, 13:].abs().max() < 0.01  # the mean of the normalisation
    assert batch.images[:, :, :13].abs().max() > 0.5
    assert [mask.shape for mask in batch.targets] == [(16, 20)] * 3


def test_training_batches_depend_on_the_step_only(tmp_path: Path) -> None:
    write_ade20k(tmp_path)
    augmentation = AugmentationConfig(resize=(0.5, 2.0), flip=0.5, color_jitter=0.4, category_max_ratio=0.75)
    batches = training_batches(opened("ade20k", tmp_path), augmentation)
    first, second = list(batches(0, 2))
    (again,) = batches(1, 2)
    assert torch.equal(second.images, again.images) and torch.equal(second.targets, again.targets)
    assert not torch.equal(first.images, second.images)
    assert (first.images.shape, first.targets.shape, first.targets.dtype) == ((4, 3, 16, 16), (4, 16, 16), torch.int64)


def test_image_and_mask_are_transformed_together() -> None:
    """A coloured pixel image whose brightness is its class stays equal to its mask, wherever it is cropped and flipped."""
    classes = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8))).astype(np.uint8)
    image = Image.fromarray(classes * 20)
    transform = DenseTransforms(channels=1, image_size=16).training(AugmentationConfig(resize=(1.5, 1.5), flip=0.5))
    torch.manual_seed(0)
    corners = set()
    for _ in range(8):
        pixels, mask = transform(image, classes)
        value = ((pixels[0] * 0.5 + 0.5) * 255 / 20).round().long()
        inside = mask != IGNORED
        exact = value[inside] == mask[inside]
        assert exact.float().mean() > 0.7  # bilinear pixels between two classes differ
        corners.add(int(mask[0, 0]))
    assert len(corners) > 2


def test_an_augmentation_of_classification_is_one_line() -> None:
    with pytest.raises(UserError, match=r"training\.augmentation\.mixup: only for classification"):
        DenseTransforms(channels=3, image_size=16).training(AugmentationConfig(mixup=0.5))
