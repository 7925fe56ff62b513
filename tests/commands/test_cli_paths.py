"""Paths that cannot be read or written are one line of the command line, with exit code 2."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import autospike

Capsys = pytest.CaptureFixture[str]


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def binary(path: Path) -> Path:
    path.write_bytes(b"\x80\xff")
    return path


PATHS: dict[str, Callable[[Path], Path]] = {
    "a named pipe": fifo,
    "a link to itself": loop,
    "bytes": binary,
    "a folder": folder,
    "a long name": lambda path: path.with_name("x" * 300),
    "a long path": lambda path: path / ("a/" * 2500),
    "a device": lambda _: Path("/dev/zero"),
    "nothing": lambda path: path,
    "a terminal sequence": lambda path: path.with_name("\x1b[31mred\nred"),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("command", ["describe", "train"])
def test_paths(command: str, name: str, tmp_path: Path, capsys: Capsys) -> None:
    path = PATHS[name](tmp_path / "path.yaml")
    options = ("--run", tmp_path / "run") if command == "train" else ()
    outcome = autospike(capsys, command, path, *options)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.rstrip("\n").isprintable()
    assert len(outcome.err) < 500
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--image-size", "2147483647"),
        ("--classes", "9" * 400),
        ("--channels", "-1"),
        ("--image-size", "x" * 5000),
        ("x" * 5000,),
        ("--" + "x" * 5000,),
    ],
)
def test_options_out_of_range(options: tuple[str, ...], capsys: Capsys) -> None:
    outcome = autospike(capsys, "describe", "spikformer_cifar_2_384", *options)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < 500
