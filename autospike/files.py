"""Reading and writing of files. Writes are atomic, and errors are reported to the user in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from autospike.errors import UserError
from autospike.parsing import parse_json, parse_yaml

MAX_TEXT_BYTES = 64_000_000  # the reports and records of a run have less than 1 MB
_WRITES = count()  # threads of a process may write the same file at the same time


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically: the block writes to a temporary path, which is renamed to `path` if the block succeeds.

    Args:
        path: The file to replace. Its folder is created if it does not exist.

    Yields:
        The temporary path, in the same folder.

    Raises:
        UserError: The file cannot be written, for example because the disk is full. An existing file is unchanged.
    """
    temporary, created = path.with_name(f".{path.name}.{os.getpid()}.{next(_WRITES)}.part"), list[Path]()
    try:
        created = create_folder(path.parent)
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)  # as the user's umask says
        yield temporary
        temporary.chmod(mode)  # libraries such as safetensors create files that only their owner can read
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
        if not path.exists():
            remove_empty(created)


@contextmanager
def replacing_all(folder: Path, *, without: Iterable[str] = ()) -> Iterator[Path]:
    """Replace several files of a folder together: the block writes all of them to a temporary folder.

    If the block succeeds and every file can be replaced, they are moved to the folder. The other files of the folder remain.

    Args:
        folder: The folder. It is created if it does not exist.
        without: Names of files of the folder that are deleted if the block succeeds.

    Yields:
        The temporary folder, inside the folder.

    Raises:
        UserError: A file cannot be written or replaced; the folder is unchanged.
    """
    temporary, created = folder / f".{os.getpid()}.{next(_WRITES)}.part", list[Path]()
    try:
        created = create_folder(folder)
        temporary.mkdir()
        yield temporary
        names = sorted(path.name for path in temporary.iterdir())
        check_replaceable(folder, (*names, *without))
        for name in names:
            (temporary / name).replace(folder / name)
        for name in without:
            (folder / name).unlink(missing_ok=True)
    except UserError as error:
        raise UserError(str(error).replace(str(temporary), str(folder))) from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); nothing was changed") from None
    finally:
        with suppress(OSError):
            for path in temporary.iterdir():
                path.unlink()
        remove_empty([temporary, *created])


def check_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Check that files can be written to a folder, before the first one of them is.

    Args:
        folder: The folder, which may not exist yet.
        names: Names of the files.

    Raises:
        UserError: One of them is a folder.
    """
    for name in names:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise UserError(f"{folder / name}: a folder, where a file is to be written; remove it; nothing was changed")


def create_folder(folder: Path) -> list[Path]:
    """Create a folder and its parents.

    Args:
        folder: The folder.

    Returns:
        Those that did not exist, the innermost first, as `remove_empty` expects them.

    Raises:
        OSError: The folder cannot be created.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders as long as they are empty.

    Args:
        folders: The folders, the innermost first.
    """
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def cache_folder() -> Path:
    """Return the folder for files that can be computed again: `autospike` in `XDG_CACHE_HOME`, or else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autospike"


def check_writable(folder: Path, option: str) -> None:
    """Check that files can be written to a folder, which may not exist yet.

    Args:
        folder: The folder.
        option: The option that names another one.

    Raises:
        UserError: They cannot.
    """
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        raise UserError(f"{folder}: you may not write here; choose another folder with {option}")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically.

    Args:
        path: The file.
        text: Its content.

    Raises:
        UserError: The file cannot be written.
    """
    write_chunks(path, [text])


def write_chunks(path: Path, chunks: Iterable[str]) -> None:
    """Write a text file in UTF-8 atomically, from parts of its text.

    Args:
        path: The file.
        chunks: The parts.

    Raises:
        UserError: The file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(chunks)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically, indented by two spaces.

    Args:
        path: The file.
        value: A value that `json.dumps` accepts.

    Raises:
        UserError: The file cannot be written.
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Args:
        path: The file. It must be a regular file, because a named pipe or a device may never end.

    Returns:
        Its content.

    Raises:
        UserError: It is no regular file, is too large, cannot be read, or is not UTF-8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a file; check the path")
        if status.st_size > MAX_TEXT_BYTES:
            raise UserError(f"{path}: {status.st_size:,} bytes; a text file has at most {MAX_TEXT_BYTES:,}; check the path")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}); check the path") from None
    except ValueError as error:  # of a path with a NUL character
        raise UserError(f"{path}: cannot be read ({error}); check the path") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file.

    Returns:
        The value as `autospike.parsing.parse_json` returns it.

    Raises:
        UserError: The file cannot be read or is not JSON.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None


def check_absent_or_regular(path: Path, advice: str = "move it away") -> None:
    """Check that a path is a regular file, or does not exist. Opening a named pipe may never end.

    Args:
        path: The file.
        advice: What the user can do about it.

    Raises:
        UserError: It is something else.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file; {advice}")


def append_jsonl(path: Path, **event: object) -> None:
    """Append one line to a JSON Lines file.

    Args:
        path: The file; it is created if it does not exist.
        **event: Fields of the JSON object in the line.

    Raises:
        UserError: The file cannot be written, for example because the disk is full, or is not a regular file.
    """
    check_absent_or_regular(path)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free disk space, then run the same command again to resume"
        ) from None


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file as a hexadecimal string.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: Path) -> None:
    """Check that a path is a regular file, or a link to one. Reading a device or a named pipe may never end.

    Args:
        path: The file.

    Raises:
        OSError: It does not exist, or it is something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Args:
        path: The file.

    Returns:
        The value as `autospike.parsing.parse_yaml` returns it.

    Raises:
        UserError: The file cannot be read or is not YAML.
    """
    text = read_text(Path(path))
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
