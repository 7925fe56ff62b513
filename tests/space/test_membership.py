"""Why an architecture is not in a space, against architectures in which one thing was changed by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_experiment import TINY_SPACE

from autospike.space.architecture import Architecture
from autospike.space.membership import why_outside
from autospike.space.search_space import SearchSpace

SPACE = SearchSpace.from_dict(TINY_SPACE)


def changed(path: str, value: object) -> Architecture:
    """The largest architecture of the space with another value of one field."""
    written = SPACE.largest().to_dict()
    target: Any = written
    *parents, name = [int(key) if key.isdecimal() else key for key in path.split(".")]
    for key in parents:
        target = target[key]
    target[name] = value
    return Architecture.from_dict(written)


def test_members_have_no_difference() -> None:
    assert why_outside(SPACE, SPACE.largest()) is None
    assert why_outside(SPACE, changed("stages.0.blocks.1.neuron.tau", 1.5)) is None


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("time_steps", 4, "time_steps is not one of 2, 3"),
        ("attention_scale", 0.5, "attention_scale is 0.5, in the space "),
        ("stages.0.embed_dim", 32, "stages.0.embed_dim is not one of 8, 16"),
        ("stages.0.blocks", SPACE.largest().to_dict()["stages"][0]["blocks"] * 2, "stages.0.depth is not one of 1, 2"),
        ("stages.0.blocks.1.mlp_ratio", 3, "stages.0.blocks.1.mlp_ratio is not one of 1.0, 2.0"),
        ("stages.0.blocks.0.neuron.levels", 4, "stages.0.blocks.0.neuron.levels is 4, in the space 1"),
        ("exit_margin", 0.9, "exit_margin is 0.9, in the space 1.0"),
    ],
)
def test_the_first_difference_is_named(path: str, value: object, reason: str) -> None:
    found = why_outside(SPACE, changed(path, value))
    assert found is not None
    assert found.startswith(reason)


def test_a_range_names_its_ends() -> None:
    space = SearchSpace.from_dict(
        {"stages": [{"embed_dim": 16, "depth": 1, "block": {"neuron": {"tau": {"low": 1.5, "high": 3, "sigma": 0.1}}}}]}
    )
    other = SearchSpace.from_dict({"stages": [{"embed_dim": 16, "depth": 1, "block": {"neuron": {"tau": 4}}}]}).largest()
    assert why_outside(space, other) == "stages.0.blocks.0.neuron.tau is not between 1.5 and 3.0"


def test_the_number_of_stages_is_compared() -> None:
    stage = {"embed_dim": 16, "depth": 1, "embedding": {"stride": 2}}
    one, two = (SearchSpace.from_dict({"family": "qkformer", "stages": [stage] * count}) for count in (1, 2))
    assert why_outside(one, two.largest()) == "the number of stages is 2, in the space 1"
