"""Shared test helpers: hypothesis strategies for architectures, search spaces as dictionaries, and synthetic measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from autospike.energy.conventions import DEFAULT, Convention
from autospike.energy.counts import LayerCount
from autospike.errors import UserError
from autospike.measurement import Evaluation, Measurement
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride
from autospike.space.families import Shortcut

few_examples = settings(max_examples=25, deadline=None)

HALF_TO_TWO = {"low": 0.5, "high": 2.0, "sigma": 0.2}

# From the publications: shortcuts, strides of the first and of later embeddings, and the divisor of every width.
FAMILIES: dict[str, tuple[tuple[Shortcut, ...], tuple[int, ...], tuple[int, ...], int]] = {
    "spikformer": (("sew", "vanilla"), (1, 2, 4, 8, 16), (), 8),
    "spike_driven": (("membrane",), (1, 2, 4, 8, 16), (), 8),
    "meta_spikeformer": (("membrane", "sew", "vanilla"), (1, 2), (1, 2), 1),
    "qkformer": (("sew",), (1, 2, 4), (1, 2), 2),
}
SHORTCUTS = ("sew", "membrane", "vanilla")

# The operands of each attention; the other token mixers have none.
READS: dict[str, tuple[str, ...]] = {
    "sdsa_1": ("q", "k", "v"),
    "sdsa_1_dilated": ("q", "k", "v"),
    "sdsa_2": ("q", "v"),
    "sdsa_3": ("q", "k", "v"),
    "sdsa_4": ("q", "k", "v"),
    "token_qk": ("q", "k"),
    "channel_qk": ("q", "k"),
    "sepconv": (),
    "none": (),
}
WITH_HEADS = ("sdsa_1_dilated", "sdsa_3", "sdsa_4", "token_qk")


def groups_of(token_mixer: str, shortcut: str) -> set[str]:
    """Return the neuron groups of a block: membrane shortcuts have a neuron before each mixer, the others one after it."""
    inside = {*READS[token_mixer], "attention"} if READS[token_mixer] else {"sepconv"}
    token, channel = ("token_input", "channel_input") if shortcut == "membrane" else ("projection", "fc2")
    return {channel, "fc1"} | (set() if token_mixer == "none" else inside | {token})


def fields_without_effect(token_mixer: str) -> set[str]:
    """Fields of a block that must be None."""
    heads = set() if token_mixer in WITH_HEADS else {"num_heads"}
    return heads if READS[token_mixer] else {"num_heads", "qkv", "projection"}


# Every gene is a choice of several values; the neurons of fc1 are those of the block.
CHOICES: dict[str, Any] = {
    "time_steps": [2, 3, 4],
    "stages": [
        {
            "embed_dim": [16, 32],
            "embedding": {"stride": [2, 4], "neuron": {"v_threshold": [0.5, 1.0], "tau": [2, 4]}},
            "depth": [1, 2, 3],
            "block": {
                "num_heads": [1, 2, 4],
                "mlp_ratio": [1, 2.5],
                "neuron": {"v_threshold": [0.8, 1.0, 1.2], "tau": [1.5, 2]},
                "groups": {
                    name: {"v_threshold": [0.4, 0.5, 0.9], "tau": [1.25, 3]}
                    for name in ("q", "k", "v", "attention", "projection", "fc2")
                },
            },
        }
    ],
}

# Continuous neuron parameters for every kind of neuron.
RANGES: dict[str, Any] = {
    "time_steps": [1, 2],
    "stages": [
        {
            "embed_dim": [8, 24],
            "embedding": {"neuron": {"v_threshold": HALF_TO_TWO}},
            "depth": [1, 3],
            "block": {
                "num_heads": [1, 8],
                "mlp_ratio": 2,
                "neuron": {"v_threshold": HALF_TO_TWO, "tau": {"low": 1.1, "high": 8, "sigma": 1}},
                "groups": {"attention": {"v_threshold": {"low": 0.25, "high": 1.0, "sigma": 0.1}}, "fc1": {"tau": [1.5, 2]}},
            },
        }
    ],
}

# Blocks at different positions have different choices.
POSITIONS: dict[str, Any] = {
    "stages": [
        {
            "embed_dim": [16, 32],
            "depth": [1, 2],
            "blocks": [{"num_heads": [1, 2], "mlp_ratio": 1}, {"num_heads": [4, 8], "mlp_ratio": [2, 3]}],
        }
    ],
}

# Two stages, whose genes and neuron groups depend on token mixer and shortcut; stages differ in their mixers.
CONDITIONAL: dict[str, Any] = {
    "family": "meta_spikeformer",
    "time_steps": [1, 2],
    "shortcut": ["membrane", "sew"],
    "attention_scale": 0.25,
    "stages": [
        {
            "embed_dim": [7, 12],
            "embedding": {"stride": [1, 2]},
            "depth": [1, 2],
            "block": {
                "token_mixer": ["sepconv", "none"],
                "channel_mixer": ["conv", "mlp"],
                "mlp_ratio": [1, 2],
                "groups": {"sepconv": {"tau": [1.5, 3]}, "channel_input": {"v_threshold": [0.5, 1.5]}},
            },
        },
        {
            "embed_dim": 16,
            "embedding": {"stride": 2, "neuron": {"tau": [2, 4]}},
            "depth": [1, 3],
            "block": {
                "token_mixer": ["sdsa_3", "sdsa_1", "token_qk", "sepconv"],
                "num_heads": [2, 4],
                "qkv": ["repconv", "linear"],
                "projection": ["linear", "repconv"],
                "mlp_ratio": 2,
                "neuron": {"tau": [1.5, 2]},
                "groups": {
                    "token_input": {"v_threshold": [0.5, 1.5]},
                    "v": {"tau": [1.25, 3]},
                    "attention": {"v_threshold": {"low": 0.25, "high": 1.0, "sigma": 0.1}},
                    "projection": {"tau": [1.75, 5]},
                },
            },
        },
    ],
}

SPACE_DICTS = {"choices": CHOICES, "ranges": RANGES, "positions": POSITIONS, "conditional": CONDITIONAL}


def edited(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of nested data with the value at `a.0.b` changed or added."""
    copy = deepcopy(data)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    target: Any = copy
    for key in parents:
        target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
    target[last] = value
    return copy


