"""The machine on which a benchmark runs: processor, instruction set, compiler, caches and library versions."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autospike.kernels.build import instruction_set, processor_features

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def machine() -> dict[str, Any]:
    """Everything that a figure depends on besides the code, as plain values for `bench.json`."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "instruction_set": instruction_set(),
        "goals": goals_of(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "compiler": _compiler(),
        "caches": _caches(),
        "torch": torch.__version__,
        "spikingjelly": version("spikingjelly"),
    }


def goals_of() -> str:
    """The instruction set whose goals hold: `avx512` or `avx2`."""
    wide = instruction_set() == "avx512" or (instruction_set() == "native" and "avx512f" in processor_features())
    return "avx512" if wide else "avx2"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _compiler() -> str:
    """The first line of the compiler's version; empty where there is none."""
    try:
        command = [*shlex.split(os.environ.get("CC", "cc")), "--version"]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError):
        return ""


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches as Linux gives them, such as `{"L1d": "32K", "L2": "1024K", "L3": "32768K"}`."""
    found = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found
