"""Layers that several decoders contain: convolutions with their neurons, and the feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from autospike.nn.layers import ConvNorm
from autospike.nn.neuron import LIF
from autospike.space.block import Neuron


def resize(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Resize maps.

    Args:
        x: `[T, B, H, W, C]`.
        size: H' and W'.
        mode: "nearest" or "bilinear".

    Returns:
        `[T, B, H', W', C]`.
    """
    if tuple(x.shape[2:4]) == tuple(size):
        return x
    images = x.flatten(0, 1).permute(0, 3, 1, 2)
    resized = F.interpolate(images, size=tuple(size), mode=mode, align_corners=None if mode == "nearest" else False)
    return resized.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class DecoderConv(nn.Module):
    """A convolution of a decoder. Shape: `[T, B, H, W, in_channels]` to `[T, B, H, W, out_channels]`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, odd.
        neuron: The neurons before the convolution; None in the standard form.
        norm: Whether there is a normalisation, in place of a bias.
        relu: Whether ReLU follows.
        layer: Class of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        neuron: Neuron | None,
        norm: bool = False,
        relu: bool = False,
        layer: type[ConvNorm] = ConvNorm,
    ) -> None:
        super().__init__()
        self.before: nn.Module = nn.Identity() if neuron is None else LIF(neuron)
        self.conv = layer(in_channels, out_channels, kernel_size=kernel_size, bias=not norm, norm=norm)
        self.after: nn.Module = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of `x` `[T, B, H, W, in_channels]`."""
        y: Tensor = self.after(self.conv(self.before(x)))
        return y


class FeaturePyramid(nn.Module):
    """Feature pyramid network: every level gets the content of the coarser ones.

    Args:
        widths: Channels of the levels, from fine to coarse.
        channels: Channels of the pyramid.
        neuron: The neurons before each convolution; None in the standard form.
    """

    def __init__(self, widths: Sequence[int], channels: int, neuron: Neuron | None) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(DecoderConv(width, channels, kernel_size=1, neuron=neuron) for width in widths)
        self.outputs = nn.ModuleList(DecoderConv(channels, channels, kernel_size=3, neuron=neuron) for _ in widths)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Compute the pyramid.

        Args:
            levels: `[T, B, H, W, width]` each, from fine to coarse.

        Returns:
            `[T, B, H, W, channels]` for each level.
        """
        merged = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + resize(merged[i], merged[i - 1].shape[2:4], "nearest")
        return [output(level) for output, level in zip(self.outputs, merged, strict=True)]
