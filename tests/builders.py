"""What several test files build: architectures for hypothesis, written search spaces, and measurements made without a network."""

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

few = settings(max_examples=25, deadline=None)

HALF_TO_TWO = {"low": 0.5, "high": 2.0, "sigma": 0.2}

# By hand, from the publications: shortcuts, strides of the first and of later embeddings, and what divides a width.
FAMILIES: dict[str, tuple[tuple[Shortcut, ...], tuple[int, ...], tuple[int, ...], int]] = {
    "spikformer": (("sew", "vanilla"), (1, 2, 4, 8, 16), (), 8),
    "spike_driven": (("membrane",), (1, 2, 4, 8, 16), (), 8),
    "meta_spikeformer": (("membrane", "sew", "vanilla"), (1, 2), (1, 2), 1),
    "qkformer": (("sew",), (1, 2, 4), (1, 2), 2),
}
SHORTCUTS = ("sew", "membrane", "vanilla")

# What each token mixer reads, if it is an attention.
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
    """Neuron groups, by hand: membrane shortcuts have a neuron before each mixer, the others one behind it."""
    inside = {*READS[token_mixer], "attention"} if READS[token_mixer] else {"sepconv"}
    token, channel = ("token_input", "channel_input") if shortcut == "membrane" else ("projection", "fc2")
    return {channel, "fc1"} | (set() if token_mixer == "none" else inside | {token})


def meaningless(token_mixer: str) -> set[str]:
    """Fields of a block that must be None."""
    heads = set() if token_mixer in WITH_HEADS else {"num_heads"}
    return heads if READS[token_mixer] else {"num_heads", "qkv", "projection"}


# Every gene has another value, and every gene is a choice; fc1 follows its block.
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

# Continuous neurons, everywhere that a neuron may stand.
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

# Positions differ.
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

WRITTEN = {"choices": CHOICES, "ranges": RANGES, "positions": POSITIONS, "conditional": CONDITIONAL}


def edited(written: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of nested data with the value at `a.0.b` changed or added."""
    copy = deepcopy(written)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    target: Any = copy
    for key in parents:
        target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
    target[last] = value
    return copy


def permits(written: Any, value: Any, shortcut: str = "sew") -> bool:
    """Whether an architecture, or a part of one, is among what is written: an oracle that knows YAML and the tables above only."""
    if isinstance(value, Architecture):
        shortcut = value.shortcut
    if isinstance(value, Block):
        return _permits_block(written, value, shortcut)
    if isinstance(written, dict) and "low" in written:
        return bool(value is not None and written["low"] <= value <= written["high"])
    if isinstance(written, dict) and "depth" in written:
        blocks = written.get("blocks") or [written.get("block", {})] * len(value.blocks)
        rest = {"embedding": written.get("embedding", {}), "embed_dim": written["embed_dim"]}
        wide = permits(rest, value, shortcut) and permits(written["depth"], len(value.blocks))
        return wide and all(permits(block, built, shortcut) for block, built in zip(blocks, value.blocks, strict=False))
    if isinstance(written, dict):
        return all(permits(part, getattr(value, name), shortcut) for name, part in written.items())
    if isinstance(value, tuple):
        return all(permits(part, built, shortcut) for part, built in zip(written, value, strict=True))
    return value in written if isinstance(written, list) else bool(value == written)


USUAL = {"token_mixer": "sdsa_3", "channel_mixer": "mlp", "num_heads": 8, "qkv": "linear", "projection": "linear", "mlp_ratio": 4}


def _permits_block(written: dict[str, Any], block: Block, shortcut: str) -> bool:
    """What is not written has its usual value, and what means nothing is None."""
    none, existing = meaningless(block.token_mixer), groups_of(block.token_mixer, shortcut)
    usual = {
        "token_mixer": "sdsa_3",
        "channel_mixer": "mlp",
        "num_heads": 8,
        "qkv": "linear",
        "projection": "linear",
        "mlp_ratio": 4,
    }
    genes = {**usual, **written, **dict.fromkeys(none), "groups": {}}
    overrides = {f.name: written.get("groups", {}).get(f.name, {}) if f.name in existing else {} for f in fields(NeuronGroups)}
    follow = {"v_threshold": None, "tau": None}
    return all(permits(part, getattr(block, name)) for name, part in genes.items()) and all(
        permits({**follow, **part}, getattr(block.groups, name)) for name, part in overrides.items()
    )


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every plain value inside an architecture, by where it stands: `stages.0.blocks.1.neuron.tau`."""
    if is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, tuple):
        parts = {str(i): part for i, part in enumerate(value)}
    else:
        return {path: value}
    return {name: leaf for key, part in parts.items() for name, leaf in leaves(part, f"{path}.{key}".lstrip(".")).items()}


