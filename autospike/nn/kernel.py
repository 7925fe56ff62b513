"""The compiled neuron: `lif.c`, built by the machine's C compiler at first use and kept in the user's cache folder.

Without a compiler there is no kernel, and the neuron runs as vector operations: slower, never broken.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("lif.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
BLOCK = 128  # as in lif.c


class LIFKernel:
    """The two functions of `lif.c`, on CPU tensors of float32."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        self._forward: Any = library.lif_forward
        self._forward.argtypes = (pointer, count, count, count, number, number, pointer)
        self._backward: Any = library.lif_backward
        self._backward.argtypes = (pointer, count, pointer, count, count, number, number, number, pointer, pointer)

    def forward(self, x: Tensor, tau: float, v_threshold: float) -> Tensor:
        """Spikes of `x` `[T, ...]`, as a contiguous tensor."""
        spikes = torch.empty(x.shape, dtype=torch.float32)
        self._forward(x.data_ptr(), x.stride(0), len(x), x[0].numel(), tau, v_threshold, spikes.data_ptr())
        return spikes

    def backward(self, x: Tensor, grad_spikes: Tensor, tau: float, v_threshold: float, slope: float) -> Tensor:
        """Gradient with respect to `x`, by the sigmoid surrogate of a slope; both `[T, ...]`."""
        grad_spikes, grad_x = grad_spikes.contiguous(), torch.empty(x.shape, dtype=torch.float32)
        scratch = torch.empty(len(x), BLOCK)
        shape = (len(x), x[0].numel())
        pointers = (x.data_ptr(), x.stride(0), grad_spikes.data_ptr(), *shape, tau, v_threshold, slope, scratch.data_ptr())
        self._backward(*pointers, grad_x.data_ptr())
        return grad_x


def takes(x: Tensor) -> bool:
    """Whether the kernel can read a tensor as it lies in memory: float32 on CPU, each step contiguous."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x[0].is_contiguous()


@cache
def lif_kernel() -> LIFKernel | None:
    """The kernel of this machine, built if need be; None where it cannot be built."""
    try:
        return LIFKernel(ctypes.CDLL(str(_built(shlex.split(os.environ.get("CC", "cc"))))))
    except (OSError, RuntimeError, subprocess.SubprocessError):  # no compiler, no flags of ours, nowhere to keep what it builds
        return None


def _built(compiler: list[str]) -> Path:
    """The shared library for this source, compiler and processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    cpuinfo = Path("/proc/cpuinfo")
    flags = (
        next((line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
        if cpuinfo.exists()
        else ""
    )
    key = hashlib.sha256(
        b"\0".join([SOURCE.read_bytes(), version, platform.machine().encode(), flags.encode(), repr(FLAGS).encode()])
    )
    library = _cache_folder() / f"lif-{key.hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}.part")
        subprocess.run([*compiler, *FLAGS, "-o", str(part), str(SOURCE), "-lm"], capture_output=True, check=True, timeout=120)
        part.replace(library)
    return library


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autospike"
