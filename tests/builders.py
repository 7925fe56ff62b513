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

from autospike.architecture import Architecture, Block, Neuron, NeuronGroups, NeuronOverride, Stage, Stem
from autospike.energy import LayerCount
from autospike.errors import UserError
from autospike.measurement import Measurement, Score

few = settings(max_examples=25, deadline=None)

HALF_TO_TWO = {"low": 0.5, "high": 2.0, "sigma": 0.2}

# Every gene has another value, and every gene is a choice; fc1 follows its block.
CHOICES: dict[str, Any] = {
    "time_steps": [2, 3, 4],
    "stem": {"pools": [1, 2], "neuron": {"v_threshold": [0.5, 1.0], "tau": [2, 4]}},
    "stages": [
        {
            "embed_dim": [16, 32],
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
    "stem": {"neuron": {"v_threshold": HALF_TO_TWO}},
    "stages": [
        {
            "embed_dim": [8, 24],
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

WRITTEN = {"choices": CHOICES, "ranges": RANGES, "positions": POSITIONS}


def edited(written: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of nested data with the value at `a.0.b` changed or added."""
    copy = deepcopy(written)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    target: Any = copy
    for key in parents:
        target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
    target[last] = value
    return copy


def permits(written: Any, value: Any) -> bool:
    """Whether an architecture, or a part of one, is among what is written: an oracle that knows YAML only."""
    if isinstance(written, dict) and "low" in written:
        return bool(written["low"] <= value <= written["high"])
    if isinstance(written, dict) and "depth" in written:
        blocks = written.get("blocks") or [written.get("block", {})] * len(value.blocks)
        wide = permits(written["embed_dim"], value.embed_dim) and permits(written["depth"], len(value.blocks))
        return wide and all(permits(block, built) for block, built in zip(blocks, value.blocks, strict=False))
    if isinstance(written, dict):
        return all(permits(part, getattr(value, name)) for name, part in written.items())
    if isinstance(value, tuple):
        return all(permits(part, built) for part, built in zip(written, value, strict=True))
    return value in written if isinstance(written, list) else bool(value == written)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every plain value inside an architecture, by where it stands: `stages.0.blocks.1.neuron.tau`."""
    if is_dataclass(value):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, tuple):
        parts = {str(i): part for i, part in enumerate(value)}
    else:
        return {path: value}
    return {name: leaf for key, part in parts.items() for name, leaf in leaves(part, f"{path}.{key}".lstrip(".")).items()}


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
groups = st.builds(NeuronGroups, **{f.name: overrides for f in fields(NeuronGroups)})


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    embed_dim = 8 * draw(st.integers(1, 64))
    heads = st.sampled_from([n for n in range(1, embed_dim + 1) if embed_dim % n == 0])
    blocks = st.builds(Block, num_heads=heads, mlp_ratio=st.floats(0.5, 8), neuron=neurons, groups=groups)
    return Architecture(
        time_steps=draw(st.integers(1, 16)),
        stem=draw(st.builds(Stem, pools=st.integers(0, 4), neuron=neurons)),
        stages=(Stage(embed_dim=embed_dim, blocks=tuple(draw(st.lists(blocks, min_size=1, max_size=4)))),),
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
    return Measurement(architecture=architecture, score=Score(correct=correct, images=images, counts=counts), params=7, seconds=0.5)


def analytic(architecture: Architecture) -> Measurement:
    """A made-up network: width, depth and steps buy accuracy as far as heads, threshold and tau suit, and all cost energy."""
    (stage,) = architecture.stages
    suits = [
        1 / (1 + (math.log2(b.num_heads) - 1) ** 2 + 8 * (b.neuron.v_threshold - 1) ** 2 + (b.neuron.tau - 2) ** 2)
        for b in stage.blocks
    ]
    capacity = architecture.time_steps * stage.embed_dim * sum(s * b.mlp_ratio for s, b in zip(suits, stage.blocks, strict=True))
    work = stage.embed_dim**2 * sum((4 + 2 * b.mlp_ratio) / b.neuron.v_threshold for b in stage.blocks)
    return measurement(
        architecture,
        correct=round(1_000_000 * (1 - 0.9 * math.exp(-capacity / 1000))),
        images=1_000_000,
        macs=100,
        acs=architecture.time_steps * work,
    )
