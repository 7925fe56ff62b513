"""Checkpoint formats of the published code of each family: names of parameters, and the architecture of a state dict.

Modules that the published code contains but never runs (Spikformer's LayerNorms and position table, the Spike-driven Transformer's
talking heads) are not imported; see `CheckpointFormat.unused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autospike.models.checkpoint_format import (
    HEAD,
    CheckpointFormat,
    NameRules,
    StateDict,
    count,
    downsampling_rules,
    in_chans,
    refuse_stride,
    size,
    width_ratio,
)
from autospike.models.e_spikeformer_checkpoints import E_SPIKEFORMER_FORMATS
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.space.families import EmbeddingKind
from autospike.space.mixers import DEPTHWISE


def _spikformer(state: StateDict, num_heads: int | None, stride: int | None) -> Architecture:
    """The architecture of a Spikformer (ImageNet, CIFAR or event form)."""
    cifar = "block.0.attn.q_linear.weight" in state
    events = in_chans(state) == 2
    width = size(state, "patch_embed.rpe_bn.weight", 0)
    heads = max(1, width // (32 if cifar else 16 if events else 64)) if num_heads is None else num_heads
    layer = "linear" if cifar else "conv"
    blocks = tuple(
        Block(num_heads=heads, mlp_ratio=width_ratio(state, f"block.{i}.mlp.fc1_{layer}.weight"))
        for i in range(count(state, "block"))
    )
    stage = Stage(embed_dim=width, embedding=Embedding(stride=(4 if cifar else 16) if stride is None else stride), blocks=blocks)
    bias = f"block.0.attn.q_{layer}.bias" in state
    steps, scale = (16, 0.25) if events else (4, 0.125)
    return Architecture(time_steps=steps, qkv_bias=bias, attention_scale=scale, stages=(stage,))


def _spike_driven(state: StateDict, num_heads: int | None, stride: int | None) -> Architecture:
    """The architecture of a Spike-driven Transformer."""
    if any(width_ratio(state, f"block.{i}.mlp.fc1_conv.weight") == 1 for i in range(count(state, "block"))):
        raise ValueError("mlp_ratio 1: the published code adds a shortcut inside the MLP then, which is not supported")
    events = in_chans(state) == 2
    width = size(state, "patch_embed.rpe_bn.weight", 0)
    talking_heads = "block.0.attn.talking_heads.weight"
    heads = (size(state, talking_heads, 0) if talking_heads in state else 8) if num_heads is None else num_heads
    if num_heads is not None and not events:
        raise ValueError("num_heads has no effect in the image form of this network; omit it")
    mixer = Block(token_mixer="sdsa_1_dilated", num_heads=heads) if events else Block(token_mixer="sdsa_1")
    blocks = tuple(
        replace(mixer, mlp_ratio=width_ratio(state, f"block.{i}.mlp.fc1_conv.weight")) for i in range(count(state, "block"))
    )
    published_stride = 8 if events else 16 if len(state["head.weight"]) == 1000 else 4
    stage = Stage(embed_dim=width, embedding=Embedding(stride=published_stride if stride is None else stride), blocks=blocks)
    return Architecture(family="spike_driven", shortcut="membrane", time_steps=16 if events else 4, stages=(stage,))


def _meta_spikeformer(state: StateDict, num_heads: int | None, stride: int | None) -> Architecture:
    """The architecture of a Meta-SpikeFormer."""
    refuse_stride(stride)

    def convolutional(name: str) -> Block:
        return Block(token_mixer="sepconv", channel_mixer="conv", mlp_ratio=width_ratio(state, f"{name}.0.conv1.weight"))

    def transformer(name: str) -> tuple[Block, ...]:
        block = Block(num_heads=8 if num_heads is None else num_heads, qkv="repconv", projection="repconv")
        depth = count(state, name)
        return tuple(replace(block, mlp_ratio=width_ratio(state, f"{name}.{i}.mlp.fc1_conv.weight")) for i in range(depth))

    conv_blocks = tuple(
        tuple(map(convolutional, names)) for names in (("ConvBlock1_1",), ("ConvBlock1_2",), ("ConvBlock2_1", "ConvBlock2_2"))
    )
    blocks = (*conv_blocks, transformer("block3"), transformer("block4"))
    embeddings = ("downsample1_1", "downsample1_2", "downsample2", "downsample3", "downsample4")
    stages = tuple(
        Stage(embed_dim=size(state, f"{name}.encode_bn.weight", 0), embedding=Embedding(stride=stage_stride), blocks=inside)
        for name, stage_stride, inside in zip(embeddings, (2, 2, 2, 2, 1), blocks, strict=True)
    )
    distilled, steps = "head_kd.weight" in state, 8 if in_chans(state) == 2 else 4
    return Architecture(family="meta_spikeformer", shortcut="membrane", time_steps=steps, distilled=distilled, stages=stages)


def _max_former(state: StateDict, num_heads: int | None, stride: int | None) -> Architecture:
    """The architecture of a Max-Former (ImageNet, CIFAR or event form)."""
    refuse_stride(stride)
    events, imagenet = "patch_embed1.max_embed3.embed_conv.weight" in state, "patch_embed1.embed4.embed_conv.weight" in state
    width = size(state, "head.weight", 1)
    published_heads = 16 if events else max(1, width // 64) if imagenet else 8
    heads = published_heads if num_heads is None else num_heads
    stages = []
    for i, stage_stride in enumerate((8, 2) if events else (4, 2, 2) if imagenet else (1, 2, 2), start=1):
        blocks = tuple(_max_former_block(state, f"stage{i}.{j}", heads) for j in range(count(state, f"stage{i}")))
        residual = "embed1" if events and i == 1 else "embed4" if imagenet and i == 1 else "embed2" if i == 1 else "max_embed2"
        embed_dim = size(state, f"patch_embed{i}.{residual}.embed_bn.weight", 0)
        kind: EmbeddingKind = "embed_max_plus" if events and i == 1 else "family"
        stages.append(Stage(embed_dim=embed_dim, embedding=Embedding(stride=stage_stride, kind=kind), blocks=blocks))
    compact, steps = not (events or imagenet), 16 if events else 4
    return Architecture(family="max_former", shortcut="membrane", compact_embedding=compact, time_steps=steps, stages=tuple(stages))


def _max_former_block(state: StateDict, name: str, heads: int) -> Block:
    ratio = width_ratio(state, f"{name}.mlp.fc1_conv.weight")
    block = Block(channel_mixer="mlp_residual") if ratio == 1 else Block(mlp_ratio=ratio)
    if f"{name}.attn.q_conv.weight" in state:
        return replace(block, num_heads=heads)
    kernel = next((key for key in (f"{name}.mixer.conv.weight", f"{name}.mixer.conv5.weight") if key in state), None)
    mixer: Any = "none" if kernel is None else f"dwc_{size(state, kernel, 2)}"
    if mixer not in ("none", *DEPTHWISE):
        raise ValueError(f"key {kernel!r} has shape {tuple(state[str(kernel)].shape)}: kernels of 3, 5 or 7 are supported")
    return replace(block, token_mixer=mixer, num_heads=None, qkv=None, projection=None)


def _qkformer_events(state: StateDict, num_heads: int | None, stride: int | None) -> Architecture:
    """The architecture of the event form of QKFormer."""
    refuse_stride(stride)
    heads, stages = 16 if num_heads is None else num_heads, []
    for i in (1, 2):
        blocks = tuple(_qkformer_block(state, f"stage{i}.{j}", heads) for j in range(count(state, f"stage{i}")))
        embedding = Embedding(stride=8, kind="embed_max_plus") if i == 1 else Embedding(stride=2)
        width = size(state, f"patch_embed{i}.proj_res_bn.weight", 0)
        stages.append(Stage(embed_dim=width, embedding=embedding, blocks=blocks))
    return Architecture(family="qkformer", compact_embedding=True, time_steps=16, stages=tuple(stages))


def _qkformer(state: StateDict, num_heads: int | None, stride: int | None) -> Architecture:
    """The architecture of a QKFormer (ImageNet or CIFAR form)."""
    refuse_stride(stride)
    compact = "patch_embed1.proj2_conv.weight" not in state
    published_heads = 8 if compact else max(1, size(state, "head.weight", 1) // 64)
    heads = published_heads if num_heads is None else num_heads
    stages = []
    for i, stage_stride in enumerate((1, 2, 2) if compact else (4, 2, 2), start=1):
        blocks = tuple(_qkformer_block(state, f"stage{i}.{j}", heads) for j in range(count(state, f"stage{i}")))
        width = size(state, f"patch_embed{i}.proj_res_bn.weight", 0)
        stages.append(Stage(embed_dim=width, embedding=Embedding(stride=stage_stride), blocks=blocks))
    return Architecture(family="qkformer", compact_embedding=compact, stages=tuple(stages))


def _qkformer_block(state: StateDict, name: str, heads: int) -> Block:
    layer = "mlp1_conv" if f"{name}.mlp.mlp1_conv.weight" in state else "fc1_conv"
    ratio = width_ratio(state, f"{name}.mlp.{layer}.weight")
    if f"{name}.tssa.q_conv.weight" in state:
        return Block(token_mixer="token_qk", num_heads=heads, mlp_ratio=ratio)
    return Block(num_heads=heads, mlp_ratio=ratio)


_ONE_STAGE_EMBEDDING: NameRules = (
    (r"stages\.0\.embedding\.position\.mixer\.(?P<part>conv|bn)", (r"patch_embed.rpe_\g<part>",)),
    (r"stages\.0\.embedding\.convs\.0\.(?P<part>conv|bn)", (r"patch_embed.proj_\g<part>",)),
    (r"stages\.0\.embedding\.convs\.(?P<n>[123])\.(?P<part>conv|bn)", (r"patch_embed.proj_\g<part>\g<n>",)),
)


def _block(stage: int, theirs: str, attentions: tuple[str, ...] = ("attn",)) -> NameRules:
    """Rules for linear attention and MLP of the blocks of a stage.

    Args:
        stage: The number of our stage.
        theirs: The path of the blocks in the published code.
        attentions: Names that the published code uses for the attention.
    """
    ours, theirs = rf"stages\.{stage}\.blocks\.(?P<i>\d+)", rf"{theirs}.\g<i>"
    layers = ("conv", "linear")
    return (
        (rf"{ours}\.token\.mixer\.(?P<p>q|k|v)\.linear", tuple(rf"{theirs}.{a}.\g<p>_{x}" for a in attentions for x in layers)),
        (rf"{ours}\.token\.mixer\.(?P<p>q|k|v)\.bn", tuple(rf"{theirs}.{a}.\g<p>_bn" for a in attentions)),
        (rf"{ours}\.token\.mixer\.projection\.linear", tuple(rf"{theirs}.{a}.proj_{x}" for a in attentions for x in layers)),
        (rf"{ours}\.token\.mixer\.projection\.bn", tuple(rf"{theirs}.{a}.proj_bn" for a in attentions)),
        (
            rf"{ours}\.channel\.mixer\.fc(?P<n>[12])\.linear",
            (rf"{theirs}.mlp.fc\g<n>_conv", rf"{theirs}.mlp.fc\g<n>_linear", rf"{theirs}.mlp.mlp\g<n>_conv"),
        ),
        (rf"{ours}\.channel\.mixer\.fc(?P<n>[12])\.bn", (rf"{theirs}.mlp.fc\g<n>_bn", rf"{theirs}.mlp.mlp\g<n>_bn")),
    )


def _meta_convolutional(stage: int, block: int, theirs: str) -> NameRules:
    """Rules for a convolutional block of Meta-SpikeFormer."""
    ours = rf"stages\.{stage}\.blocks\.{block}"
    return (
        (rf"{ours}\.token\.mixer\.expand\.linear", (f"{theirs}.0.Conv.pwconv1",)),
        (rf"{ours}\.token\.mixer\.expand\.bn", (f"{theirs}.0.Conv.bn1",)),
        (rf"{ours}\.token\.mixer\.separable\.depthwise", (f"{theirs}.0.Conv.dwconv",)),
        (rf"{ours}\.token\.mixer\.separable\.pointwise", (f"{theirs}.0.Conv.pwconv2",)),
        (rf"{ours}\.token\.mixer\.separable\.bn", (f"{theirs}.0.Conv.bn2",)),
        (rf"{ours}\.channel\.mixer\.conv(?P<n>[12])\.(?P<part>conv|bn)", (rf"{theirs}.0.\g<part>\g<n>",)),
    )


def _meta_transformer(stage: int, theirs: str) -> NameRules:
    """Rules for the transformer blocks of a stage of Meta-SpikeFormer."""
    parts = {
        "first": "0.body.0",
        "first_bn": "0.body.1.bn",
        "depthwise": "0.body.2.0",
        "last": "0.body.2.1",
        "last_bn": "0.body.2.2",
        "outer_bn": "1",
    }
    ours, names = rf"stages\.{stage}\.blocks\.(?P<i>\d+)\.token\.mixer", {"q": "q", "k": "k", "v": "v", "projection": "proj"}
    repconv = tuple(
        (rf"{ours}\.{name}\.{part}", (rf"{theirs}.\g<i>.attn.{their_name}_conv.{their_part}",))
        for name, their_name in names.items()
        for part, their_part in parts.items()
    )
    return (*repconv, *_block(stage, theirs))


def _max_former_stage(stage: int, embedding: Mapping[str, str]) -> NameRules:
    """Rules for a stage of Max-Former.

    Args:
        stage: The number of our stage.
        embedding: Names of the published convolutions by ours; `proj` is not inside a module of its own.
    """
    ours, theirs = rf"stages\.{stage}\.embedding", f"patch_embed{stage + 1}"
    convs: NameRules = tuple(
        (
            rf"{ours}\.{name}\.(?P<part>conv|bn)",
            (rf"{theirs}.{published}_\g<part>" if published == "proj" else rf"{theirs}.{published}.embed_\g<part>",),
        )
        for name, published in embedding.items()
    )
    ours, theirs = rf"stages\.{stage}\.blocks\.(?P<i>\d+)", rf"stage{stage + 1}.\g<i>"
    return (
        *convs,
        (rf"{ours}\.token\.mixer\.conv\d\.conv", (rf"{theirs}.mixer.conv", rf"{theirs}.mixer.conv5")),
        (rf"{ours}\.token\.mixer\.conv\d\.bn", (rf"{theirs}.mixer.conv_bn", rf"{theirs}.mixer.conv5_bn")),
        (rf"{ours}\.channel\.fc(?P<n>[12])\.mixer\.linear", (rf"{theirs}.mlp.fc\g<n>_conv",)),
        (rf"{ours}\.channel\.fc(?P<n>[12])\.mixer\.bn", (rf"{theirs}.mlp.fc\g<n>_bn",)),
        *_block(stage, f"stage{stage + 1}"),
    )


_EMBED_MAX = {"max1": "max_embed1", "max2": "embed1", "max_residual": "max_embed2"}


def _max_former_format(signature: str, first: Mapping[str, str], stages: int) -> CheckpointFormat:
    """A form of Max-Former.

    Args:
        signature: Pattern of keys by which the form is recognised.
        first: Published convolutions of the first embedding, by our names.
        stages: Number of stages.
    """
    later = (rule for stage in range(1, stages) for rule in _max_former_stage(stage, _EMBED_MAX))
    rules = (*_max_former_stage(0, first), *later, *HEAD)
    return CheckpointFormat(name="Max-Former", signature=signature, name_rules=rules, unused=r"(?!)", architecture=_max_former)


def _qkformer_stage(stage: int) -> NameRules:
    """Rules for a stage of QKFormer."""
    ours, theirs = rf"stages\.{stage}\.embedding", f"patch_embed{stage + 1}"
    embedding: NameRules = (
        (rf"{ours}\.(rest\.)?residual\.(?P<part>conv|bn)", (rf"{theirs}.proj_res_\g<part>",)),
        (rf"{ours}\.conv\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj_\g<part>",)),
        (rf"{ours}\.rest\.conv(?P<n>[12])\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj\g<n>_\g<part>",)),
        (rf"{ours}\.conv1\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj3_\g<part>",)),
        (rf"{ours}\.conv2\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj4_\g<part>",)),
    )
    return (*embedding, *_block(stage, f"stage{stage + 1}", ("attn", "tssa", "ssa")))


# The event form of QKFormer has an `embed_max_plus`, and another name of the first convolution in the second stage.
_QKFORMER_EVENT_EMBEDDINGS: NameRules = (
    (r"stages\.0\.embedding\.plus1\.(?P<part>conv|bn)", (r"patch_embed1.proj_\g<part>",)),
    (r"stages\.0\.embedding\.plus2\.(?P<part>conv|bn)", (r"patch_embed1.proj1_\g<part>",)),
    (r"stages\.0\.embedding\.plus3\.(?P<part>conv|bn)", (r"patch_embed1.proj2_\g<part>",)),
    (r"stages\.0\.embedding\.plus4\.(?P<part>conv|bn)", (r"patch_embed1.proj3_\g<part>",)),
    (r"stages\.0\.embedding\.plus_residual\.(?P<part>conv|bn)", (r"patch_embed1.proj_res_\g<part>",)),
    (r"stages\.1\.embedding\.conv1\.conv\.(?P<part>conv|bn)", (r"patch_embed2.proj_\g<part>",)),
)

FORMATS = (
    CheckpointFormat(
        name="Spike-driven Transformer",
        signature=r"block\.\d+\.attn\.talking_heads\.weight",
        name_rules=(*_ONE_STAGE_EMBEDDING, *_block(0, "block"), *HEAD),
        unused=r"block\.\d+\.attn\.talking_heads\.weight",
        architecture=_spike_driven,
    ),
    *E_SPIKEFORMER_FORMATS,
    CheckpointFormat(
        name="Meta-SpikeFormer",
        signature=r"(downsample\d|ConvBlock\d_\d|block[34]).*",
        name_rules=(
            *downsampling_rules(0, "downsample1_1"),
            *downsampling_rules(1, "downsample1_2"),
            *downsampling_rules(2, "downsample2"),
            *downsampling_rules(3, "downsample3"),
            *downsampling_rules(4, "downsample4"),
            *_meta_convolutional(0, 0, "ConvBlock1_1"),
            *_meta_convolutional(1, 0, "ConvBlock1_2"),
            *_meta_convolutional(2, 0, "ConvBlock2_1"),
            *_meta_convolutional(2, 1, "ConvBlock2_2"),
            *_meta_transformer(3, "block3"),
            *_meta_transformer(4, "block4"),
            *HEAD,
            (r"head_dist", (r"head_kd",)),
        ),
        unused=r"(?!)",
        architecture=_meta_spikeformer,
    ),
    _max_former_format(
        r"patch_embed1\.embed4\..*",
        {"orig1": "embed1", "orig2": "embed2", "orig3": "embed3", "orig_residual": "embed4"},
        stages=3,
    ),
    _max_former_format(
        r"patch_embed1\.max_embed\d\..*",
        {"plus1": "proj", "plus2": "max_embed1", "plus3": "max_embed2", "plus4": "max_embed3", "plus_residual": "embed1"},
        stages=2,
    ),
    _max_former_format(
        r"patch_embed\d\.(max_)?embed\d\..*",
        {"orig1": "proj", "orig2": "embed1", "orig_residual": "embed2"},
        stages=3,
    ),
    CheckpointFormat(
        name="QKFormer",
        signature=r"patch_embed1\.proj3_.*",
        name_rules=(*_QKFORMER_EVENT_EMBEDDINGS, *_qkformer_stage(0), *_qkformer_stage(1), *HEAD),
        unused=r"(?!)",
        architecture=_qkformer_events,
    ),
    CheckpointFormat(
        name="QKFormer",
        signature=r"(patch_embed|stage)[123]\..*",
        name_rules=(*_qkformer_stage(0), *_qkformer_stage(1), *_qkformer_stage(2), *HEAD),
        unused=r"(?!)",
        architecture=_qkformer,
    ),
    CheckpointFormat(
        name="Spikformer",
        signature=r"patch_embed\.(proj|rpe)_.*",
        name_rules=(*_ONE_STAGE_EMBEDDING, *_block(0, "block"), *HEAD),
        unused=r"block\.\d+\.norm[12]\.(weight|bias)|norm\.(weight|bias)|pos_embed",
        architecture=_spikformer,
    ),
)
