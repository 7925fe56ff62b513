"""What every process of ours sets before it loads torch, and what it is one of."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc: how much may lie free at the end of the heap; how many blocks may be had from the system directly.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST_FREE, MOST_BLOCKS = 1 << 30, 65536  # 1 GiB, and glibc's own


def prepare_process() -> None:
    """Threads that wait briefly, memory that is kept.

    A thread of libgomp that spins without end starves its neighbour on a busy machine; glibc's malloc that gives large blocks back
    to the system after every step costs up to a third of an evaluation's time.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_TRIM_THRESHOLD, MOST_FREE)


@contextmanager
def large_blocks_kept() -> Iterator[None]:
    """Keep also blocks beyond that threshold, for work that wants the same again and again: the system zeroes every page that it
    hands out anew, which takes longer than what is then written there. A walk, which keeps things in between, goes without."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # nothing is given back
    try:
        yield
    finally:
        mallopt(M_MMAP_MAX, MOST_BLOCKS)
        mallopt(M_TRIM_THRESHOLD, MOST_FREE)


def world_size() -> int:
    """How many ranks torchrun started; 1 without it, whatever a scheduler's environment says."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def give_back_memory() -> None:
    """Return to the system what lies free between what is kept. Without it holes add up to many times what is in use, for every
    little thing that lives long splits the space that a large one will want again."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
