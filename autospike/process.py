"""What every process of ours sets before it loads torch, and what it is one of."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from autospike.memory.allocator import M_TRIM_THRESHOLD, MOST_FREE

# Settings of ATen, oneDNN and MKL that keep them from AVX-512; each reads its own when it is first used.
AVX2_ONLY = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def prepare_process() -> None:
    """Threads that wait briefly, memory that is kept.

    A thread of libgomp that spins without end starves its neighbour on a busy machine; glibc's malloc that gives large blocks back
    to the system after every step costs up to a third of an evaluation's time. The small blocks that its threads put by split the
    space of large ones; only a process that is yet to start, a worker, can be told to put none by.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if os.environ.get("AUTOSPIKE_ISA") == "avx2":  # compare with torch as it runs there
        for name, value in AVX2_ONLY.items():
            os.environ.setdefault(name, value)
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_TRIM_THRESHOLD, MOST_FREE)
            os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")


def world_size() -> int:
    """How many ranks torchrun started; 1 without it, whatever a scheduler's environment says."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def available_cores() -> int:
    """Number of cores that this process may use, by its affinity and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")  # microseconds in each period, or "max"
    allowed, _, period = quota.read_text().partition(" ") if quota.exists() else ("max", "", "")
    return cores if allowed == "max" else max(1, min(cores, int(allowed) // int(period)))
