"""Objects of images: boxes, classes and masks, for detection.

A box is `[x0, y0, x1, y1]` in pixels; `[0, 0, 1, 1]` is the first pixel. Masks are run-length encoded as in COCO (pycocotools).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as run_length
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The objects of an image.

    Attributes:
        size: Height and width of the image.
        boxes: `[n, 4]` float32.
        labels: Classes from 0, `[n]` int64.
        masks: Run-length encoded masks of the image, `{"size": [H, W], "counts": bytes}`.
        crowd: Whether an object stands for a group of objects, `[n]` bool. Training ignores it; detections in it are no mistakes.
        areas: Areas by which average precision of small, medium and large objects is computed, in pixels, `[n]` float64.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: tuple[dict[str, Any], ...]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def decoded(self) -> NDArray[np.uint8]:
        """Return the masks as `[n, H, W]`, 1 inside."""
        if not self.masks:
            return np.zeros((0, *self.size), dtype=np.uint8)
        masks: NDArray[np.uint8] = run_length.decode(list(self.masks))
        return np.ascontiguousarray(masks.transpose(2, 0, 1))


def encoded(masks: NDArray[np.uint8]) -> tuple[dict[str, Any], ...]:
    """Encode masks by run lengths.

    Args:
        masks: `[n, H, W]`, 1 inside and 0 outside of an object.

    Returns:
        COCO's run-length encoding of each mask.
    """
    if not len(masks):
        return ()
    return tuple(run_length.encode(np.asfortranarray(masks.transpose(1, 2, 0))))


def objects_of_masks(masks: NDArray[np.uint8], labels: NDArray[np.int64]) -> Objects:
    """Return the objects that masks show. Each box is the smallest around its mask.

    Args:
        masks: `[n, H, W]`, 1 inside and 0 outside of an object; none is empty.
        labels: Class of each object, `[n]`.
    """
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Objects(
        size=(masks.shape[1], masks.shape[2]),
        boxes=boxes,
        labels=labels,
        masks=encoded(masks),
        crowd=np.zeros(len(masks), dtype=np.bool_),
        areas=masks.sum(axis=(1, 2)).astype(np.float64),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingObjects(Sequence[dict[str, Tensor]]):
    """The objects of a training batch.

    Attributes:
        of_images: For each image `boxes` `[n, 4]` float32, `labels` `[n]` int64 from 0, and `masks` `[n, H, W]` uint8.
    """

    of_images: tuple[dict[str, Tensor], ...]

    def __len__(self) -> int:
        return len(self.of_images)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.of_images)

    def __getitem__(self, index: Any) -> Any:
        return self.of_images[index]

    def to(self, device: torch.device) -> TrainingObjects:
        """Return the objects on a device.

        Args:
            device: Where the objects are copied to.
        """
        return TrainingObjects(of_images=tuple({name: x.to(device) for name, x in image.items()} for image in self.of_images))

    def split(self, size: int) -> list[TrainingObjects]:
        """Split the batch, in order.

        Args:
            size: Number of images of a part; the last one may be smaller.

        Returns:
            The parts.
        """
        return [TrainingObjects(of_images=self.of_images[i : i + size]) for i in range(0, len(self), size)]


def collated(samples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, TrainingObjects]:
    """Return images `[B, C, H, W]` with their objects, from pairs of an image and its objects.

    Args:
        samples: An image `[C, H, W]` and its objects for each sample.
    """
    images, targets = zip(*samples, strict=True)
    return torch.stack(images), TrainingObjects(of_images=targets)
