"""Sizes of architectures and spaces are bounded when they are read."""

from __future__ import annotations

import time
from typing import Any

import pytest
from builders import edited, one_line_error

from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

SPACE: dict[str, Any] = {"stages": [{"embed_dim": 64, "depth": 1, "block": {"num_heads": 8}}]}
ARCHITECTURE: dict[str, Any] = {"stages": [{"embed_dim": 64, "blocks": [{"num_heads": 8}]}]}
META: dict[str, Any] = {"family": "meta_spikeformer", "shortcut": "membrane"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("stages.0.embed_dim", 2147483647, "expected a finite number of at most 1e+06"),
        ("stages.0.embed_dim", 16_392, "embed_dim must be at most 16,384"),
        ("stages.0.embed_dim", 16_384, "the largest subnet has 7,223,134,208 parameters"),
        ("stages.0.depth", 257, "depth must be at most 256"),
        ("time_steps", 1025, "time_steps must be at most 1,024"),
        ("time_steps", list(range(1, 102)), "the number of values of a choice must be at most 100"),
        ("time_steps", 10**400, "expected a finite number"),
        ("stages.0.block.mlp_ratio", 65, "mlp_ratio must be at most 64"),
        ("stages.0.block.mlp_ratio", float("inf"), "expected a finite number"),
        ("stages.0.block.mlp_ratio", [float("nan")], "expected a finite number"),
        ("stages.0.block.neuron", {"tau": 1e308}, "expected a finite number"),
        ("stages.0.block.neuron", {"v_threshold": 1e-320}, "v_threshold must be greater than 0"),
        ("stages.0.block.neuron", {"v_threshold": 1e-6}, "v_threshold must be greater than 0"),  # halved after the attention
        ("stages.0.block.neuron", {"tau": {"low": 1.5, "high": 2.0, "sigma": 1e308}}, "sigma must be at most 1e+06"),
        ("attention_scale", float("inf"), "attention_scale"),
        ("stages", [SPACE["stages"][0]] * 17, "the number of stages must be at most 16"),
    ],
)
def test_a_space_beyond_a_limit(path: str, value: object, words: str) -> None:
    message = one_line_error(lambda: SearchSpace.from_dict(_changed(SPACE, path, value)))
    assert words in message
    assert len(message) < 450


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("stages.0.embed_dim", 2147483647, "embed_dim must be at most 16,384"),
        ("stages.0.embed_dim", 10**400, "embed_dim"),
        ("stages.0.embed_dim", 16_384, "the network has 7,223,134,208 parameters"),
        ("stages.0.blocks", [{"num_heads": 8}] * 257, "the number of blocks must be at most 256"),
        ("time_steps", 2**31, "time_steps must be at most 1,024"),
        ("stages.0.blocks", [{"mlp_ratio": 1e308}], "mlp_ratio"),
        ("stages.0.blocks", [{"num_heads": 2**62}], "does not divide embed_dim 64"),
        ("attention_scale", float("nan"), "attention_scale must be a finite number"),
        ("attention_scale", 10**400, "attention_scale"),
    ],
)
def test_an_architecture_beyond_a_limit(path: str, value: object, words: str) -> None:
    message = one_line_error(lambda: Architecture.from_dict(_changed(ARCHITECTURE, path, value)))
    assert words in message
    assert len(message) < 450


def test_the_number_of_stages_is_bounded() -> None:
    stage = {"embed_dim": 8, "depth": 1}
    assert len(SearchSpace.from_dict({**META, "stages": [stage] * 16}).stages) == 16
    assert "must be at most 16" in one_line_error(lambda: SearchSpace.from_dict({**META, "stages": [stage] * 17}))


def test_values_that_contain_themselves() -> None:
    value: dict[str, Any] = {"stages": []}
    value["stages"].append(value)
    assert len(one_line_error(lambda: Architecture.from_dict(value))) < 450
    assert len(one_line_error(lambda: SearchSpace.from_dict(value))) < 450
    value["stages"] = [{"embed_dim": value, "depth": [value], "block": value}]
    assert len(one_line_error(lambda: SearchSpace.from_dict(value))) < 450


def test_a_space_with_many_choices_is_read_and_counted_at_once() -> None:
    """256 blocks of 100 x 100 x 50 choices, whose number has more than 1000 digits."""
    block = {"num_heads": 1, "mlp_ratio": [1 + i / 100 for i in range(100)], "neuron": {"tau": [2 + i for i in range(50)]}}
    started = time.process_time()
    space = SearchSpace.from_dict({**META, "stages": [{"embed_dim": list(range(1, 101)), "depth": [1, 256], "block": block}]})
    size = space.size()
    assert time.process_time() - started < 2
    assert size == 100 * (5000 + 5000**256)


def test_an_infinite_and_a_huge_number_of_choices_are_infinitely_many() -> None:
    block = {"num_heads": 1, "mlp_ratio": [1 + i / 100 for i in range(100)]}
    continuous = {"neuron": {"tau": {"low": 1.5, "high": 2.0, "sigma": 0.1}}}
    stages = [{"embed_dim": 8, "depth": 256, "block": block}, {"embed_dim": 8, "depth": 1, "block": continuous}]
    assert SearchSpace.from_dict({**META, "stages": stages}).size() == float("inf")


def _changed(value: dict[str, Any], path: str, new: object) -> object:
    section, _, name = path.rpartition(".")
    target: Any = edited(value, "family", value.get("family", "spikformer"))
    root = target
    for key in section.split(".") if section else []:
        target = target[int(key)] if isinstance(target, list) else target.setdefault(key, {})
    target[name] = new
    return root
