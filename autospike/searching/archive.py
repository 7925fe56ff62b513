"""The archive of a run: one SQLite file with one row for each evaluated candidate, committed generation by generation.

Table `evaluations` has one row per (architecture, protocol). The protocol identifies what a measurement depends on besides the
architecture: weights, splits and calibration. Energy and F_AEB are derived from the counts, with the settings of the search that
was started or resumed last. Table `searches` lists the searches, table `proposals` the candidates of each generation, table
`populations` the population of each search after its newest finished generation, table `checksums` those of the counts.

A damaged row is left out of everything that is read, and is listed in `Archive.damaged`; a search measures it again.
"""

from __future__ import annotations

import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autospike.energy.conventions import DEFAULT, MJ_PER_PJ, Convention, Energy
from autospike.energy.counts import LayerCount, to_rows
from autospike.errors import UserError
from autospike.measurement import Evaluation, Latency
from autospike.memory.allocator import gc_disabled
from autospike.searching import archive_file
from autospike.searching.archived_row import (
    ADDED_COLUMNS,
    DAMAGE,
    EVALUATION,
    LATENCY,
    PROBLEM,
    counts_of,
    energy_of,
    evaluation_of,
    is_named_by,
    packed_score,
)
from autospike.space.architecture import NEVER, Architecture

# The columns of `Archive.table`, besides `id`, `architecture` and `free`.
TABLE = (
    "correct",
    "correct_mask",
    "images",
    "convention",
    "macs",
    "acs",
    "energy_mj",
    "params",
    "time_steps",
    "f_aeb",
    "generation",
    "accuracy",
    "score",
    "mean_time_steps",
)

# Those with text.
TEXT = ("architecture", "id", "convention")

# A condition on the rows of some architectures and a protocol. The ids are one parameter, a JSON array: SQLite limits the number of
# parameters.
NAMED = "architecture_id IN (SELECT value FROM json_each(?)) AND protocol_id = ?"


