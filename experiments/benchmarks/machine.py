"""What a figure depends on besides the code, as plain values for `bench.json`."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import torch

from autospike.kernels.build import instruction_set, kernel_paths, vector_extension
from autospike.machine import cache_sizes, compiler_version, processor_name


def machine() -> dict[str, Any]:
    """Return processor, instruction set, path of each kernel, compiler, caches and library versions."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "instruction_set": instruction_set(),
        "goals": goals_of(),
        "kernels": kernel_paths(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "compiler": compiler_version(),
        "caches": cache_sizes(),
        "torch": torch.__version__,
        "spikingjelly": version("spikingjelly"),
    }


def goals_of() -> str:
    """Return the instruction set whose goals hold: `avx512` or `avx2`."""
    return "avx512" if vector_extension() == "avx512" else "avx2"
