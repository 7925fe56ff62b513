"""The decoder of a dense task: the neck and the heads that turn feature maps of a backbone into masks or boxes.

    semantic-fpn   Semantic FPN (Kirillov et al., CVPR 2019), for semantic segmentation
    mask-rcnn      Mask R-CNN (He et al., ICCV 2017) with a feature pyramid, for detection

In the spiking form, LIF neurons precede each convolution, as in Meta-SpikeFormer (Yao et al., ICLR 2024). In the standard form,
ReLU follows the convolutions. `autospike.models.semantic_fpn` and `autospike.models.mask_rcnn` have the layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from autospike.errors import quoted
from autospike.space.block import STRICT, Neuron, as_floats
from autospike.space.families import batch_norm_parameters
from autospike.space.limits import MAX_EMBED_DIM, check_at_most

DecoderKind = Literal["semantic-fpn", "mask-rcnn"]
LevelStrides = Literal["actual", "published"]

# Fields that only Mask R-CNN has, with their defaults: those of the published networks, except for their level strides.
DETECTOR_DEFAULTS = {"level_strides": "actual", "anchor_scale": 8.0, "proposals": 1000}

# Fields of a decoder that have the same value in a space and in all of its architectures.
DECODER_SETTINGS = ("kind", "spiking", "levels", *DETECTOR_DEFAULTS)

# Sizes of Mask R-CNN that are the same in all published networks: anchors at a position (aspect ratios 0.5, 1 and 2), side of the
# features of a region in the box head, and number of convolutions of the mask head.
ANCHORS, BOX_SIZE, MASK_CONVOLUTIONS = 3, 7, 4


MAX_ANCHOR_SCALE, MAX_PROPOSALS = 1024, 100_000


class DetectorFields(Protocol):
    """The fields of a decoder, or of the space of one, that `check_detector` reads."""

    @property
    def kind(self) -> DecoderKind:
        """The structure."""

    @property
    def anchor_scale(self) -> float:
        """As in `Decoder`."""

    @property
    def proposals(self) -> int:
        """As in `Decoder`."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Neck and heads of a dense task.

    Attributes:
        kind: The structure, which decides the task.
        spiking: LIF neurons before the convolutions; otherwise ReLU after them.
        levels: Indices of the stages whose outputs are the levels of the feature pyramid, from fine to coarse.
        channels: Width of the feature pyramid; of Mask R-CNN also of the proposal network and of the mask head.
        head_channels: Width of the head; of Mask R-CNN of the linear layers of the box head.
        level_strides: Mask R-CNN: strides at which anchors and regions of the levels of the pyramid are laid out. `actual` is as
            they are. `published` doubles from level to level, as the published configurations declare although the last two stages
            of Meta-SpikeFormer have the same size.
        anchor_scale: Mask R-CNN: side of the anchors of the finest level, divided by its stride. It doubles from level to level.
        proposals: Mask R-CNN: largest number of regions of an image in inference. Training proposes twice as many, and samples
            0.512 times as many (2000 and 512 in the published networks).
        neuron: The LIF neurons of a spiking decoder.
    """

    __pydantic_config__ = STRICT
    kind: DecoderKind = "semantic-fpn"
    spiking: bool = True
    levels: tuple[int, ...]
    channels: int
    head_channels: int
    level_strides: LevelStrides = "actual"
    anchor_scale: float = 8.0
    proposals: int = 1000
    neuron: Neuron = Neuron()

    def __post_init__(self) -> None:
        as_floats(self, "anchor_scale")
        check_levels(self.levels)
        check_detector(self)
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


def check_detector(decoder: DetectorFields) -> None:
    """Check the fields that only Mask R-CNN has.

    Args:
        decoder: A decoder, or the space of one.

    Raises:
        ValueError: A value is not allowed, or the decoder is another one and has one of these fields.
    """
    for name, default in DETECTOR_DEFAULTS.items():
        if decoder.kind != "mask-rcnn" and getattr(decoder, name) != default:
            raise ValueError(f"decoder.{name}: has no effect with kind {decoder.kind}; leave it out")
    if not 0 < decoder.anchor_scale <= MAX_ANCHOR_SCALE:
        raise ValueError(f"decoder.anchor_scale must be above 0 and at most {MAX_ANCHOR_SCALE}, got {quoted(decoder.anchor_scale)}")
    if not 1 <= decoder.proposals <= MAX_PROPOSALS:
        raise ValueError(f"decoder.proposals must be from 1 to {MAX_PROPOSALS:,}, got {quoted(decoder.proposals)}")


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
    pyramid = sum(width * channels + channels for width in widths) + len(widths) * (9 * channels**2 + channels)
    if kind == "mask-rcnn":
        return pyramid + _detector_parameters(channels, head_channels, num_classes)
    counts = upsampling_convolutions(strides)
    weights = 9 * head_channels * (len(counts) * channels + (sum(counts) - len(counts)) * head_channels)
    return pyramid + weights + sum(counts) * batch_norm_parameters(head_channels) + num_classes * (head_channels + 1)


def _detector_parameters(channels: int, hidden: int, num_classes: int) -> int:
    """Parameters of proposal network, box head and mask head; without their last layers for 0 classes."""
    proposals = 9 * channels**2 + channels + 5 * ANCHORS * (channels + 1)
    boxes = (BOX_SIZE**2 * channels + 1) * hidden + (hidden + 1) * hidden
    masks = MASK_CONVOLUTIONS * (9 * channels**2 + channels) + 4 * channels**2 + channels
    last = (5 * num_classes + 1) * (hidden + 1) + num_classes * (channels + 1) if num_classes else 0
    return proposals + boxes + masks + last