def silent(architecture: Architecture) -> bool:
    """Whether nothing fires before the first block: Meta-SpikeFormer's first convolution makes membrane potentials of the image."""
    return architecture.family == "meta_spikeformer" and architecture.shortcut == "membrane"


def living(architecture: Architecture) -> dict[str, Any]:
    """The leaves that mean something: without what a token mixer or the shortcut has no use for, or what every group overrides."""
    dead = {"stages.0.embedding.neuron.v_threshold", "stages.0.embedding.neuron.tau"} if silent(architecture) else set()
    for i, stage in enumerate(architecture.stages):
        for j, block in enumerate(stage.blocks):
            existing = [getattr(block.groups, name) for name in groups_of(block.token_mixer, architecture.shortcut)]
            overridden = {n for n in ("v_threshold", "tau") if all(getattr(group, n) is not None for group in existing)}
            dead |= {f"stages.{i}.blocks.{j}.neuron.{name}" for name in overridden}
            absent = {f.name for f in fields(NeuronGroups)} - groups_of(block.token_mixer, architecture.shortcut)
            names = meaningless(block.token_mixer) | {f"groups.{name}.{leaf}" for name in absent for leaf in ("v_threshold", "tau")}
            dead |= {f"stages.{i}.blocks.{j}.{name}" for name in names}
    return {path: value for path, value in leaves(architecture).items() if path not in dead}


def one_line_error(call: Callable[[], object]) -> str:
    """The message of the UserError that a call ends in."""
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
    """Blocks of any token mixer that fit into a width, with overrides of the neuron groups that they have."""
    divisors = st.sampled_from([n for n in range(1, embed_dim + 1) if embed_dim % n == 0])

    def of_mixer(token_mixer: str) -> st.SearchStrategy[Block]:
        synapses = dict.fromkeys(READS[token_mixer] and ("qkv", "projection"), st.sampled_from(["linear", "repconv"]))
        heads = {"num_heads": divisors} if token_mixer in WITH_HEADS else {}
        return st.builds(
            Block,
            token_mixer=st.just(token_mixer),
            channel_mixer=st.sampled_from(["mlp", "conv"]),
            mlp_ratio=st.floats(0.5 if embed_dim > 1 else 1, 8),
            neuron=neurons,
            groups=st.builds(NeuronGroups, **dict.fromkeys(sorted(groups_of(token_mixer, shortcut)), overrides)),
            **synapses,
            **heads,
        )

    return st.sampled_from(sorted(READS)).flatmap(of_mixer)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Of all families, with all their shortcuts and strides, up to three stages of up to four blocks."""
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
        stages=tuple(stages),
    )


def small(*, embed_dim: int = 16, time_steps: int = 2, blocks: tuple[Block, ...] = (Block(),)) -> Architecture:
    return Architecture(time_steps=time_steps, stages=(Stage(embed_dim=embed_dim, blocks=blocks),))


def measurement(architecture: Architecture, *, correct: int, images: int = 100, macs: int = 0, acs: float = 0.0) -> Measurement:
    """One real layer of `macs` a step and one spiking layer of `acs` over all steps."""
    steps = architecture.time_steps
    counts = (
        LayerCount(layer="stem", input="real", time_steps=steps, macs=macs, acs=(), rate=()),
        LayerCount(layer="blocks.0", input="binary", time_steps=steps, macs=9, acs=(acs / steps,) * steps, rate=(0.25,) * steps),
    )
    return Measurement(architecture=architecture, correct=correct, images=images, counts=counts, params=7, seconds=0.5)


def scored(measured: Measurement, *, f_aeb: float, generation: int, convention: Convention = DEFAULT) -> Evaluation:
    """A measurement as a search sees it."""
    energy = measured.energy(convention)
    return Evaluation(measurement=measured, energy=energy, f_aeb=f_aeb, generation=generation)


def analytic(architecture: Architecture) -> Measurement:
    """A made-up network: width, depth and steps buy accuracy as far as heads, threshold and tau suit, and all cost energy."""
    capacity, work = 0.0, 0.0
    for stage in architecture.stages:
        suits = [
            1 / (1 + (math.log2(b.num_heads or 2) - 1) ** 2 + 8 * (b.neuron.v_threshold - 1) ** 2 + (b.neuron.tau - 2) ** 2)
            for b in stage.blocks
        ]
        capacity += stage.embed_dim * sum(s * b.mlp_ratio for s, b in zip(suits, stage.blocks, strict=True))
        work += stage.embed_dim**2 * sum((4 + 2 * b.mlp_ratio) / b.neuron.v_threshold for b in stage.blocks)
    return measurement(
        architecture,
        correct=round(1_000_000 * (1 - 0.9 * math.exp(-architecture.time_steps * capacity / 1000))),
        images=1_000_000,
        macs=100,
        acs=architecture.time_steps * work,
    )