def permits(space_dict: Any, value: Any, shortcut: str = "sew") -> bool:
    """Return whether a space contains an architecture or a part of one. Independent of the package: uses the tables above only."""
    if isinstance(value, Architecture):
        shortcut = value.shortcut
    if isinstance(value, Block):
        return block_is_permitted(space_dict, value, shortcut)
    if isinstance(space_dict, dict) and "low" in space_dict:
        return bool(value is not None and space_dict["low"] <= value <= space_dict["high"])
    if isinstance(space_dict, dict) and "depth" in space_dict:
        blocks = space_dict.get("blocks") or [space_dict.get("block", {})] * len(value.blocks)
        rest = {"embedding": space_dict.get("embedding", {}), "embed_dim": space_dict["embed_dim"]}
        wide = permits(rest, value, shortcut) and permits(space_dict["depth"], len(value.blocks))
        return wide and all(permits(block, built, shortcut) for block, built in zip(blocks, value.blocks, strict=False))
    if isinstance(space_dict, dict):
        return all(permits(part, getattr(value, name), shortcut) for name, part in space_dict.items())
    if isinstance(value, tuple):
        return all(permits(part, built, shortcut) for part, built in zip(space_dict, value, strict=True))
    return value in space_dict if isinstance(space_dict, list) else bool(value == space_dict)


