"""Check before a training that its first step can fit into memory."""

from __future__ import annotations

import torch

from autospike.errors import UserError
from autospike.process import memory_limit
from autospike.space.costs import BYTES_PER_KB, BYTES_PER_VALUE, costs
from autospike.training.setup import Setup

GB = 10**9
# Share of the inputs and outputs of all layers that a backward pass certainly has in memory: an output is the input of the next
# layer, and half of the rest is left for spikes that are stored in fewer bytes.
CERTAIN = 1 / 4


def memory_of(device: torch.device) -> int | None:
    """Return the bytes of memory of a device, or None if they are unknown.

    Args:
        device: A CPU or a CUDA device.
    """
    return memory_limit() if device.type == "cpu" else torch.cuda.get_device_properties(device).total_memory


def check_memory(setup: Setup, available: int | None) -> None:
    """Refuse a training whose steps cannot fit into memory.

    The estimate is a lower bound, of the pixels of a batch and the activations of the largest network, so that a training that
    fits is not refused.

    Args:
        setup: The training.
        available: Memory of the device in bytes; None if it is unknown.

    Raises:
        UserError: A step needs more.
    """
    training, shape = setup.experiment.training, setup.input_shape
    images = max(1, training.batch_size // (training.accumulate * setup.ranks.size))
    largest = costs(setup.experiment.search_space.largest(), shape)
    pixels = shape.channels * shape.image_size**2 * BYTES_PER_VALUE
    needed = images * (pixels + CERTAIN * BYTES_PER_KB * sum(largest.layers_kb))
    if available is not None and needed > available:
        raise UserError(
            f"data.image_size: {shape.image_size}: a training step of {images:,} images needs at least {needed / GB:,.1f} GB for "
            f"pixels and activations of the largest network, and this device has {available / GB:,.1f} GB; reduce data.image_size, "
            "training.batch_size or the widths of the space, or raise training.accumulate"
        )
