"""Images and objects in the format of COCO.

    ROOT/annotations/instances_train2017.json, instances_val2017.json
    ROOT/train2017/NAME.jpg, ROOT/val2017/NAME.jpg

Categories are numbered from 0 in the order of their ids, which have gaps in COCO. The mask of an object is a list of polygons, or
run lengths, compressed or not. Left out, and counted: objects without an area or with a box narrower than a pixel, and training
images without any object but crowds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as run_length

from autospike.data.objects import Objects
from autospike.data.pixels import printable
from autospike.errors import UserError, quoted

NARROW = "objects with a box narrower than a pixel, or without an area"
EMPTY = "training images without objects"


class _Object(NamedTuple):
    """An annotation: its id, class, box, whether it is a crowd, area and stored mask."""

    id: Any
    label: int
    box: tuple[float, float, float, float]
    crowd: bool
    area: float
    segmentation: Any


@dataclass(frozen=True, kw_only=True)
class CocoSplit:
    """Images of one split; called with an index, it returns the objects of an image.

    Attributes:
        file: The annotations.
        images: Paths of the images, relative to the root.
        file_sizes: Sizes of the image files in bytes.
        sizes: Height and width of the images.
        objects: Objects of each image.
        digest: Of the annotations.
        left_out: What was left out: for each reason the number, and the first one.
    """

    file: Path
    images: tuple[str, ...]
    file_sizes: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[tuple[_Object, ...], ...]
    digest: str
    left_out: dict[str, tuple[int, str]]

    def __call__(self, index: int) -> Objects:
        """Return the objects of the image with an index.

        Raises:
            UserError: A mask cannot be read.
        """
        found, size = self.objects[index], self.sizes[index]
        return Objects(
            size=size,
            boxes=np.array([each.box for each in found], dtype=np.float32).reshape(-1, 4),
            labels=np.array([each.label for each in found], dtype=np.int64),
            masks=tuple(self._mask(each, size) for each in found),
            crowd=np.array([each.crowd for each in found], dtype=np.bool_),
            areas=np.array([each.area for each in found], dtype=np.float64),
        )

    def _mask(self, found: _Object, size: tuple[int, int]) -> dict[str, Any]:
        height, width = size
        stored = found.segmentation
        try:
            if isinstance(stored, list):
                polygons = [[float(x) for x in polygon] for polygon in stored]
                if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
                    raise ValueError("a polygon has at least three points, each of two numbers")
                merged: dict[str, Any] = run_length.merge(run_length.frPyObjects(polygons, height, width))
                return merged
            if list(stored["size"]) != [height, width]:
                raise ValueError(f"a mask of {stored['size']} in an image of {[height, width]} (height, width)")
            counts = stored["counts"]
            if not isinstance(counts, list):
                return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}
            if sum(counts) != height * width or min(counts) < 0:
                raise ValueError(f"run lengths of {sum(counts)} pixels in an image of {height * width}")
            converted: dict[str, Any] = run_length.frPyObjects(stored, height, width)
            return converted
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"{printable(self.file)}: object {quoted(found.id)}: its segmentation cannot be read ({error}); write polygons "
                "[x, y, x, y, ...] or run lengths"
            ) from None


class CocoFolders(NamedTuple):
    """The splits of a data set in the format of COCO.

    Attributes:
        classes: Names of the classes.
        train: The training images.
        test: The validation images, which are the test split.
    """

    classes: tuple[str, ...]
    train: CocoSplit
    test: CocoSplit


def find_coco(root: Path) -> CocoFolders:
    """Read the annotations of COCO.

    Args:
        root: The folder with `annotations`, `train2017` and `val2017`.

    Returns:
        Classes and splits.

    Raises:
        UserError: A file is missing, is not in this format, or names an image or a category that does not exist.
    """
    train, test = (_Annotations.read(root, part) for part in ("train2017", "val2017"))
    if train.categories != test.categories:
        raise UserError(f"{printable(test.file)}: other categories than in {train.file.name}; both splits must have the same")
    return CocoFolders(tuple(train.categories.values()), train.split(keep_empty=False), test.split(keep_empty=True))


@dataclass(frozen=True, kw_only=True)
class _Annotations:
    """The content of a file of annotations: images and objects as they are stored, names of the categories by id."""

    root: Path
    part: str
    file: Path
    images: list[Any]
    objects: list[Any]
    categories: dict[int, str]
    digest: str

    @classmethod
    def read(cls, root: Path, part: str) -> _Annotations:
        file = root / "annotations" / f"instances_{part}.json"
        try:
            text = file.read_bytes()
            content = json.loads(text)
            images, objects = content["images"], content["annotations"]
            categories = {int(category["id"]): str(category["name"]) for category in content["categories"]}
            if not (isinstance(images, list) and isinstance(objects, list)):
                raise TypeError("images and annotations must be lists")
        except OSError as error:
            raise UserError(
                f"data.root: {printable(file)} cannot be read ({error.strerror}); COCO has annotations/, train2017/ and val2017/"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{printable(file)}: not in the format of COCO ({type(error).__name__}: {error})") from None
        if len(images) < 2 or not categories:
            raise UserError(
                f"{printable(file)}: {len(images)} images and {len(categories)} categories; at least 2 and 1 are needed"
            )
        return cls(
            root=root,
            part=part,
            file=file,
            images=images,
            objects=objects,
            categories=dict(sorted(categories.items())),
            digest=hashlib.sha256(text).hexdigest()[:12],
        )

    def split(self, *, keep_empty: bool) -> CocoSplit:
        """The images with their objects; without those that have none but crowds unless `keep_empty`."""
        named, sizes = self._images()
        labels = {category: label for label, category in enumerate(self.categories)}
        objects: dict[Any, list[_Object]] = {image: [] for image in named}
        narrow: list[str] = []
        for entry in self.objects:
            image, found = self._object(entry, named, sizes, labels)
            if found is None:
                narrow.append(f"object {entry['id']}")
            else:
                objects[image].append(found)
        kept = [image for image in named if keep_empty or any(not found.crowd for found in objects[image])]
        empty = [named[image] for image in named if image not in set(kept)]
        if len(kept) < 2:
            raise UserError(f"{printable(self.file)}: {len(kept)} images with objects; at least 2 are needed")
        reasons = {NARROW: narrow, EMPTY: empty}
        return CocoSplit(
            file=self.file,
            images=tuple(named[image] for image in kept),
            file_sizes=tuple(self._size_of(named[image]) for image in kept),
            sizes=tuple(sizes[image] for image in kept),
            objects=tuple(tuple(objects[image]) for image in kept),
            digest=self.digest,
            left_out={reason: (len(names), names[0]) for reason, names in reasons.items() if names},
        )

    def _images(self) -> tuple[dict[Any, str], dict[Any, tuple[int, int]]]:
        """Path, and height and width, of each image by its id."""
        named, sizes = {}, {}
        for entry in self.images:
            size = self._parsed("image", entry, lambda e: (int(e["height"]), int(e["width"])))
            named[entry["id"]] = self._parsed("image", entry, lambda e: f"{self.part}/{e['file_name']}")
            if min(size) < 1 or ".." in Path(named[entry["id"]]).parts:
                raise UserError(f"{printable(self.file)}: image {quoted(entry['id'])}: no image has this size or file name")
            sizes[entry["id"]] = size
        return named, sizes

    def _object(
        self, entry: Any, named: Mapping[Any, str], sizes: Mapping[Any, tuple[int, int]], labels: Mapping[int, int]
    ) -> tuple[Any, _Object | None]:
        """The image of an object, and the object; None if its box or area is empty."""
        image, category = self._parsed("object", entry, lambda e: (e["image_id"], e["category_id"]))
        for what, key, known in (("image", image, named), ("category", category, labels)):
            if key not in known:
                raise UserError(f"{printable(self.file)}: object {quoted(entry['id'])}: there is no {what} {quoted(key)}")
        x, y, width, height, area = self._parsed(
            "object", entry, lambda e: (*map(float, e["bbox"]), float(e.get("area", e["bbox"][2] * e["bbox"][3])))
        )
        rows, columns = sizes[image]
        box = (max(0.0, x), max(0.0, y), min(float(columns), x + width), min(float(rows), y + height))
        if not (box[2] - box[0] >= 1 and box[3] - box[1] >= 1 and area > 0):
            return image, None
        segmentation = self._parsed("object", entry, lambda e: e["segmentation"])
        return image, _Object(entry["id"], labels[category], box, bool(entry.get("iscrowd", 0)), area, segmentation)

    def _parsed(self, kind: str, entry: Any, read: Callable[[Any], Any]) -> Any:
        try:
            entry["id"].__hash__()
            return read(entry)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            number = entry.get("id", "?") if isinstance(entry, dict) else "?"
            raise UserError(
                f"{printable(self.file)}: {kind} {quoted(number)} is not in the format of COCO ({type(error).__name__}: {error})"
            ) from None

    def _size_of(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError:
            raise UserError(f"{printable(self.root / name)}: no such file; {self.file.name} lists it") from None
