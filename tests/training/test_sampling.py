"""Which subnets a training step runs."""

from __future__ import annotations

from typing import Any

import pytest

from autospike.randomness import keyed
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.sampling import sandwich, single_path, small_first

# Three strides, of which the largest makes the smallest network; words and neurons are no sizes.
THREE_SIZES = {
    "family": "qkformer",
    "time_steps": [1, 2, 3],
    "stages": [
        {
            "embed_dim": [8, 16, 24],
            "embedding": {"stride": [1, 2, 4]},
            "depth": 1,
            "block": {"token_mixer": ["sdsa_3", "token_qk"], "num_heads": 1, "neuron": {"tau": [1.5, 2.0, 3.0]}},
        }
    ],
}


def test_one_subnet_a_step_or_a_sandwich(tiny_space: SearchSpace) -> None:
    for step in range(20):
        (alone,) = single_path(tiny_space, keyed(0, step), 0.0)
        largest, smallest, *drawn = sandwich(tiny_space, keyed(0, step), 0.0)
        assert (largest, smallest) == (tiny_space.largest(), tiny_space.smallest())
        assert len(drawn) == 2
        assert all(tiny_space.contains(architecture) for architecture in (alone, *drawn))


def test_a_sandwich_of_one_architecture_runs_it_once(tiny_space: SearchSpace) -> None:
    largest = tiny_space.largest()
    assert sandwich(SearchSpace.of(largest), keyed(0), 0.0) == (largest,)


def test_uniform_sampling_draws_every_depth_and_width(tiny_space: SearchSpace) -> None:
    drawn = [single_path(tiny_space, keyed(0, step), 0.0)[0] for step in range(400)]
    for choose in (lambda a: a.depth, lambda a: a.stages[0].embed_dim, lambda a: a.time_steps):
        values = [choose(architecture) for architecture in drawn]
        assert all(150 < values.count(value) < 250 for value in set(values))
        assert len(set(values)) == 2


def values_drawn(done: float) -> dict[str, set[Any]]:
    """What small-first draws when so much of a training is done."""
    space = SearchSpace.from_dict(THREE_SIZES)
    drawn: list[Architecture] = [small_first(space, keyed(0, step), done)[0] for step in range(100)]
    return {
        "time_steps": {a.time_steps for a in drawn},
        "embed_dim": {a.stages[0].embed_dim for a in drawn},
        "stride": {a.stages[0].embedding.stride for a in drawn},
        "token_mixer": {a.stages[0].blocks[0].token_mixer for a in drawn},
        "tau": {a.stages[0].blocks[0].neuron.tau for a in drawn},
    }


@pytest.mark.parametrize(
    ("done", "sizes"),
    [  # three values: one, two, then three, each for a third of the first half
        (0.0, ({1}, {8}, {4})),
        (0.16, ({1}, {8}, {4})),
        (0.17, ({1, 2}, {8, 16}, {4, 2})),
        (0.33, ({1, 2}, {8, 16}, {4, 2})),
        (0.34, ({1, 2, 3}, {8, 16, 24}, {4, 2, 1})),
        (0.99, ({1, 2, 3}, {8, 16, 24}, {4, 2, 1})),
    ],
)
def test_small_first_widens_every_size_from_its_smallest_value(done: float, sizes: tuple[set[int], ...]) -> None:
    found = values_drawn(done)
    assert (found["time_steps"], found["embed_dim"], found["stride"]) == sizes
    assert (found["token_mixer"], found["tau"]) == ({"sdsa_3", "token_qk"}, {1.5, 2.0, 3.0})


def test_small_first_ends_as_a_single_path() -> None:
    space = SearchSpace.from_dict(THREE_SIZES)
    for step in range(20):
        assert small_first(space, keyed(0, step), 0.5) == single_path(space, keyed(0, step), 0.5)
