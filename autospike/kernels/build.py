"""Build the C kernels with the machine's compiler at first use, for one instruction set, and load them.

| `AUTOSPIKE_ISA` | compiled with                                                          |
|-----------------|------------------------------------------------------------------------|
| `native`        | everything that the processor offers (the default)                     |
| `avx512`        | AVX-512 F, BW, DQ, VL and VPOPCNTDQ                                    |
| `avx2`          | AVX2 and FMA, as on x86-64-v3; no AVX-512                              |
| `neon`          | the baseline of AArch64                                                |
| `plain`         | the baseline of the architecture, without vector intrinsics of ours    |

The built library is cached in the user's cache folder under a digest of source, compiler, processor and flags.
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

from autospike.errors import UserError

SOURCES = Path(__file__).parent
COMMON = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
X86 = platform.machine() in ("x86_64", "AMD64")
ARM = platform.machine() in ("aarch64", "arm64")
AVX2 = ("-march=x86-64-v3", "-mtune=native")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq", "-mprefer-vector-width=512")
# Compiler flags of each instruction set, and what /proc/cpuinfo has to list for it.
FLAGS: dict[str, tuple[str, ...]] = {
    "native": ("-march=native", *(("-mprefer-vector-width=512",) if X86 else ())),
    **({"avx512": AVX512, "avx2": AVX2} if X86 else {}),
    **({"neon": ("-mcpu=native",)} if ARM else {}),
    "plain": ("-DAUTOSPIKE_PLAIN",),
}
NEEDS = {
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vpopcntdq"},
    "avx2": {"avx2", "fma", "bmi2"},
}
THREADS = (("-fopenmp",), ())  # without threads where the compiler has no OpenMP


def instruction_set() -> str:
    """The instruction set that kernels are compiled for: `AUTOSPIKE_ISA`, or `native`.

    Raises:
        UserError: the variable names no instruction set of this architecture, or one that this processor lacks.
    """
    name = os.environ.get("AUTOSPIKE_ISA") or "native"
    usable = [isa for isa in FLAGS if NEEDS.get(isa, set()) <= processor_features()]
    if name not in usable:
        raise UserError(f"AUTOSPIKE_ISA={name}: this processor has no such instruction set; choose from {', '.join(usable)}")
    return name


@cache
def processor_features() -> frozenset[str]:
    """The flags that /proc/cpuinfo lists; empty where there is no such file."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    listed = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(listed.partition(":")[2].split())


@cache
def library(name: str, *flags: str) -> ctypes.CDLL | None:
    """The functions of one C file of this folder, built for this machine if need be; None where it cannot be built."""
    for threads in THREADS:
        try:
            compiler = shlex.split(os.environ.get("CC", "cc"))
            return ctypes.CDLL(str(_built(SOURCES / f"{name}.c", compiler, (*COMMON, *FLAGS[instruction_set()], *flags, *threads))))
        except (OSError, RuntimeError, subprocess.SubprocessError):  # no compiler, no such flags, no folder to write to
            continue
    return None


def _built(source: Path, compiler: list[str], flags: tuple[str, ...]) -> Path:
    """The shared library for this source, compiler and processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    processor = " ".join(sorted(processor_features()))
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
