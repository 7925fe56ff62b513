"""Files: written completely or not at all, with the permissions that the user's umask allows; only regular files are read."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from builders import one_line_error

from autospike import files
from autospike.errors import UserError
from autospike.tensors import write_tensors


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "weights.safetensors", {"w": torch.ones(2)})
        files.write_json(tmp_path / "value.json", {})
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "weights.safetensors": mode,
        "value.json": mode,
    }


def test_a_write_that_fails_leaves_no_file_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old.txt").write_text("old")

    def write(path: Path) -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    for path in (tmp_path / "new" / "deep" / "a.txt", tmp_path / "kept" / "old.txt"):
        assert "No space left on device" in one_line_error(lambda path=path: write(path))  # type: ignore[misc]
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["kept", "kept/old.txt"]
    assert (tmp_path / "kept" / "old.txt").read_text() == "old"


def test_two_threads_may_write_the_same_file(tmp_path: Path) -> None:
    """The second write starts and ends during the first one; each has its own temporary file."""
    path = tmp_path / "frames.npz"
    with files.replacing(path) as first:
        first.write_text("first")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(files.write_text, path, "second").result()
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        assert ": not a file; check the path" in one_line_error(lambda path=path: files.read_json(path))  # type: ignore[misc]
        with pytest.raises(OSError, match="not a regular file"):
            files.sha256(path)
    (tmp_path / "value.json").write_text("[1]")
    (tmp_path / "link.json").symlink_to("value.json")
    assert files.read_json(tmp_path / "link.json") == [1]


def write_two(folder: Path, first: str, second: str) -> None:
    with files.replacing_all(folder, without=["old.csv"]) as temporary:
        files.write_text(temporary / "a.csv", first)
        files.write_text(temporary / "b.csv", second)


def contents(folder: Path) -> dict[str, str | None]:
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_files_that_are_replaced_together(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write_two(out, "1", "2")
    (out / "other.csv").write_text("3")
    (out / "old.csv").write_text("4")
    write_two(out, "5", "6")
    assert contents(tmp_path) == {
        "new": None,
        "new/out": None,
        "new/out/a.csv": "5",
        "new/out/b.csv": "6",
        "new/out/other.csv": "3",
    }


@pytest.mark.parametrize("name", ["b.csv", "old.csv"])
def test_if_one_file_cannot_be_replaced_none_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / "a.csv").write_text("before")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"out/{name}: a folder, where a file is to be written; remove it; nothing was changed"):
        write_two(tmp_path / "out", "1", "2")
    assert contents(tmp_path) == before


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.replacing_all(tmp_path / "new" / "out") as temporary:
        files.write_text(temporary / "a.csv", "1")
        raise ZeroDivisionError
    assert contents(tmp_path) == {}
