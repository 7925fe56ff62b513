"""Crop, interpolation and normalisation of still images, against PIL and arithmetic by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from autospike.config import AugmentationConfig
from autospike.data.preparation import ImagePreparation, ImageTransforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("crop_pct", "resized", "interpolation", "resampling"),
    [
        (224 / 256, 256, "bicubic", Image.Resampling.BICUBIC),
        (0.95, 235, "bicubic", Image.Resampling.BICUBIC),
        (1.0, 224, "bicubic", Image.Resampling.BICUBIC),
        (1.0, 224, "bilinear", Image.Resampling.BILINEAR),
    ],
)
def test_resizing_and_crop(crop_pct: float, resized: int, interpolation: str, resampling: Image.Resampling) -> None:
    """The shorter side is resized to 224 / crop_pct pixels, and the central 224 are kept."""
    image = photo(320, 300)
    preparation = ImagePreparation(crop_pct=crop_pct, interpolation=interpolation)
    found = ImageTransforms(channels=3, image_size=224, preparation=preparation).resize(image)
    width = int(320 * resized / 300)
    larger = image.resize((width, resized), resampling)
    left, top = round((width - 224) / 2), round((resized - 224) / 2)
    expected = np.asarray(larger.crop((left, top, left + 224, top + 224)))
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_default_preparation_is_resizing_only() -> None:
    """Bilinear, without a crop, and normalised to -1..1."""
    transforms = ImageTransforms(channels=3, image_size=32)
    pixels = transforms.resize(photo(40, 40))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0), np.asarray(photo(40, 40).resize((32, 32), Image.Resampling.BILINEAR)))
    assert torch.equal(transforms.normalise(pixels), (pixels.float() / 255 - 0.5) / 0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_training_and_measurement_normalise_alike(channels: int) -> None:
    """An image of the network's size without augmentation: bit-identical, and by hand (pixel - mean) / std.

    One channel is the luma of ITU-R 601, which Pillow rounds to an integer.
    """
    preparation = ImagePreparation(mean=MEAN[:channels], std=STD[:channels])
    transforms, image = ImageTransforms(channels=channels, image_size=16, preparation=preparation), photo(16, 16)
    random.seed(2)  # timm changes the aspect ratio of every second image, not of this one
    unnormalised = transforms.training(AugmentationConfig())(image)
    training = transforms.normalise(unnormalised[None])[0]
    random.seed(2)
    normalised = transforms.training(AugmentationConfig(erasing=1e-9))(image)  # which does not happen
    assert torch.equal(normalised, training)
    measured = transforms.normalise(transforms.resize(image)[None])[0]
    assert torch.equal(training, measured)
    red, green, blue = np.asarray(image, dtype=np.float64).transpose(2, 0, 1)
    luma = np.floor(0.299 * red + 0.587 * green + 0.114 * blue + 0.5)
    pixels = np.stack([red, green, blue] if channels == 3 else [luma]) / 255
    expected = (pixels - np.array(MEAN)[:channels, None, None]) / np.array(STD)[:channels, None, None]
    np.testing.assert_allclose(training.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_restored_pixels() -> None:
    preparation = ImagePreparation(mean=MEAN, std=STD)
    pixels = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(preparation.restore(preparation.normalise(pixels)), pixels)
