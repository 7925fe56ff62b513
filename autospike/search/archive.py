"""The archive of a run: one SQLite file with one row for each evaluated candidate, committed generation by generation.

Table `evaluations` has one row per (architecture, protocol). The protocol identifies what a measurement depends on besides the
architecture: weights, splits and calibration. Energy and F_AEB are derived from the counts, with the settings of the search that
was started or resumed last. Table `searches` lists the searches, table `proposals` the candidates of each generation.
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
"""


class Archive:
    """The archive of a run, opened with one protocol and one energy convention.

    Args:
        path: The SQLite file. It is created if it does not exist.
        protocol_id: Only rows of this protocol are read and written.
        convention: Energy convention of the evaluations that are returned.

    Raises:
        UserError: The file is not an archive, or its folder does not exist.
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

    @classmethod
    def newest(cls, path: Path, convention: Convention = DEFAULT) -> Archive:
        """Open an archive with the protocol of the search that was started or resumed last.

        Args:
            path: The SQLite file.
            convention: Energy convention of the evaluations that are returned.

        Returns:
            The archive. Its `protocol_id` is empty if there was no search.

        Raises:
            UserError: The file is not an archive.
        """
        archive = cls(path, "", convention)
        row = archive._db.execute("SELECT protocol_id FROM searches ORDER BY rowid DESC LIMIT 1").fetchone()
        if row:
            (archive.protocol_id,) = row
        return archive

    def get(self, architecture: Architecture) -> Evaluation | None:
        """Return the evaluation of an architecture.

        Args:
            architecture: The architecture.

        Returns:
            Its evaluation, or None if it was not measured under this protocol.
        """
        rows = self._select("WHERE architecture_id = ? AND protocol_id = ?", architecture.id, self.protocol_id)
        return rows[0] if rows else None

    def all(self) -> list[Evaluation]:
        """Return all evaluations of this protocol, in the order of measurement."""
        return self._select("WHERE protocol_id = ? ORDER BY rowid", self.protocol_id)

    def add(self, evaluations: Iterable[Evaluation]) -> None:
        """Store evaluations in one transaction.

        A row that a concurrent search has added is not replaced: it contains the same numbers.

        Args:
            evaluations: The evaluations.
        """
        rows = [self._row(evaluation) for evaluation in evaluations]
        if rows:
            marks = ", ".join(f":{name}" for name in rows[0])
            unless_there = "ON CONFLICT (architecture_id, protocol_id) DO NOTHING"
            with self._transaction():
                self._db.executemany(f"INSERT INTO evaluations ({', '.join(rows[0])}) VALUES ({marks}) {unless_there}", rows)

    def _row(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the values of the columns."""
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
            "correct_mask": m.correct_mask or None,
        }

    def rescore(self, fitness: Callable[[float, float], float]) -> None:
        """Compute energy and F_AEB of all rows again, with the energy convention of this archive.

        A change of the convention or of the fitness needs no new measurement.

        Args:
            fitness: F_AEB as a function of accuracy and energy in mJ.
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
        """Store that a search is started or resumed.

        Args:
            search_id: The id of the search.
            settings: Its settings as JSON.
        """
        row = (search_id, self.protocol_id, settings, datetime.now(UTC).isoformat())
        self._db.execute("INSERT OR REPLACE INTO searches VALUES (?, ?, ?, ?)", row)

    def propose(
        self, search_id: str, generation: int, candidates: Sequence[Architecture], by_products: Sequence[Architecture] = ()
    ) -> None:
        """Store the candidates of a generation. Storing the same generation again has no effect.

        Args:
            search_id: The id of the search.
            generation: The generation, from 0.
            candidates: The proposed candidates.
            by_products: The by-product candidates.
        """
        flagged = enumerate([*((a, 0) for a in candidates), *((a, 1) for a in by_products)])
        rows = [(search_id, generation, i, a.id, self.protocol_id, flag) for i, (a, flag) in flagged]
        columns = "search_id, generation, position, architecture_id, protocol_id, free"
        with self._transaction():
            self._db.executemany(f"INSERT OR IGNORE INTO proposals ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)

    def proposals(self) -> dict[str, list[list[str]]]:
        """Read the candidates of all searches of this protocol.

        Returns:
            For each search id, a list of generations; each is a list of architecture ids, by-product candidates included.
        """
        found: dict[str, list[list[str]]] = {}
        query = "SELECT search_id, generation, architecture_id FROM proposals WHERE protocol_id = ? ORDER BY rowid"
        for search_id, generation, architecture_id in self._db.execute(query, (self.protocol_id,)):
            generations = found.setdefault(search_id, [])
            while len(generations) <= generation:
                generations.append([])
            generations[generation].append(architecture_id)
        return found

    def close(self) -> None:
        """Close the database connection."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit the statements of the block together, or none of them if it raises."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield

    def _add_missing_columns(self) -> None:
        """Add the columns that an archive of an older version lacks."""
        with self._transaction():
            for table in ("evaluations", "proposals"):
                if "free" not in {name for _, name, *_ in self._db.execute(f"PRAGMA table_info({table})")}:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN free INTEGER NOT NULL DEFAULT 0")
            if "correct_mask" not in {name for _, name, *_ in self._db.execute("PRAGMA table_info(evaluations)")}:
                self._db.execute("ALTER TABLE evaluations ADD COLUMN correct_mask BLOB")

    def _select(self, where: str, *values: object) -> list[Evaluation]:
        """Read the evaluations that satisfy an SQL clause."""
        columns = "architecture, correct, images, counts, params, seconds, f_aeb, generation, free, correct_mask"
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
        correct_mask: bytes | None,
    ) -> Evaluation:
        """Build an evaluation from the columns of a row."""
        measurement = Measurement(
            architecture=Architecture.from_json(architecture),
            correct=correct,
            images=images,
            counts=from_rows(json.loads(zlib.decompress(counts))),
            params=params,
            seconds=seconds,
            correct_mask=correct_mask or b"",
        )
        energy = measurement.energy(self.convention)
        return Evaluation(measurement=measurement, energy=energy, f_aeb=f_aeb, generation=generation, by_product=bool(free))
