"""Which subnets a training step runs: of a space, with a generator keyed by the step, so much of the training done (0 to 1).

Where the largest is among them, it comes first. None comes twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

Sampling = Callable[[SearchSpace, random.Random, float], tuple[Architecture, ...]]

WIDENING = 0.5  # the part of a training in which small-first comes to draw from the whole space


def single_path(space: SearchSpace, rng: random.Random, _done: float) -> tuple[Architecture, ...]:
    """One uniform draw a step (Auto-Spikformer, after SPOS and AutoFormer)."""
    return (space.sample(rng),)


def sandwich(space: SearchSpace, rng: random.Random, _done: float) -> tuple[Architecture, ...]:
    """The largest, the smallest, and two uniform draws (the sandwich rule of universally slimmable networks, ICCV 2019)."""
    return tuple(dict.fromkeys((space.largest(), space.smallest(), space.sample(rng), space.sample(rng))))


def small_first(space: SearchSpace, rng: random.Random, done: float) -> tuple[Architecture, ...]:
    """One draw a step, of a space that grows: each size has its smallest value alone at first, then one more after the other, each
    for equally long, and all of them from half of the training on. What is no size is drawn as ever.

    The converse of progressive shrinking (Once-for-All, ICLR 2020), which begins with the largest; the schedule is ours.
    """
    return (space.sample(rng, sizes_share=min(1.0, done / WIDENING)),)


SAMPLING: dict[str, Sampling] = {"single-path": single_path, "sandwich": sandwich, "small-first": small_first}
