"""The archive: one row for every candidate, the rows of a generation committed together, under one protocol."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import analytic, architectures, evaluation_of, few_examples, measurement, one_line_error, small
from hypothesis import given
from hypothesis import strategies as st
from read_only import run_read_only

from autospike.energy.conventions import CONVENTIONS, Convention, energy
from autospike.energy.counts import to_rows
from autospike.errors import UserError
from autospike.measurement import Evaluation, Measurement
from autospike.searching import archive_file
from autospike.searching.archive import Archive
from autospike.space.architecture import Architecture
from autospike.space.block import Block

# Other programs read this table: names, types and order are a contract.
COLUMNS = {
    "architecture_id": "TEXT",
    "protocol_id": "TEXT",
    "architecture": "TEXT",
    "accuracy": "REAL",
    "correct": "INTEGER",
    "images": "INTEGER",
    "energy_mj": "REAL",
    "convention": "TEXT",
    "macs": "REAL",
    "acs": "REAL",
    "params": "INTEGER",
    "time_steps": "INTEGER",
    "f_aeb": "REAL",
    "generation": "INTEGER",
    "free": "INTEGER",
    "seconds": "REAL",
    "measured_at": "TEXT",
    "counts": "BLOB",
    "correct_mask": "BLOB",
    "score": "BLOB",
    "spikes": "REAL",
    "latency_device": "TEXT",
    "latency_ms": "REAL",
    "latency_batch_ms": "REAL",
    "mean_time_steps": "REAL",
}

ONE, TWO, THREE = (small(blocks=(Block(num_heads=heads),)) for heads in (1, 2, 4))


def evaluation(
    architecture: Architecture = ONE, *, correct: int = 80, f_aeb: float = 0.5, generation: int = 0, by_product: bool = False
) -> Evaluation:
    measured = measurement(architecture, correct=correct, macs=10, acs=30)
    return replace(evaluation_of(measured, f_aeb=f_aeb, generation=generation), by_product=by_product)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.sqlite"


def test_the_table_has_the_documented_columns(path: Path) -> None:
    Archive(path, "p")
    info = sqlite3.connect(path).execute("PRAGMA table_info(evaluations)").fetchall()
    assert [(name, kind) for _, name, kind, *_ in info] == list(COLUMNS.items())
    assert [name for _, name, _, not_null, *_ in info if not not_null] == list(COLUMNS)[-7:]  # unknown in older rows
    assert [name for _, name, *_, key in info if key] == ["architecture_id", "protocol_id"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_an_archive_has_the_permissions_of_the_umask(path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        Archive(path, "p")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_values_of_a_row(path: Path) -> None:
    Archive(path, "p").add([evaluation(generation=3)])
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    row = dict(db.execute("SELECT * FROM evaluations").fetchone())
    counts = json.loads(zlib.decompress(row.pop("counts")))
    assert [count["layer"] for count in counts] == ["stem", "blocks.0"]
    assert counts[1]["acs"] == [15.0, 15.0]
    assert row.pop("measured_at").endswith("+00:00")
    assert row == {
        "score": None,  # of tasks other than classification
        **dict.fromkeys(("spikes", "latency_device", "latency_ms", "latency_batch_ms", "mean_time_steps")),
        "architecture_id": ONE.id,
        "protocol_id": "p",
        "architecture": ONE.to_json(),
        "accuracy": 0.8,
        "correct": 80,
        "images": 100,
        "energy_mj": pytest.approx((4.6 * 20 + 0.9 * 30) * 1e-9, rel=1e-12),
        "convention": "exact",
        "macs": 20.0,
        "acs": 30.0,
        "params": 7,
        "time_steps": 2,
        "f_aeb": 0.5,
        "generation": 3,
        "free": 0,
        "seconds": 0.5,
        "correct_mask": None,
    }


@few_examples
@given(architectures(), st.booleans())
def test_a_measurement_round_trips(architecture: Architecture, by_product: bool) -> None:
    archive = Archive(Path(":memory:"), "p")
    measured = measurement(architecture, correct=77, macs=3, acs=1 / 3)
    stored_evaluation = replace(evaluation_of(measured, f_aeb=1 / 7, generation=2), by_product=by_product)
    archive.add([stored_evaluation])
    assert archive.get(architecture) == stored_evaluation
    assert archive.all() == [stored_evaluation]
    archive.close()


def test_a_measurement_is_readable_after_reopening_the_archive(path: Path) -> None:
    archive = Archive(path, "p")
    archive.add([evaluation()])
    archive.close()
    assert Archive(path, "p").get(ONE) == evaluation()


def test_several_architectures_are_read_in_the_order_of_their_ids(path: Path) -> None:
    archive = Archive(path, "p")
    archive.add([evaluation(ONE), evaluation(TWO, correct=3), evaluation(THREE)])
    Archive(path, "q").add([evaluation(small())])
    names = [THREE.id, "unknown", small().id, TWO.id]
    assert list(archive.get_all_by_id(names).items()) == [(THREE.id, evaluation(THREE)), (TWO.id, evaluation(TWO, correct=3))]
    expected = [(a.id, evaluation(a).measurement.counts) for a in (THREE, TWO)]
    assert list(archive.counts(names).items()) == expected
    assert archive.counts([]) == {}


@pytest.mark.parametrize("counts", ['[{"layer": "a"}]', "[7]", None])
def test_damaged_counts_are_left_out(path: Path, counts: str | None) -> None:
    rows = [{**row, "acs": ["many"]} for row in to_rows(evaluation().measurement.counts)]
    with_damage(path, f"counts = x'{zlib.compress((counts or json.dumps(rows)).encode()).hex()}'")
    archive = Archive(path, "p", read_only=True)
    assert [*archive.counts([ONE.id, TWO.id, THREE.id])] == [ONE.id, THREE.id]
    assert "row 2 is damaged: its counts are damaged" in (archive.damage() or "")


def test_an_unmeasured_architecture_is_not_found(path: Path) -> None:
    archive = Archive(path, "p")
    assert archive.get(ONE) is None
    archive.add([evaluation()])
    assert archive.get(TWO) is None


def archived(path: Path) -> int:
    """How many rows another program sees."""
    db = sqlite3.connect(path)
    (number,) = db.execute("SELECT count(*) FROM evaluations").fetchone()
    db.close()
    return int(number)


def test_a_generation_is_committed_in_one_transaction(path: Path) -> None:
    archive = Archive(path, "p")
    for number, generation in [(1, (ONE,)), (3, (TWO, THREE))]:
        archive.add([evaluation(architecture) for architecture in generation])
        assert archived(path) == number


def test_adding_no_evaluations_adds_no_row(path: Path) -> None:
    archive = Archive(path, "p")
    archive.add([])
    archive.add([evaluation()])
    assert archived(path) == 1


def test_an_interrupted_generation_adds_no_row(path: Path) -> None:
    archive = Archive(path, "p")

    def cut_off() -> Iterator[Evaluation]:
        yield evaluation(ONE)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.add(cut_off())
    assert archived(path) == 0
    archive.add([evaluation(TWO)])
    assert [e.measurement.architecture for e in archive.all()] == [TWO]


def test_all_rows_of_a_generation_are_committed_or_none(path: Path) -> None:
    """The second cannot be written."""
    archive, unwritable = Archive(path, "p"), replace(evaluation(TWO), generation=object())  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        archive.add([evaluation(ONE), unwritable])
    assert archived(path) == 0
    archive.close()
    assert archived(path) == 0


def test_rows_of_a_concurrent_search_are_kept(path: Path) -> None:
    archive, other = Archive(path, "p"), Archive(path, "p")
    other.add([evaluation(ONE, generation=5)])
    archive.add([evaluation(TWO), evaluation(ONE, generation=1, by_product=True)])
    assert archive.all() == [evaluation(ONE, generation=5), evaluation(TWO)]


def test_a_row_marks_by_product_candidates(path: Path) -> None:
    archive = Archive(path, "p")
    archive.add([evaluation(ONE), evaluation(TWO, by_product=True)])
    assert [row["free"] for row in stored(path, "p").values()] == [0, 1]
    assert [e.by_product for e in archive.all()] == [False, True]


# As the version before `free` made them.
OLD_TABLES = """
CREATE TABLE evaluations (
    architecture_id TEXT NOT NULL, protocol_id TEXT NOT NULL, architecture TEXT NOT NULL, accuracy REAL NOT NULL,
    correct INTEGER NOT NULL, images INTEGER NOT NULL, energy_mj REAL NOT NULL, convention TEXT NOT NULL, macs REAL NOT NULL,
    acs REAL NOT NULL, params INTEGER NOT NULL, time_steps INTEGER NOT NULL, f_aeb REAL NOT NULL, generation INTEGER NOT NULL,
    seconds REAL NOT NULL, measured_at TEXT NOT NULL, counts BLOB NOT NULL, PRIMARY KEY (architecture_id, protocol_id)
);
CREATE TABLE proposals (
    search_id TEXT NOT NULL, generation INTEGER NOT NULL, position INTEGER NOT NULL, architecture_id TEXT NOT NULL,
    protocol_id TEXT NOT NULL, PRIMARY KEY (search_id, protocol_id, generation, position)
);
INSERT INTO proposals VALUES ('s', 0, 0, '{name}', 'p');
"""


def write_archive_of_older_version(path: Path) -> None:
    """Write an archive of an older version with ONE, proposed by a search `s`."""
    Archive(path.with_name("new.sqlite"), "p").add([evaluation(ONE, generation=3)])
    row = stored(path.with_name("new.sqlite"), "p")[ONE.id]
    for name in ("free", "correct_mask", "score", "spikes", "latency_device", "latency_ms", "latency_batch_ms", "mean_time_steps"):
        del row[name]
    db = sqlite3.connect(path)
    db.executescript(OLD_TABLES.format(name=ONE.id))
    db.execute(f"INSERT INTO evaluations ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    db.commit()
    db.close()


def test_an_archive_of_an_older_version_is_extended(path: Path) -> None:
    """All of its candidates were proposed."""
    write_archive_of_older_version(path)
    for _ in range(2):  # the second time it has the current version
        archive = Archive(path, "p")
        assert archive.all()[0] == evaluation(ONE, generation=3)
        assert archive.proposals()["s"][0] == [ONE.id]
        archive.propose("s", 1, [TWO], [THREE])
        archive.add([evaluation(TWO), evaluation(THREE, by_product=True)])
        archive.close()
    assert [row["free"] for row in stored(path, "p").values()] == [0, 0, 1]
    rows = sqlite3.connect(path).execute("SELECT architecture_id, free FROM proposals ORDER BY rowid").fetchall()
    assert rows == [(ONE.id, 0), (TWO.id, 0), (THREE.id, 1)]


def test_an_opened_archive_of_an_older_version_has_all_columns(path: Path) -> None:
    """In another order, because a column is added at the end."""
    write_archive_of_older_version(path)
    Archive(path, "p").close()
    for table in ("evaluations", "proposals"):
        old, new = (
            {(name, kind, not_null) for _, name, kind, not_null, *_ in sqlite3.connect(p).execute(f"PRAGMA table_info({table})")}
            for p in (path, path.with_name("new.sqlite"))
        )
        assert old == new


def test_rows_are_in_the_order_of_measurement(path: Path) -> None:
    archive = Archive(path, "p")
    for architecture in (THREE, ONE, TWO):
        archive.add([evaluation(architecture)])
    assert [e.measurement.architecture for e in archive.all()] == [THREE, ONE, TWO]


def test_protocols_are_separate(path: Path) -> None:
    archive, other = Archive(path, "p"), Archive(path, "q")
    archive.add([evaluation(correct=80)])
    assert other.get(ONE) is None
    other.add([evaluation(correct=60)])
    other.add([evaluation(TWO)])
    archive.propose("s", 0, [ONE])
    assert archive.get(ONE) == evaluation(correct=80)
    assert other.get(ONE) == evaluation(correct=60)
    assert archive.all() == [evaluation(correct=80)]
    assert other.all() == [evaluation(correct=60), evaluation(TWO)]
    assert other.proposals() == {}


# MACs and ACs of `evaluation` for T = 2: 10 real MACs per step, and 9 dense MACs with rate 0.25 or 30 accumulations.
OPERATIONS = {"exact": (20.0, 30.0), "rate": (20.0, 4.5), "binary-only": (20.0, 4.5), "memory": (20.0, 30.0)}
PJ = {"exact": (4.6, 0.9), "rate": (4.6, 0.9), "binary-only": (4.6, 0.9), "memory": (24.6, 30.9)}


def energy_mj(convention: str) -> float:
    """Return the energy of `evaluation`."""
    (macs, acs), (pj_per_mac, pj_per_ac) = OPERATIONS[convention], PJ[convention]
    return (pj_per_mac * macs + pj_per_ac * acs) * 1e-9


def stored(path: Path, protocol: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a protocol by architecture, as another program reads them."""
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    rows = db.execute("SELECT * FROM evaluations WHERE protocol_id = ? ORDER BY rowid", (protocol,)).fetchall()
    db.close()
    return {row["architecture_id"]: dict(row) for row in rows}


