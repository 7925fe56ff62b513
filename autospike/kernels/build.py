"""Build the C kernels with the machine's compiler at first use, for one instruction set, and load them.

| environment variable | value    | meaning                                                                    |
|----------------------|----------|----------------------------------------------------------------------------|
| `AUTOSPIKE_KERNELS`  | `native` | compile and use the kernels (the default)                                  |
|                      | `off`    | use tensor operations of torch instead                                     |
| `AUTOSPIKE_ISA`      | `native` | compile for everything that the processor offers (the default)             |
|                      | `avx512` | compile for AVX-512 F, BW, DQ, VL and VPOPCNTDQ                            |
|                      | `avx2`   | compile for AVX2 and FMA, as on x86-64-v3; no AVX-512                      |
|                      | `neon`   | compile for the baseline of AArch64                                        |
|                      | `plain`  | compile for the baseline of the architecture, without our own intrinsics   |
| `CC`                 | `cc`     | the compiler, with flags                                                   |

A library is cached in the user's cache folder under a digest of sources, compiler, processor and flags. The digest of its content
is in a file beside it, `NAME.so.sha256`, and is verified before the library is loaded: a truncated library would end the process
with SIGBUS. Where no library can be built, operations of torch replace the kernels, several times slower on a CPU; one warning per
process says so.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autospike.errors import UserError
from autospike.files import cache_folder

SOURCES = Path(__file__).parent
LIBRARIES = ("attention", "batch_norm", "input_values", "lif", "max_pool", "packing", "sparse_conv")
# Without contraction of a * b + c: kernels write fused multiply-adds out, so that results do not depend on the compiler.
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
OFF = "off"


@dataclass(frozen=True, kw_only=True)
class KernelStatus:
    """State of one library.

    Attributes:
        name: Name of the C file, without its ending.
        instruction_set: What it is compiled for; "off" if kernels are switched off.
        path: Path of the library in the cache; None if there is none.
        problem: Why there is none: the first error line of the compiler, for example.
    """

    name: str
    instruction_set: str
    path: Path | None
    problem: str | None


class _Selection(threading.local):
    """The instruction set that `use_kernels` selects in a thread, or None."""

    name: str | None = None


_selection = _Selection()
_warned = False


def selected_instruction_set() -> str | None:
    """Return what `use_kernels` selects in this thread; None outside of it, where the environment decides."""
    return _selection.name


def instruction_set() -> str:
    """Return the instruction set that kernels are compiled for, or "off".

    Raises:
        UserError: `AUTOSPIKE_KERNELS` has another value than those above, or `AUTOSPIKE_ISA` names no instruction set of this
            architecture, or one that this processor lacks.
    """
    if _selection.name is not None:
        return _selection.name
    switch = os.environ.get("AUTOSPIKE_KERNELS") or "native"
    if switch not in ("native", OFF):
        raise UserError(f"AUTOSPIKE_KERNELS={switch}: choose native or off")
    name = os.environ.get("AUTOSPIKE_ISA") or "native"
    usable = usable_instruction_sets()
    if name not in usable:
        raise UserError(f"AUTOSPIKE_ISA={name}: this processor has no such instruction set; choose from {', '.join(usable)}")
    return OFF if switch == OFF else name


def usable_instruction_sets() -> list[str]:
    """Return the values of `AUTOSPIKE_ISA` that this processor can execute."""
    return [name for name in FLAGS if NEEDS.get(name, set()) <= processor_features()]


@contextmanager
def use_kernels(name: str) -> Iterator[None]:
    """Use kernels for an instruction set, or none, in the block and thread, whatever the environment says.

    Args:
        name: One of `usable_instruction_sets()`, or "off".

    Yields:
        Nothing.
    """
    before, _selection.name = _selection.name, name
    try:
        yield
    finally:
        _selection.name = before


def library(name: str, isa: str | None = None) -> ctypes.CDLL | None:
    """Return one C library, which is built if the cache does not have it.

    Args:
        name: One of `LIBRARIES`.
        isa: An instruction set, or "off"; by default that of `instruction_set()`.

    Returns:
        The library; None if kernels are off, or if it cannot be built. The first failure of a process is reported by a warning.
    """
    global _warned
    built = _build(name, isa or instruction_set())
    if isinstance(built, ctypes.CDLL):
        return built
    if built != OFF and not _warned:
        _warned = True
        warnings.warn(
            f"autospike's C kernels cannot be built, so training and measuring on a CPU are several times slower: {built}. Install "
            "a C compiler (gcc or clang), set CC to one, or set AUTOSPIKE_KERNELS=off to silence this warning.",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def missing_kernels() -> tuple[str, ...]:
    """Return the names of the libraries that torch's operations replace, because they are switched off or cannot be built."""
    isa = instruction_set()
    return tuple(name for name in LIBRARIES if not isinstance(_build(name, isa), ctypes.CDLL))


