"""`autospike --version`, `--version -v` and `doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runner import autospike

from autospike import __version__
from autospike.kernels.build import LIBRARIES


def printed(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own: the instruction set is chosen once per process."""
    command = [sys.executable, "-m", "autospike", *args]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False, timeout=300)


def test_version_is_one_line() -> None:
    assert printed("--version").stdout == f"autospike {__version__}\n"


@pytest.mark.parametrize("args", [("doctor",), ("--version", "-v")])
def test_doctor_names_the_path_of_every_kernel(args: tuple[str, ...]) -> None:
    lines = printed(*args).stdout.splitlines()
    kernels = {line.split(":")[0].removeprefix("kernel ") for line in lines if line.startswith("kernel ")}
    assert kernels == set(LIBRARIES)
    assert any(line.startswith("processor: ") for line in lines)
    assert any(line.startswith("instruction set: native") for line in lines)


def test_disabled_kernels_are_reported() -> None:
    lines = printed("doctor", AUTOSPIKE_KERNELS="off").stdout.splitlines()
    assert {line.split(": ", 1)[1] for line in lines if line.startswith("kernel ")} == {
        "operations of torch: switched off by AUTOSPIKE_KERNELS=off"
    }


def test_a_broken_compiler_is_reported(tmp_path: Path) -> None:
    lines = printed("doctor", CC="/nowhere/cc", XDG_CACHE_HOME=str(tmp_path)).stdout.splitlines()
    assert "compiler: none found; set CC or install gcc or clang" in lines
    assert all("/nowhere/cc" in line for line in lines if line.startswith("kernel "))


def test_an_unknown_instruction_set_is_a_one_line_error() -> None:
    outcome = printed("doctor", AUTOSPIKE_ISA="sse9")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: AUTOSPIKE_ISA=sse9")
    assert len(outcome.stderr.splitlines()) == 1


def test_verbose_without_version_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "-v", "doctor")
    assert outcome.code == 2
    assert "--version" in outcome.err
