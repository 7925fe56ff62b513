"""Pictures of predictions of a dense task."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from autospike.data.batches import Batch
from autospike.data.masks import IGNORED, fitted_size
from autospike.data.picture import coloured, sheet_of, visible_pixels


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
