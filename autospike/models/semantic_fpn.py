"""Semantic FPN: a feature pyramid and a head for semantic segmentation (Kirillov et al., CVPR 2019; Meta-SpikeFormer's form).

    pyramid   1x1 convolution of each level; from coarse to fine, each level is added to the next finer one (nearest upsampling);
              3x3 convolution of each level
    head      for each level convolutions 3x3 with normalisation, each followed by bilinear upsampling by 2, up to the finest level;
              sum over the levels; 1x1 convolution to the classes

In the spiking form LIF neurons precede each convolution, and nothing follows it. In the standard form ReLU follows the
convolutions of the head that have a normalisation. The neck reads the mean of the maps over time, so it runs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from autospike.nn.layers import ConvNorm
from autospike.nn.neuron import LIF
from autospike.space.block import Neuron
from autospike.space.decoder import upsampling_convolutions


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
        norm: Whether there is a normalisation, in place of a bias. In the standard form ReLU follows it.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, neuron: Neuron | None, norm: bool = False) -> None:
        super().__init__()
        self.before: nn.Module = nn.Identity() if neuron is None else LIF(neuron)
        self.conv = ConvNorm(in_channels, out_channels, kernel_size=kernel_size, bias=not norm, norm=norm)
        self.after: nn.Module = nn.ReLU() if norm and neuron is None else nn.Identity()

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


class SemanticHead(nn.Module):
    """The head of Semantic FPN.

    Args:
        strides: Of the levels, from fine to coarse.
        in_channels: Channels of the pyramid.
        channels: Channels of the head.
        num_classes: Number of classes; 0 for a head that returns its features.
        neuron: The neurons before each convolution; None in the standard form.
    """

    def __init__(self, strides: Sequence[int], in_channels: int, channels: int, num_classes: int, neuron: Neuron | None) -> None:
        super().__init__()
        self.channels, self.neuron = channels, neuron
        self.upsamples = [stride != strides[0] for stride in strides]
        self.scales = nn.ModuleList(
            nn.ModuleList(
                DecoderConv(channels if i else in_channels, channels, kernel_size=3, neuron=neuron, norm=True) for i in range(count)
            )
            for count in upsampling_convolutions(strides)
        )
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last convolution by an untrained one; remove it for 0 classes."""
        self.classifier: nn.Module = (
            DecoderConv(self.channels, num_classes, kernel_size=1, neuron=self.neuron) if num_classes else nn.Identity()
        )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Compute logits at the size of the finest level.

        Args:
            pyramid: `[T, B, H, W, in_channels]` each, from fine to coarse.

        Returns:
            `[T, B, H, W, num_classes]`.
        """
        total = None
        scales: Iterable[Any] = self.scales
        for level, convolutions, upsamples in zip(pyramid, scales, self.upsamples, strict=True):
            x = level
            for convolution in convolutions:
                x = convolution(x)
                if upsamples:
                    x = resize(x, [2 * size for size in x.shape[2:4]], "bilinear")
            total = x if total is None else total + resize(x, total.shape[2:4], "bilinear")
        logits: Tensor = self.classifier(total)
        return logits


class SemanticFPN(nn.Module):
    """Neck and head of a segmentation network.

    Args:
        widths: Channels of the levels, from fine to coarse.
        strides: Of the levels.
        channels: Channels of the pyramid.
        head_channels: Channels of the head.
        num_classes: Number of classes.
        neuron: The neurons before each convolution; None in the standard form.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        *,
        channels: int,
        head_channels: int,
        num_classes: int,
        neuron: Neuron | None,
    ) -> None:
        super().__init__()
        self.neck = FeaturePyramid(widths, channels, neuron)
        self.head = SemanticHead(strides, channels, head_channels, num_classes, neuron)

    def forward(self, levels: Sequence[Tensor], time_steps: int, size: Sequence[int]) -> Tensor:
        """Compute the logits of every pixel, resized bilinearly from the size of the finest level to that of the image.

        Args:
            levels: The maps of the backbone, `[T, B, H, W, width]` each, from fine to coarse.
            time_steps: Number of time steps over which the maps are averaged, at most T.
            size: Height and width of the image.

        Returns:
            `[B, num_classes, *size]`.
        """
        means = [level[:time_steps].mean(dim=0, keepdim=True) for level in levels]
        logits: Tensor = self.head(self.neck(means))
        return resize(logits, size, "bilinear")[0].permute(0, 3, 1, 2)
