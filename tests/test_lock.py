"""The lock of a folder: one process at a time, named to the others, gone with its process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from builders import one_line_error

from autospike.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from autospike.lock import locked
with locked(Path(sys.argv[1]), "autospike train"):
    print("held", flush=True)
    time.sleep(100)
"""


def lock(folder: Path) -> None:
    with locked(folder, "autospike search"):
        pass


def test_a_locked_folder_is_refused_until_its_process_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        message = one_line_error(lambda: lock(tmp_path))
        where = f"{tmp_path}: in use by `autospike train` (process {holder.pid} on {socket.gethostname()}, since 20"
        assert message.startswith(where)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=60)
    assert (tmp_path / ".lock").exists()  # stale
    lock(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_process_may_lock_again(tmp_path: Path) -> None:
    """`autospike run` holds the lock while it trains, searches and exports."""
    with locked(tmp_path, "autospike run"):
        lock(tmp_path)
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def test_a_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "runs" / "a", "autospike train"):
        assert (tmp_path / "runs" / "a" / ".lock").exists()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "runs" / "a", "autospike train"):
        (tmp_path / "runs" / "a" / "result").touch()
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["result"]


def test_a_lock_whose_file_says_nothing(tmp_path: Path) -> None:
    """Its holder has not written who it is yet."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        os.truncate(tmp_path / ".lock", 0)
        assert "in use by another command" in one_line_error(lambda: lock(tmp_path))
    finally:
        holder.kill()
        holder.communicate(timeout=60)
