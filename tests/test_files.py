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
