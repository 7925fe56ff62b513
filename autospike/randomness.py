"""Randomness is an argument, keyed by what it is for: `(seed, "training", step)`, `(seed, "search", generation)`.

The same key gives the same numbers whatever ran before, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

Key = int | str


def keyed_seed(*key: Key) -> int:
    """A 32-bit seed that depends on every part of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def keyed(*key: Key) -> random.Random:
    """A generator of its own for one key."""
    return random.Random(keyed_seed(*key))


@contextmanager
def global_random(*key: Key) -> Iterator[None]:
    """Seed the global generators of Python and numpy, which DEAP and timm draw from, for the length of a block.

    Afterwards they are as they were before.
    """
    python, numpy, seed = random.getstate(), np.random.get_state(), keyed_seed(*key)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
