"""Checkpoint formats of E-SpikeFormer's published code: base, large and event forms.

A published transformer block is two blocks here, except in the form with 172 million parameters. A layer scale is a parameter of
the last normalisation of its branch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from autospike.models.checkpoint_format import (
    HEAD,
    CheckpointFormat,
    NameRules,
    StateDict,
    Template,
    count,
    downsampling_rules,
    in_chans,
    refuse_stride,
    size,
    width_ratio,
)
from autospike.space.architecture import Architecture, Stage
from autospike.space.block import Block
from autospike.space.e_spikeformer import (
    GESTURE_DIVISOR,
    PUBLISHED_LEVELS,
    e_spikeformer,
    e_spikeformer_gesture,
    e_spikeformer_hardvs,
    e_spikeformer_large,
)

EMBEDDINGS = ("downsample1_1", "downsample1_2", "downsample2", "downsample3", "downsample4")
# Stage, number in the stage, and path of each convolutional block.
CONVOLUTIONAL = ((0, 0, "ConvBlock1_1"), (1, 0, "ConvBlock1_2"), (2, 0, "ConvBlock2_1"), (2, 1, "ConvBlock2_2"))
NO_FRAMES = "integrating neurons can be chosen for event forms only, and this network reads images; omit integrates"
# Two layers and their normalisations in `RepLinear`, by our names.
REPLINEAR = {"first": "conv1.0", "first_bn": "conv1.1", "last": "conv2.0"}


def _with_sepconv(
    state: StateDict, num_heads: int | None, stride: int | None, *, levels: int | None = None, integrates: bool = False
) -> Architecture:
    """The architecture of a base or event form."""
    refuse_stride(stride)
    first, *others = _widths(state, EMBEDDINGS)
    widths = (others[0], others[1], others[2], others[3])
    depth, chosen = count(state, "block3"), PUBLISHED_LEVELS if levels is None else levels
    if in_chans(state) == 2 and not any(key.startswith("block4.") for key in state):
        architecture = e_spikeformer_gesture(widths, depth, levels=chosen, integrates=integrates)
    elif in_chans(state) == 2:
        architecture = e_spikeformer_hardvs(widths, (depth, count(state, "block4")), levels=chosen, integrates=integrates)
    elif integrates:
        raise ValueError(NO_FRAMES)
    else:
        architecture = e_spikeformer(widths, (depth, count(state, "block4")), levels=chosen)
    ratios = [f"{name}.0.conv1.weight" for _, _, name in CONVOLUTIONAL]
    ratios += [f"block{n}.{i}.mlp.fc1_conv.weight" for n, d in ((3, depth), (4, _depth(architecture, 4))) for i in range(d)]
    scaled = f"block3.0.{_scale(1)}" in state
    return _adapted(architecture, first, (width_ratio(state, key) for key in ratios), num_heads, layer_scale=scaled)


def _depth(architecture: Architecture, stage: int) -> int:
    """Number of published blocks of a transformer stage."""
    return len(architecture.stages[stage].blocks) // 2


def _large(
    state: StateDict, num_heads: int | None, stride: int | None, *, levels: int | None = None, integrates: bool = False
) -> Architecture:
    """The architecture of a large form."""
    refuse_stride(stride)
    if integrates:
        raise ValueError(NO_FRAMES)
    first, *others = _widths(state, EMBEDDINGS[:4])
    depth = count(state, "block3")
    architecture = e_spikeformer_large(
        (others[0], others[1], others[2]),
        depth,
        replinear=any(re.fullmatch(r"block3\.\d+\.rep_conv\..*", key) for key in state),
        levels=PUBLISHED_LEVELS if levels is None else levels,
        distilled="head_kd.weight" in state,
    )
    containers = ("0.module.0", "0.0")  # in spikingjelly's `clock_driven`, and in `activation_based`
    ratios = []
    for _, _, name in CONVOLUTIONAL:
        keys = [f"{name}.0.conv1.{container}.weight" for container in containers]
        ratios.append(next((key for key in keys if key in state), keys[0]))
    ratios += [f"block3.{i}.mlp.fc1_conv.weight" for i in range(depth)]
    return _adapted(architecture, first, (width_ratio(state, key) for key in ratios), num_heads, layer_scale=None)


def _widths(state: StateDict, embeddings: tuple[str, ...]) -> list[int]:
    return [size(state, f"{name}.encode_bn.weight", 0) for name in embeddings]


def _adapted(
    architecture: Architecture, first_width: int, ratios: Iterable[float], num_heads: int | None, *, layer_scale: bool | None
) -> Architecture:
    """The architecture with the width of the first stage, hidden widths and heads of a state dict, and its layer scales if any."""
    ratio_of = iter(ratios)

    def adapted(block: Block, *, transformer: bool) -> Block:
        return replace(
            block,
            mlp_ratio=None if block.mlp_ratio is None else next(ratio_of),
            num_heads=block.num_heads if block.num_heads is None or num_heads is None else num_heads,
            layer_scale=layer_scale if transformer and layer_scale is not None else block.layer_scale,
        )

    stages: list[Stage] = []
    for i, stage in enumerate(architecture.stages):
        blocks = tuple(adapted(block, transformer=i >= 3) for block in stage.blocks)
        stages.append(replace(stage, embed_dim=stage.embed_dim if i else first_width, blocks=blocks))
    return replace(architecture, stages=tuple(stages))


def _scale(number: int) -> str:
    return f"layer_scale{number}"


def _divisor(architecture: Architecture) -> float:
    """The factor of weights that read integers of the gesture form, which divides them by 8 and not by their levels."""
    neuron, gesture = architecture.stages[0].blocks[0].neuron, not architecture.stages[-1].blocks
    return neuron.levels / GESTURE_DIVISOR if gesture else 1.0


def _joined(theirs: Template, part: str, match: re.Match[str]) -> str:
    """The name that a template gives, followed by a part."""
    return f"{theirs(match) if callable(theirs) else match.expand(theirs)}.{part}"


def _published_block(theirs: str, per_block: int, match: re.Match[str]) -> str:
    """The path of the published transformer block to which our block of index i belongs, which is `per_block` of ours."""
    return f"{theirs}.{int(match['i']) // per_block}"


def _convolutional(stage: int, block: int, theirs: str) -> NameRules:
    """Rules for a convolutional block of a base or event form."""
    ours = rf"stages\.{stage}\.blocks\.{block}"
    channel = (rf"{ours}\.channel\.mixer\.conv(?P<n>[12])\.(?P<part>conv|bn)", (rf"{theirs}.0.\g<part>\g<n>",))
    return (*_sepconv(ours, rf"{theirs}.0.Conv"), channel)


def _sepconv(ours: str, theirs: Template) -> NameRules:
    """Rules for a separable convolution, whose layers are pairs of a convolution and a normalisation."""
    parts = {"expand.linear": "pwconv1.0", "expand.bn": "pwconv1.1", "reduce.linear": "pwconv2.0", "reduce.bn": "pwconv2.1"}
    depthwise = {r"depthwise\d.conv": "dwconv.0", r"depthwise\d.bn": "dwconv.1"}
    return tuple(
        (rf"{ours}\.token\.mixer\.{name}", (partial(_joined, theirs, part),)) for name, part in {**parts, **depthwise}.items()
    )


def _transformer(stage: int, theirs: str) -> NameRules:
    """Rules for the transformer blocks of a stage of a base or event form."""
    ours, block = rf"stages\.{stage}\.blocks\.(?P<i>\d+)", partial(_published_block, theirs, 2)
    attention = tuple(
        (rf"{ours}\.token\.mixer\.{name}\.{part}", (partial(_joined, block, f"attn.{published}_conv.{i}"),))
        for name, published in _ATTENTION.items()
        for i, part in enumerate(("linear", "bn"))
    )
    scales = {"token.mixer.reduce": 1, "token.mixer.projection": 2, "channel.mixer.fc2": 3}
    return (*_scales(ours, block, scales), *_sepconv(ours, partial(_joined, block, "conv")), *attention, *_mlp(ours, block))


_ATTENTION = {"q": "q", "k": "k", "v": "v", "projection": "proj"}


def _mlp(ours: str, block: Template) -> NameRules:
    return tuple(
        (rf"{ours}\.channel\.mixer\.fc{n}\.{part}", (partial(_joined, block, f"mlp.fc{n}_{published}"),))
        for n in (1, 2)
        for part, published in (("linear", "conv"), ("bn", "bn"))
    )


def _scales(ours: str, block: Template, numbers: dict[str, int]) -> NameRules:
    """Rules for layer scales, which are whole names: the published ones have a path of their own."""
    return tuple(
        (rf"{ours}\.{re.escape(layer)}\.bn\.layer_scale", (partial(_joined, block, _scale(n)),)) for layer, n in numbers.items()
    )


def _large_convolutional(stage: int, block: int, theirs: str) -> NameRules:
    """Rules for a convolutional block of a large form, whose layers are in a container of spikingjelly."""
    ours = rf"stages\.{stage}\.blocks\.{block}\.channel\.mixer\.conv(?P<n>[12])"
    return tuple(
        (rf"{ours}\.{part}", (rf"{theirs}.0.conv\g<n>.0.module.{i}", rf"{theirs}.0.conv\g<n>.0.{i}"))
        for i, part in enumerate(("conv", "bn"))
    )


def _large_transformer(per_block: int) -> NameRules:
    """Rules for the transformer blocks of a large form."""
    ours, block = r"stages\.3\.blocks\.(?P<i>\d+)", partial(_published_block, "block3", per_block)
    parts = {**{name: f"0.{part}" for name, part in REPLINEAR.items()}, "last_bn": "0.conv2.1", "bn": "1"}
    attention = tuple(
        (rf"{ours}\.token\.mixer\.{name}\.{part}", (partial(_joined, block, f"attn.{published}_conv.{their_part}"),))
        for name, published in _ATTENTION.items()
        for part, their_part in parts.items()
    )
    linear = tuple(
        (rf"{ours}\.channel\.mixer\.replinear\.{part}", (partial(_joined, block, f"rep_conv.{their_part}"),))
        for part, their_part in {**REPLINEAR, "bn": "conv2.1"}.items()
    )
    scales = _scales(ours, block, {"token.mixer.projection": 1, "channel.mixer.fc2": 2})
    return (*scales, *attention, *linear, *_mlp(ours, block))


def _large_format(signature: str, per_block: int) -> CheckpointFormat:
    embeddings = (rule for i, name in enumerate(EMBEDDINGS[:4]) for rule in downsampling_rules(i, name))
    convolutional = (rule for block in CONVOLUTIONAL for rule in _large_convolutional(*block))
    second_head = (r"head_dist\.linear", ("head_kd",))
    return CheckpointFormat(
        name="E-SpikeFormer",
        signature=signature,
        name_rules=(*embeddings, *convolutional, *_large_transformer(per_block), *HEAD, second_head),
        unused=r"(?!)",
        architecture=_large,
        integers=True,
    )


E_SPIKEFORMER_FORMATS = (
    _large_format(r"block3\.\d+\.rep_conv\..*", 2),
    _large_format(r"block3\.\d+\.attn\.q_conv\.0\.conv1\..*", 1),
    CheckpointFormat(
        name="E-SpikeFormer",
        signature=r"ConvBlock\d_\d\.0\.Conv\.(pwconv[12]|dwconv)\.[01]\..*|block[34]\.\d+\.conv\..*",
        name_rules=(
            *(rule for i, name in enumerate(EMBEDDINGS) for rule in downsampling_rules(i, name)),
            *(rule for block in CONVOLUTIONAL for rule in _convolutional(*block)),
            *_transformer(3, "block3"),
            *_transformer(4, "block4"),
            *HEAD,
        ),
        unused=r"(?!)",
        architecture=_with_sepconv,
        spike_weight_factor=_divisor,
        integers=True,
    ),
)