@pytest.mark.parametrize("convention", OPERATIONS)
def test_evaluations_are_read_under_any_convention(path: Path, convention: str) -> None:
    """Rows contain counts, so evaluations are computed under any convention; nothing is written."""
    Archive(path, "p").add([evaluation()])
    before = stored(path, "p")
    (found,) = Archive(path, "p", CONVENTIONS[convention]).all()
    assert Archive(path, "p", CONVENTIONS[convention]).get(ONE) == found
    assert (found.energy.convention, found.energy.macs, found.energy.acs) == (convention, *OPERATIONS[convention])
    assert found.energy.energy_mj == pytest.approx(energy_mj(convention), rel=1e-12)
    assert found.measurement == evaluation().measurement
    assert stored(path, "p") == before


def test_the_default_convention_is_exact(path: Path) -> None:
    Archive(path, "p").add([evaluation()])
    assert [e.energy.convention for e in Archive(path, "p").all()] == ["exact"]


def test_rescore_changes_energies_and_fitness_of_its_protocol_only(path: Path) -> None:
    archive, other = Archive(path, "p"), Archive(path, "q")
    archive.add([evaluation(ONE, correct=80)])
    archive.add([evaluation(TWO, correct=40, generation=3)])
    other.add([evaluation(ONE, f_aeb=0.25)])
    before, others = stored(path, "p"), stored(path, "q")
    for convention in ("binary-only", "memory", "exact"):
        Archive(path, "p", CONVENTIONS[convention]).rescore(lambda accuracy, energy_mj: accuracy + energy_mj * 1e9)
        macs, acs = OPERATIONS[convention]
        for name, accuracy in ((ONE.id, 0.8), (TWO.id, 0.4)):
            row = stored(path, "p")[name]
            assert (row["convention"], row["macs"], row["acs"]) == (convention, macs, acs)
            assert row["energy_mj"] == pytest.approx(energy_mj(convention), rel=1e-12)
            assert row["f_aeb"] == pytest.approx(accuracy + energy_mj(convention) * 1e9, rel=1e-12)
            rescored = {"energy_mj", "convention", "macs", "acs", "f_aeb"}
            assert {k: v for k, v in row.items() if k not in rescored} == {
                k: v for k, v in before[name].items() if k not in rescored
            }
        assert stored(path, "q") == others
    assert [e.measurement for e in archive.all()] == [e.measurement for e in (evaluation(ONE), evaluation(TWO, correct=40))]


