"""How the published code of each family names its parameters, and which architecture a state dict of it is.

Modules that the published code holds but never runs (Spikformer's LayerNorms and position table, the Spike-driven Transformer's
talking heads) are `dead`: left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from autospike.space.architecture import Architecture, Block, Embedding, Stage

State = Mapping[str, Tensor]
Naming = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one family's published code names its parameters."""

    name: str
    signature: str
    """Pattern of keys that no dialect after it has."""
    naming: Naming
    """Patterns of our names without their last part (`weight`, `running_mean`, ...), and what the published code calls such;
    of several names the one that is there."""
    dead: str
    """Pattern of keys that the published code never uses."""
    architecture: Callable[[State, int | None, int | None], Architecture]


def _size(state: State, key: str, dim: int) -> int:
    """The size of a tensor along a dimension.

    Raises:
        KeyError: there is no such tensor.
        ValueError: it has no such dimension.
    """
    tensor = state[key]
    if tensor.dim() <= dim:
        raise ValueError(f"key {key!r} has shape {tuple(tensor.shape)}, which has too few dimensions")
    return tensor.shape[dim]


def in_chans(state: State) -> int:
    stems = ("patch_embed", "patch_embed1", "downsample1_1")
    embedding = next((stem for stem in stems if any(key.startswith(f"{stem}.") for key in state)), stems[0])
    first = "encode_conv" if embedding == "downsample1_1" else "proj_conv"
    return _size(state, f"{embedding}.{first}.weight", 1)


