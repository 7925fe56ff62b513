"""Recorded ids and samples.

Archives and run folders identify architectures by their ids, and a resumed search repeats its samples. If one of these values
changes, existing runs cannot be read or have other results; such a change needs a migration.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.mark.parametrize(
    ("name", "architecture_id"), [("spikformer_cifar_4_384", "9258a5a3a057"), ("meta_spikeformer_15m", "f519b6b9ef38")]
)
def test_ids_of_published_networks_equal_the_recorded_ones(name: str, architecture_id: str) -> None:
    assert PUBLISHED[name].architecture.id == architecture_id


@pytest.mark.parametrize(
    ("space", "sha256"),
    [
        ("mixed_32", "2e7e48f9b7f6e8869d5040c201b734ff7658c3277a6af2e31bc465f803c5795f"),
        ("spikformer_32", "14a754efe01eeea3164cc94de8715c9b188c19614c8cab4bdd6f07b6546f4418"),
    ],
)
def test_samples_of_a_space_equal_the_recorded_ones(space: str, sha256: str) -> None:
    generator, read = random.Random(0), SearchSpace.load(SPACES / f"{space}.yaml")
    samples = "\n".join(read.sample(generator).to_json() for _ in range(12))
    assert hashlib.sha256(samples.encode()).hexdigest() == sha256
