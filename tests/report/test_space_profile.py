"""The profile of a space: the distribution of a cost, and the gene that decides it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from autospike.config import ConstraintsConfig
from autospike.report.space_profile import centroid, profile_costs
from autospike.searching.constraints import Constraints
from autospike.space.input_shape import InputShape
from autospike.space.search_space import SearchSpace

WRITTEN: dict[str, Any] = {
    "time_steps": [1, 2, 4, 8],
    "stages": [
        {
            "embed_dim": [16, 64],
            "embedding": {"stride": [2, 4]},
            "depth": [1, 3],
            "block": {"num_heads": [1, 2], "mlp_ratio": [1, 2, 4], "neuron": {"v_threshold": [0.8, 1.2]}},
        }
    ],
}
SPACE = SearchSpace.from_dict(WRITTEN)
SHAPE = InputShape(image_size=8, channels=1, classes=10)


def test_shares_and_deciding_genes() -> None:
    """A quarter of the draws has T = 8. T decides T; the width decides the parameters; thresholds decide nothing."""
    constraints = Constraints(config=ConstraintsConfig(max_time_steps=4, max_params=1), shape=SHAPE)
    found = {p.name: p for p in profile_costs(SPACE, constraints, random.Random(0))}
    steps, params = found["max_time_steps"], found["max_params"]
    assert steps.share == pytest.approx(0.75, abs=0.05)  # three standard errors of 1,000 draws are 0.04
    assert (steps.gene, steps.explained) == ("time_steps", pytest.approx(1.0))
    assert (params.gene, params.share) == ("embed_dim", 0.0)
    assert params.explained > 0.5
    assert found["max_macs"].limit is found["max_macs"].share is None
    assert steps.quantiles == (1.0, 2.0, 8.0) or steps.quantiles == (1.0, 4.0, 8.0)


def test_a_cost_that_does_not_vary_has_no_deciding_gene() -> None:
    single = SearchSpace.of(SPACE.largest())
    assert all(p.gene is None for p in profile_costs(single, Constraints(shape=SHAPE), random.Random(0), draws=5))


def test_the_centroid_has_the_middle_sizes() -> None:
    middle = centroid(SPACE)
    assert SPACE.contains(middle)
    assert middle.time_steps == 2
    assert {block.mlp_ratio for block in middle.stages[0].blocks} == {2.0}
