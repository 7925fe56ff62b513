"""Draw a batch as a picture: one tile for each image, with the names of its classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from autospike.data.batches import Batch
from autospike.data.masks import IGNORED, fitted_size
from autospike.data.objects import Objects
from autospike.data.preparation import MEAN, STD

# Side of a tile, height of its label, and space between tiles, in pixels.
TILE, LABEL, GAP = 96, 14, 6
FONT_SIZE = 11

# Letters of a label that fit below a tile.
LETTERS = 16


def draw_batch(batch: Batch, classes: Sequence[str], *, smoothing: float) -> Image.Image:
    """Draw the images of a training batch.

    Args:
        batch: Normalised as `data.preparation` does; event frames are added up over time.
        classes: Names of the classes.
        smoothing: Label smoothing; only classes with a larger probability than it gives are named.

    Returns:
        An RGB image.
    """
    tiles = [Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.NEAREST) for pixels in visible_pixels(batch.images)]
    labels = [label_of(target, classes, smoothing=smoothing) for target in batch.targets]
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + LABEL + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for i, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        left, top = GAP + i % columns * (TILE + GAP), GAP + i // columns * (TILE + LABEL + GAP)
        sheet.paste(tile, (left, top))
        draw.text((left, top + TILE), label, fill="black", font=font)
    return sheet


def draw_masks(batch: Batch) -> Image.Image:
    """Draw the images of a training batch with masks, each beside the classes of its pixels.

    Args:
        batch: Normalised as `data.preparation` does.

    Returns:
        An RGB image.
    """
    pairs = zip(visible_pixels(batch.images), batch.targets.numpy(), strict=True)
    return sheet_of([np.concatenate([pixels, coloured(mask)], axis=1) for pixels, mask in pairs])


def draw_objects(batch: Batch) -> Image.Image:
    """Draw the images of a training batch with their objects.

    Args:
        batch: Normalised as `data.preparation` does; its targets are `autospike.data.objects.TrainingObjects`.

    Returns:
        An RGB image.
    """
    tiles = []
    for pixels, target in zip(visible_pixels(batch.images), batch.targets, strict=True):
        tiles.append(_drawn(pixels, target["masks"].bool(), target["boxes"], target["labels"]))
    return sheet_of(tiles)


def draw_targets(batch: Batch) -> Image.Image:
    """Draw images with their masks or objects.

    Args:
        batch: As `autospike.data.batches.FixedBatches` gives it in a dense task.

    Returns:
        An RGB image.
    """
    tiles = []
    for pixels, target in zip(visible_pixels(batch.images), batch.targets, strict=True):
        if isinstance(target, Objects):
            tiles.append(with_objects(pixels, target))
            continue
        classes = np.full(pixels.shape[:2], IGNORED, dtype=np.uint8)
        height, width = fitted_size(target.shape, len(pixels))
        classes[:height, :width] = np.asarray(Image.fromarray(target.numpy()).resize((width, height), Image.Resampling.NEAREST))
        tiles.append(np.concatenate([pixels, coloured(classes)], axis=1))
    return sheet_of(tiles)


def with_objects(pixels: NDArray[np.uint8], objects: Objects, *, drawn: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Draw objects of an image onto its pixels: their masks in half-transparent colours, and their boxes.

    Args:
        pixels: `[S, S, 3]`, the image resized to fit into S x S and padded.
        objects: At the size of the image.
        drawn: Which of them are drawn, `[n]`; all if None.

    Returns:
        `[S, S, 3]`.
    """
    chosen = np.ones(len(objects), dtype=np.bool_) if drawn is None else drawn
    height, width = fitted_size(objects.size, len(pixels))
    masks = torch.zeros((int(chosen.sum()), *pixels.shape[:2]), dtype=torch.bool)
    for placed, mask in zip(masks, objects.decoded()[chosen], strict=True):
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        placed[:height, :width] = torch.from_numpy(np.array(resized)) > 0
    scale = torch.tensor([width / objects.size[1], height / objects.size[0]] * 2)
    boxes = torch.from_numpy(objects.boxes[chosen]) * scale
    return _drawn(pixels, masks, boxes, torch.from_numpy(objects.labels[chosen]))