class Archive:
    """The archive of a run, opened with one protocol and one energy convention.

    Args:
        path: The SQLite file. It is created if it does not exist, unless it is opened to read.
        protocol_id: Only rows of this protocol are read and written.
        convention: Energy convention of the evaluations that are returned.
        read_only: Open an existing file without changing it.

    Attributes:
        damaged: Why a row was left out, by row id.
        unreadable: Number of rows on damaged pages.

    Raises:
        UserError: The file is not an archive, its folder does not exist, or it may not be opened.
    """

    def __init__(self, path: Path, protocol_id: str, convention: Convention = DEFAULT, *, read_only: bool = False) -> None:
        self.path, self.protocol_id, self.convention = path, protocol_id, convention
        self.damaged: dict[int, str] = {}
        self.unreadable = 0
        self._db = archive_file.open_to_read(path) if read_only else archive_file.open_to_write(path)
        self._db.text_factory = partial(str, encoding="utf-8", errors="replace")

    @classmethod
    def newest(cls, path: Path, convention: Convention = DEFAULT) -> Archive:
        """Open an archive to read, with the protocol of the search that was started or resumed last.

        Args:
            path: The SQLite file.
            convention: Energy convention of the evaluations that are returned.

        Returns:
            The archive. Its `protocol_id` is empty if there was no search.

        Raises:
            UserError: The file does not exist or is not an archive.
        """
        archive = cls(path, "", convention, read_only=True)
        try:
            row = archive._read("SELECT protocol_id FROM searches ORDER BY rowid DESC LIMIT 1")[:1]
        except UserError:
            archive.close()
            raise
        if row:
            ((archive.protocol_id,),) = row
        return archive

    def count(self) -> int:
        """Return the number of rows of this protocol."""
        ((number,),) = self._read("SELECT count(*) FROM evaluations WHERE protocol_id = ?", self.protocol_id)
        return int(number)

    def get(self, architecture: Architecture) -> Evaluation | None:
        """Return the evaluation of an architecture.

        Args:
            architecture: The architecture.

        Returns:
            Its evaluation, or None if it was not measured under this protocol.
        """
        return self.get_by_id(architecture.id)

    def get_by_id(self, architecture_id: str) -> Evaluation | None:
        """Return the evaluation of an architecture.

        Args:
            architecture_id: The id of the architecture.

        Returns:
            Its evaluation, or None if it was not measured under this protocol.
        """
        found = self._evaluations("architecture_id = ? AND protocol_id = ?", architecture_id, self.protocol_id)
        return found[0] if found else None

    def get_all_by_id(self, architecture_ids: Sequence[str]) -> dict[str, Evaluation]:
        """Return the evaluations of several architectures.

        Args:
            architecture_ids: The ids of the architectures.

        Returns:
            The evaluation of each architecture that was measured under this protocol, by its id, in the given order.
        """
        found = {e.measurement.architecture.id: e for e in self._evaluations(NAMED, json.dumps(architecture_ids), self.protocol_id)}
        return {name: found[name] for name in architecture_ids if name in found}

    def counts(self, architecture_ids: Sequence[str]) -> dict[str, tuple[LayerCount, ...]]:
        """Return the operation counts of several architectures, without reading the rest of their evaluations.

        Args:
            architecture_ids: The ids of the architectures.

        Returns:
            The counts of each architecture that was measured under this protocol, by its id, in the given order.
        """
        found = {}
        for rowid, _, name, packed in self._sound("counts", NAMED, json.dumps(architecture_ids), self.protocol_id):
            try:
                found[name] = counts_of(packed)
            except DAMAGE as error:
                self._leave_out(rowid, f"its counts are damaged ({_line(error)})")
        return {name: found[name] for name in architecture_ids if name in found}

    def all(self) -> list[Evaluation]:
        """Return all evaluations of this protocol, in the order of measurement."""
        return self._evaluations("protocol_id = ?", self.protocol_id)

    def table(self) -> pd.DataFrame:
        """Return all evaluations of this protocol as a table, in the order of measurement.

        Counts are unpacked only where a row has its energy under another convention than that of this archive.

        Returns:
            The columns `TABLE`, with `accuracy` as a fraction, the id and the canonical JSON of the `architecture`, and whether a
            candidate is `free`; `energy_mj`, `macs` and `acs` under the convention of this archive; `mean_time_steps`, which is T
            for a candidate without early exit, and its `exit_margin`. The index is the row id.
        """
        return self._table()[0]

    @gc_disabled()
    def _table(self) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
        """The table, and for each of its rows whether its energy is not that of the columns."""
        rows = self._sound(f"{', '.join(TABLE)}, free", "protocol_id = ?", self.protocol_id)
        columns: tuple[Any, ...] = tuple(zip(*rows, strict=True)) or ((),) * (len(TABLE) + 4)
        names = ("rowid", "architecture", "id", *TABLE, "free")
        # Texts stay Python objects: pandas would copy all of them to arrays of another form, and back where they are used.
        text = {name: pd.Series(column, dtype=object) for name, column in zip(names, columns, strict=True) if name in TEXT}
        frame = pd.DataFrame(dict(zip(names, columns, strict=True)) | text).set_index("rowid")
        numbers = {name: pd.to_numeric(frame[name], errors="coerce").astype(float) for name in ("macs", "acs", "energy_mj")}
        fraction = frame["correct"].astype(float) / frame["images"].astype(float)
        frame = frame.assign(**numbers, accuracy=fraction.where(frame["score"].isna(), frame["accuracy"].astype(float)))
        frame["free"] = frame["free"].astype(bool)
        frame = _with_exits(frame)
        costs = self.convention.costs
        by_columns = (costs.pj_per_mac * frame["macs"] + costs.pj_per_ac * frame["acs"]) * MJ_PER_PJ
        stale = ~((frame["convention"] == self.convention.name) & (by_columns == frame["energy_mj"])).to_numpy(dtype=bool)
        if not stale.any():
            return frame, stale
        found = [self._energy(rowid) for rowid in frame.index[stale].tolist()]
        for name in ("macs", "acs", "energy_mj"):
            values = frame[name].to_numpy(copy=True)
            values[stale] = [np.nan if total is None else getattr(total, name) for total in found]
            frame[name] = values
        sound = frame["energy_mj"].notna().to_numpy(dtype=bool)
        return frame[sound], stale[sound]

    def damage(self) -> str | None:
        """Return what was left out of all that was read, in one line; None if nothing was."""
        if not self.damaged and not self.unreadable:
            return None
        first = next(iter(self.damaged.values()), f"{self.unreadable} rows are on damaged pages")
        more = len(self.damaged) + self.unreadable - (1 if self.damaged else self.unreadable)
        others = f" (and {more} more)" if more else ""
        return f"{self.path}: {first}{others}; left out, and measured again by autospike search"

    def discard_damaged(self) -> str | None:
        """Delete the damaged rows of this protocol, so that a search measures them again.

        Pages are verified first. A file with a damaged page is rebuilt from the rows that can be read, and is kept under another
        name.

        Returns:
            What was found, in one line; None if nothing is damaged.

        Raises:
            UserError: Nothing can be read, or the archive cannot be written.
        """
        rebuilt = ""
        if not archive_file.is_intact(self._db):
            self.close()
            rebuilt = (
                f"{self.path}: has damaged pages; rebuilt, and the damaged file is kept as {archive_file.rebuild(self.path).name}"
            )
            self._db = archive_file.open_to_write(self.path)
            self._db.text_factory = partial(str, encoding="utf-8", errors="replace")
        checksums = dict(self._read("SELECT evaluation, crc32 FROM checksums"))
        unpacked = []
        for rowid, _, _, checksum in self._sound(archive_file.CHECKSUM, "protocol_id = ?", self.protocol_id):
            if checksums.get(rowid) != checksum:  # of an older version, renumbered by VACUUM, or damaged
                try:
                    zlib.decompress(self._packed_counts(rowid))
                    unpacked.append((rowid, checksum))
                except zlib.error as error:
                    self._leave_out(rowid, f"its counts are damaged ({_line(error)})")
        what = self.damage()
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO checksums VALUES (?, ?)", unpacked)
            self._db.executemany("DELETE FROM evaluations WHERE rowid = ?", [(rowid,) for rowid in self.damaged])
        self.damaged.clear()
        return "; ".join(filter(None, (rebuilt, what))) or None

    def add(self, evaluations: Iterable[Evaluation]) -> None:
        """Store evaluations in one transaction.

        A row that a concurrent search has added is not replaced: it contains the same numbers. A row that was found damaged is.

        Args:
            evaluations: The evaluations.
        """
        rows = [self._row(evaluation) for evaluation in evaluations]
        if rows:
            marks = ", ".join(f":{name}" for name in rows[0])
            # A row that was measured again has what an older version did not measure.
            unless_there = (
                "ON CONFLICT (architecture_id, protocol_id) DO UPDATE SET spikes = excluded.spikes WHERE evaluations.spikes IS NULL"
            )
            with self._transaction():
                self._db.executemany("DELETE FROM evaluations WHERE rowid = ?", [(rowid,) for rowid in self.damaged])
                self._db.executemany(f"INSERT INTO evaluations ({', '.join(rows[0])}) VALUES ({marks}) {unless_there}", rows)
                stored = "SELECT rowid, ? FROM evaluations WHERE architecture_id = ? AND protocol_id = ?"
                self._db.executemany(
                    f"INSERT OR REPLACE INTO checksums {stored}",
                    [(zlib.crc32(row["counts"]), row["architecture_id"], row["protocol_id"]) for row in rows],
                )
            self.damaged.clear()

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
            "score": None if m.score is None else packed_score(m.score),
            "spikes": m.spikes,
            "mean_time_steps": m.mean_time_steps,
        }

    def add_latencies(self, latencies: Mapping[Architecture, Latency]) -> None:
        """Store the latencies of architectures that are in the archive, in place of earlier ones.

        Args:
            latencies: The latency of each architecture.
        """
        rows = [(found.device, found.image_ms, found.batch_ms, a.id, self.protocol_id) for a, found in latencies.items()]
        columns = ", ".join(f"{name} = ?" for name in LATENCY)
        with self._transaction():
            self._db.executemany(f"UPDATE evaluations SET {columns} WHERE architecture_id = ? AND protocol_id = ?", rows)

    def rescore(self, fitness: Callable[[float, float], float]) -> None:
        """Compute energy and F_AEB of all rows again, with the energy convention of this archive.

        A change of the convention or of the fitness needs no new measurement. Only rows that change are written.

        Args:
            fitness: F_AEB as a function of accuracy and energy in mJ.
        """
        table, stale = self._table()
        f_aeb = [fitness(*point) for point in zip(table["accuracy"].tolist(), table["energy_mj"].tolist(), strict=True)]
        changed = stale | (np.array(f_aeb, dtype=float) != table["f_aeb"].to_numpy(dtype=float))
        columns = [table.loc[changed, name].tolist() for name in ("energy_mj", "macs", "acs")]
        scored = [value for value, flag in zip(f_aeb, changed.tolist(), strict=True) if flag]
        rowids = table.index[changed].tolist()
        updates = [(self.convention.name, *values) for values in zip(*columns, scored, rowids, strict=True)]
        with self._transaction():
            self._db.executemany(
                "UPDATE evaluations SET convention = ?, energy_mj = ?, macs = ?, acs = ?, f_aeb = ? WHERE rowid = ?", updates
            )

    def begin(self, search_id: str, settings: str) -> None:
        """Store that a search is started or resumed.

        Args:
            search_id: The id of the search.
            settings: Its settings as JSON.
        """
        row = (search_id, self.protocol_id, settings, datetime.now(UTC).isoformat())
        with self._transaction():
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
        query = (
            "SELECT search_id, generation, architecture_id FROM proposals "
            "WHERE protocol_id = ? AND typeof(generation) = 'integer' AND generation >= 0 ORDER BY rowid"
        )
        rows = self._read(query, self.protocol_id)
        found: dict[str, list[list[str]]] = {}
        for (search_id, generation), proposed in groupby(rows, key=itemgetter(0, 1)):
            generations = found.setdefault(search_id, [])
            if generation > len(rows):  # a generation has at least one candidate, so the number is damaged
                continue
            while len(generations) <= generation:
                generations.append([])
            generations[generation] += [architecture_id for *_, architecture_id in proposed]
        return found

    def algorithms(self) -> dict[str, str]:
        """Return the name of the algorithm of each search of this protocol, by the id of the search."""
        rows = self._read("SELECT search_id, settings FROM searches WHERE protocol_id = ?", self.protocol_id)
        found: dict[str, str] = {}
        for search_id, settings in rows:
            with suppress(ValueError, AttributeError):
                found[search_id] = str(json.loads(settings).get("algorithm", ""))
        return found

    def store_population(self, search_id: str, generation: int, population: Sequence[tuple[str, float | None]]) -> None:
        """Store the population of a search after a finished generation, from which a search resumes.

        Args:
            search_id: The id of the search.
            generation: The generation.
            population: Architecture id and crowding distance of each individual, in order.
        """
        rows = [(search_id, self.protocol_id, generation, i, *individual) for i, individual in enumerate(population)]
        with self._transaction():
            self._db.execute("DELETE FROM populations WHERE search_id = ? AND protocol_id = ?", (search_id, self.protocol_id))
            self._db.executemany("INSERT INTO populations VALUES (?, ?, ?, ?, ?, ?)", rows)

    def population(self, search_id: str) -> tuple[int, list[tuple[str, float | None]]] | None:
        """Return the newest finished generation of a search and its population, as `store_population` stored them.

        Args:
            search_id: The id of the search.

        Returns:
            The generation, and architecture id and crowding distance of each individual. None if no generation is finished, or if
            a candidate of a finished generation is not in the archive.
        """
        key = (search_id, self.protocol_id)
        columns, where = "generation, architecture_id, crowding", "search_id = ? AND protocol_id = ?"
        query = f"SELECT {columns} FROM populations WHERE {where} ORDER BY position"
        rows = self._read(query, *key)
        if not rows or not all(isinstance(g, int) and isinstance(c, float | None) for g, _, c in rows):
            return None
        generation = rows[0][0]
        missing = (
            "SELECT count(*) FROM proposals LEFT JOIN evaluations USING (architecture_id, protocol_id) "
            "WHERE search_id = ? AND proposals.protocol_id = ? AND proposals.generation <= ? AND evaluations.rowid IS NULL"
        )
        if self._read(missing, *key, generation) != [(0,)]:
            return None
        return generation, [(architecture_id, crowding) for _, architecture_id, crowding in rows]

    def proposed_ids(self, search_id: str, generations: int) -> frozenset[str]:
        """Return the ids of all candidates of the first generations of a search, by-product candidates included.

        Args:
            search_id: The id of the search.
            generations: Number of generations.
        """
        query = "SELECT architecture_id FROM proposals WHERE search_id = ? AND protocol_id = ? AND generation < ?"
        return frozenset(name for (name,) in self._read(query, search_id, self.protocol_id, generations))

    def progress(self, search_id: str, generations: int) -> tuple[int, float]:
        """Return the number of candidates that a search has proposed in its first generations, and their greatest F_AEB.

        Args:
            search_id: The id of the search.
            generations: Number of generations.

        Returns:
            The number, without by-product candidates, and the fitness; 0 and 0.0 if there is none.
        """
        query = (
            "SELECT count(*), max(f_aeb) FROM proposals CROSS JOIN evaluations USING (architecture_id, protocol_id) "
            "WHERE search_id = ? AND proposals.protocol_id = ? AND proposals.generation < ? AND proposals.free = 0"
        )
        ((number, best),) = self._read(query, search_id, self.protocol_id, generations)
        return int(number), float(best or 0.0)

    def close(self) -> None:
        """Close the database connection."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit the statements of the block together, or none of them if it raises."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                yield
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error}); mend that, then run the same command again to resume"
            ) from None

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a query that reads tables whose damage is not mended row by row."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: is damaged ({error}); run autospike search, which rebuilds it") from None

    def _without_missing_columns(self, query: str) -> str:
        """A query with the columns that an archive of an older version lacks replaced by their values."""
        present = archive_file.columns_of(self._db, "evaluations")
        for name in ADDED_COLUMNS:
            if name not in present:
                query = re.sub(rf"\b{name}\b", ADDED_COLUMNS[name], query)
        return query

    @gc_disabled()
    def _sound(self, columns: str, where: str, *values: object) -> list[tuple[Any, ...]]:
        """Row id, architecture, its id, and columns of each row that is not damaged. Damaged ones are added to `damaged`."""
        query = self._without_missing_columns(f"{PROBLEM}, rowid, architecture, architecture_id, {columns}")
        try:
            rows, unreadable = archive_file.read_rows(self._db, query, where, values)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: is damaged ({error}); run autospike search, which rebuilds it") from None
        self.unreadable = max(self.unreadable, unreadable)
        sound = []
        for row in rows:
            reason, rowid, architecture, architecture_id = row[:4]
            if reason is None and not is_named_by(architecture, architecture_id):
                reason = "its architecture and its id do not match"
            if reason is None:
                sound.append(row[1:])
            else:
                self._leave_out(rowid, reason, architecture_id)
        return sound

    def _leave_out(self, rowid: int, reason: str, architecture_id: object = None) -> None:
        name = f" ({architecture_id})" if isinstance(architecture_id, str) and architecture_id.isalnum() else ""
        self.damaged[rowid] = f"row {rowid}{name} is damaged: {reason}"

    def _evaluations(self, where: str, *values: object) -> list[Evaluation]:
        """Read the evaluations that satisfy an SQL condition."""
        columns = ", ".join(EVALUATION[1:])
        found = []
        for rowid, architecture, _, *row in self._sound(columns, where, *values):
            try:
                found.append(evaluation_of((architecture, *row), self.convention))
            except DAMAGE as error:
                self._leave_out(rowid, f"its counts are damaged ({_line(error)})")
        return found

    def _packed_counts(self, rowid: int) -> bytes:
        """The column `counts` of a row."""
        (counts,) = self._db.execute("SELECT counts FROM evaluations WHERE rowid = ?", (rowid,)).fetchone()
        return counts

    def _energy(self, rowid: int) -> Energy | None:
        """Energy of a row from its counts; None if they are damaged."""
        try:
            return energy_of(self._packed_counts(rowid), self.convention)
        except (*DAMAGE, sqlite3.DatabaseError) as error:
            self._leave_out(rowid, f"its counts are damaged ({_line(error)})")
            return None


def _with_exits(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with `exit_margin`, and with T as `mean_time_steps` where it is NULL."""
    mean = frame["mean_time_steps"].astype(float)
    margins = [
        NEVER if whole else float(json.loads(text)["exit_margin"])
        for text, whole in zip(frame["architecture"].tolist(), mean.isna().tolist(), strict=True)
    ]
    return frame.assign(mean_time_steps=mean.fillna(frame["time_steps"].astype(float)), exit_margin=np.array(margins, dtype=float))


def _line(error: Exception) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
