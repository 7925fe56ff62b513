"""The decoder of a dense task: the neck and the heads that turn feature maps of a backbone into masks or boxes.

    semantic-fpn   Semantic FPN (Kirillov et al., CVPR 2019), for semantic segmentation
    mask-rcnn      Mask R-CNN (He et al., ICCV 2017) with a feature pyramid, for detection

In the spiking form, LIF neurons precede each convolution, as in Meta-SpikeFormer (Yao et al., ICLR 2024). In the standard form,
ReLU follows the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autospike.errors import quoted
from autospike.space.block import STRICT, Neuron
from autospike.space.families import batch_norm_parameters
from autospike.space.limits import MAX_EMBED_DIM, check_at_most

DecoderKind = Literal["semantic-fpn"]

# Fields of a decoder that have the same value in a space and in all of its architectures.
DECODER_SETTINGS = ("kind", "spiking", "levels")


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Neck and heads of a dense task.

    Attributes:
        kind: The structure, which decides the task.
        spiking: LIF neurons before the convolutions; otherwise ReLU after them.
        levels: Indices of the stages whose outputs are the levels of the feature pyramid, from fine to coarse.
        channels: Width of the feature pyramid.
        head_channels: Width of the head.
        neuron: The LIF neurons of a spiking decoder.
    """

    __pydantic_config__ = STRICT
    kind: DecoderKind = "semantic-fpn"
    spiking: bool = True
    levels: tuple[int, ...]
    channels: int
    head_channels: int
    neuron: Neuron = Neuron()

    def __post_init__(self) -> None:
        check_levels(self.levels)
        check_channels("channels", self.channels)
        check_channels("head_channels", self.head_channels)
        if not self.spiking and self.neuron != Neuron():
            raise ValueError("decoder.neuron: a decoder with spiking: false has no neurons; leave it out")


def check_levels(levels: Sequence[int]) -> None:
    """Check the levels of a feature pyramid.

    Args:
        levels: Indices of stages.

    Raises:
        ValueError: There are fewer than two, or they are not in ascending order.
    """
    if len(levels) < 2 or min(levels) < 0 or list(levels) != sorted(set(levels)):
        raise ValueError(f"decoder.levels: two or more indices of stages in ascending order, from 0; got {quoted(list(levels))}")


def check_channels(name: str, channels: int) -> None:
    """Check a width of a decoder.

    Args:
        name: Name of the field.
        channels: The width.

    Raises:
        ValueError: It is less than 1 or too large.
    """
    if channels < 1:
        raise ValueError(f"decoder.{name} must be at least 1, got {quoted(channels)}")
    check_at_most(f"decoder.{name}", channels, MAX_EMBED_DIM)


def check_stages_of(levels: Sequence[int], stages: int) -> None:
    """Check that a network has the stages that its decoder reads.

    Args:
        levels: Indices of the stages.
        stages: Number of stages of the network.

    Raises:
        ValueError: A stage does not exist, or the last stage is not read.
    """
    if levels[-1] != stages - 1:
        raise ValueError(f"decoder.levels: the last one must be the last stage, {stages - 1}, got {levels[-1]}")


def upsampling_convolutions(strides: Sequence[int]) -> list[int]:
    """Return the number of convolutions of the head of Semantic FPN at each level.

    A level that is 2^n times coarser than the first one has n convolutions, each followed by upsampling by 2; the first level, and
    levels as fine as it, have one without upsampling.

    Args:
        strides: Of the levels.
    """
    return [max(1, round(math.log2(stride / strides[0]))) for stride in strides]


def decoder_parameters(
    kind: DecoderKind, channels: int, head_channels: int, *, widths: Sequence[int], strides: Sequence[int], num_classes: int
) -> int:
    """Return the number of parameters of a decoder.

    Args:
        kind: Its structure.
        channels: Width of the pyramid.
        head_channels: Width of the head.
        widths: Of the levels.
        strides: Of the levels.
        num_classes: Number of classes; 0 without the last layer.
    """
    assert kind == "semantic-fpn"
    pyramid = sum(width * channels + channels for width in widths) + len(widths) * (9 * channels**2 + channels)
    counts = upsampling_convolutions(strides)
    weights = 9 * head_channels * (len(counts) * channels + (sum(counts) - len(counts)) * head_channels)
    return pyramid + weights + sum(counts) * batch_norm_parameters(head_channels) + num_classes * (head_channels + 1)