def _drawn(pixels: NDArray[np.uint8], masks: Tensor, boxes: Tensor, labels: Tensor) -> NDArray[np.uint8]:
    """Pixels `[S, S, 3]` with masks `[n, S, S]` and boxes; the colour of a class is that of `coloured` for the class + 1."""
    if not len(labels):
        return pixels
    colours = [tuple(map(int, colour)) for colour in coloured(labels.numpy()[None] + 1)[0]]
    image = draw_segmentation_masks(torch.from_numpy(pixels).permute(2, 0, 1), masks, alpha=0.5, colors=colours)
    framed = draw_bounding_boxes(image, boxes.clamp(0, len(pixels) - 1), colors=colours)
    return np.ascontiguousarray(framed.permute(1, 2, 0).numpy())


def sheet_of(tiles: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Arrange tiles of equal size `[H, W, 3]` in a sheet about as wide as high; small ones are enlarged.

    Args:
        tiles: Images of values from 0 to 255; at least one.

    Returns:
        The sheet.
    """
    height, width = tiles[0].shape[:2]
    scale = max(1, TILE // height)
    columns = max(1, round(math.sqrt(len(tiles) * height / width)))
    rows = math.ceil(len(tiles) / columns)
    size = (columns * (width * scale + GAP) + GAP, rows * (height * scale + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    for i, tile in enumerate(tiles):
        corner = (GAP + i % columns * (width * scale + GAP), GAP + i // columns * (height * scale + GAP))
        sheet.paste(Image.fromarray(tile).resize((width * scale, height * scale), Image.Resampling.NEAREST), corner)
    return sheet


def coloured(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a colour for each class of a mask `[H, W]`: class 0 is black, ignored pixels are white; `[H, W, 3]`.

    The colours are those of PASCAL VOC: the bits of the class, spread over red, green and blue from the highest bit on.

    Args:
        mask: Class of each pixel, `[H, W]`.
    """
    values = mask.astype(np.int64)
    colours = np.zeros((*mask.shape, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[..., channel] |= ((values >> (channel + 3 * bit)) & 1) << (7 - bit)
    return np.where((values == IGNORED)[..., None], 255, colours).astype(np.uint8)


def visible_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Return images as 8-bit RGB pixels.

    Args:
        images: Still images `[B, C, H, W]`, normalised; or event frames `[T, B, C, H, W]`, whose sums over time are divided by the
            largest. One channel is grey, two are red and blue, three are RGB; of more, the mean is grey.

    Returns:
        `[B, H, W, 3]`.
    """
    if images.dim() == 5:
        total = images.sum(dim=0)
        levels = total / total.amax().clamp(min=1e-12)
    else:
        levels = images * STD + MEAN
    channels = levels.shape[1]
    if channels == 2:
        levels = torch.stack([levels[:, 0], torch.zeros_like(levels[:, 0]), levels[:, 1]], dim=1)
    elif channels != 3:
        levels = levels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    pixels: NDArray[np.uint8] = (levels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(pixels)


def label_of(target: Tensor, classes: Sequence[str], *, smoothing: float) -> str:
    """Return the names of the classes of an image: one, or two with their probabilities if it is mixed.

    Args:
        target: Probabilities `[num_classes]`.
        classes: Their names.
        smoothing: Label smoothing, of which each class has an equal part.

    Returns:
        For example `cat`, or `cat .7 dog .3`.
    """
    likely = torch.topk(target, min(2, len(classes)))
    shares = [(float(p) - smoothing / len(classes)) / max(1 - smoothing, 1e-6) for p in likely.values]
    names = ["".join(c if c.isprintable() else "?" for c in classes[int(i)]) for i in likely.indices]
    if len(shares) < 2 or shares[1] < 0.05 or smoothing == 1:
        return names[0][:LETTERS]
    return " ".join(f"{name[: LETTERS // 2 - 3]} {f'{share:.1f}'.lstrip('0')}" for name, share in zip(names, shares, strict=True))