def _count(state: State, prefix: str) -> int:
    """How many blocks there are under a prefix."""
    found = {int(m[1]) for key in state if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", key))}
    if not found:
        raise KeyError(f"{prefix}.0")
    return max(found) + 1


def _ratio(state: State, key: str) -> float:
    """Hidden width by width, of the first of two layers."""
    return _size(state, key, 0) / _size(state, key, 1)


def _spikformer(state: State, num_heads: int | None, stride: int | None) -> Architecture:
    cifar = "block.0.attn.q_linear.weight" in state
    events = in_chans(state) == 2
    width = _size(state, "patch_embed.rpe_bn.weight", 0)
    heads = max(1, width // (32 if cifar else 16 if events else 64)) if num_heads is None else num_heads
    layer = "linear" if cifar else "conv"
    blocks = tuple(
        Block(num_heads=heads, mlp_ratio=_ratio(state, f"block.{i}.mlp.fc1_{layer}.weight")) for i in range(_count(state, "block"))
    )
    stage = Stage(embed_dim=width, embedding=Embedding(stride=(4 if cifar else 16) if stride is None else stride), blocks=blocks)
    bias = f"block.0.attn.q_{layer}.bias" in state
    steps, scale = (16, 0.25) if events else (4, 0.125)
    return Architecture(time_steps=steps, qkv_bias=bias, attention_scale=scale, stages=(stage,))


def _spike_driven(state: State, num_heads: int | None, stride: int | None) -> Architecture:
    if any(_ratio(state, f"block.{i}.mlp.fc1_conv.weight") == 1 for i in range(_count(state, "block"))):
        raise ValueError("mlp_ratio 1: the published code then adds a shortcut inside the MLP, which is not built here")
    events = in_chans(state) == 2
    width = _size(state, "patch_embed.rpe_bn.weight", 0)
    talking = "block.0.attn.talking_heads.weight"
    heads = (_size(state, talking, 0) if talking in state else 8) if num_heads is None else num_heads
    if num_heads is not None and not events:
        raise ValueError("num_heads has no effect in this network's image form; leave it out")
    mixer = Block(token_mixer="sdsa_1_dilated", num_heads=heads) if events else Block(token_mixer="sdsa_1")
    blocks = tuple(replace(mixer, mlp_ratio=_ratio(state, f"block.{i}.mlp.fc1_conv.weight")) for i in range(_count(state, "block")))
    usual = 8 if events else 16 if len(state["head.weight"]) == 1000 else 4
    stage = Stage(embed_dim=width, embedding=Embedding(stride=usual if stride is None else stride), blocks=blocks)
    return Architecture(family="spike_driven", shortcut="membrane", time_steps=16 if events else 4, stages=(stage,))


def _meta_spikeformer(state: State, num_heads: int | None, stride: int | None) -> Architecture:
    _refuse_stride(stride)

    def convolutional(name: str) -> Block:
        return Block(token_mixer="sepconv", channel_mixer="conv", mlp_ratio=_ratio(state, f"{name}.0.conv1.weight"))

    def transformer(name: str) -> tuple[Block, ...]:
        block = Block(num_heads=8 if num_heads is None else num_heads, qkv="repconv", projection="repconv")
        depth = _count(state, name)
        return tuple(replace(block, mlp_ratio=_ratio(state, f"{name}.{i}.mlp.fc1_conv.weight")) for i in range(depth))

    conv_blocks = tuple(
        tuple(map(convolutional, names)) for names in (("ConvBlock1_1",), ("ConvBlock1_2",), ("ConvBlock2_1", "ConvBlock2_2"))
    )
    blocks = (*conv_blocks, transformer("block3"), transformer("block4"))
    samplings = ("downsample1_1", "downsample1_2", "downsample2", "downsample3", "downsample4")
    stages = tuple(
        Stage(embed_dim=_size(state, f"{name}.encode_bn.weight", 0), embedding=Embedding(stride=stage_stride), blocks=inside)
        for name, stage_stride, inside in zip(samplings, (2, 2, 2, 2, 1), blocks, strict=True)
    )
    distilled, steps = "head_kd.weight" in state, 8 if in_chans(state) == 2 else 4
    return Architecture(family="meta_spikeformer", shortcut="membrane", time_steps=steps, distilled=distilled, stages=stages)


def _qkformer(state: State, num_heads: int | None, stride: int | None) -> Architecture:
    _refuse_stride(stride)
    compact = "patch_embed1.proj2_conv.weight" not in state
    usual = 8 if compact else max(1, _size(state, "head.weight", 1) // 64)
    heads = usual if num_heads is None else num_heads
    stages = []
    for i, stage_stride in enumerate((1, 2, 2) if compact else (4, 2, 2), start=1):
        blocks = tuple(_qkformer_block(state, f"stage{i}.{j}", heads) for j in range(_count(state, f"stage{i}")))
        width = _size(state, f"patch_embed{i}.proj_res_bn.weight", 0)
        stages.append(Stage(embed_dim=width, embedding=Embedding(stride=stage_stride), blocks=blocks))
    return Architecture(family="qkformer", compact_embedding=compact, stages=tuple(stages))


def _qkformer_block(state: State, name: str, heads: int) -> Block:
    layer = "mlp1_conv" if f"{name}.mlp.mlp1_conv.weight" in state else "fc1_conv"
    ratio = _ratio(state, f"{name}.mlp.{layer}.weight")
    if f"{name}.tssa.q_conv.weight" in state:
        return Block(token_mixer="token_qk", num_heads=heads, mlp_ratio=ratio)
    return Block(num_heads=heads, mlp_ratio=ratio)


def _refuse_stride(stride: int | None) -> None:
    if stride is not None:
        raise ValueError(f"stride is only a choice in the one-stage families, got {stride}; leave it out")


_ONE_STAGE_EMBEDDING: Naming = (
    (r"stages\.0\.embedding\.position\.mixer\.(?P<part>conv|bn)", (r"patch_embed.rpe_\g<part>",)),
    (r"stages\.0\.embedding\.convs\.0\.(?P<part>conv|bn)", (r"patch_embed.proj_\g<part>",)),
    (r"stages\.0\.embedding\.convs\.(?P<n>[123])\.(?P<part>conv|bn)", (r"patch_embed.proj_\g<part>\g<n>",)),
)


def _block(stage: int, theirs: str, attentions: tuple[str, ...] = ("attn",)) -> Naming:
    """Linear attention and MLP of a stage's blocks, which the published code keeps under `theirs`."""
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


_HEAD: Naming = ((r"head", (r"head",)),)


def _meta_embedding(stage: int, theirs: str) -> Naming:
    return ((rf"stages\.{stage}\.embedding\.conv\.(?P<part>conv|bn)", (rf"{theirs}.encode_\g<part>",)),)


def _meta_convolutional(stage: int, block: int, theirs: str) -> Naming:
    ours = rf"stages\.{stage}\.blocks\.{block}"
    return (
        (rf"{ours}\.token\.mixer\.expand\.linear", (f"{theirs}.0.Conv.pwconv1",)),
        (rf"{ours}\.token\.mixer\.expand\.bn", (f"{theirs}.0.Conv.bn1",)),
        (rf"{ours}\.token\.mixer\.separable\.depthwise", (f"{theirs}.0.Conv.dwconv",)),
        (rf"{ours}\.token\.mixer\.separable\.pointwise", (f"{theirs}.0.Conv.pwconv2",)),
        (rf"{ours}\.token\.mixer\.separable\.bn", (f"{theirs}.0.Conv.bn2",)),
        (rf"{ours}\.channel\.mixer\.conv(?P<n>[12])\.(?P<part>conv|bn)", (rf"{theirs}.0.\g<part>\g<n>",)),
    )


def _meta_transformer(stage: int, theirs: str) -> Naming:
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


def _qkformer_stage(stage: int) -> Naming:
    ours, theirs = rf"stages\.{stage}\.embedding", f"patch_embed{stage + 1}"
    embedding: Naming = (
        (rf"{ours}\.(rest\.)?residual\.(?P<part>conv|bn)", (rf"{theirs}.proj_res_\g<part>",)),
        (rf"{ours}\.conv\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj_\g<part>",)),
        (rf"{ours}\.rest\.conv(?P<n>[12])\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj\g<n>_\g<part>",)),
        (rf"{ours}\.conv1\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj3_\g<part>",)),
        (rf"{ours}\.conv2\.conv\.(?P<part>conv|bn)", (rf"{theirs}.proj4_\g<part>",)),
    )
    return (*embedding, *_block(stage, f"stage{stage + 1}", ("attn", "tssa", "ssa")))


