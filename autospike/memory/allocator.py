"""The memory allocator and garbage collector of this process, set in one place.

glibc's malloc returns large blocks to the system, and the system zeroes each page that it hands out again. Work that allocates the
same sizes repeatedly runs faster if the blocks are retained.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt (malloc.h): free memory at the top of the heap, and the number of blocks mapped individually.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST_FREE, MOST_BLOCKS = 1 << 30, 65536  # 1 GiB, and glibc's own


@contextmanager
def retain_large_allocations() -> Iterator[None]:
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
def gc_disabled() -> Iterator[None]:
    """Without looking for garbage in cycles, for work that makes little: among the many modules of a walk the look is long."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def trim_memory() -> None:
    """Return to the system what lies free, before work that wants blocks of other sizes."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
