"""Pictures of images with their targets and with predictions, of dense tasks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from autospike.data.batches import Batch
from autospike.data.masks import IGNORED, fitted_size
from autospike.data.objects import Objects
from autospike.data.picture import coloured, sheet_of, visible_pixels, with_objects
from autospike.tasks.detection import in_image

# Detections with a lower score are not drawn.
DRAWN_SCORE = 0.5


@torch.no_grad()
def draw_predictions(model: nn.Module, batch: Batch) -> Image.Image:
    """Draw images with their targets and with the predictions of a network, side by side.

    Args:
        model: A segmentation network or a detector, in eval mode.
        batch: Images with their masks or objects, as `autospike.data.batches.FixedBatches` gives them.

    Returns:
        An RGB image with one tile for each image.
    """
    return draw_detections(model, batch) if isinstance(batch.targets[0], Objects) else draw_segmentation(model, batch)


@torch.no_grad()
def draw_detections(model: nn.Module, batch: Batch) -> Image.Image:
    """Draw images with their objects and with those that a detector finds with a score of at least `DRAWN_SCORE`.

    Args:
        model: The detector, in eval mode.
        batch: Images with their objects.

    Returns:
        An RGB image with one tile for each image: pixels with true objects, pixels with detections.
    """
    tiles = []
    for pixels, objects, found in zip(visible_pixels(batch.images.cpu()), batch.targets, model(batch.images), strict=True):
        detected = in_image(found, objects)
        tiles.append(
            np.concatenate(
                [with_objects(pixels, objects), with_objects(pixels, detected, drawn=detected.areas >= DRAWN_SCORE)], axis=1
            )
        )
    return sheet_of(tiles)


@torch.no_grad()
def draw_segmentation(model: nn.Module, batch: Batch) -> Image.Image:
    """Draw images with their masks and the predicted classes, side by side.

    Args:
        model: The segmentation network, in eval mode.
        batch: Images with their masks, as `autospike.data.batches.FixedBatches` gives them.

    Returns:
        An RGB image with one tile for each image: pixels, true classes, predicted classes.
    """
    predictions = model(batch.images).argmax(dim=1).cpu().numpy().astype(np.uint8)
    tiles = []
    for pixels, mask, predicted in zip(visible_pixels(batch.images.cpu()), batch.targets, predictions, strict=True):
        height, width = fitted_size(mask.shape, predicted.shape[-1])
        true, inside = np.full_like(predicted, IGNORED), np.full_like(predicted, IGNORED)
        true[:height, :width] = np.asarray(Image.fromarray(mask.numpy()).resize((width, height), Image.Resampling.NEAREST))
        inside[:height, :width] = predicted[:height, :width]
        tiles.append(np.concatenate([pixels, coloured(true), coloured(inside)], axis=1))
    return sheet_of(tiles)
