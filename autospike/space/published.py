"""The published networks by name, as architectures.

Head counts of ImageNet models are D / 64, for which the papers' scale 0.125 = 64 ** -0.5 was chosen. No parameter depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from autospike.space.architecture import Architecture, Block, Embedding, Stage


@dataclass(frozen=True, kw_only=True)
class Published:
    """An architecture, and what its published weights see and answer."""

    architecture: Architecture
    num_classes: int = 1000
    in_chans: int = 3
    image_size: int = 224


def spikformer(depth: int, embed_dim: int) -> Architecture:
    """ImageNet form."""
    return _one_stage("spikformer", Block(num_heads=embed_dim // 64), depth, embed_dim, stride=16)


def spikformer_cifar(depth: int, embed_dim: int) -> Architecture:
    """CIFAR form: q, k, v with biases, heads of 32 channels."""
    return _one_stage("spikformer", Block(num_heads=embed_dim // 32), depth, embed_dim, stride=4, qkv_bias=True)


def spikformer_events(depth: int, embed_dim: int, *, time_steps: int = 16) -> Architecture:
    """Event form: heads of 16 channels, scale 0.25."""
    block = Block(num_heads=embed_dim // 16)
    return _one_stage("spikformer", block, depth, embed_dim, stride=16, attention_scale=0.25, time_steps=time_steps)


def spike_driven(depth: int, embed_dim: int, *, stride: int = 16, time_steps: int = 4) -> Architecture:
    """ImageNet form at stride 16, CIFAR form at stride 4."""
    return _one_stage("spike_driven", Block(token_mixer="sdsa_1"), depth, embed_dim, stride=stride, time_steps=time_steps)


def spike_driven_events(depth: int, embed_dim: int, *, stride: int = 8, time_steps: int = 16) -> Architecture:
    """Event form: max-pools inside the attention, 8 heads."""
    block = Block(token_mixer="sdsa_1_dilated", num_heads=8)
    return _one_stage("spike_driven", block, depth, embed_dim, stride=stride, time_steps=time_steps)


def meta_spikeformer(
    embed_dims: tuple[int, int, int, int], depths: tuple[int, int] = (6, 2), *, time_steps: int = 4, distilled: bool = False
) -> Architecture:
    """Two stages of one convolutional block, one of two, then two stages of transformer blocks."""
    convolutional = Block(token_mixer="sepconv", channel_mixer="conv")
    transformer = Block(num_heads=8, qkv="repconv", projection="repconv")
    widths = (embed_dims[0] // 2, *embed_dims)
    blocks = ((convolutional,), (convolutional,), (convolutional,) * 2, (transformer,) * depths[0], (transformer,) * depths[1])
    stages = _stages(widths, (2, 2, 2, 2, 1), blocks)
    return Architecture(family="meta_spikeformer", shortcut="membrane", time_steps=time_steps, distilled=distilled, stages=stages)


def qkformer(depth: int, embed_dim: int) -> Architecture:
    """ImageNet form: token attention in the first two stages, SSA in the last, the same number of heads in each."""
    token = Block(token_mixer="token_qk", num_heads=embed_dim // 64)
    blocks = ((token,), (token,) * 2, (Block(num_heads=embed_dim // 64),) * (depth - 3))
    stages = _stages((embed_dim // 4, embed_dim // 2, embed_dim), (4, 2, 2), blocks)
    return Architecture(family="qkformer", stages=stages)


def qkformer_cifar(depth: int, embed_dim: int) -> Architecture:
    """CIFAR form: one block in each of the first two stages, 8 heads, smaller strides."""
    token = Block(token_mixer="token_qk", num_heads=8)
    blocks = ((token,), (token,), (Block(num_heads=8),) * (depth - 2))
    stages = _stages((embed_dim // 4, embed_dim // 2, embed_dim), (1, 2, 2), blocks)
    return Architecture(family="qkformer", compact_embedding=True, stages=stages)


def _stages(widths: tuple[int, ...], strides: tuple[int, ...], blocks: tuple[tuple[Block, ...], ...]) -> tuple[Stage, ...]:
    return tuple(
        Stage(embed_dim=width, embedding=Embedding(stride=stride), blocks=inside)
        for width, stride, inside in zip(widths, strides, blocks, strict=True)
    )


def _one_stage(
    family: str,
    block: Block,
    depth: int,
    embed_dim: int,
    *,
    stride: int,
    time_steps: int = 4,
    qkv_bias: bool = False,
    attention_scale: float = 0.125,
) -> Architecture:
    return Architecture(
        family=family,
        time_steps=time_steps,
        shortcut="membrane" if family == "spike_driven" else "sew",
        qkv_bias=qkv_bias,
        attention_scale=attention_scale,
        stages=(Stage(embed_dim=embed_dim, embedding=Embedding(stride=stride), blocks=(block,) * depth),),
    )


_cifar = partial(Published, num_classes=10, image_size=32)

PUBLISHED: dict[str, Published] = {
    "spikformer_8_384": Published(architecture=spikformer(8, 384)),
    "spikformer_8_512": Published(architecture=spikformer(8, 512)),
    "spikformer_10_512": Published(architecture=spikformer(10, 512)),
    "spikformer_8_768": Published(architecture=spikformer(8, 768)),
    "spikformer_cifar_4_256": _cifar(architecture=spikformer_cifar(4, 256)),
    "spikformer_cifar_2_384": _cifar(architecture=spikformer_cifar(2, 384)),
    "spikformer_cifar_4_384": _cifar(architecture=spikformer_cifar(4, 384)),
    "spikformer_events_2_256": Published(architecture=spikformer_events(2, 256), num_classes=10, in_chans=2, image_size=128),
    "spike_driven_8_384": Published(architecture=spike_driven(8, 384)),
    "spike_driven_8_512": Published(architecture=spike_driven(8, 512)),
    "spike_driven_8_768": Published(architecture=spike_driven(8, 768)),
    "spike_driven_cifar_2_512": _cifar(architecture=spike_driven(2, 512, stride=4)),
    "spike_driven_events_2_256": Published(architecture=spike_driven_events(2, 256), num_classes=11, in_chans=2, image_size=128),
    "meta_spikeformer_15m": Published(architecture=meta_spikeformer((64, 128, 256, 360))),
    "meta_spikeformer_31m": Published(architecture=meta_spikeformer((96, 192, 384, 480))),
    "meta_spikeformer_55m": Published(architecture=meta_spikeformer((128, 256, 512, 640))),
    **{
        f"meta_spikeformer_{size}_distilled": Published(architecture=meta_spikeformer(widths, distilled=True))
        for size, widths in (("15m", (64, 128, 256, 360)), ("31m", (96, 192, 384, 480)), ("55m", (128, 256, 512, 640)))
    },
    "meta_spikeformer_hardvs": Published(
        architecture=meta_spikeformer((80, 160, 320, 400), (4, 2), time_steps=8), num_classes=300, in_chans=2
    ),
    "qkformer_10_384": Published(architecture=qkformer(10, 384)),
    "qkformer_10_512": Published(architecture=qkformer(10, 512)),
    "qkformer_10_768": Published(architecture=qkformer(10, 768)),
    "qkformer_cifar_4_384": _cifar(architecture=qkformer_cifar(4, 384)),
}
