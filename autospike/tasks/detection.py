"""Detection: average precision of boxes and masks, as COCO computes it, from matches that add up.

pycocotools matches the detections of an image and a class with the objects of the image, without looking at other images. A metric
state holds these matches, so that the average precision of the union of any shards is that of the whole split.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from autospike.data.masks import fitted_size
from autospike.data.objects import Objects, encoded
from autospike.measurement import Score
from autospike.models.regions import DetectedObjects
from autospike.tasks.contract import Quality, Task

# Images are divided into this many groups, by their position in the split, as for segmentation (`autospike.tasks.segmentation`).
GROUPS = 16
# Probability from which a point belongs to an object.
MASK_THRESHOLD = 0.5
Geometry = str  # "bbox" or "segm", as pycocotools calls boxes and masks
GEOMETRIES: dict[Geometry, str] = {"bbox": "box", "segm": "mask"}
# COCO's ranges of areas, and its numbers of detections of an image; average precision is computed with the last one.
AREAS, LIMITS = ("all", "small", "medium", "large"), (1, 10, 100)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Detections of one class in one image, compared with its objects, for one range of areas.

    Attributes:
        scores: Of the detections, from high to low, `[D]`.
        correct: Whether a detection matches an object, at each of ten thresholds of IoU, `[10, D]`.
        ignored: Whether a detection counts neither as correct nor as wrong, `[10, D]`.
        ignored_objects: Whether an object need not be found, such as a crowd, `[G]`.
    """

    scores: NDArray[np.float64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    ignored_objects: NDArray[np.bool_]

    def as_pycocotools(self) -> dict[str, Any]:
        """Return the fields of an element of `COCOeval.evalImgs` that `COCOeval.accumulate` reads."""
        return {
            "dtScores": self.scores,
            "dtMatches": self.correct,
            "dtIgnore": self.ignored,
            "gtIgnore": self.ignored_objects,
        }


# By geometry, class, and index of the range of areas.
ImageMatches = Mapping[tuple[Geometry, int, int], Matches]


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedDetections:
    """Detections in some images, compared with their objects.

    Attributes:
        images: Matches by the position of the image in the split.
        classes: Classes that occur.
    """

    images: Mapping[int, ImageMatches]
    classes: frozenset[int]

    def __add__(self, other: MatchedDetections) -> MatchedDetections:
        return MatchedDetections(images={**self.images, **other.images}, classes=self.classes | other.classes)


def matched_detections(
    outputs: Sequence[Sequence[DetectedObjects]], targets: Sequence[Objects], start: int = 0
) -> list[MatchedDetections]:
    """Compare detections with the objects of their images, at the size of the images.

    Args:
        outputs: Detections at each T.
        targets: The objects of each image.
        start: Position of the first image in the split.

    Returns:
        The matches of each T.
    """
    return [_matched(list(map(in_image, detected, targets)), targets, start) for detected in outputs]


def in_image(detected: DetectedObjects, image: Objects) -> Objects:
    """Return detections at the size of an image, as objects of it; their areas are the scores.

    The whole image was resized to fit into the square that the network read, and padded.

    Args:
        detected: What the network found.
        image: Gives the size of the image.
    """
    height, width = image.size
    rows, columns = fitted_size(image.size, detected.size[0])
    scale = detected.boxes.new_tensor([width / columns, height / rows] * 2)
    boxes = (detected.boxes * scale).cpu()
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    pasted: Tensor = paste_masks_in_image(detected.masks[:, None].float().cpu(), boxes, image.size)
    return Objects(
        size=image.size,
        boxes=boxes.numpy(),
        labels=detected.labels.cpu().numpy(),
        masks=encoded((pasted[:, 0] >= MASK_THRESHOLD).numpy().astype(np.uint8)),
        crowd=np.zeros(len(boxes), dtype=np.bool_),
        areas=detected.scores.double().cpu().numpy(),
    )


def _matched(detected: Sequence[Objects], targets: Sequence[Objects], start: int) -> MatchedDetections:
    classes = sorted({int(label) for each in (*detected, *targets) for label in each.labels})
    images: dict[int, dict[tuple[Geometry, int, int], Matches]] = {start + i: {} for i in range(len(targets))}
    for geometry in GEOMETRIES if classes else ():
        evaluated = _evaluated(detected, targets, classes, geometry)
        entries = iter(evaluated.evalImgs)
        for label in classes:
            for area in range(len(AREAS)):
                for position in images:
                    entry = next(entries)
                    if entry is not None:
                        images[position][geometry, label, area] = _matches(entry)
    return MatchedDetections(images=images, classes=frozenset(classes))


def _matches(entry: Mapping[str, Any]) -> Matches:
    return Matches(
        scores=np.asarray(entry["dtScores"], dtype=np.float64),
        correct=np.asarray(entry["dtMatches"]) > 0,
        ignored=np.asarray(entry["dtIgnore"]).astype(np.bool_),
        ignored_objects=np.asarray(entry["gtIgnore"]).astype(np.bool_),
    )


def _evaluated(detected: Sequence[Objects], targets: Sequence[Objects], classes: Sequence[int], geometry: Geometry) -> Any:
    """Pycocotools' matches; images are numbered from 0, classes have their own numbers."""
    truth, found = COCO(), COCO()
    for coco, objects in ((truth, targets), (found, detected)):
        annotations = [_annotations(i, each, is_truth=coco is truth) for i, each in enumerate(objects)]
        numbered = [{**annotation, "id": n} for n, annotation in enumerate((x for each in annotations for x in each), start=1)]
        images = [{"id": i, "height": each.size[0], "width": each.size[1]} for i, each in enumerate(targets)]
        coco.dataset = {"images": images, "categories": [{"id": label} for label in classes], "annotations": numbered}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, geometry)
        evaluation.params.imgIds, evaluation.params.catIds = list(range(len(targets))), list(classes)
        evaluation.evaluate()
    return evaluation