def test_rescore_is_committed_and_keeps_the_order(path: Path) -> None:
    archive = Archive(path, "p")
    for architecture in (THREE, ONE, TWO):
        archive.add([evaluation(architecture)])
    archive.rescore(lambda _accuracy, _energy_mj: 1.0)
    assert list(stored(path, "p")) == [THREE.id, ONE.id, TWO.id]
    assert {row["f_aeb"] for row in stored(path, "p").values()} == {1.0}


def test_rescore_of_an_empty_archive(path: Path) -> None:
    archive = Archive(path, "p")
    archive.rescore(lambda _accuracy, _energy_mj: 1.0)
    assert archive.all() == []


def test_proposals_by_search_and_generation(path: Path) -> None:
    archive = Archive(path, "p")
    archive.propose("nsga2-1", 0, [ONE, TWO])
    archive.propose("aeb-2", 0, [TWO])
    archive.propose("nsga2-1", 1, [THREE])
    assert archive.proposals() == {"nsga2-1": [[ONE.id, TWO.id], [THREE.id]], "aeb-2": [[TWO.id]]}


def test_by_product_candidates_are_stored_after_proposed_ones(path: Path) -> None:
    archive = Archive(path, "p")
    archive.propose("s", 0, [TWO], [THREE, ONE])
    assert archive.proposals() == {"s": [[TWO.id, THREE.id, ONE.id]]}
    rows = sqlite3.connect(path).execute("SELECT position, architecture_id, free FROM proposals ORDER BY position").fetchall()
    assert rows == [(0, TWO.id, 0), (1, THREE.id, 1), (2, ONE.id, 1)]


