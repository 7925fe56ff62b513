"""Small trees of images with objects in the format of COCO, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 7, "name": "bar"}, {"id": 3, "name": "box"}]  # ids with gaps, not in order
SIZE = (24, 30)  # height and width


def content(rng: np.random.Generator, count: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return images of noise with a red box and a blue bar each, and their annotations."""
    height, width = SIZE
    pictures: list[np.ndarray] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
        images.append({"id": 100 + i, "file_name": f"{i:03d}.png", "height": height, "width": width})
        for category, channel, (w, h) in ((3, 0, (8, 8)), (7, 2, (12, 4))):
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height // 2 - h)) + (12 if channel else 0)
            pixels[y : y + h, x : x + w] = 0
            pixels[y : y + h, x : x + w, channel] = 255
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + i,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        pictures.append(pixels)
    return pictures, {"images": images, "annotations": annotations, "categories": CATEGORIES}


def write_coco(root: Path, *, train: int = 16, test: int = 6) -> None:
    """Write a tree in the format of COCO."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for part, count in (("train2017", train), ("val2017", test)):
        pictures, annotations = content(rng, count)
        (root / part).mkdir()
        for image, pixels in zip(annotations["images"], pictures, strict=True):
            Image.fromarray(pixels).save(root / part / image["file_name"])
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(annotations))
