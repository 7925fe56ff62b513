"""`autospike doctor`: what this installation runs on, and which path each compiled kernel takes."""

from __future__ import annotations

import sys
from importlib.metadata import version

from autospike import __version__
from autospike.console import console
from autospike.kernels.build import instruction_set, kernel_paths, usable_instruction_sets
from autospike.machine import cache_sizes, compiler_version, processor_name
from autospike.process import available_cores

PACKAGES = ("torch", "torchvision", "timm", "spikingjelly", "numpy")


def doctor() -> None:
    """Print versions, processor, instruction set, compiler, caches, and for each kernel whether it is built and its path."""
    caches = ", ".join(f"{name} {size}" for name, size in cache_sizes().items())
    facts = {
        "autospike": __version__,
        "python": sys.version.split()[0],
        **{name: version(name) for name in PACKAGES},
        "processor": f"{processor_name()}, {available_cores()} cores usable",
        "caches": caches or "unknown",
        "compiler": compiler_version() or "none found; set CC or install gcc or clang",
        "instruction set": f"{instruction_set()}; AUTOSPIKE_ISA may be {', '.join(usable_instruction_sets())}",
    }
    facts |= {f"kernel {name}": path for name, path in kernel_paths().items()}
    for name, value in facts.items():
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
