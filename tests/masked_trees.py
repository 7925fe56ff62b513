"""Small trees of images with masks in published formats, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("sky", "box", "bar")


def scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image `[H, W, 3]` of noise with a red box and a blue bar, and its classes `[H, W]`."""
    pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    classes = np.zeros((height, width), dtype=np.uint8)
    top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
    for value, channel, (rows, columns) in ((1, 0, (6, 6)), (2, 2, (3, width))):
        area = (slice(top, top + rows), slice(left, left + columns))
        pixels[area], classes[area] = 0, value
        pixels[*area, channel] = 255
        top, left = height - 4, 0
    return pixels, classes


def write_ade20k(root: Path, *, train: int = 24, test: int = 8, size: tuple[int, int] = (16, 20)) -> None:
    """Write a tree in the format of ADE20K: value 0 has no class, k is class k - 1."""
    rng = np.random.default_rng(0)
    for part, count in (("training", train), ("validation", test)):
        for kind in ("images", "annotations"):
            (root / kind / part).mkdir(parents=True)
        for i in range(count):
            pixels, classes = scene(rng, *size)
            Image.fromarray(pixels).save(root / "images" / part / f"scene_{i:03d}.png")
            written = classes + 1
            written[0, :2] = 0
            Image.fromarray(written).save(root / "annotations" / part / f"scene_{i:03d}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def write_voc(root: Path, *, train: int = 4, test: int = 2) -> None:
    """Write a tree in the format of PASCAL VOC: palette images with a border of ignored pixels."""
    rng = np.random.default_rng(1)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for part, count in (("train", train), ("val", test)):
        names = [f"{part}_{i}" for i in range(count)]
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            pixels, classes = scene(rng, 16, 20)
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
            classes[-1] = 255
            mask = Image.fromarray(classes, mode="P")
            mask.putpalette(list(range(256)) * 3)
            mask.save(root / "SegmentationClass" / f"{name}.png")
