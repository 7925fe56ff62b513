"""Layers that read regions: an image has any number of them, each as large as all others.

Tensors are `[T, R, ...]` with the regions of all images of a batch in place of the images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autospike.nn.layers import ConvNorm


class Uncounted(nn.Module):
    """Base class of modules of arithmetic on boxes, and of interpolation, which no energy convention counts."""


class RegionLinear(nn.Module):
    """A linear layer. Shape: `[T, R, in_features]` to `[T, R, out_features]`.

    It is no `torch.nn.Linear`, whose weights the networks initialise as those of a classifier.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        if not self.weight.is_meta:
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as of torch.nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of `x` `[T, R, in_features]`."""
        return F.linear(x, self.weight, self.bias)


class RegionConv(ConvNorm):
    """A convolution. Shape: `[T, R, H, W, in_channels]` to `[T, R, H, W, out_channels]`."""


class RegionUpsampling(nn.ConvTranspose2d):
    """A transposed convolution 2x2 of stride 2. Shape: `[T, R, H, W, C]` to `[T, R, 2 H, 2 W, C]`.

    Args:
        channels: Channels of input and output, C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2, stride=2)

    def reset_parameters(self) -> None:
        """Initialise as torch does; on the meta device, where there is nothing to write, do nothing."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the output of `x` `[T, R, H, W, C]`."""
        images = x.flatten(0, 1).permute(0, 3, 1, 2)
        upsampled = F.conv_transpose2d(images, self.weight, self.bias, stride=2)
        return upsampled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