DIALECTS = (
    Dialect(
        name="Spike-driven Transformer",
        signature=r"block\.\d+\.attn\.talking_heads\.weight",
        naming=(*_ONE_STAGE_EMBEDDING, *_block(0, "block"), *_HEAD),
        dead=r"block\.\d+\.attn\.talking_heads\.weight",
        architecture=_spike_driven,
    ),
    Dialect(
        name="Meta-SpikeFormer",
        signature=r"(downsample\d|ConvBlock\d_\d|block[34]).*",
        naming=(
            *_meta_embedding(0, "downsample1_1"),
            *_meta_embedding(1, "downsample1_2"),
            *_meta_embedding(2, "downsample2"),
            *_meta_embedding(3, "downsample3"),
            *_meta_embedding(4, "downsample4"),
            *_meta_convolutional(0, 0, "ConvBlock1_1"),
            *_meta_convolutional(1, 0, "ConvBlock1_2"),
            *_meta_convolutional(2, 0, "ConvBlock2_1"),
            *_meta_convolutional(2, 1, "ConvBlock2_2"),
            *_meta_transformer(3, "block3"),
            *_meta_transformer(4, "block4"),
            *_HEAD,
            (r"head_dist", (r"head_kd",)),
        ),
        dead=r"(?!)",
        architecture=_meta_spikeformer,
    ),
    Dialect(
        name="QKFormer",
        signature=r"(patch_embed|stage)[123]\..*",
        naming=(*_qkformer_stage(0), *_qkformer_stage(1), *_qkformer_stage(2), *_HEAD),
        dead=r"(?!)",
        architecture=_qkformer,
    ),
    Dialect(
        name="Spikformer",
        signature=r"patch_embed\.(proj|rpe)_.*",
        naming=(*_ONE_STAGE_EMBEDDING, *_block(0, "block"), *_HEAD),
        dead=r"block\.\d+\.norm[12]\.(weight|bias)|norm\.(weight|bias)|pos_embed",
        architecture=_spikformer,
    ),
)