def block_is_permitted(space_dict: dict[str, Any], block: Block, shortcut: str) -> bool:
    """Fields that the space does not name have their default; fields without effect are None."""
    none, existing = fields_without_effect(block.token_mixer), groups_of(block.token_mixer, shortcut)
    defaults = {
        "token_mixer": "sdsa_3",
        "channel_mixer": "mlp",
        "num_heads": 8,
        "qkv": "linear",
        "projection": "linear",
        "mlp_ratio": 4,
    }
    genes = {**defaults, **space_dict, **dict.fromkeys(none), "groups": {}}
    overrides = {f.name: space_dict.get("groups", {}).get(f.name, {}) if f.name in existing else {} for f in fields(NeuronGroups)}
    follow = {"v_threshold": None, "tau": None}
    return all(permits(part, getattr(block, name)) for name, part in genes.items()) and all(
        permits({**follow, **part}, getattr(block.groups, name)) for name, part in overrides.items()
    )


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every scalar of an architecture by its path, such as `stages.0.blocks.1.neuron.tau`."""
    if is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, tuple):
        parts = {str(i): part for i, part in enumerate(value)}
    else:
        return {path: value}
    return {name: leaf for key, part in parts.items() for name, leaf in leaves(part, f"{path}.{key}".lstrip(".")).items()}


def has_no_input_neurons(architecture: Architecture) -> bool:
    """Return whether no neuron precedes the first block: Meta-SpikeFormer's first convolution outputs membrane potentials."""
    return architecture.family == "meta_spikeformer" and architecture.shortcut == "membrane"


def effective_genes(architecture: Architecture) -> dict[str, Any]:
    """Return the scalars that affect the network, without those that the mixer or shortcut lacks or that every group overrides."""
    without_effect = (
        {"stages.0.embedding.neuron.v_threshold", "stages.0.embedding.neuron.tau"} if has_no_input_neurons(architecture) else set()
    )
    for i, stage in enumerate(architecture.stages):
        for j, block in enumerate(stage.blocks):
            existing = [getattr(block.groups, name) for name in groups_of(block.token_mixer, architecture.shortcut)]
            overridden = {n for n in ("v_threshold", "tau") if all(getattr(group, n) is not None for group in existing)}
            without_effect |= {f"stages.{i}.blocks.{j}.neuron.{name}" for name in overridden}
            absent = {f.name for f in fields(NeuronGroups)} - groups_of(block.token_mixer, architecture.shortcut)
            names = fields_without_effect(block.token_mixer) | {
                f"groups.{name}.{leaf}" for name in absent for leaf in ("v_threshold", "tau")
            }
            without_effect |= {f"stages.{i}.blocks.{j}.{name}" for name in names}
    found = {path: value for path, value in leaves(architecture).items() if path not in without_effect}
    return {path: value for path, value in found.items() if not is_unvisited(path, value)}


def is_unvisited(path: str, value: Any) -> bool:
    """Return whether a scalar is no gene, or a gene that spaces with a single value of it do not visit."""
    name = path.rpartition(".")[2]
    if (name, value) == ("decoder", None):
        return True
    if (name, value) == ("exit_margin", 1):
        return True
    return (
        name in ("leak", "normalised", "integrates", "layer_scale", "conv_bias", "mean_head")
        or (name == "levels" and value in (1, None))
        or (name == "kind" and value == "family")
    )


