"""Rivals: small networks without spikes that are compared with the subnets of a search, and the count of their operations.

| name        | network                                                                       | parameters                |
|-------------|-------------------------------------------------------------------------------|---------------------------|
| `cnn`       | 3x3 convolutions with BatchNorm and ReLU, stride 2 until the map is 2x2, mean | as the reference network  |
| `cnn-small` | the same, narrower                                                            | a quarter of them         |
| `vit`       | timm's VisionTransformer without class token, as many patches and blocks      | as the reference network  |

A still image is read once. Of event frames, all that the reference network reads are channels of one image, so that a rival knows
their order and computes once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autospike.config import RivalName
from autospike.energy.counts import LayerCount
from autospike.space.architecture import Architecture
from autospike.space.parameters import count_parameters

# Side of the map behind the last convolution of a CNN.
LAST_MAP = 2
# The width of a ViT is a multiple of `WIDTH_STEP`, and a head has at most `HEAD_WIDTH` channels.
WIDTH_STEP, LARGEST_WIDTH, HEAD_WIDTH = 4, 4096, 32
MLP_RATIO = 2
# Parameters of `cnn-small` over those of the reference network.
SMALL = 0.25


@dataclass(frozen=True, kw_only=True)
class RivalInput:
    """What a rival reads and predicts.

    Attributes:
        channels: Channels of an image, or of one event frame.
        frames: Number of event frames; 0 for still images.
        image_size: Height and width in pixels.
        classes: Number of classes.
    """

    channels: int
    frames: int
    image_size: int
    classes: int

    @property
    def stacked_channels(self) -> int:
        """Channels of the image that the network computes."""
        return self.channels * max(1, self.frames)

    def batch(self, size: int, device: torch.device | None = None) -> Tensor:
        """Return zeros of the shape of a batch: `[B, C, H, W]`, or `[T, B, C, H, W]` for event frames.

        Args:
            size: Number of images, B.
            device: The device. Default: torch's.
        """
        shape = (size, self.channels, self.image_size, self.image_size)
        return torch.zeros((self.frames, *shape) if self.frames else shape, device=device)


class Rival(nn.Module):
    """A network without spikes, with the input that the spiking networks have.

    Args:
        reads: What it reads.
        network: Maps `[B, stacked_channels, H, W]` to logits.
        multiple: The height and width of images are padded with zeros to a multiple of this.
    """

    def __init__(self, reads: RivalInput, network: nn.Module, *, multiple: int = 1) -> None:
        super().__init__()
        self.frames, self.padding = reads.frames, -reads.image_size % multiple
        # Event counts are not normalised. Without parameters, the normalisation merges into the first layer.
        self.norm = nn.BatchNorm2d(reads.stacked_channels, affine=False) if reads.frames else nn.Identity()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits.

        Args:
            images: `[B, C, H, W]`, or event frames `[T, B, C, H, W]` with T >= `frames`.

        Returns:
            `[B, num_classes]`.
        """
        stacked = images[: self.frames].transpose(0, 1).flatten(1, 2) if self.frames else images
        logits: Tensor = self.network(F.pad(self.norm(stacked), (0, self.padding, 0, self.padding)))
        return logits


def build_rival(name: RivalName, reads: RivalInput, reference: Architecture) -> Rival:
    """Build a rival with fresh parameters from the global random generator.

    Args:
        name: The rival.
        reads: What it reads.
        reference: The reference network, which decides the number of parameters, and of the ViT the patches and blocks.

    Returns:
        The rival whose number of parameters is closest to that of the reference network, or of its part.
    """
    target = count_parameters(reference, in_chans=reads.channels, num_classes=reads.classes)
    if name == "vit":
        build, step = _vit_builder(reads, reference), WIDTH_STEP
    else:
        build, step, target = _cnn_builder(reads), 1, round(target * (SMALL if name == "cnn-small" else 1))
    return build(_closest_width(build, target, step))


def _closest_width(build: Callable[[int], Rival], target: int, step: int) -> int:
    """The width, a multiple of `step`, of the network with the closest number of parameters, by bisection."""

    def parameters(width: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(width).parameters())

    low, high = 1, LARGEST_WIDTH // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle * step) <= target else (low, middle)
    return min((low * step, high * step), key=lambda width: abs(parameters(width) - target))


def _cnn_builder(reads: RivalInput) -> Callable[[int], Rival]:
    sides = math.ceil(math.log2(max(2 * LAST_MAP, reads.image_size) / LAST_MAP))
    strides = [2] * sides if sides > 2 else [1, *[2] * sides]  # a tiny image keeps its size in the first layer

    def build(width: int) -> Rival:
        layers: list[nn.Module] = []
        before, after = reads.stacked_channels, width
        for stride in strides:
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before, after = after, min(2 * after, LARGEST_WIDTH)
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, reads.classes)]
        return Rival(reads, nn.Sequential(*layers, *head))

    return build


def _vit_builder(reads: RivalInput, reference: Architecture) -> Callable[[int], Rival]:
    patch = max(2, reference.stride)
    size = reads.image_size + -reads.image_size % patch
    depth = max(2, sum(len(stage.blocks) for stage in reference.stages))

    def build(width: int) -> Rival:
        heads = next(n for n in range(max(1, width // HEAD_WIDTH), 0, -1) if width % n == 0)
        network = VisionTransformer(
            img_size=size,
            patch_size=patch,
            in_chans=reads.stacked_channels,
            num_classes=reads.classes,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=MLP_RATIO,
            class_token=False,
            global_pool="avg",
        )
        return Rival(reads, network, multiple=patch)

    return build


@torch.no_grad()
def dense_counts(rival: Rival, reads: RivalInput) -> tuple[LayerCount, ...]:
    """Count the multiply-accumulates of one image by layer, dense: also where an input is zero.

    Convolutions (with zero padding), linear layers and the products of attention are counted, by torch's `FlopCounterMode`, which
    counts two operations for each. As in spiking networks, normalisation, activations, softmax, sums and pooling are not counted.

    Args:
        rival: The network. Its mode is changed to eval.
        reads: What it reads.

    Returns:
        The layers that have multiply-accumulates.
    """
    device = next(rival.parameters()).device
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        rival.eval()(reads.batch(1, device))
    root = type(rival).__name__
    found = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items() if name.startswith(f"{root}.")}
    own = {name: macs - sum(found[child] for child in _children(name, found)) for name, macs in found.items()}
    return tuple(
        LayerCount(layer=name.removeprefix(f"{root}.network."), input="real", time_steps=1, macs=macs, acs=(), rate=())
        for name, macs in own.items()
        if macs
    )


def _children(name: str, names: dict[str, int]) -> list[str]:
    """The modules directly inside a module, of those that were counted."""
    inside = [other for other in names if other.startswith(f"{name}.")]
    return [other for other in inside if not any(other.startswith(f"{between}.") for between in inside)]
