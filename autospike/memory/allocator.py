"""Settings of the memory allocator and the garbage collector of this process.

glibc's malloc returns large blocks to the system, and the system zeroes each page that it hands out again. Work that allocates the
same sizes again and again runs faster if the blocks are retained.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD = -1  # free memory at the top of the heap beyond which it is returned to the system
M_MMAP_MAX = -4  # largest number of blocks that have their own mapping

TRIM_THRESHOLD_BYTES = 1 << 30
MMAP_MAX_BLOCKS = 65536  # glibc's default


@contextmanager
def retain_large_allocations() -> Iterator[None]:
    """Retain freed memory of any size for the length of a block. Does nothing without glibc.

    For work that allocates the same large sizes repeatedly. Values that outlive the block should be in an `MmapTensor`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    _open_blocks.append(True)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never return memory
    try:
        yield
    finally:
        _open_blocks.pop()
        if not _open_blocks:
            mallopt(M_MMAP_MAX, MMAP_MAX_BLOCKS)
            mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


# One entry for each open `retain_large_allocations`. Global because mallopt's settings belong to the process.
_open_blocks: list[bool] = []


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable the cyclic garbage collector for the length of a block.

    For work that creates few objects while many modules exist, all of which each collection would traverse.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def trim_memory() -> None:
    """Return free heap memory to the system by `malloc_trim`, before work that allocates other sizes. Linux only."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
