"""Building kernels: once, for an instruction set, or not at all with one warning."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slow_parameters import slow_except

from autospike.errors import UserError
from autospike.kernels.build import (
    COMMON,
    LIBRARIES,
    SOURCES,
    compiled,
    instruction_set,
    kernel_status,
    library,
    usable_instruction_sets,
    use_kernels,
)
from autospike.kernels.operator import INT64, Library

needs_compiler = pytest.mark.skipif(library("lif") is None, reason="no C compiler here")
FIRES = """
import torch
from autospike.nn.neuron import LIF
from autospike.space.block import Neuron
for _ in range(2):
    print(LIF(Neuron())(torch.full((3, 1), 1.2)).flatten().tolist())
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("compiler", "reason"),
    slow_except(
        [("{failing}", "fatal error: out of order")],
        [
            ("/nowhere/cc", "No such file or directory: '/nowhere/cc'"),
            ("false", "false"),
            ("{failing}", "fatal error: out of order"),
        ],
    ),
)
def test_without_a_working_compiler_neurons_spike_after_one_warning(tmp_path: Path, compiler: str, reason: str) -> None:
    failing = tmp_path / "cc"
    failing.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "some note" >&2\necho "fatal error: out of order" >&2\nexit 1\n'
    )
    failing.chmod(0o755)
    done = run(FIRES, CC=compiler.format(failing=failing), XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.splitlines() == ["[0.0, 0.0, 1.0]"] * 2
    assert done.stderr.count("RuntimeWarning") == 1
    assert "several times slower" in done.stderr
    assert reason in done.stderr
    assert not list(tmp_path.glob("autospike/*.so"))


@pytest.mark.slow
def test_disabled_kernels_are_not_built_and_give_no_warning(tmp_path: Path) -> None:
    done = run(FIRES, AUTOSPIKE_KERNELS="off", XDG_CACHE_HOME=str(tmp_path))
    assert (done.stdout.splitlines(), done.stderr) == (["[0.0, 0.0, 1.0]"] * 2, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variable", "value", "allowed"), [("AUTOSPIKE_KERNELS", "on", "native or off"), ("AUTOSPIKE_ISA", "sse9", "plain")]
)
def test_an_invalid_environment_variable_is_rejected(
    variable: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}={value}.*{allowed}"):
        instruction_set()


def test_instruction_sets_of_the_environment_and_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOSPIKE_ISA", "plain")
    assert instruction_set() == "plain"
    assert "plain" in usable_instruction_sets()
    with use_kernels("off"):
        assert instruction_set() == "off"
        with use_kernels("native"):
            assert instruction_set() == "native"
    monkeypatch.setenv("AUTOSPIKE_KERNELS", "off")
    assert instruction_set() == "off"
    assert library("lif") is None


@needs_compiler
def test_a_library_is_built_once_and_again_when_a_header_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, header = tmp_path / "answer.c", tmp_path / "answer.h"
    source.write_text('#include "answer.h"\nint answer(void) { return ANSWER; }\n')
    header.write_text("#define ANSWER 41\n")
    first = compiled(source, COMMON)
    built = first.stat().st_mtime_ns
    assert compiled(source, COMMON) == first
    assert first.stat().st_mtime_ns == built
    header.write_text("#define ANSWER 42\n")
    second = compiled(source, COMMON)
    assert second != first
    assert [ctypes.CDLL(str(path)).answer() for path in (first, second)] == [41, 42]


def halve(path: Path) -> None:
    """As a full disk or a crash leaves it: mapping its lost pages would end the process with SIGBUS."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def forget_digest(path: Path) -> None:
    """As an older version leaves it."""
    path.with_name(f"{path.name}.sha256").unlink()


def empty_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_bytes(b"")


@needs_compiler
@pytest.mark.parametrize("damage", [halve, flip, forget_digest, empty_digest])
def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    built = compiled(source, COMMON)
    digest = built.with_name(f"{built.name}.sha256")
    assert digest.read_text() == f"{hashlib.sha256(built.read_bytes()).hexdigest()}  {built.name}\n"
    damage(built)
    assert compiled(source, COMMON) == built
    assert digest.read_text() == f"{hashlib.sha256(built.read_bytes()).hexdigest()}  {built.name}\n"
    assert ctypes.CDLL(str(built)).answer() == 42
    assert sorted(path.name for path in built.parent.iterdir()) == [built.name, digest.name]


@pytest.mark.slow
@needs_compiler
def test_a_command_runs_after_its_cached_library_was_truncated(tmp_path: Path) -> None:
    assert run(FIRES, XDG_CACHE_HOME=str(tmp_path)).returncode == 0
    (built,) = tmp_path.glob("autospike/lif-*.so")
    os.truncate(built, 4096)
    done = run(FIRES, XDG_CACHE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["[0.0, 0.0, 1.0]"] * 2, "")


@needs_compiler
def test_the_status_of_every_library() -> None:
    with use_kernels("plain"):
        found = kernel_status()
    assert [status.name for status in found] == list(LIBRARIES) == sorted(path.stem for path in SOURCES.glob("*.c"))
    for status in found:
        assert (status.instruction_set, status.problem) == ("plain", None)
        assert status.path is not None
        assert status.path.name.startswith(f"{status.name}-")
    with use_kernels("off"):
        assert {(status.path, status.problem) for status in kernel_status()} == {(None, "switched off by AUTOSPIKE_KERNELS=off")}


@needs_compiler
def test_a_struct_that_differs_between_c_and_python_is_an_error() -> None:
    class TooShort(ctypes.Structure):
        _fields_ = (("images", INT64),)

    with pytest.raises(RuntimeError, match=r"struct shape has 40 bytes in max_pool.c and 8 in Python"):
        _ = Library("max_pool", {}, structs={"shape": TooShort}).functions
