"""Random generators that are seeded by a key, for example `(seed, "sampling", step)` or `(seed, "search", generation)`.

Equal keys give equal random numbers, regardless of what ran before. Therefore a resumed run gives the same results as an
uninterrupted one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

Key = int | str
"""One part of a key."""


def keyed_seed(*key: Key) -> int:
    """Return a 32-bit seed: the first four bytes of the SHA-256 digest of the key.

    Args:
        *key: The parts of the key; their order and their types matter.
    """
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")


def keyed(*key: Key) -> random.Random:
    """Return a new random generator that is seeded by a key.

    Args:
        *key: The parts of the key.
    """
    return random.Random(keyed_seed(*key))


@contextmanager
def global_random(*key: Key) -> Iterator[None]:
    """Seed the global generators of Python and NumPy for the length of a block, then restore their previous states.

    DEAP and timm use these generators.

    Args:
        *key: The parts of the key.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    seed_global_random(*key)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def seed_global_random(*key: Key) -> None:
    """Seed the global generators of Python and NumPy. Call it inside `global_random`, which restores their states.

    Args:
        *key: The parts of the key.
    """
    seed = keyed_seed(*key)
    random.seed(seed)
    np.random.seed(seed)