def test_repeated_proposals_change_nothing(path: Path) -> None:
    archive = Archive(path, "p")
    for _ in range(2):
        archive.propose("s", 0, [TWO], [ONE])
        archive.propose("s", 1, [THREE])
    assert archive.proposals() == {"s": [[TWO.id, ONE.id], [THREE.id]]}
    assert sqlite3.connect(path).execute("SELECT count(*) FROM proposals").fetchone() == (3,)


def test_the_newest_protocol(path: Path) -> None:
    Archive(path, "empty").close()
    assert Archive.newest(path).protocol_id == ""
    Archive(path, "old").begin("nsga2-1", "{}")
    Archive(path, "new").begin("nsga2-1", "{}")
    Archive(path, "empty")
    assert Archive.newest(path).protocol_id == "new"
    Archive(path, "old").begin("nsga2-1", "{}")
    assert Archive.newest(path).protocol_id == "old"


def test_a_file_that_is_not_a_database_is_a_one_line_error(path: Path) -> None:
    path.write_text("accuracy,energy\n0.9,1\n" * 100)
    message = one_line_error(lambda: Archive(path, "p"))
    assert message.startswith(f"{path}: ")
    assert path.read_text().startswith("accuracy")


def test_a_missing_folder_is_a_one_line_error(tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "archive.sqlite"
    assert one_line_error(lambda: Archive(gone, "p")).startswith(f"{gone}: ")


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
def test_energy_computed_from_archived_counts_equals_that_of_the_measurement(path: Path, convention: Convention) -> None:
    """With what is stored, to the last bit."""
    archive = Archive(path, "p", convention)
    measured: Measurement = analytic(THREE)
    archive.add([evaluation_of(measured, f_aeb=0.1, generation=0, convention=convention)])
    row = stored(path, "p")[THREE.id]
    (again,) = archive.all()
    total = energy(again.measurement.counts, convention)
    assert again.energy == total
    assert (row["accuracy"], row["energy_mj"], row["macs"], row["acs"]) == (
        again.measurement.accuracy,
        total.energy_mj,
        total.macs,
        total.acs,
    )


# Each makes the row of TWO unusable; its row id is 2.
ROW_DAMAGES = {
    "no images": "images = 0",
    "more correct than images": "correct = 101",
    "text as a number": "correct = 'many'",
    "a negative number": "params = -1",
    "accuracy": "accuracy = 0.25",
    "infinite fitness": "f_aeb = 9e999",
    "a generation": "generation = 'x'",
    "a flag": "free = 7",
    "another architecture": f"architecture = '{THREE.to_json()}'",
    "no architecture": "architecture = '{'",
    "bytes as an architecture": "architecture = CAST(x'ff00fe' AS TEXT)",
    "counts as text": "counts = 'x'",
    "counts cut off": "counts = substr(counts, 1, 30)",
    "counts of zeros": "counts = zeroblob(100)",
}


def with_damage(path: Path, change: str) -> None:
    archive = Archive(path, "p")
    archive.add([evaluation(ONE), evaluation(TWO), evaluation(THREE)])
    archive.close()
    db = sqlite3.connect(path)
    with db:
        db.execute(f"UPDATE evaluations SET {change} WHERE rowid = 2")
    db.close()


@pytest.mark.parametrize("name", ROW_DAMAGES)
def test_a_damaged_row_is_left_out_and_named(path: Path, name: str) -> None:
    with_damage(path, ROW_DAMAGES[name])
    archive = Archive(path, "p", read_only=True)
    assert archive.all() == [evaluation(ONE), evaluation(THREE)]
    message = archive.damage()
    assert message is not None
    assert message.startswith(f"{path}: row 2")
    assert message.endswith("left out, and measured again by autospike search")
    assert len(message.splitlines()) == 1
    assert archive.get(TWO) is None
    archive.close()


@pytest.mark.parametrize("name", ROW_DAMAGES)
def test_a_search_replaces_a_damaged_row(path: Path, name: str) -> None:
    with_damage(path, ROW_DAMAGES[name])
    archive = Archive(path, "p")
    assert "row 2" in (archive.discard_damaged() or "")
    assert archive.discard_damaged() is None
    assert archive.get(TWO) is None
    archive.add([evaluation(TWO)])
    assert archive.all() == [evaluation(ONE), evaluation(THREE), evaluation(TWO)]


def test_an_archive_after_vacuum_is_not_damaged(path: Path) -> None:
    """VACUUM numbers the rows again, so the checksums are those of other rows."""
    with_damage(path, "correct = correct")
    db = sqlite3.connect(path)
    db.execute("DELETE FROM evaluations WHERE rowid = 1")
    db.commit()
    db.execute("VACUUM")
    db.close()
    archive = Archive(path, "p")
    assert archive.discard_damaged() is None
    assert archive.all() == [evaluation(TWO), evaluation(THREE)]


def test_a_row_that_is_found_damaged_when_it_is_read_is_replaced(path: Path) -> None:
    """Its counts can be unpacked, but are not counts."""
    with_damage(path, f"counts = x'{zlib.compress(b'[{}]').hex()}'")
    archive = Archive(path, "p")
    assert archive.discard_damaged() is None
    assert archive.get(TWO) is None
    archive.add([evaluation(TWO)])
    assert archive.get(TWO) == evaluation(TWO)
    assert archive.count() == 3


@pytest.mark.parametrize("change", ["energy_mj = 'x'", "macs = 9e999", "convention = 'rate'", "acs = acs + 1"])
def test_an_odd_energy_is_computed_again_from_the_counts(path: Path, change: str) -> None:
    with_damage(path, change)
    archive = Archive(path, "p")
    assert archive.discard_damaged() is None
    assert archive.table()["energy_mj"].tolist() == [evaluation().energy.energy_mj] * 3
    archive.rescore(lambda _accuracy, _energy_mj: 0.5)
    assert {row["energy_mj"] for row in stored(path, "p").values()} == {evaluation().energy.energy_mj}


@pytest.mark.parametrize("convention", OPERATIONS)
def test_a_table_has_what_the_evaluations_have(path: Path, convention: str) -> None:
    archive = Archive(path, "p", CONVENTIONS[convention])
    archive.add([evaluation(ONE, correct=33, generation=2), evaluation(TWO, by_product=True)])
    Archive(path, "q").add([evaluation(THREE)])
    expected = [
        (
            e.measurement.architecture.id,
            e.measurement.architecture.to_json(),
            *(e.measurement.correct, e.measurement.images, e.measurement.accuracy),
            *(e.energy.energy_mj, e.energy.macs, e.energy.acs),
            *(e.measurement.params, e.measurement.architecture.time_steps, e.f_aeb, e.generation, e.by_product),
        )
        for e in archive.all()
    ]
    columns = ["id", "architecture", "correct", "images", "accuracy", "energy_mj", "macs", "acs"]
    columns += ["params", "time_steps", "f_aeb", "generation", "free"]
    assert list(archive.table()[columns].itertuples(index=False, name=None)) == expected


def test_a_candidate_with_early_exit(path: Path) -> None:
    """Its margin is part of the architecture, its mean number of steps a column; candidates without it have T there."""
    early = replace(ONE, exit_margin=0.3)
    found = evaluation(early)
    counts = tuple(count.running((1.0, 0.25)) for count in found.measurement.counts)
    measured = replace(found.measurement, counts=counts, mean_time_steps=1.25)
    archive = Archive(path, "p")
    archive.add([evaluation(TWO), replace(found, measurement=measured, energy=measured.energy(CONVENTIONS["exact"]))])
    assert archive.get(early).measurement == measured
    table = archive.table()
    assert table["exit_margin"].tolist() == [1.0, 0.3]
    assert table["mean_time_steps"].tolist() == [2.0, 1.25]
    assert table["energy_mj"].iloc[1] == pytest.approx((4.6 * 10 * 1.25 + 0.9 * (15 + 15 / 4)) * 1e-9, rel=1e-12)
    sqlite3.connect(path, isolation_level=None).execute("UPDATE evaluations SET mean_time_steps = 3 WHERE mean_time_steps > 1")
    assert archive.get(early) is None  # damaged: T is 2
    assert archive.table()["id"].tolist() == [TWO.id]


def filled(path: Path, number: int) -> list[Evaluation]:
    many = [evaluation(small(embed_dim=16, time_steps=1 + i % 9, blocks=(Block(mlp_ratio=1 + i),))) for i in range(number)]
    archive = Archive(path, "p")
    archive.begin("s", "{}")
    archive.propose("s", 0, [e.measurement.architecture for e in many])
    archive.add(many)
    archive.close()
    return many


def overwrite_page(path: Path, marker: bytes) -> None:
    """Overwrite the page that has a row with zeros and ones, as a failing disk may."""
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    page = content.index(marker) // size * size
    content[page : page + size] = b"\xaa" * size
    path.write_bytes(content)


def test_rows_of_intact_pages_are_read_and_the_others_measured_again(path: Path) -> None:
    many = filled(path, 60)
    overwrite_page(path, many[30].measurement.architecture.to_json().encode())
    damaged = path.read_bytes()
    reader = Archive(path, "p", read_only=True)
    found = reader.all()
    reader.close()
    assert 0 < len(found) < 60
    assert [e for e in many if e in found] == found
    message = reader.damage()
    assert message is not None
    assert message.startswith(f"{path}: ")
    assert "on damaged pages" in message
    assert path.read_bytes() == damaged

    archive = Archive(path, "p")
    assert "has damaged pages; rebuilt, and the damaged file is kept as archive.sqlite.damaged-1" in (
        archive.discard_damaged() or ""
    )
    assert path.with_name("archive.sqlite.damaged-1").read_bytes() == damaged
    assert archive.all() == found
    assert archive.proposals() == {"s": [[e.measurement.architecture.id for e in many]]}
    archive.add([e for e in many if e not in found])
    archive.close()
    assert sorted(p.name for p in path.parent.iterdir()) == ["archive.sqlite", "archive.sqlite.damaged-1"]
    assert len(Archive(path, "p").all()) == 60


@pytest.mark.parametrize("content", [b"", b"no archive", b"SQLite format 3\0" + b"\xaa" * 5000])
def test_a_file_that_is_no_archive_is_an_error_of_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = one_line_error(lambda: Archive(path, "p", read_only=True))
    assert message.startswith(f"{path}: cannot be opened as an archive")
    assert path.read_bytes() == content


def test_reading_changes_nothing(path: Path) -> None:
    filled(path, 5)
    before = path.read_bytes()
    archive = Archive.newest(path)
    assert len(archive.all()) == archive.count() == 5
    with pytest.raises(UserError):
        archive.add([evaluation(THREE)])
    archive.close()
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"archive.sqlite": before}


