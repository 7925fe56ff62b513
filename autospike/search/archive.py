"""The archive is the memory of a search: one SQLite file, one row for every candidate ever measured, committed walk by walk.

Table `evaluations`, one row per (architecture, protocol); a protocol is what a score depends on besides the architecture: weights,
splits, calibration. Energy and F_AEB are those of the search that was begun last; they follow from the counts. Table `searches`
names the searches that were run, `proposals` whom each asked for in each generation.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autospike.energy.conventions import DEFAULT, Convention
from autospike.energy.counts import from_rows, to_rows
from autospike.errors import UserError
from autospike.measurement import Evaluation, Measurement
from autospike.space.architecture import Architecture

SCHEMA = """
CREATE TABLE IF NOT EXISTS evaluations (
    architecture_id TEXT NOT NULL,   -- digest of the architecture
    protocol_id     TEXT NOT NULL,   -- digest of what else the score depends on
    architecture    TEXT NOT NULL,   -- canonical JSON
    accuracy        REAL NOT NULL,   -- on the search split, a fraction
    correct         INTEGER NOT NULL,
    images          INTEGER NOT NULL, -- that the score rests on
    energy_mj       REAL NOT NULL,   -- per image, under the convention of the search begun last
    convention      TEXT NOT NULL,
    macs            REAL NOT NULL,   -- per image, over all time steps
    acs             REAL NOT NULL,
    params          INTEGER NOT NULL,
    time_steps      INTEGER NOT NULL,
    f_aeb           REAL NOT NULL,
    generation      INTEGER NOT NULL, -- in which it was first measured
    free            INTEGER NOT NULL, -- 1: nobody asked for it; it came out of a walk for another
    seconds         REAL NOT NULL,
    measured_at     TEXT NOT NULL,   -- UTC
    counts          BLOB NOT NULL,   -- per layer and time step: zlib of JSON (autospike.energy.counts.LayerCount)
    PRIMARY KEY (architecture_id, protocol_id)
);
CREATE TABLE IF NOT EXISTS searches (
    search_id       TEXT NOT NULL,   -- algorithm and digest of its settings
    protocol_id     TEXT NOT NULL,
    settings        TEXT NOT NULL,   -- JSON
    begun_at        TEXT NOT NULL,   -- UTC; of the last time that it was begun or resumed
    PRIMARY KEY (search_id, protocol_id)
);
CREATE TABLE IF NOT EXISTS proposals (
    search_id       TEXT NOT NULL,
    generation      INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    architecture_id TEXT NOT NULL,
    protocol_id     TEXT NOT NULL,
    free            INTEGER NOT NULL, -- 1: measured along, not asked for
    PRIMARY KEY (search_id, protocol_id, generation, position)
);
"""


class Archive:
    """The archive of one run, seen under one protocol and one energy convention.

    Raises:
        UserError: the file is no archive.
    """

    def __init__(self, path: Path, protocol_id: str, convention: Convention = DEFAULT) -> None:
        self.path, self.protocol_id, self.convention = path, protocol_id, convention
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=60)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.executescript(SCHEMA)
            self._add_missing_columns()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: cannot be opened as an archive ({error}); move it away to start a new one") from None

    def get(self, architecture: Architecture) -> Evaluation | None:
        """The row of an architecture, if it was measured under this protocol."""
        rows = self._select("WHERE architecture_id = ? AND protocol_id = ?", architecture.id, self.protocol_id)
        return rows[0] if rows else None

    def all(self) -> list[Evaluation]:
        """Every row of this protocol, in the order of measurement."""
        return self._select("WHERE protocol_id = ? ORDER BY rowid", self.protocol_id)

    def add(self, evaluations: Iterable[Evaluation]) -> None:
        """Commit the rows of a walk, all or none. A row that another search added meanwhile stays: it holds the same numbers."""
        rows = [self._row(evaluation) for evaluation in evaluations]
        if rows:
            marks = ", ".join(f":{name}" for name in rows[0])
            unless_there = "ON CONFLICT (architecture_id, protocol_id) DO NOTHING"
            with self._transaction():
                self._db.executemany(f"INSERT INTO evaluations ({', '.join(rows[0])}) VALUES ({marks}) {unless_there}", rows)

    def _row(self, evaluation: Evaluation) -> dict[str, Any]:
        m, total = evaluation.measurement, evaluation.energy
        return {
            "architecture_id": m.architecture.id,
            "protocol_id": self.protocol_id,
            "architecture": m.architecture.to_json(),
            "accuracy": m.accuracy,
            "correct": m.correct,
            "images": m.images,
            "energy_mj": total.energy_mj,
            "convention": total.convention,
            "macs": total.macs,
            "acs": total.acs,
            "params": m.params,
            "time_steps": m.architecture.time_steps,
            "f_aeb": evaluation.f_aeb,
            "generation": evaluation.generation,
            "free": int(evaluation.by_product),
            "seconds": m.seconds,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "counts": zlib.compress(json.dumps(to_rows(m.counts)).encode()),
        }

    def rescore(self, fitness: Callable[[float, float], float]) -> None:
        """Set every row's energy to that of this archive's convention, and its F_AEB to `fitness(accuracy, energy_mj)`.

        A new convention or a new fitness re-uses all that was measured.
        """
        updates = [
            {
                **asdict(e.energy),
                "f_aeb": fitness(e.measurement.accuracy, e.energy.energy_mj),
                "architecture_id": e.measurement.architecture.id,
                "protocol_id": self.protocol_id,
            }
            for e in self.all()
        ]
        with self._transaction():
            self._db.executemany(
                "UPDATE evaluations SET energy_mj = :energy_mj, convention = :convention, macs = :macs, acs = :acs, f_aeb = :f_aeb "
                "WHERE architecture_id = :architecture_id AND protocol_id = :protocol_id",
                updates,
            )

    def begin(self, search_id: str, settings: str) -> None:
        """Note that a search begins, or goes on."""
        row = (search_id, self.protocol_id, settings, datetime.now(UTC).isoformat())
        self._db.execute("INSERT OR REPLACE INTO searches VALUES (?, ?, ?, ?)", row)

    def propose(self, search_id: str, generation: int, asked: Sequence[Architecture], free: Sequence[Architecture] = ()) -> None:
        """Note who a search asks for, and who is measured along. Noting the same again changes nothing."""
        noted = enumerate([*((a, 0) for a in asked), *((a, 1) for a in free)])
        rows = [(search_id, generation, i, a.id, self.protocol_id, flag) for i, (a, flag) in noted]
        columns = "search_id, generation, position, architecture_id, protocol_id, free"
        with self._transaction():
            self._db.executemany(f"INSERT OR IGNORE INTO proposals ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)

    def proposals(self) -> dict[str, list[list[str]]]:
        """Architecture ids by search and generation, those that were measured along included."""
        found: dict[str, list[list[str]]] = {}
        query = "SELECT search_id, generation, architecture_id FROM proposals WHERE protocol_id = ? ORDER BY rowid"
        for search_id, generation, architecture_id in self._db.execute(query, (self.protocol_id,)):
            generations = found.setdefault(search_id, [])
            while len(generations) <= generation:
                generations.append([])
            generations[generation].append(architecture_id)
        return found

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is written in the block, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield

    def _add_missing_columns(self) -> None:
        """An archive of an older version knows of nothing that was free."""
        with self._transaction():
            for table in ("evaluations", "proposals"):
                if "free" not in {name for _, name, *_ in self._db.execute(f"PRAGMA table_info({table})")}:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN free INTEGER NOT NULL DEFAULT 0")

    def _select(self, where: str, *values: object) -> list[Evaluation]:
        columns = "architecture, correct, images, counts, params, seconds, f_aeb, generation, free"
        return [self._evaluation(*row) for row in self._db.execute(f"SELECT {columns} FROM evaluations {where}", values)]

    def _evaluation(
        self,
        architecture: str,
        correct: int,
        images: int,
        counts: bytes,
        params: int,
        seconds: float,
        f_aeb: float,
        generation: int,
        free: int,
    ) -> Evaluation:
        measurement = Measurement(
            architecture=Architecture.from_json(architecture),
            correct=correct,
            images=images,
            counts=from_rows(json.loads(zlib.decompress(counts))),
            params=params,
            seconds=seconds,
        )
        energy = measurement.energy(self.convention)
        return Evaluation(measurement=measurement, energy=energy, f_aeb=f_aeb, generation=generation, by_product=bool(free))


def newest_protocol(path: Path) -> str:
    """The protocol of the search that was begun or resumed last; empty where there is none."""
    archive = Archive(path, "")
    row = archive._db.execute("SELECT protocol_id FROM searches ORDER BY rowid DESC LIMIT 1").fetchone()
    archive.close()
    return row[0] if row else ""
