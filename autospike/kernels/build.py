"""Kernels in C: built by the machine's compiler at first use, and kept in the user's cache folder.

Without a compiler there is no kernel, and its caller runs as tensor operations: slower, never broken.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import threading
from functools import cache
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
THREADS = (("-fopenmp",), ())  # with threads, or where the compiler knows none, without


@cache
def library(name: str, *flags: str) -> ctypes.CDLL | None:
    """The functions of a C file of this folder, built for this machine if need be; None where it cannot be built."""
    source = Path(__file__).with_name(f"{name}.c")
    for threads in THREADS:
        try:
            return ctypes.CDLL(str(_built(source, shlex.split(os.environ.get("CC", "cc")), (*FLAGS, *WIDE, *flags, *threads))))
        except (OSError, RuntimeError, subprocess.SubprocessError):  # no compiler, no such flags, nowhere to keep what it builds
            continue
    return None


def _built(source: Path, compiler: list[str], flags: tuple[str, ...]) -> Path:
    """The shared library for this source, compiler and processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    key = hashlib.sha256(
        b"\0".join([source.read_bytes(), version, platform.machine().encode(), processor.encode(), repr(flags).encode()])
    )
    built = _cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        subprocess.run([*compiler, *flags, "-o", str(part), str(source), "-lm"], capture_output=True, check=True, timeout=120)
        part.replace(built)
    return built


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autospike"