def _annotations(image: int, objects: Objects, *, is_truth: bool) -> Iterable[dict[str, Any]]:
    for i, (x0, y0, x1, y1) in enumerate(objects.boxes.astype(np.float64).tolist()):
        annotation = {
            "image_id": image,
            "category_id": int(objects.labels[i]),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": objects.masks[i],
            "iscrowd": int(objects.crowd[i]),
        }
        number = float(objects.areas[i])
        yield {**annotation, "area": number} if is_truth else {**annotation, "area": (x1 - x0) * (y1 - y0), "score": number}


def average_precision(state: MatchedDetections, positions: Sequence[int], geometry: Geometry) -> dict[str, float | None]:
    """Compute COCO's average precision of some images.

    Args:
        state: The matches.
        positions: Of the images.
        geometry: "bbox" for boxes, "segm" for masks.

    Returns:
        `AP` (mean over ten thresholds of IoU from 0.5 to 0.95, and over classes), `AP50`, `AP75`, and `AP` of small, medium and
        large objects; None where no object has such a size.
    """
    precision = _precision(state, positions, geometry, AREAS, LIMITS[-1:])
    parts = {"AP": precision[..., 0, 0], "AP50": precision[0, ..., 0, 0], "AP75": precision[5, ..., 0, 0]}
    parts |= {f"AP_{name}": precision[..., area, 0] for area, name in enumerate(AREAS) if area}
    return {name: _mean(values) for name, values in parts.items()}


def _mean(values: NDArray[np.float64]) -> float | None:
    """Mean without classes that have no objects, which pycocotools marks by -1."""
    return float(values[values > -1].mean()) if (values > -1).any() else None


def _precision(
    state: MatchedDetections, positions: Sequence[int], geometry: Geometry, areas: Sequence[str], limits: Sequence[int]
) -> NDArray[np.float64]:
    """Pycocotools' precision, `[10 thresholds of IoU, 101 recalls, classes, areas, limits]`."""
    evaluation, classes = COCOeval(iouType=geometry), sorted(state.classes)
    params = evaluation.params
    params.imgIds, params.catIds, params.maxDets = list(range(len(positions))), classes, list(limits)
    params.areaRng, params.areaRngLbl = params.areaRng[: len(areas)], list(areas)
    evaluation.evalImgs = [
        matches.as_pycocotools() if matches is not None else None
        for label in classes
        for area in range(len(areas))
        for matches in (state.images[position].get((geometry, label, area)) for position in positions)
    ]
    evaluation._paramsEval = deepcopy(params)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"]
    return precision


def _quality(state: MatchedDetections) -> Quality:
    """The score is the AP of boxes. Its noise is that of leaving out a group of images."""
    positions = sorted(state.images)
    details = {name: average_precision(state, positions, geometry) for geometry, name in GEOMETRIES.items()}
    without = [[p for p in positions if p % GROUPS != group] for group in range(GROUPS)]
    values = [_mean(_precision(state, kept, "bbox", AREAS[:1], LIMITS[-1:])) if kept else None for kept in without]
    score = Score(
        metric=DETECTION.metric,
        value=details["box"]["AP"] or 0.0,
        without=tuple(value or 0.0 for value in values),
        details=details,
    )
    return Quality(score=score)


def sum_of_losses(losses: Tensor, _targets: Any, _teacher_targets: Any) -> Tensor:
    """Add up the losses of a detector, as a mean over the values of T.

    Args:
        losses: `[5]`, or `[S, 5]` for S values of T; see `autospike.models.mask_rcnn.MaskRCNN.losses`.

    Returns:
        The loss, a scalar.
    """
    return losses.sum(dim=-1).mean()


DETECTION = Task(name="detection", loss=sum_of_losses, compare=matched_detections, quality=_quality, reads_targets=True)
