"""Randomness is an argument, keyed by what it is for: `(seed, "training", step)`, `(seed, "search", generation)`.

The same key gives the same numbers whatever ran before, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

Key = int | str


def keyed_seed(*key: Key) -> int:
    """A 32-bit seed that depends on every part of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def keyed(*key: Key) -> random.Random:
    """A generator of its own for one key."""
    return random.Random(keyed_seed(*key))


@contextmanager
def global_random(*key: Key) -> Iterator[None]:
    """Seed Python's global generator, which DEAP draws from, for the length of a block; afterwards it is as it was before."""
    state = random.getstate()
    random.seed(keyed_seed(*key))
    try:
        yield
    finally:
        random.setstate(state)
