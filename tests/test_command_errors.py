"""Errors of a command: one line on standard error, and exit code 2."""

from __future__ import annotations

import pytest

from autospike.command_errors import exit_with
from autospike.errors import UserError

Capsys = pytest.CaptureFixture[str]


def outcome(capsys: Capsys, error: Exception) -> tuple[object, str]:
    """Exit code and standard error of a command that raises an error."""

    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        exit_with(command)
    return ended.value.code, capsys.readouterr().err


def test_a_command_without_errors_returns_its_exit_code() -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with(lambda: 1)
    assert ended.value.code == 1


def test_invalid_input(capsys: Capsys) -> None:
    assert outcome(capsys, UserError("x: 3 is too many; give 2")) == (2, "error: x: 3 is too many; give 2\n")


def test_a_path_without_permission(capsys: Capsys) -> None:
    error = PermissionError(13, "Permission denied", "/secret")
    assert outcome(capsys, error) == (2, "error: /secret: Permission denied; check the path and its permissions\n")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory(error: Exception, capsys: Capsys) -> None:
    message = "error: not enough memory for networks, images and batches of these sizes; reduce them\n"
    assert outcome(capsys, error) == (2, message)


def test_an_error_of_the_program_is_raised(capsys: Capsys) -> None:
    with pytest.raises(ZeroDivisionError):
        outcome(capsys, ZeroDivisionError())
