"""Fan-out of a convolution: the number of outputs that each input position reaches. Zero padding reaches none."""

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
    """Compute the fan-out of one input channel into one output channel, for a convolution in one, two or three dimensions.

    Args:
        size: Input size along each spatial dimension.
        kernel: Kernel size along each dimension.
        stride: As of `torch.nn.Conv2d`, along each dimension.
        padding: As of `torch.nn.Conv2d`.
        dilation: As of `torch.nn.Conv2d`.
        transposed: Whether it is a transposed convolution.
        output_padding: As of `torch.nn.ConvTranspose2d`.

    Returns:
        `[positions]` float64, positions in row-major order.
    """
    dims = len(size)
    settings = (tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding)[:dims])
    return _fan_out(tuple(size), tuple(kernel), *settings)


@lru_cache(maxsize=256)
def _fan_out(
    size: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, transposed: bool, output_padding: Sizes
) -> Tensor:
    """The gradient of the sum of all outputs, where inputs and weights are ones.

    It calls the backward operator directly, because autograd is off inside a dispatch mode.
    """
    ones, weight = torch.ones(1, 1, *size, dtype=torch.float64), torch.ones(1, 1, *kernel, dtype=torch.float64)
    settings = (stride, padding, dilation, transposed, output_padding, 1)
    outputs = torch.convolution(ones, weight, None, *settings)
    backward = torch.ops.aten.convolution_backward.default
    reached, _, _ = backward(torch.ones_like(outputs), ones, weight, None, *settings, [True, False, False])
    return reached.flatten()
