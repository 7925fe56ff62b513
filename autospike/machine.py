"""The machine that a process runs on: processor, compiler and caches."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def processor_name() -> str:
    """Return the name of the processor as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def compiler_version() -> str:
    """Return the first line of `cc --version`, or of the compiler in `CC`; empty where there is none."""
    try:
        command = [*shlex.split(os.environ.get("CC") or "cc"), "--version"]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.splitlines()[0]
    except (OSError, IndexError, subprocess.SubprocessError):
        return ""


def cache_sizes() -> dict[str, str]:
    """Return the sizes of the first core's caches as Linux gives them, such as `{"L1d": "32K", "L2": "1024K", "L3": "32768K"}`."""
    found = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return found
