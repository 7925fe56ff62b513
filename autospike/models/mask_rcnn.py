"""Mask R-CNN with a feature pyramid (He et al., ICCV 2017), in the standard form and in Meta-SpikeFormer's spiking form.

    pyramid      as of Semantic FPN (`autospike.models.decoder_layers`); every second position of its coarsest level is one more
    proposals    3x3 convolution; 1x1 to the objectness of 3 anchors, 1x1 to their 12 changes
    box head     features 7x7 of each region; two linear layers; one to classes and background, one to 4 changes for each class
    mask head    features 14x14 of each region; four 3x3 convolutions; transposed convolution to 28x28; 1x1 to the classes

In the spiking form LIF neurons precede every convolution and linear layer but the last two of the box head. They run for T steps;
objectness, changes, classes and masks are means over time. The features of a region are taken at every step. The four convolutions
of the mask head are followed by ReLU, as published: it keeps membrane potentials from going below 0. In the standard form ReLU
follows every convolution of a head and every linear layer but the last ones, and none of those of the pyramid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from autospike.models.decoder_layers import DecoderConv, FeaturePyramid
from autospike.models.regions import DetectedObjects, Masks, Proposals, RegionFeatures, Regions
from autospike.nn.neuron import LIF
from autospike.nn.regions import RegionConv, RegionLinear, RegionUpsampling
from autospike.space.block import Neuron
from autospike.space.decoder import ANCHORS, BOX_SIZE, MASK_CONVOLUTIONS, Decoder

MASK_SIZE = 14


# Standard deviation of the first current of neurons, if all inputs of the layer before them spike, as a multiple of the current at
# which a neuron fires in the first step. Our choice: with 3, the rate r of a layer of normal currents is P(N > 1 / (3 sqrt(r'))) of
# the rate r' of the layer before it, which tends to 0.23 with the depth. With the initialisation of torch, it tends to 0 at once.
INITIAL_CURRENT = 3.0

# Probability that a region has an object, at first. Our choice: with few classes, an untrained detector would otherwise find each
# of them in every region, and measuring it would take long.
INITIAL_OBJECTS = 0.1


@torch.no_grad()
def make_firing(module: nn.Module, neuron: Neuron | None) -> None:
    """Initialise the layers of a module so that the neurons behind them fire; in the standard form, leave them as they are.

    Args:
        module: Its convolutions and linear layers are read by neurons.
        neuron: The neurons; None in the standard form.
    """
    if neuron is None:
        return
    firing = neuron.v_threshold * (neuron.tau if neuron.leak and neuron.levels == 1 else 1)
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and not weight.is_meta:
            inputs = weight.shape[0] if isinstance(layer, RegionUpsampling) else weight[0].numel()
            nn.init.normal_(weight, std=INITIAL_CURRENT * firing / inputs**0.5)


@torch.no_grad()
def _make_small(module: nn.Module, std: float = 0.01) -> None:
    """Draw the weights of a last layer from a normal distribution, and set its biases to 0, as torchvision and mmdetection do.

    Args:
        module: A layer with weight and bias.
        std: Standard deviation of the weights.
    """
    for parameter in module.parameters():
        if not parameter.is_meta:
            nn.init.normal_(parameter, std=std if parameter.dim() > 1 else 0.0)


class ProposalHead(nn.Module):
    """The layers of the proposal network. Every level uses the same; its neurons start from 0.

    Args:
        channels: Channels of the pyramid.
        neuron: The neurons before each convolution; None in the standard form.
    """

    def __init__(self, channels: int, neuron: Neuron | None) -> None:
        super().__init__()
        self.conv = DecoderConv(channels, channels, kernel_size=3, neuron=neuron, relu=neuron is None)
        make_firing(self, neuron)
        self.objectness = DecoderConv(channels, ANCHORS, kernel_size=1, neuron=neuron)
        self.deltas = DecoderConv(channels, 4 * ANCHORS, kernel_size=1, neuron=neuron)
        _make_small(self.objectness)
        _make_small(self.deltas)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Compute objectness and changes of a level.

        Args:
            level: `[T, B, H, W, C]`.

        Returns:
            Objectness `[T, B, H, W, 3]` and changes `[T, B, H, W, 12]`.
        """
        x = self.conv(level)
        return self.objectness(x), self.deltas(x)


