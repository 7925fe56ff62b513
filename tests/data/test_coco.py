"""Objects in the format of COCO, and of the embedded scenes: what is read, what is left out, and errors of one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_trees import SIZE, write_coco
from PIL import Image

from autospike.config import AugmentationConfig, DataConfig
from autospike.data import scenes
from autospike.data.coco import EMPTY, NARROW
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.data.objects import Objects, encoded, objects_of_masks
from autospike.data.preparation import DenseTransforms
from autospike.errors import UserError

Edit = Callable[[dict[str, Any]], None]
HEIGHT, WIDTH = SIZE


def opened(root: Path) -> Images:
    return load_images(DataConfig(name="coco", root=root, image_size=32), seed=0)


def edited(root: Path, edit: Edit, part: str = "train2017") -> Images:
    """The data after a change of the annotations of one split."""
    write_coco(root)
    file = root / "annotations" / f"instances_{part}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return opened(root)


def test_categories_are_numbered_by_their_ids(tmp_path: Path) -> None:
    write_coco(tmp_path)
    images = opened(tmp_path)
    assert images.classes == ("box", "bar") and images.has_objects
    assert [len(images.splits[name]) for name in ("train", "search", "test")] == [12, 4, 6]
    objects = images.splits["test"].target_at(0)
    pixels = np.array(images.splits["test"].image(0))
    assert objects.labels.tolist() == [0, 1] and objects.size == SIZE
    for label, mask, (x0, y0, x1, y1) in zip(objects.labels, objects.decoded(), objects.boxes.astype(int), strict=True):
        assert (pixels[y0:y1, x0:x1, 2 * label] == 255).all() and mask[y0:y1, x0:x1].all() and mask.sum() == (x1 - x0) * (y1 - y0)


def test_crowds_tiny_boxes_and_empty_images(tmp_path: Path) -> None:
    """Image 100 has only a crowd; a box of image 101 leaves it almost completely, another one has no area."""

    def edit(content: dict[str, Any]) -> None:
        first, _, third, fourth, fifth, *rest = content["annotations"]
        crowd = {"iscrowd": 1, "segmentation": {"size": list(SIZE), "counts": [0, 30, HEIGHT * WIDTH - 30]}}
        third["bbox"] = [WIDTH - 0.5, 2, 9, 9]
        fourth["area"] = 0
        content["annotations"] = [{**first, **crowd}, third, fourth, {**fifth, "image_id": 101}, *rest]

    images = edited(tmp_path, edit)
    assert images.left_out == {NARROW: (2, "object 3"), EMPTY: (1, "train2017/000.png")}
    assert sum(len(images.splits[name]) for name in ("train", "search")) == 15


def test_polygons_and_run_lengths_give_the_same_mask(tmp_path: Path) -> None:
    """A box of 8 x 8 pixels from (2, 3) on, written as a polygon and column by column."""
    counts = [2 * HEIGHT + 3, *[8, HEIGHT - 8] * 7, 8]
    counts.append(HEIGHT * WIDTH - sum(counts))

    def edit(content: dict[str, Any]) -> None:
        first, second, *_ = content["annotations"]
        first |= {"bbox": [2, 3, 8, 8], "segmentation": [[2, 3, 10, 3, 10, 11, 2, 11]]}
        second |= {"bbox": [2, 3, 8, 8], "segmentation": {"size": list(SIZE), "counts": counts}}

    images = edited(tmp_path, edit, "val2017")
    objects = images.splits["test"].target_at(0)
    polygon, lengths = objects.decoded()
    assert polygon[3:11, 2:10].all() and polygon.sum() == 64
    assert (polygon == lengths).all()


def changed(**fields: Any) -> Edit:
    return lambda content: content["annotations"][0].update(fields)


def without(name: str) -> Edit:
    return lambda content: content["annotations"][0].pop(name) and None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (changed(category_id=9), "object 1: there is no category 9"),
        (changed(image_id=9), "object 1: there is no image 9"),
        (changed(bbox=[1, 2]), "object 1 is not in the format of COCO"),
        (without("bbox"), "object 1 is not in the format of COCO"),
        (lambda content: content["images"][0].update(file_name="none.png"), "none.png: no such file"),
        (lambda content: content["images"][0].pop("height") and None, "image 100 is not in the format of COCO"),
        (lambda content: content.pop("categories") and None, "not in the format of COCO"),
        (lambda content: content["categories"].pop(), "other categories than"),
    ],
)
def test_errors_of_one_line(tmp_path: Path, edit: Edit, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        edited(tmp_path, edit)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3]], [], {"size": [1, 2], "counts": [2]}, {"size": list(SIZE), "counts": [5]}, "text", [["a"] * 6]],
)
def test_a_broken_mask_is_an_error_when_it_is_read(tmp_path: Path, segmentation: Any) -> None:
    images = edited(tmp_path, changed(segmentation=segmentation), "val2017")
    with pytest.raises(UserError, match=r"instances_val2017.json: object 1: its segmentation cannot be read") as caught:
        images.splits["test"].target_at(0)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"instances_train2017.json cannot be read"):
        opened(tmp_path)


def test_scenes_have_the_boxes_of_their_shapes() -> None:
    masks, objects = scenes.SceneMasks(split="test")(3), scenes.SceneObjects(split="test")(3)
    found = np.zeros_like(masks)
    for label, mask, (x0, y0, x1, y1) in zip(objects.labels, objects.decoded(), objects.boxes.astype(int), strict=True):
        assert not found[mask == 1].any()  # shapes cover each other, so masks are of what is visible
        found[mask == 1] = label + 1
        inside = np.zeros_like(mask)
        inside[y0:y1, x0:x1] = 1
        assert not mask[inside == 0].any()
        assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()
    assert (found == masks).all() and len(objects) >= 2


def test_boxes_and_masks_are_transformed_with_the_image() -> None:
    """A white rectangle: after resizing, cropping and flipping, its box and its mask are still those of the white pixels."""
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[6:14, 10:30] = 255
    mask = (pixels[None, ..., 0] > 0).astype(np.uint8)
    objects = objects_of_masks(mask, np.array([4]))
    config = AugmentationConfig.model_validate({"resize": [1.0, 2.0], "flip": 0.5})
    transform = DenseTransforms(channels=3, image_size=40).training(config)
    crops = 0
    for seed in range(12):
        torch.manual_seed(seed)
        image, target = transform(Image.fromarray(pixels), objects)
        white = image[0] > 0.5
        rows, columns = white.any(dim=1).nonzero().flatten(), white.any(dim=0).nonzero().flatten()
        expected = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]).float()
        assert (target["boxes"] - expected).abs().max() <= 1.5
        assert (target["masks"][0].bool() != white).float().mean() < 0.05
        assert target["labels"].tolist() == [4]
        crops += int((target["boxes"][:, [0, 2]] == torch.tensor([0.0, 40.0])).any())
    assert crops


def test_crowds_and_objects_outside_are_no_training_targets() -> None:
    objects = Objects(
        size=(8, 8),
        boxes=np.array([[0, 0, 4, 4], [2, 2, 6, 6]], dtype=np.float32),
        labels=np.array([0, 1]),
        masks=two_masks(),
        crowd=np.array([True, False]),
        areas=np.array([16.0, 16.0]),
    )
    transform = DenseTransforms(channels=3, image_size=8).training(AugmentationConfig())
    _, target = transform(Image.new("RGB", (8, 8)), objects)
    assert target["labels"].tolist() == [1] and target["boxes"].tolist() == [[2, 2, 6, 6]]
    with pytest.raises(UserError, match="an image of 9 x 8 pixels has annotations of 8 x 8 pixels"):
        transform(Image.new("RGB", (9, 8)), objects)


def two_masks() -> tuple[dict[str, Any], ...]:
    masks = np.zeros((2, 8, 8), dtype=np.uint8)
    masks[0, :4, :4] = masks[1, 2:6, 2:6] = 1
    return encoded(masks)