def missing_reason() -> str | None:
    """Return why `missing_kernels` are missing, of the first one; None if there are none. No warning is given after that."""
    global _warned
    found = [status.problem for status in kernel_status() if status.problem is not None]
    _warned = _warned or bool(found)
    return found[0] if found else None


def kernel_status() -> list[KernelStatus]:
    """Build every library if need be.

    Returns:
        The state of each library.
    """
    isa, found = instruction_set(), []
    for name in LIBRARIES:
        built = _build(name, isa)
        path, problem = (Path(built._name), None) if isinstance(built, ctypes.CDLL) else (None, built)
        problem = "switched off by AUTOSPIKE_KERNELS=off" if problem == OFF else problem
        found.append(KernelStatus(name=name, instruction_set=isa, path=path, problem=problem))
    return found


# What each kernel does with the vectors of an instruction set; the others differ only in the width of vectors.
METHODS = {
    "attention": "k^T v by AND and popcount on AVX2 and AVX-512, zero-skipping products",
    "batch_norm": "compiler-vectorised loops",
    "input_values": "compiler-vectorised loops",
    "lif": "compiler-vectorised loops, stores that bypass the cache on AVX2 and AVX-512",
    "max_pool": "whole vectors, stores that bypass the cache on AVX-512",
    "packing": "compiler-vectorised loops",
    "sparse_conv": "zero-skipping, register tiles where most inputs are non-zero",
}
WIDTHS = {"avx512": 16, "avx2": 8, "neon": 4, "plain": 4}  # floats of a vector, as in vector.h


def vector_extension() -> str:
    """Return the vector extension that kernels are compiled for: avx512, avx2, neon or plain, and "off" without kernels."""
    isa = instruction_set()
    if isa != "native":
        return isa
    known = [name for name in NEEDS if NEEDS[name] - {"avx512_vpopcntdq"} <= processor_features()]
    return known[0] if known else "neon" if ARM else "plain"


def kernel_paths() -> dict[str, str]:
    """Return the path that each kernel takes in this process, or why composite operations of torch run instead."""
    extension, paths = vector_extension(), {}
    for status in kernel_status():
        built = f"{extension}, {WIDTHS.get(extension, 4)} floats a vector: {METHODS[status.name]}"
        paths[status.name] = built if status.problem is None else f"operations of torch: {status.problem}"
    return paths


@cache
def processor_features() -> frozenset[str]:
    """Return the flags that /proc/cpuinfo lists; empty where there is no such file."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    listed = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(listed.partition(":")[2].split())


@cache
def _build(name: str, isa: str) -> ctypes.CDLL | str:
    """The library, or why there is none."""
    problem = OFF
    for threads in THREADS if isa != OFF else ():
        flags = (*COMMON, *FLAGS[isa], *threads)
        try:
            return ctypes.CDLL(str(compiled(SOURCES / f"{name}.c", flags)))
        except subprocess.CalledProcessError as error:
            problem = (
                _first_error(error.stderr.decode(errors="replace")) or f"{error.cmd[0]} failed with exit code {error.returncode}"
            )
        except (OSError, subprocess.SubprocessError) as error:  # no compiler, no folder to write to
            problem = str(error)
    return problem


def _first_error(output: str) -> str:
    """The first line of a compiler's output that reports an error, or else its first line."""
    lines = output.splitlines()
    return next((line.strip() for line in lines if "error" in line.lower()), lines[0].strip() if lines else "")


def compiled(source: Path, flags: tuple[str, ...]) -> Path:
    """Compile a C file to a shared library, unless the cache has it intact.

    Args:
        source: The C file; headers are those of its folder.
        flags: Flags of the compiler.

    Returns:
        The path of the library in the cache.

    Raises:
        OSError: There is no compiler, or the cache folder cannot be written.
        subprocess.SubprocessError: The compiler fails, or takes longer than two minutes.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    processor = " ".join(sorted(processor_features()))
    texts = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    key = hashlib.sha256(b"\0".join([*texts, version, platform.machine().encode(), processor.encode(), repr(flags).encode()]))
    built = cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not _is_intact(built):
        built.parent.mkdir(parents=True, exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
        try:
            subprocess.run([*compiler, *flags, "-o", str(part), str(source), "-lm"], capture_output=True, check=True, timeout=120)
            digest = _sha256(part)
            _move(part, built)
            part.write_text(f"{digest}  {built.name}\n", encoding="ascii")  # the format of sha256sum
            _move(part, _digest_file(built))
        finally:
            part.unlink(missing_ok=True)
    return built


def _is_intact(built: Path) -> bool:
    """Whether a library has the content that was compiled. The digest is written last; without it, a library is compiled again."""
    try:
        return _digest_file(built).read_text(encoding="ascii").split()[:1] == [_sha256(built)]
    except (OSError, ValueError):
        return False


def _digest_file(built: Path) -> Path:
    return built.with_name(f"{built.name}.sha256")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _move(part: Path, target: Path) -> None:
    """Rename a file after its content has reached the disk. A process that has loaded the old file keeps it."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
