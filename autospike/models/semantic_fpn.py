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

from torch import Tensor, nn

from autospike.models.decoder_layers import DecoderConv, FeaturePyramid, resize
from autospike.space.block import Neuron
from autospike.space.decoder import upsampling_convolutions


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
                DecoderConv(channels if i else in_channels, channels, kernel_size=3, neuron=neuron, norm=True, relu=neuron is None)
                for i in range(count)
            )
            for count in upsampling_convolutions(strides)
        )
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last convolution by an untrained one; remove it for 0 classes.

        Args:
            num_classes: Number of classes.
        """
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

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by an untrained one; remove it for 0 classes.

        Args:
            num_classes: Number of classes.
        """
        self.head.reset_classifier(num_classes)

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
