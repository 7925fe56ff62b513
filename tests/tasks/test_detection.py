"""Average precision from added matches against pycocotools on the whole, against torchmetrics, and by hand."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

from autospike.data.objects import Objects, encoded, objects_of_masks
from autospike.models.regions import DetectedObjects
from autospike.tasks.detection import DETECTION, average_precision, in_image, matched_detections, sum_of_losses

SIDE, CLASSES = 40, 3


def detections(objects: Objects, rng: np.random.Generator) -> DetectedObjects:
    """Boxes near the true ones, some of another class, and some anywhere; masks fill the left or the whole box."""
    boxes = np.concatenate([objects.boxes + rng.normal(0, 1.5, objects.boxes.shape), rng.uniform(0, 20, (3, 4))])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 4)
    boxes = boxes.clip(0, SIDE)
    labels = np.concatenate([objects.labels, rng.integers(0, CLASSES, 3)])
    masks = np.ones((len(boxes), 28, 28), dtype=np.float32)
    masks[rng.random(len(boxes)) < 0.3, :, 14:] = 0
    scores = np.sort(rng.uniform(0.1, 1, len(boxes)))[::-1].copy()
    return DetectedObjects(
        boxes=torch.from_numpy(boxes).float(),
        labels=torch.from_numpy(labels),
        scores=torch.from_numpy(scores).float(),
        masks=torch.from_numpy(masks),
        size=(SIDE, SIDE),
    )


@pytest.fixture(scope="module")
def images() -> tuple[list[Objects], list[DetectedObjects]]:
    """Twenty images with rectangles, one of them without any, and with a crowd in one."""
    rng, truth = np.random.default_rng(0), []
    for i in range(20):
        masks = np.zeros((0 if i == 7 else int(rng.integers(1, 4)), SIDE, SIDE), dtype=np.uint8)
        for mask in masks:
            y, x = rng.integers(0, 20, 2)
            mask[y : y + rng.integers(6, 20), x : x + rng.integers(6, 20)] = 1
        objects = objects_of_masks(masks, rng.integers(0, CLASSES, len(masks)))
        if i == 3:
            objects.crowd[0] = True
        truth.append(objects)
    return truth, [detections(objects, rng) for objects in truth]


def of_pycocotools(truth: list[Objects], found: list[Objects], geometry: str) -> list[float]:
    """The twelve numbers that COCO's own evaluation prints for all images at once."""
    dataset: dict[str, Any] = {"info": {}, "annotations": [], "categories": [{"id": c} for c in range(CLASSES)]}
    dataset["images"] = [{"id": i, "height": SIDE, "width": SIDE} for i in range(len(truth))]
    results: list[dict[str, Any]] = []
    for i, (objects, detected) in enumerate(zip(truth, found, strict=True)):
        for each, into in ((objects, dataset["annotations"]), (detected, results)):
            for j, (x0, y0, x1, y1) in enumerate(each.boxes.astype(float).tolist()):
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "image_id": i, "category_id": int(each.labels[j])}
                more = {"area": each.areas[j], "iscrowd": int(each.crowd[j]), "id": len(into) + 1} if each is objects else {}
                score = {} if each is objects else {"score": float(each.areas[j])}
                mask = {"segmentation": each.masks[j]} if each is objects or geometry == "segm" else {}
                into.append({**box, **more, **score, **mask})
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), geometry)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


@pytest.mark.parametrize(("geometry", "name"), [("bbox", "box"), ("segm", "mask")])
def test_the_average_precision_is_that_of_pycocotools(
    images: tuple[list[Objects], list[DetectedObjects]], geometry: str, name: str
) -> None:
    truth, found = images
    (state,) = matched_detections([found], truth)
    score = DETECTION.quality(state).score
    assert score is not None and score.metric == "box AP"
    expected = of_pycocotools(truth, list(map(in_image, found, truth)), geometry)
    details = score.details[name]
    assert isinstance(details, dict)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    for key, value in zip(names, expected, strict=False):
        assert details[key] == (None if value == -1 else pytest.approx(value, abs=1e-12)), key
    assert 0.1 < expected[0] < 0.95
    if geometry == "bbox":
        assert score.value == details["AP"]