READ = """
import sys
from pathlib import Path
from autospike.searching import archive_file
from autospike.searching.archive import Archive
archive = Archive.newest(Path(sys.argv[1]))
print(len(archive.all()), archive.proposals())
"""


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["closed", "killed"])
def test_an_archive_that_may_not_be_written_can_be_read(path: Path, tmp_path: Path, killed: bool) -> None:
    """A killed search leaves committed rows in the write-ahead log."""
    filled(path, 5)
    folder = tmp_path / "read-only"
    folder.mkdir()
    writer = Archive(path, "p")
    if killed:
        writer.add([evaluation(THREE)])
        shutil.copyfile(f"{path}-wal", folder / f"{path.name}-wal")
    shutil.copyfile(path, folder / path.name)
    writer.close()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    done = run_read_only(folder, [sys.executable, "-c", READ, str(folder / path.name)])
    assert done.stdout.startswith(f"{5 + killed} {{'s': [["), done.stderr
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_the_population_of_the_newest_finished_generation(path: Path) -> None:
    archive = Archive(path, "p")
    assert archive.population("s") is None
    archive.propose("s", 0, [ONE, TWO])
    archive.add([evaluation(ONE, f_aeb=0.25), evaluation(TWO, f_aeb=0.75)])
    archive.store_population("s", 0, [(TWO.id, float("inf")), (ONE.id, None)])
    assert archive.population("s") == (0, [(TWO.id, float("inf")), (ONE.id, None)])
    assert Archive(path, "q").population("s") is None
    archive.propose("s", 1, [THREE])
    assert archive.population("s") is not None
    archive.store_population("s", 1, [(THREE.id, 1.5)])
    assert archive.population("s") is None  # a candidate of it is not archived, because its row was damaged
    archive.add([evaluation(THREE, f_aeb=0.5)])
    assert archive.population("s") == (1, [(THREE.id, 1.5)])
    archive.propose("s", 2, [], [TWO])
    assert archive.proposed_ids("s", 2) == {ONE.id, TWO.id, THREE.id}
    assert archive.proposed_ids("s", 1) == {ONE.id, TWO.id}
    assert [archive.progress("s", generations) for generations in (3, 2, 1, 0)] == [(3, 0.75), (3, 0.75), (2, 0.75), (0, 0.0)]


def test_an_archive_in_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Archive(Path(":memory:"), "protocol").close()
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_cannot_be_opened_is_closed(path: Path) -> None:
    """An open connection would leave the two files of WAL mode beside it."""
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("CREATE VIEW evaluations AS SELECT 1 AS architecture_id")
    database.close()
    with pytest.raises(UserError) as caught:
        archive_file.open_to_write(path)
    assert caught.value.__context__ is not None  # the traceback, which would keep the connection
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_a_named_pipe_in_place_of_a_file_is_an_error_of_one_line(path: Path, suffix: str, read_only: bool) -> None:
    """Opening it would wait for ever."""
    if suffix:
        Archive(path, "p", CONVENTIONS["exact"]).close()
    pipe = path.with_name(f"{path.name}{suffix}")
    os.mkfifo(pipe)
    message = one_line_error(lambda: Archive(path, "p", CONVENTIONS["exact"], read_only=read_only))
    assert message == f"{pipe}: not a file; move it away, and restore a copy of the archive if there is one"
