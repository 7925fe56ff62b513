"""How many outputs of a convolution each input position reaches. What falls into the padding reaches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Sizes = tuple[int, ...]


def fan_out(
    size: Sequence[int],
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool = False,
    output_padding: Sequence[int] = (0, 0, 0),
) -> Tensor:
    """Of one input channel, in one output channel; of a convolution in one, two or three dimensions.

    Returns:
        `[positions]` float64, in the order in which the input lies in memory.
    """
    dims = len(size)
    settings = (tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding)[:dims])
    return _fan_out(tuple(size), tuple(kernel), *settings)


@lru_cache(maxsize=256)
def _fan_out(
    size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, transposed: bool, output_padding: Sizes
) -> Tensor:
    """The gradient of the sum of all outputs, where inputs and weights are ones. It is taken without autograd, which is off where
    operations are looked at."""
    ones, weight = torch.ones(1, 1, *size, dtype=torch.float64), torch.ones(1, 1, *kernel, dtype=torch.float64)
    settings = (stride, padding, dilation, transposed, output_padding, 1)
    outputs = torch.convolution(ones, weight, None, *settings)
    backward = torch.ops.aten.convolution_backward.default
    reached, _, _ = backward(torch.ones_like(outputs), ones, weight, None, *settings, [True, False, False])
    return reached.flatten()