class BoxHead(nn.Module):
    """Classes and boxes of regions.

    Args:
        channels: Channels of the pyramid.
        hidden: Width of the linear layers.
        num_classes: Number of classes; 0 without the last layers.
        neuron: The neurons before the first two linear layers; None in the standard form.
    """

    classes: Any

    def __init__(self, channels: int, hidden: int, num_classes: int, neuron: Neuron | None) -> None:
        super().__init__()
        self.hidden = hidden
        self.lifs = nn.ModuleList(nn.Identity() if neuron is None else LIF(neuron) for _ in range(2))
        self.shared = nn.ModuleList(RegionLinear(width, hidden) for width in (BOX_SIZE**2 * channels, hidden))
        self.after: nn.Module = nn.ReLU() if neuron is None else nn.Identity()
        make_firing(self, neuron)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layers by untrained ones; remove them for 0 classes.

        Args:
            num_classes: Number of classes, without the background.
        """
        self.classes = RegionLinear(self.hidden, num_classes + 1) if num_classes else nn.Identity()
        self.deltas: nn.Module = RegionLinear(self.hidden, 4 * num_classes) if num_classes else nn.Identity()
        _make_small(self.classes)
        _make_small(self.deltas, std=0.001)
        if num_classes and not self.classes.bias.is_meta:
            with torch.no_grad():
                self.classes.bias[-1] = math.log(num_classes * (1 - INITIAL_OBJECTS) / INITIAL_OBJECTS)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits and changes, means over time.

        Args:
            regions: `[T, R, C, 7, 7]`.

        Returns:
            Logits `[R, classes + 1]`, of which the last is the background, and changes `[R, 4 * classes]`.
        """
        x = regions.flatten(2)
        for lif, linear in zip(self.lifs, self.shared, strict=True):
            x = self.after(linear(lif(x)))
        return self.classes(x).mean(dim=0), self.deltas(x).mean(dim=0)


class MaskHead(nn.Module):
    """Masks of regions.

    Args:
        in_channels: Channels of the pyramid.
        channels: Channels of the convolutions.
        num_classes: Number of classes; 0 without the last layer.
        neuron: The neurons before each layer; None in the standard form.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, neuron: Neuron | None) -> None:
        super().__init__()
        self.channels, self.neuron = channels, neuron
        widths = [in_channels, *[channels] * MASK_CONVOLUTIONS]
        self.convolutions = nn.ModuleList(
            DecoderConv(i, o, kernel_size=3, neuron=neuron, relu=True, layer=RegionConv) for i, o in pairwise(widths)
        )
        self.lif: nn.Module = nn.Identity() if neuron is None else LIF(neuron)
        self.upsampling = RegionUpsampling(channels)
        self.after: nn.Module = nn.ReLU() if neuron is None else nn.Identity()
        make_firing(self, neuron)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by an untrained one; remove it for 0 classes.

        Args:
            num_classes: Number of classes.
        """
        self.classes: nn.Module = (
            DecoderConv(self.channels, num_classes, kernel_size=1, neuron=self.neuron, layer=RegionConv)
            if num_classes
            else nn.Identity()
        )

    def forward(self, regions: Tensor) -> Tensor:
        """Compute logits of masks, as means over time.

        Args:
            regions: Features, `[T, R, C, 14, 14]`.

        Returns:
            `[R, classes, 28, 28]`.
        """
        x = regions.permute(0, 1, 3, 4, 2).contiguous()
        for convolution in self.convolutions:
            x = convolution(x)
        logits: Tensor = self.classes(self.after(self.upsampling(self.lif(x))))
        return logits.mean(dim=0).permute(0, 3, 1, 2)