def test_boxes_agree_with_torchmetrics(images: tuple[list[Objects], list[DetectedObjects]]) -> None:
    truth, found = images
    metric = MeanAveragePrecision(rec_thresholds=np.linspace(0, 1, 101).tolist())  # its own are in single precision
    metric.update(
        [{"boxes": d.boxes, "scores": d.scores, "labels": d.labels} for d in found],
        [
            {"boxes": torch.from_numpy(o.boxes), "labels": torch.from_numpy(o.labels), "iscrowd": torch.from_numpy(o.crowd).int()}
            for o in truth
        ],
    )
    (state,) = matched_detections([found], truth)
    assert average_precision(state, range(20), "bbox")["AP"] == pytest.approx(float(metric.compute()["map"]), abs=1e-6)


def test_shards_add_up_exactly(images: tuple[list[Objects], list[DetectedObjects]]) -> None:
    """A shard need not have every class, and detections of one image do not depend on those of others."""
    truth, found = images
    (whole,) = matched_detections([found], truth)
    shards = [matched_detections([found[a:b]], truth[a:b], a)[0] for a, b in ((12, 20), (0, 1), (1, 12))]
    assert DETECTION.quality(shards[0] + shards[1] + shards[2]) == DETECTION.quality(whole)
    kept = [i for i in range(20) if i % 16 != 2]
    (without,) = matched_detections([[found[i] for i in kept]], [truth[i] for i in kept])
    score = DETECTION.quality(whole).score
    assert score is not None and score.without[2] == average_precision(without, range(len(kept)), "bbox")["AP"]


def test_half_of_the_objects_by_hand() -> None:
    """Two objects of one class; one is found exactly, then a wrong detection: precision 1 up to recall 0.5 (51 of 101 points)."""
    masks = np.zeros((2, SIDE, SIDE), dtype=np.uint8)
    masks[0, :10, :10] = masks[1, 20:30, 20:30] = 1
    truth = objects_of_masks(masks, np.array([1, 1]))
    found = DetectedObjects(
        boxes=torch.tensor([[0.0, 0, 10, 10], [0, 30, 5, 40]]),
        labels=torch.tensor([1, 1]),
        scores=torch.tensor([0.9, 0.8]),
        masks=torch.ones(2, 28, 28),
        size=(SIDE, SIDE),
    )
    (state,) = matched_detections([[found]], [truth])
    assert average_precision(state, [0], "bbox")["AP"] == pytest.approx(51 / 101)


def test_detections_are_resized_to_the_image() -> None:
    """An image of 20 x 40 pixels fills 10 x 20 of the 20 x 20 that the network read."""
    image = Objects(
        size=(20, 40),
        boxes=np.zeros((0, 4), dtype=np.float32),
        labels=np.zeros(0, dtype=np.int64),
        masks=encoded(np.zeros((0, 20, 40), dtype=np.uint8)),
        crowd=np.zeros(0, dtype=np.bool_),
        areas=np.zeros(0),
    )
    found = DetectedObjects(
        boxes=torch.tensor([[2.0, 1, 8, 15]]),
        labels=torch.tensor([0]),
        scores=torch.tensor([0.5]),
        masks=torch.ones(1, 28, 28),
        size=(20, 20),
    )
    resized = in_image(found, image)
    assert resized.boxes.tolist() == [[4, 2, 16, 20]] and resized.areas.tolist() == [0.5]
    mask = resized.decoded()[0]
    assert mask[2:20, 4:16].all() and mask.sum() <= 19 * 14


def test_without_objects_and_detections_the_score_is_zero() -> None:
    nothing = objects_of_masks(np.zeros((0, SIDE, SIDE), dtype=np.uint8), np.zeros(0, dtype=np.int64))
    found = DetectedObjects(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        scores=torch.zeros(0),
        masks=torch.zeros(0, 28, 28),
        size=(SIDE, SIDE),
    )
    (state,) = matched_detections([[found]], [nothing])
    score = DETECTION.quality(state).score
    assert score is not None and score.value == 0 and score.details["box"]["AP"] is None  # type: ignore[index]


def test_the_loss_is_the_sum() -> None:
    losses = torch.tensor([[1.0, 2, 3, 4, 5], [0, 0, 0, 0, 1]])
    assert float(sum_of_losses(losses[0], None, None)) == 15 and float(sum_of_losses(losses, None, None)) == 8
