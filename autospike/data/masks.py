"""Images with a class for each pixel: the files of the masks.

A mask has the size of its image. Its values are classes from 0, or `IGNORED`.

| data    | image                         | mask                                                    | values                      |
|---------|-------------------------------|---------------------------------------------------------|-----------------------------|
| ade20k  | `images/training/NAME.jpg`    | `annotations/training/NAME.png`; also `validation`      | 0 is ignored, k is class k-1 |
| voc     | `JPEGImages/NAME.jpg`         | `SegmentationClass/NAME.png`; `ImageSets/Segmentation/` | classes; 255 is ignored     |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from autospike.errors import UserError

Mask = NDArray[np.uint8]

# Value of pixels that have no class, in all data; as in PASCAL VOC.
IGNORED = 255


def fitted_size(size: Sequence[int], side: int) -> tuple[int, int]:
    """Return height and width of an image whose longer side is resized to `side`.

    Args:
        size: Height and width of the image.
        side: The longer side of the result.
    """
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def read_mask(path: str, *, classes: int, zero_is_ignored: bool) -> Mask:
    """Read a mask from an image file whose grey values or palette indices are classes.

    Args:
        path: The file.
        classes: Number of classes.
        zero_is_ignored: Whether 0 has no class and k is class k - 1, as in ADE20K.

    Returns:
        Classes, or `IGNORED`; `[H, W]`.

    Raises:
        UserError: The file is no image of classes, or a value is no class.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1", "I", "I;16"):
                raise UserError(f"{path}: a mask is a grey or palette image with one class in each pixel, got mode {image.mode}")
            values = np.asarray(image).astype(np.int64)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: the mask cannot be read ({' '.join(str(error).split())[:150]}); repair or remove it") from None
    if zero_is_ignored:
        values = np.where(values == 0, IGNORED, np.where(values == IGNORED, IGNORED, values - 1))
    wrong = values[(values != IGNORED) & ((values < 0) | (values >= classes))]
    if wrong.size:
        found = int(wrong[0]) + zero_is_ignored
        raise UserError(f"{path}: value {found} is no class; there are {classes} classes, and {IGNORED} is ignored")
    return values.astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class MaskFiles:
    """Mask files, read on demand, and compared in size with their images.

    Attributes:
        paths: The files, by index.
        image: Reads the image with an index.
        classes: Number of classes.
        zero_is_ignored: See `read_mask`.
    """

    paths: tuple[str, ...]
    image: Callable[[int], Any]
    classes: int
    zero_is_ignored: bool

    def __call__(self, index: int) -> Mask:
        """Read a mask.

        Raises:
            UserError: It cannot be read, or has another size than its image.
        """
        path = self.paths[index]
        mask = read_mask(path, classes=self.classes, zero_is_ignored=self.zero_is_ignored)
        width, height = self.image(index).size
        if mask.shape != (height, width):
            raise UserError(f"{path}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {width} x {height}")
        return mask
