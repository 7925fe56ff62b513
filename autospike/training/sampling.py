"""Which subnets a training step runs. Each strategy is a function of the space and a generator keyed by the step."""

from __future__ import annotations

import random
from collections.abc import Callable

from autospike.architecture import Architecture
from autospike.space import SearchSpace

Sampling = Callable[[SearchSpace, random.Random], tuple[Architecture, ...]]


def single_path(space: SearchSpace, rng: random.Random) -> tuple[Architecture, ...]:
    """One uniform draw a step (Auto-Spikformer, after SPOS and AutoFormer)."""
    return (space.sample(rng),)


def sandwich(space: SearchSpace, rng: random.Random) -> tuple[Architecture, ...]:
    """The largest, the smallest, and two uniform draws (the sandwich rule of universally slimmable networks, ICCV 2019)."""
    return (space.largest(), space.smallest(), space.sample(rng), space.sample(rng))


SAMPLING: dict[str, Sampling] = {"single-path": single_path, "sandwich": sandwich}
