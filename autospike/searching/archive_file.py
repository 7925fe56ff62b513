"""The SQLite file of an archive: its tables, opening it to write or only to read, and what is left of it if pages are damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from autospike import files
from autospike.errors import UserError

SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    architecture_id TEXT NOT NULL,   -- digest of the architecture
    protocol_id     TEXT NOT NULL,   -- digest of weights, splits and calibration
    architecture    TEXT NOT NULL,   -- canonical JSON
    accuracy        REAL NOT NULL,   -- on the search split, a fraction
    correct         INTEGER NOT NULL,
    images          INTEGER NOT NULL, -- number of images of the measurement
    energy_mj       REAL NOT NULL,   -- per image, convention of the search that was started or resumed last
    convention      TEXT NOT NULL,
    macs            REAL NOT NULL,   -- per image, over all time steps
    acs             REAL NOT NULL,
    params          INTEGER NOT NULL,
    time_steps      INTEGER NOT NULL,
    f_aeb           REAL NOT NULL,
    generation      INTEGER NOT NULL, -- of its first measurement
    free            INTEGER NOT NULL, -- 1: by-product candidate, 0: proposed
    seconds         REAL NOT NULL,
    measured_at     TEXT NOT NULL,   -- UTC
    counts          BLOB NOT NULL,   -- per layer and time step: zlib of JSON (autospike.energy.counts.LayerCount)
    correct_mask    BLOB,            -- one bit for each image: 1 if classified correctly; NULL in rows of older versions
    score           BLOB,            -- of a dense task: zlib of JSON (autospike.measurement.Score); NULL for classification
    spikes          REAL,            -- read by layers, per image; NULL in rows of older versions
    latency_device  TEXT,            -- where latency was measured; NULL if it was not
    latency_ms      REAL,            -- of one image
    latency_batch_ms REAL,           -- in a batch, per image
    mean_time_steps REAL,            -- of a candidate with early exit, whose counts and energy are estimates; NULL for others
    PRIMARY KEY (architecture_id, protocol_id)
);
CREATE TABLE IF NOT EXISTS searches (
    search_id       TEXT NOT NULL,   -- algorithm and digest of its settings
    protocol_id     TEXT NOT NULL,
    settings        TEXT NOT NULL,   -- JSON
    begun_at        TEXT NOT NULL,   -- UTC; last start or resumption
    PRIMARY KEY (search_id, protocol_id)
);
CREATE TABLE IF NOT EXISTS proposals (
    search_id       TEXT NOT NULL,
    generation      INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    architecture_id TEXT NOT NULL,
    protocol_id     TEXT NOT NULL,
    free            INTEGER NOT NULL, -- 1: by-product candidate, 0: proposed
    PRIMARY KEY (search_id, protocol_id, generation, position)
);
CREATE TABLE IF NOT EXISTS populations (
    search_id       TEXT NOT NULL,
    protocol_id     TEXT NOT NULL,
    generation      INTEGER NOT NULL, -- the newest one that is finished
    position        INTEGER NOT NULL,
    architecture_id TEXT NOT NULL,
    crowding        REAL,            -- crowding distance of NSGA-II
    PRIMARY KEY (search_id, protocol_id, position)
);
CREATE TABLE IF NOT EXISTS checksums (
    evaluation      INTEGER PRIMARY KEY, -- row id
    crc32           INTEGER NOT NULL -- of the counts, which take longer to unpack
);
"""
# The checksum of the counts of a row, as SQL; NULL if they are not a blob. It is computed as the row is read, so that the counts of
# all rows are never in memory together.
CHECKSUM = "CASE WHEN typeof(counts) = 'blob' THEN crc32(counts) END"
# SQLite's name of a database in memory.
IN_MEMORY = Path(":memory:")
# What `rebuild` copies. A population is useless if only a part of it can be read; without one, a search is replayed.
COPIED = ("evaluations", "searches", "proposals")


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open an archive, or create it. An archive of an older version gets the columns and tables that it lacks.

    Args:
        path: The file.

    Returns:
        The connection, in autocommit mode.

    Raises:
        UserError: The file is not an archive, or its folder does not exist or is not writable.
    """
    _check_regular(path)
    with ExitStack() as on_error:
        try:
            db = _connected(path)
            on_error.callback(db.close)
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)
            db.execute("BEGIN IMMEDIATE")
            with db:
                for table in ("evaluations", "proposals"):  # the first version had no by-product candidates
                    if not _has_column(db, table, "free"):
                        db.execute(f"ALTER TABLE {table} ADD COLUMN free INTEGER NOT NULL DEFAULT 0")
                if not _has_column(db, "evaluations", "correct_mask"):  # added in version 0.3
                    db.execute("ALTER TABLE evaluations ADD COLUMN correct_mask BLOB")
                if not _has_column(db, "evaluations", "score"):  # added in version 0.4
                    db.execute("ALTER TABLE evaluations ADD COLUMN score BLOB")
                if not _has_column(db, "evaluations", "spikes"):  # added in version 0.5
                    for column in ("spikes REAL", "latency_device TEXT", "latency_ms REAL", "latency_batch_ms REAL"):
                        db.execute(f"ALTER TABLE evaluations ADD COLUMN {column}")
                if not _has_column(db, "evaluations", "mean_time_steps"):  # added in version 0.5
                    db.execute("ALTER TABLE evaluations ADD COLUMN mean_time_steps REAL")
        except sqlite3.OperationalError as error:  # also if the file system is read-only
            raise UserError(
                f"{path}: cannot be opened to write ({error}); check that you may write to it and to its folder"
            ) from None
        except sqlite3.DatabaseError as error:
            raise UserError(_not_an_archive(path, error)) from None
        on_error.pop_all()
    return db


def _check_regular(path: Path) -> None:
    """Check that an archive and the files that SQLite keeps beside it are regular files. Opening a named pipe may never end.

    Raises:
        UserError: One of them is something else.
    """
    for file in (path, *(path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal"))):
        files.check_absent_or_regular(file, "move it away, and restore a copy of the archive if there is one")


def _connected(path: Path) -> sqlite3.Connection:
    """Connect to an archive. A new file has the permissions of the user's umask; SQLite's own cannot be written by a group."""
    if path != IN_MEMORY and not path.exists() and os.access(path.parent, os.W_OK):
        path.touch()
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.create_function("crc32", 1, zlib.crc32, deterministic=True)
    return db


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open an archive without changing it. It may be on a read-only file system, or belong to another user.

    Args:
        path: The file.

    Returns:
        The connection.

    Raises:
        UserError: The file is not an archive, or cannot be read.
    """
    _check_regular(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check that you may read it") from None
    with ExitStack() as on_error:
        try:
            db = _connect_to_read(path)
            on_error.callback(db.close)
            if not _has_column(db, "evaluations", "architecture_id"):
                raise sqlite3.DatabaseError("it has no table of evaluations")
        except sqlite3.DatabaseError as error:
            raise UserError(_not_an_archive(path, error)) from None
        on_error.pop_all()
    return db


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect to a file that may not be writable.

    SQLite reads a database in WAL mode with the help of two more files. Where it cannot create them, the file is read as one that
    does not change, or, if committed rows are still in the `-wal` file of a killed process, as a copy of both.
    """
    wal = path.with_name(f"{path.name}-wal")
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        db = sqlite3.connect(_uri(path, "mode=rw"), uri=True, isolation_level=None, timeout=60)
        db.execute("PRAGMA query_only = 1")
        return db
    if not (wal.exists() and wal.stat().st_size):
        return sqlite3.connect(_uri(path, "immutable=1"), uri=True, isolation_level=None)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(wal, copy.with_name(wal.name))
        source, db = sqlite3.connect(copy), sqlite3.connect(":memory:", isolation_level=None)
        source.backup(db)
        source.close()
    return db


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(os.fsencode(path.resolve()))}?{mode}"


def _not_an_archive(path: Path, error: sqlite3.Error) -> str:
    return (
        f"{path}: cannot be opened as an archive ({error}); restore a copy, or move it away and run autospike search to measure "
        "its candidates again"
    )


def columns_of(db: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of the columns of a table; of one that does not exist, none.

    Args:
        db: An open database.
        table: Name of the table.
    """
    return {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}


def _has_column(db: sqlite3.Connection, table: str, column: str) -> bool:
    """Return whether a table exists and has a column.

    Args:
        db: An open database.
        table: Name of the table.
        column: Name of the column.
    """
    return column in columns_of(db, table)


def read_rows(db: sqlite3.Connection, columns: str, where: str, values: tuple[object, ...]) -> tuple[list[tuple[Any, ...]], int]:
    """Read rows of `evaluations` in the order in which they were added, as far as their pages are intact.

    Args:
        db: The connection.
        columns: The columns, as SQL.
        where: A condition, as SQL.
        values: Its parameters.

    Returns:
        The rows, and the number of rows that cannot be read.

    Raises:
        sqlite3.DatabaseError: Nothing can be read.
    """
    try:
        return db.execute(f"SELECT {columns} FROM evaluations WHERE {where} ORDER BY rowid", values).fetchall(), 0
    except sqlite3.DatabaseError:
        query = f"SELECT {columns} FROM evaluations WHERE rowid = ? AND {where}"
        found = [_read_row(db, query, (rowid, *values)) for rowid in range(1, _last_rowid(db) + 1)]
        return [row for row in found if isinstance(row, tuple)], sum(row is False for row in found)


def _read_row(db: sqlite3.Connection, query: str, values: tuple[object, ...]) -> tuple[Any, ...] | bool | None:
    """A row, None if there is none, False if its page is damaged."""
    try:
        row: tuple[Any, ...] | None = db.execute(query, values).fetchone()
    except sqlite3.DatabaseError:
        return False
    return row


def _last_rowid(db: sqlite3.Connection) -> int:
    """The largest row id, from the table or, if its last page is damaged, from the index."""
    try:
        (last,) = db.execute("SELECT max(rowid) FROM evaluations").fetchone()
    except sqlite3.DatabaseError:
        last = max(
            (rowid for (rowid,) in _readable(db.execute("SELECT rowid FROM evaluations ORDER BY architecture_id"))), default=0
        )
    return last or 0


def _readable(rows: Iterator[tuple[int]]) -> Iterator[tuple[int]]:
    """The rows up to the first damaged page."""
    try:
        yield from rows
    except sqlite3.DatabaseError:
        return


def is_intact(db: sqlite3.Connection) -> bool:
    """Return whether all pages of a database are consistent.

    Args:
        db: An open database.
    """
    try:
        return db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
    except sqlite3.DatabaseError:
        return False


def rebuild(path: Path) -> Path:
    """Write a new archive with all rows that can be read, and keep the damaged file under another name.

    Args:
        path: The archive; no connection to it is open.

    Returns:
        The new path of the damaged file.

    Raises:
        UserError: Nothing can be read, or the new file cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.part")
    kept = next(name for i in range(1, 10**6) if not (name := path.with_name(f"{path.name}.damaged-{i}")).exists())
    try:
        old, db = sqlite3.connect(path), sqlite3.connect(new, isolation_level=None)
        db.executescript(SCHEMA)
        db.execute("BEGIN")
        for table in COPIED:
            _copy(old, db, table)
        db.execute("COMMIT")
        db.close()
        old.close()
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        path.rename(kept)
        new.rename(path)
    except (sqlite3.Error, OSError) as error:
        raise UserError(_not_an_archive(path, error if isinstance(error, sqlite3.Error) else sqlite3.Error(str(error)))) from None
    finally:
        new.unlink(missing_ok=True)
    return kept


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> None:
    """Copy the readable rows of a table with their row ids."""
    there = [name for _, name, *_ in old.execute(f"PRAGMA table_info({table})")]
    if not there:
        return
    columns = ["rowid", *there]
    if table == "evaluations":
        rows, _ = read_rows(old, ", ".join(columns), "1", ())
    else:
        rows = list(_readable(old.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY rowid")))
    if "free" not in columns and table in ("evaluations", "proposals"):
        columns, rows = [*columns, "free"], [(*row, 0) for row in rows]
    marks = ", ".join("?" * len(columns))
    new.executemany(f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