class MaskRCNN(nn.Module):
    """Neck and heads of a detector.

    Args:
        widths: Channels of the levels, from fine to coarse.
        strides: Of the levels.
        decoder: Its widths, neurons and settings.
        num_classes: Number of classes.
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], decoder: Decoder, *, num_classes: int) -> None:
        super().__init__()
        channels, neuron = decoder.channels, decoder.neuron if decoder.spiking else None
        if decoder.level_strides == "published":
            strides = [strides[0] * 2**i for i in range(len(strides))]
        side = decoder.anchor_scale * strides[0]
        self.neck = FeaturePyramid(widths, channels, neuron)
        make_firing(self.neck, neuron)
        self.proposal_head = ProposalHead(channels, neuron)
        self.box_head = BoxHead(channels, decoder.head_channels, num_classes, neuron)
        self.mask_head = MaskHead(channels, channels, num_classes, neuron)
        self.proposals = Proposals(side, [*strides, 2 * strides[-1]], decoder.proposals)
        self.box_features = RegionFeatures(strides, side, BOX_SIZE)
        self.mask_features = RegionFeatures(strides, side, MASK_SIZE)
        self.regions = Regions(decoder.proposals)
        self.masks = Masks()

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layers of the heads by untrained ones; remove them for 0 classes.

        Args:
            num_classes: Number of classes.
        """
        self.box_head.reset_classifier(num_classes)
        self.mask_head.reset_classifier(num_classes)

    def forward(self, levels: Sequence[Tensor], time_steps: int, size: Sequence[int]) -> list[DetectedObjects]:
        """Detect objects.

        Args:
            levels: The maps of the backbone, `[T, B, H, W, width]` each, from fine to coarse.
            time_steps: Number of time steps for which the decoder runs, at most T.
            size: Height and width of the image.

        Returns:
            The objects of each image.
        """
        height, width = size
        pyramid = self.pyramid(levels, time_steps)
        proposals, _ = self._propose(pyramid, size, None)
        logits, deltas = self.box_head(self.box_features(pyramid, proposals))
        boxes, scores, labels = self.regions(logits, deltas, proposals, (height, width))
        masks = self.masks(self.mask_head(self.mask_features(pyramid, boxes)), labels)
        return [
            DetectedObjects(boxes=b, labels=c, scores=s, masks=m, size=(height, width))
            for b, c, s, m in zip(boxes, labels, scores, masks, strict=True)
        ]

    def losses(self, levels: Sequence[Tensor], time_steps: int, size: Sequence[int], targets: Any) -> Tensor:
        """Compute the losses of a training batch. Anchors and regions are sampled by the global random generator of torch.

        Args:
            levels: As in `forward`.
            time_steps: As in `forward`.
            size: As in `forward`.
            targets: The objects of each image; see `autospike.data.objects.TrainingObjects`.

        Returns:
            Losses of objectness, proposals, classes, boxes and masks, `[5]`.
        """
        pyramid = self.pyramid(levels, time_steps)
        proposals, losses = self._propose(pyramid, size, targets)
        sampled = self.regions.sample(proposals, targets)
        losses += sampled.box_losses(*self.box_head(self.box_features(pyramid, sampled.boxes)))
        logits = self.mask_head(self.mask_features(pyramid, sampled.with_objects()[0]))
        return torch.stack([*losses, sampled.mask_loss(logits, targets)])

    def pyramid(self, levels: Sequence[Tensor], time_steps: int) -> list[Tensor]:
        """Compute the levels of the pyramid. The last one is every second position of the one before it.

        Args:
            levels: Streams of the stages, `[T, B, H, W, C]` each, from fine to coarse.
            time_steps: T of the result; later steps are left out.

        Returns:
            `[T, B, H, W, channels]` of each level.
        """
        found = self.neck([level[:time_steps] for level in levels])
        return [*found, found[-1][:, :, ::2, ::2]]

    def _propose(self, pyramid: Sequence[Tensor], size: Sequence[int], targets: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals of each image, and in training their losses."""
        per_step = [self.proposal_head(level) for level in pyramid]
        objectness, deltas = ([x.mean(dim=0) for x in of_levels] for of_levels in zip(*per_step, strict=True))
        found: tuple[list[Tensor], list[Tensor]] = self.proposals(objectness, deltas, size, targets)
        return found