def one_line_error(call: Callable[[], object]) -> str:
    """Call a function that must raise a UserError; return its message, which must be one line."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1
    return message


thresholds = st.floats(0.01, 10)
taus = st.floats(1.01, 100)
neurons = st.builds(Neuron, v_threshold=thresholds, tau=taus)
overrides = st.builds(NeuronOverride, v_threshold=st.none() | thresholds, tau=st.none() | taus)


def blocks(embed_dim: int, shortcut: str) -> st.SearchStrategy[Block]:
    """Return a strategy for blocks of any token mixer that fit a width, with overrides of their neuron groups."""
    divisors = st.sampled_from([n for n in range(1, embed_dim + 1) if embed_dim % n == 0])

    def of_mixer(token_mixer: str) -> st.SearchStrategy[Block]:
        synapses = dict.fromkeys(READS[token_mixer] and ("qkv", "projection"), st.sampled_from(["linear", "repconv", "replinear"]))
        heads = {"num_heads": divisors} if token_mixer in WITH_HEADS else {}
        return st.builds(
            Block,
            token_mixer=st.just(token_mixer),
            channel_mixer=st.sampled_from(["mlp", "conv"]),
            mlp_ratio=st.floats(0.5 if embed_dim > 1 else 1, 8),
            layer_scale=st.booleans() if shortcut == "membrane" else st.just(False),
            neuron=neurons,
            groups=st.builds(NeuronGroups, **dict.fromkeys(sorted(groups_of(token_mixer, shortcut)), overrides)),
            **synapses,
            **heads,
        )

    return st.sampled_from(sorted(READS)).flatmap(of_mixer)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Draw an architecture of any family, shortcut and stride, with up to three stages of up to four blocks."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    shortcuts, first, later, multiple = FAMILIES[family]
    shortcut = draw(st.sampled_from(shortcuts))
    stages = []
    for i in range(draw(st.integers(1, 3)) if later else 1):
        embed_dim = multiple * draw(st.integers(1, 64))
        fires = i > 0 or family != "meta_spikeformer" or shortcut != "membrane"
        stride = st.sampled_from(later if i else first)
        embedding = draw(st.builds(Embedding, stride=stride, neuron=neurons if fires else st.just(Neuron())))
        stage = draw(st.lists(blocks(embed_dim, shortcut), min_size=1, max_size=4))
        stages.append(Stage(embed_dim=embed_dim, embedding=embedding, blocks=tuple(stage)))
    return Architecture(
        family=family,
        time_steps=draw(st.integers(1, 16)),
        shortcut=shortcut,
        qkv_bias=draw(st.booleans()),
        attention_scale=draw(st.sampled_from([0.125, 0.25, 1])),
        compact_embedding=draw(st.booleans()) and family == "qkformer",
        distilled=draw(st.booleans()),
        conv_bias=draw(st.booleans()),
        mean_head=draw(st.booleans()) and shortcut == "membrane",
        stages=tuple(stages),
    )


def small(*, embed_dim: int = 16, time_steps: int = 2, blocks: tuple[Block, ...] = (Block(),)) -> Architecture:
    return Architecture(time_steps=time_steps, stages=(Stage(embed_dim=embed_dim, blocks=blocks),))


def measurement(
    architecture: Architecture, *, correct: int, images: int = 100, macs: int = 0, acs: float = 0.0, mask: bytes = b""
) -> Measurement:
    """Return a measurement with one real layer of `macs` per step and one spiking layer of `acs` over all steps."""
    steps = architecture.time_steps
    counts = (
        LayerCount(layer="stem", input="real", time_steps=steps, macs=macs, acs=(), rate=()),
        LayerCount(layer="blocks.0", input="binary", time_steps=steps, macs=9, acs=(acs / steps,) * steps, rate=(0.25,) * steps),
    )
    return Measurement(
        architecture=architecture, correct=correct, images=images, counts=counts, params=7, seconds=0.5, correct_mask=mask
    )


def evaluation_of(measurement: Measurement, *, f_aeb: float, generation: int, convention: Convention = DEFAULT) -> Evaluation:
    """Return a measurement with its energy and fitness."""
    energy = measurement.energy(convention)
    return Evaluation(measurement=measurement, energy=energy, f_aeb=f_aeb, generation=generation)


def analytic(architecture: Architecture) -> Measurement:
    """Return a synthetic measurement.

    Width, depth and time steps increase accuracy and energy. Accuracy is highest for 2 heads,
    threshold 1 and tau 2.
    """
    capacity, work = 0.0, 0.0
    for stage in architecture.stages:
        suitability = [
            1 / (1 + (math.log2(b.num_heads or 2) - 1) ** 2 + 8 * (b.neuron.v_threshold - 1) ** 2 + (b.neuron.tau - 2) ** 2)
            for b in stage.blocks
        ]
        capacity += stage.embed_dim * sum(s * (b.mlp_ratio or 1) for s, b in zip(suitability, stage.blocks, strict=True))
        work += stage.embed_dim**2 * sum((4 + 2 * (b.mlp_ratio or 1)) / b.neuron.v_threshold for b in stage.blocks)
    return measurement(
        architecture,
        correct=round(1_000_000 * (1 - 0.9 * math.exp(-architecture.time_steps * capacity / 1000))),
        images=1_000_000,
        macs=100,
        acs=architecture.time_steps * work,
    )
