"""Settings of a process before it loads torch, and its environment: the ranks and the cores that it may use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from autospike.memory.allocator import M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES

# How torch, oneDNN and MKL are limited to AVX2 (their documentation of environment variables).
AVX2_ALONE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def prepare_process() -> None:
    """Limit busy waiting and the instruction set, and make malloc retain memory. Call before torch is imported.

    An OpenMP thread of libgomp that waits actively without limit slows down other processes of a busy machine. A glibc malloc that
    returns large blocks to the system after each step costs up to a third of the time of an evaluation. malloc's thread caches of
    small blocks fragment the space of large ones; they can only be disabled by the environment of processes started later, such as
    workers. AUTOSPIKE_ISA=avx2 limits not only our kernels but torch, oneDNN and MKL as well: the process runs, and compares itself
    with others, as on a processor without AVX-512.
    """
    if os.environ.get("AUTOSPIKE_ISA") == "avx2":
        for name, value in AVX2_ALONE.items():
            os.environ.setdefault(name, value)
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
            os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")


def world_size() -> int:
    """Number of ranks that torchrun started; 1 without torchrun, even if a job scheduler sets WORLD_SIZE."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def available_cores() -> int:
    """Number of cores that this process may use, by its CPU affinity and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")  # microseconds in each period, or "max"
    allowed, _, period = quota.read_text().partition(" ") if quota.exists() else ("max", "", "")
    return cores if allowed == "max" else max(1, min(cores, int(allowed) // int(period)))
