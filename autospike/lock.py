"""A lock on a folder that one command writes to. It says who holds it, and it ends with the process that holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from autospike.errors import UserError
from autospike.files import create_folder, remove_empty

NAME = ".lock"


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Hold the lock of a folder for the length of a block.

    The lock is an advisory lock of the system (flock) on the file `.lock`, so a process that was killed holds none. A process that
    holds the lock already, such as `autospike run` when it searches, continues. A folder that cannot be written to needs no
    lock, and a file system without locks has none.

    Args:
        folder: The folder. It is created for the length of the block if it does not exist, and stays if something is written to it.
        command: The command, as it is shown to others, for example `autospike train`.

    Yields:
        Nothing.

    Raises:
        UserError: Another process holds the lock, or the folder cannot be created.
    """
    try:
        created = create_folder(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another folder") from None
    try:
        descriptor = _acquire(folder / NAME, command) if os.access(folder, os.W_OK) else None
        try:
            yield
        finally:
            if descriptor is not None:
                (folder / NAME).unlink(missing_ok=True)
                os.close(descriptor)
    finally:
        remove_empty(created)


def _acquire(path: Path, command: str) -> int | None:
    """The descriptor of the locked file; None if this process has locked it, or if the file system has no locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            if (holder.get("pid"), holder.get("host")) == (os.getpid(), socket.gethostname()):
                return None
            raise UserError(f"{path.parent}: in use by {_described(holder)}; wait until it ends, or end it") from None
        except OSError:
            os.close(descriptor)
            return None
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            break
        os.close(descriptor)  # its holder has removed it between the two calls
    now = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "command": command, "since": now}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{json.dumps(holder)}\n".encode())
    return descriptor


def _holder(descriptor: int) -> dict[str, object]:
    """What the holder of a lock has written; empty if it has not yet."""
    try:
        written = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return written if isinstance(written, dict) else {}


def _described(holder: dict[str, object]) -> str:
    if not holder:
        return "another command"
    return f"`{holder.get('command')}` (process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')})"
