"""The published networks by name, as architectures.

Sources are the authors' code and configuration files: Spikformer (Zhou et al., ICLR 2023), Spike-driven Transformer (Yao et al.,
NeurIPS 2023), Meta-SpikeFormer (Yao et al., ICLR 2024), QKFormer (Zhou et al., NeurIPS 2024), E-SpikeFormer (Yao et al., TPAMI
2025) and Max-Former (Fang et al., NeurIPS 2025).

The ImageNet forms have D / 64 heads for width D. The papers chose the attention scale for heads of 64 channels: 0.125 = 64 ** -0.5.
The number of heads does not change the number of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial

from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.space.decoder import Decoder
from autospike.space.e_spikeformer import e_spikeformer, e_spikeformer_gesture, e_spikeformer_hardvs, e_spikeformer_large


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published architecture with the input and output sizes of its weights.

    Attributes:
        architecture: The architecture.
        num_classes: Number of classes.
        in_chans: Number of input channels: 3 for RGB images, 2 for the polarities of events.
        image_size: Height and width of the input in pixels.
    """

    architecture: Architecture
    num_classes: int = 1000
    in_chans: int = 3
    image_size: int = 224


def spikformer(depth: int, embed_dim: int) -> Architecture:
    """Return an ImageNet form of Spikformer: stride 16, heads of 64 channels.

    Args:
        depth: Number of blocks.
        embed_dim: Width of the blocks.

    Returns:
        The architecture.
    """
    return _one_stage("spikformer", Block(num_heads=embed_dim // 64), depth, embed_dim, stride=16)


def spikformer_cifar(depth: int, embed_dim: int) -> Architecture:
    """Return a CIFAR form of Spikformer: stride 4, q, k, v with biases, heads of 32 channels.

    Args:
        depth: Number of blocks.
        embed_dim: Width of the blocks.

    Returns:
        The architecture.
    """
    return _one_stage("spikformer", Block(num_heads=embed_dim // 32), depth, embed_dim, stride=4, qkv_bias=True)


def spikformer_events(depth: int, embed_dim: int, *, time_steps: int = 16) -> Architecture:
    """Return an event form of Spikformer: stride 16, heads of 16 channels, attention scale 0.25.

    Args:
        depth: Number of blocks.
        embed_dim: Width of the blocks.
        time_steps: Number of time steps T.

    Returns:
        The architecture.
    """
    block = Block(num_heads=embed_dim // 16)
    return _one_stage("spikformer", block, depth, embed_dim, stride=16, attention_scale=0.25, time_steps=time_steps)


def spike_driven(depth: int, embed_dim: int, *, stride: int = 16, time_steps: int = 4) -> Architecture:
    """Return an ImageNet form (stride 16) or CIFAR form (stride 4) of the Spike-driven Transformer.

    Args:
        depth: Number of blocks.
        embed_dim: Width of the blocks.
        stride: Stride of the embedding.
        time_steps: Number of time steps T.

    Returns:
        The architecture.
    """
    return _one_stage("spike_driven", Block(token_mixer="sdsa_1"), depth, embed_dim, stride=stride, time_steps=time_steps)


def spike_driven_events(depth: int, embed_dim: int, *, stride: int = 8, time_steps: int = 16) -> Architecture:
    """Return an event form of the Spike-driven Transformer: max-pooling inside the attention, 8 heads.

    Args:
        depth: Number of blocks.
        embed_dim: Width of the blocks.
        stride: Stride of the embedding.
        time_steps: Number of time steps T.

    Returns:
        The architecture.
    """
    block = Block(token_mixer="sdsa_1_dilated", num_heads=8)
    return _one_stage("spike_driven", block, depth, embed_dim, stride=stride, time_steps=time_steps)


def meta_spikeformer(
    embed_dims: tuple[int, int, int, int], depths: tuple[int, int] = (6, 2), *, time_steps: int = 4, distilled: bool = False
) -> Architecture:
    """Return a Meta-SpikeFormer: three stages of convolutional blocks (1, 1, 2), then two stages of transformer blocks.

    Args:
        embed_dims: Widths of the last four stages. The first stage has half the width of the second.
        depths: Number of blocks of the two transformer stages.
        time_steps: Number of time steps T.
        distilled: Whether there is a second head for distillation.

    Returns:
        The architecture.
    """
    convolutional = Block(token_mixer="sepconv", channel_mixer="conv")
    transformer = Block(num_heads=8, qkv="repconv", projection="repconv")
    widths = (embed_dims[0] // 2, *embed_dims)
    blocks = ((convolutional,), (convolutional,), (convolutional,) * 2, (transformer,) * depths[0], (transformer,) * depths[1])
    stages = _stages(widths, (2, 2, 2, 2, 1), blocks)
    return Architecture(family="meta_spikeformer", shortcut="membrane", time_steps=time_steps, distilled=distilled, stages=stages)


def meta_spikeformer_segmentation(embed_dims: tuple[int, int, int, int], channels: int) -> Architecture:
    """Return a Meta-SpikeFormer with Semantic FPN on its maps of strides 2, 4, 8 and 16.

    Args:
        embed_dims: Widths of the last four stages of the backbone.
        channels: Width of the feature pyramid. The head has 128 channels.

    Returns:
        The architecture.
    """
    decoder = Decoder(levels=(0, 1, 2, 4), channels=channels, head_channels=128)
    return replace(meta_spikeformer(embed_dims), decoder=decoder)


def meta_spikeformer_detection(embed_dims: tuple[int, int, int, int]) -> Architecture:
    """Return a Meta-SpikeFormer with Mask R-CNN on its maps of strides 4, 8, 16 and 16, at T = 1 and with the published strides.

    Args:
        embed_dims: Widths of the last four stages of the backbone.

    Returns:
        The architecture.
    """
    decoder = Decoder(kind="mask-rcnn", levels=(1, 2, 3, 4), channels=256, head_channels=1024, level_strides="published")
    return replace(meta_spikeformer(embed_dims, time_steps=1), decoder=decoder)


def qkformer(depth: int, embed_dim: int) -> Architecture:
    """Return an ImageNet form of QKFormer: token attention in the first two stages, SSA in the last, equally many heads in all.

    Args:
        depth: Number of blocks in all stages: 1, 2 and the others.
        embed_dim: Width of the last stage. The others have a quarter and half of it.

    Returns:
        The architecture.
    """
    token = Block(token_mixer="token_qk", num_heads=embed_dim // 64)
    blocks = ((token,), (token,) * 2, (Block(num_heads=embed_dim // 64),) * (depth - 3))
    stages = _stages((embed_dim // 4, embed_dim // 2, embed_dim), (4, 2, 2), blocks)
    return Architecture(family="qkformer", stages=stages)


def qkformer_cifar(depth: int, embed_dim: int) -> Architecture:
    """Return a CIFAR form of QKFormer: one block in each of the first two stages, 8 heads, smaller strides.

    Args:
        depth: Number of blocks in all stages: 1, 1 and the others.
        embed_dim: Width of the last stage. The others have a quarter and half of it.

    Returns:
        The architecture.
    """
    token = Block(token_mixer="token_qk", num_heads=8)
    blocks = ((token,), (token,), (Block(num_heads=8),) * (depth - 2))
    stages = _stages((embed_dim // 4, embed_dim // 2, embed_dim), (1, 2, 2), blocks)
    return Architecture(family="qkformer", compact_embedding=True, stages=stages)


def max_former(embed_dim: int, *, time_steps: int = 4) -> Architecture:
    """Return an ImageNet form of Max-Former: 1, 2 and 7 blocks; depthwise 7x7, then 5x5, then SSA with heads of 64 channels.

    Args:
        embed_dim: Width of the last stage. The others have a quarter and half of it.
        time_steps: Number of time steps T.

    Returns:
        The architecture.
    """
    attention = Block(num_heads=max(1, embed_dim // 64))
    blocks = ((Block(token_mixer="dwc_7"),), (Block(token_mixer="dwc_5"),) * 2, (attention,) * 7)
    stages = _stages((embed_dim // 4, embed_dim // 2, embed_dim), (4, 2, 2), blocks)
    return Architecture(family="max_former", shortcut="membrane", time_steps=time_steps, stages=stages)


def max_former_cifar(embed_dim: int) -> Architecture:
    """Return a CIFAR form of Max-Former: no token mixer, then depthwise 3x3, then two blocks of SSA with 8 heads.

    Args:
        embed_dim: Width of the last stage. The others have a quarter and half of it.

    Returns:
        The architecture.
    """
    blocks = ((Block(token_mixer="none"),), (Block(token_mixer="dwc_3"),), (Block(num_heads=8),) * 2)
    stages = _stages((embed_dim // 4, embed_dim // 2, embed_dim), (1, 2, 2), blocks)
    return Architecture(family="max_former", shortcut="membrane", compact_embedding=True, stages=stages)


def max_former_events(embed_dim: int, *, time_steps: int = 16) -> Architecture:
    """Return an event form of Max-Former: depthwise 3x3, then SSA with 16 heads; MLPs with inner shortcuts.

    Args:
        embed_dim: Width of the last stage. The first has half of it.
        time_steps: Number of time steps T.

    Returns:
        The architecture.
    """
    mixers = (Block(token_mixer="dwc_3", channel_mixer="mlp_residual"), Block(num_heads=16, channel_mixer="mlp_residual"))
    first = Stage(embed_dim=embed_dim // 2, embedding=Embedding(stride=8, kind="embed_max_plus"), blocks=mixers[:1])
    second = Stage(embed_dim=embed_dim, embedding=Embedding(stride=2), blocks=mixers[1:])
    return Architecture(family="max_former", shortcut="membrane", time_steps=time_steps, stages=(first, second))


def qkformer_events(embed_dim: int, *, mlp_ratio: float, time_steps: int = 16) -> Architecture:
    """Return an event form of QKFormer: a block of token attention, then one of SSA, 16 heads.

    Args:
        embed_dim: Width of the last stage. The first has half of it.
        mlp_ratio: Hidden width of the MLPs as a multiple of their width.
        time_steps: Number of time steps T.

    Returns:
        The architecture.
    """
    token = Block(token_mixer="token_qk", num_heads=16, mlp_ratio=mlp_ratio)
    attention = Block(num_heads=16, mlp_ratio=mlp_ratio)
    first = Stage(embed_dim=embed_dim // 2, embedding=Embedding(stride=8, kind="embed_max_plus"), blocks=(token,))
    second = Stage(embed_dim=embed_dim, embedding=Embedding(stride=2), blocks=(attention,))
    return Architecture(family="qkformer", compact_embedding=True, time_steps=time_steps, stages=(first, second))


def _stages(widths: tuple[int, ...], strides: tuple[int, ...], blocks: tuple[tuple[Block, ...], ...]) -> tuple[Stage, ...]:
    return tuple(
        Stage(embed_dim=width, embedding=Embedding(stride=stride), blocks=stage_blocks)
        for width, stride, stage_blocks in zip(widths, strides, blocks, strict=True)
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
_events = partial(Published, in_chans=2, image_size=128)
_ade20k = partial(Published, num_classes=150, image_size=512)
_coco = partial(Published, num_classes=80, image_size=1344)  # 1333, padded to a multiple of 32

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
    "meta_spikeformer_15m_semantic_fpn": _ade20k(architecture=meta_spikeformer_segmentation((64, 128, 256, 360), 128)),
    "meta_spikeformer_55m_semantic_fpn": _ade20k(architecture=meta_spikeformer_segmentation((128, 256, 512, 640), 256)),
    "meta_spikeformer_15m_mask_rcnn": _coco(architecture=meta_spikeformer_detection((64, 128, 256, 360))),
    "meta_spikeformer_55m_mask_rcnn": _coco(architecture=meta_spikeformer_detection((128, 256, 512, 640))),
    "qkformer_10_384": Published(architecture=qkformer(10, 384)),
    "qkformer_10_512": Published(architecture=qkformer(10, 512)),
    "qkformer_10_768": Published(architecture=qkformer(10, 768)),
    "qkformer_cifar_4_384": _cifar(architecture=qkformer_cifar(4, 384)),
    "qkformer_cifar10dvs": _events(architecture=qkformer_events(256, mlp_ratio=1), num_classes=10),
    "qkformer_gesture": _events(architecture=qkformer_events(256, mlp_ratio=4), num_classes=11),
    "e_spikeformer_t": Published(architecture=e_spikeformer((24, 48, 96, 128))),
    "e_spikeformer_s": Published(architecture=e_spikeformer((32, 64, 128, 192))),
    "e_spikeformer_m": Published(architecture=e_spikeformer((48, 96, 192, 240))),
    "e_spikeformer_l": Published(architecture=e_spikeformer((64, 128, 256, 360))),
    **{
        f"e_spikeformer_{size}{suffix}": Published(
            architecture=e_spikeformer_large(widths, replinear=replinear, distilled=bool(suffix))
        )
        for size, widths, replinear in (("83m", (128, 256, 512), True), ("172m", (196, 384, 768), False))
        for suffix in ("", "_distilled")
    },
    "e_spikeformer_hardvs": Published(architecture=e_spikeformer_hardvs((64, 128, 256, 360)), num_classes=300, in_chans=2),
    "e_spikeformer_hardvs_integrating": Published(
        architecture=e_spikeformer_hardvs((64, 128, 256, 360), integrates=True), num_classes=300, in_chans=2
    ),
    "e_spikeformer_gesture": _events(architecture=e_spikeformer_gesture((64, 128, 256, 360)), num_classes=11),
    "e_spikeformer_gesture_integrating": _events(
        architecture=e_spikeformer_gesture((64, 128, 256, 360), integrates=True), num_classes=11
    ),
    "max_former_10_384": Published(architecture=max_former(384)),
    "max_former_10_512": Published(architecture=max_former(512)),
    "max_former_10_768": Published(architecture=max_former(768)),
    "max_former_cifar10": _cifar(architecture=max_former_cifar(384)),
    "max_former_cifar100": Published(architecture=max_former_cifar(384), num_classes=100, image_size=32),
    "max_former_cifar10dvs": _events(architecture=max_former_events(256), num_classes=10),
    "max_former_gesture": _events(architecture=max_former_events(256), num_classes=11),
}


def similar_networks(name: str) -> str:
    """Return the published networks with the most similar names, for a message that none has this name.

    Args:
        name: The name that was given.

    Returns:
        Part of a line.
    """
    similar = get_close_matches(name[:100], PUBLISHED, n=3, cutoff=0.0)
    return f"similar ones are {', '.join(similar)}, and docs/models.md lists all"
