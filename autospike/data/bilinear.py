"""Bilinear interpolation of masks, by operations that IEEE 754 rounds exactly, so that every machine draws the same images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sample_bilinear(masks: NDArray[np.float32], u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sample square masks at points relative to their centres.

    Args:
        masks: One mask for each image, `[images, size, size]`, with zeros at its border.
        u: Horizontal positions in pixels, `[images, height, width]`. Points outside a mask are moved to its border.
        v: Vertical positions in pixels, of the same shape.

    Returns:
        The values, of the shape of `u`.
    """
    size = masks.shape[-1]
    centre = np.float32((size - 1) / 2)
    column, row = (np.clip(axis + centre, 0, np.float32(size - 1.001)) for axis in (u, v))
    left, top = column.astype(np.int64), row.astype(np.int64)
    across, down = column - left.astype(np.float32), row - top.astype(np.float32)
    flat, start = masks.reshape(-1), (np.arange(len(masks)) * size * size)[:, None, None] + top * size + left
    upper = flat[start] + across * (flat[start + 1] - flat[start])
    lower = flat[start + size] + across * (flat[start + size + 1] - flat[start + size])
    sampled: NDArray[np.float32] = upper + down * (lower - upper)
    return sampled
