"""What every process of ours sets before it loads torch, and what it is one of."""

from __future__ import annotations

import ctypes
import gc
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
    to the system after every step costs up to a third of an evaluation's time. The small blocks that its threads put by split the
    space of large ones; only a process that is yet to start, a worker, can be told to put none by.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_TRIM_THRESHOLD, MOST_FREE)
            os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")


@contextmanager
def large_blocks_kept() -> Iterator[None]:
    """Keep also blocks beyond that threshold, for work that wants the same again and again: the system zeroes every page that it
    hands out anew, which takes longer than what is then written there. What outlives the work is better kept apart."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    _asking.append(True)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # nothing is given back
    try:
        yield
    finally:
        _asking.pop()
        if not _asking:
            mallopt(M_MMAP_MAX, MOST_BLOCKS)
            mallopt(M_TRIM_THRESHOLD, MOST_FREE)


_asking: list[bool] = []  # one for each `large_blocks_kept` that is open: malloc is the process's, and so is this


@contextmanager
def garbage_left() -> Iterator[None]:
    """Without looking for garbage in cycles, for work that makes little: among the many modules of a walk the look is long."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def world_size() -> int:
    """How many ranks torchrun started; 1 without it, whatever a scheduler's environment says."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def give_back_memory() -> None:
    """Return to the system what lies free, before work that wants blocks of other sizes."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
