"""A search that varies the exit margin, on synthetic measurements: by-products, selection, resuming and limits."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import analytic, edited, one_line_error
from searches import KilledError, make_search, recording, settings_of
from tiny_experiment import TINY_EXPERIMENT

from autospike.config import Experiment, SearchConfig
from autospike.config.experiment import EXIT_MARGINS
from autospike.measurement import Measurement
from autospike.report.tables import candidates_of, gene_shares_of
from autospike.searching.archive import Archive
from autospike.searching.constraints import Constraints
from autospike.searching.selection import front, within_limits
from autospike.space.architecture import Architecture

EXPERIMENT = Experiment.from_dict(TINY_EXPERIMENT)
EARLY = EXPERIMENT.changed({"search": {"early_exit": True}})
WRITTEN = {**TINY_EXPERIMENT["space"], "time_steps": [1, 2], "exit_margin": [0.3, 0.7, 1.0]}  # type: ignore[dict-item]


def with_exits(architecture: Architecture) -> Measurement:
    """As `analytic`; with a margin m, step 2 runs for a share m of the images, and a share 0.1 (1 - m) of accuracy is lost."""
    whole = analytic(replace(architecture, exit_margin=1.0))
    if not architecture.exits_early:
        return replace(whole, architecture=architecture)
    share = architecture.exit_margin
    return replace(
        whole,
        architecture=architecture,
        correct=round(whole.correct * (1 - 0.1 * (1 - share))),
        counts=tuple(count.running((1.0, share)) for count in whole.counts),
        mean_time_steps=1 + share,
    )


def searched(path: Path, algorithm: str = "nsga2", **changed: Any) -> Archive:
    archive = Archive(path, "p")
    measured: list[Architecture] = []
    config = SearchConfig.model_validate({**settings_of(algorithm).model_dump(), "early_exit": True})
    make_search(archive, config, recording(measured, measure=with_exits, **changed), space_dict=WRITTEN).run()
    return archive


def contents(path: Path) -> list[Any]:
    db = sqlite3.connect(path)
    names = [row[1] for row in db.execute("PRAGMA table_info(evaluations)") if row[1] not in ("seconds", "measured_at")]
    tables = ("proposals", "populations")
    found = [db.execute(f"SELECT {', '.join(names)} FROM evaluations ORDER BY rowid").fetchall()]
    return found + [db.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in tables]


def test_the_option_adds_the_margins_to_the_searched_space_only() -> None:
    assert EXPERIMENT.searched_space == EXPERIMENT.search_space == EARLY.search_space
    assert EARLY.searched_space == replace(EARLY.search_space, exit_margin=EARLY.searched_space.exit_margin)
    assert EARLY.searched_space.exit_margin.values == EXIT_MARGINS
    assert EARLY.searched_space.largest() == EARLY.search_space.largest()
    narrowed = EARLY.changed({"search": {"space": {**TINY_EXPERIMENT["space"], "time_steps": [2]}}})  # type: ignore[dict-item]
    assert narrowed.searched_space.size() == EARLY.search_space.size() / 2 * len(EXIT_MARGINS)
    assert narrowed.archived_space == EARLY.searched_space


def test_searches_without_the_option_keep_their_identity() -> None:
    assert "early_exit" not in EXPERIMENT.search.identity
    assert EARLY.search.identity["early_exit"] is True


def test_the_option_is_refused_where_it_cannot_be_measured() -> None:
    latency = {"search": {"early_exit": True, "objectives": ["accuracy", "latency_ms"]}}
    assert "latency_ms" in one_line_error(lambda: EXPERIMENT.changed(latency))
    dense = Experiment.load(Path(__file__).parents[2] / "experiments" / "shapes_segmentation.yaml")
    assert "search.early_exit: only for classification" in one_line_error(lambda: dense.changed({"search": {"early_exit": True}}))


@pytest.mark.parametrize("algorithm", ["nsga2", "aeb"])
def test_every_margin_is_measured_as_a_by_product(algorithm: str, tmp_path: Path) -> None:
    archive = searched(tmp_path / "a.sqlite", algorithm)
    found = [e.measurement.architecture for e in archive.all()]
    early = [a for a in found if a.exits_early]
    assert {a.exit_margin for a in early} == {0.3, 0.7}
    assert {replace(a, exit_margin=1.0) for a in early} == {a for a in found if a.time_steps == 2 and not a.exits_early}
    assert len(early) == 2 * len({replace(a, exit_margin=1.0) for a in early})
    assert all(a.time_steps == 2 for a in early)
    proposed = [e for e in archive.all() if not e.by_product]
    assert len(proposed) == 24


def test_candidates_with_early_exit_are_on_the_front_and_in_the_population(tmp_path: Path) -> None:
    archive = searched(tmp_path / "a.sqlite")
    best = front(archive.all())
    early = [e for e in best if e.measurement.architecture.exits_early]
    assert early
    (name,) = archive.proposals()
    generation, population = archive.population(name) or (0, [])
    assert generation == 3
    assert {e.measurement.architecture.id for e in early} & {name for name, _ in population}


@pytest.mark.parametrize("killed_after", [10, 70])
def test_a_killed_search_resumes_to_the_archive_of_an_uninterrupted_one(killed_after: int, tmp_path: Path) -> None:
    searched(tmp_path / "whole.sqlite").close()
    with pytest.raises(KilledError):
        searched(tmp_path / "killed.sqlite", kill_after=killed_after)
    searched(tmp_path / "killed.sqlite").close()
    assert contents(tmp_path / "killed.sqlite") == contents(tmp_path / "whole.sqlite")


def test_selection_leaves_early_exit_out_when_the_option_is_off(tmp_path: Path) -> None:
    table = searched(tmp_path / "a.sqlite").table()
    limits = Constraints()
    assert within_limits(table, limits, EARLY).all()
    assert within_limits(table, limits, EXPERIMENT).tolist() == (table["exit_margin"] == 1).tolist()


def test_tables_name_estimates(tmp_path: Path) -> None:
    table = searched(tmp_path / "a.sqlite").table()
    found = candidates_of(table)
    early = found["exit_margin"] < 1
    assert found["energy_is_estimate"].tolist() == early.tolist()
    assert (found["mean_time_steps"][~early] == found["time_steps"][~early]).all()
    assert found["mean_time_steps"][early].tolist() == pytest.approx((1 + found["exit_margin"][early]).tolist())
    without = candidates_of(table[table["exit_margin"] == 1])
    assert "exit_margin" not in without
    assert "energy_is_estimate" not in without


def test_shares_of_the_margins(tmp_path: Path) -> None:
    """A candidate of one step has no margin; the others have each margin equally often."""
    architectures = searched(tmp_path / "a.sqlite").table()["architecture"].tolist()
    space = Experiment.from_dict(edited(TINY_EXPERIMENT, "space", WRITTEN)).search_space
    for written in (architectures, architectures[::-1]):
        (shares,) = gene_shares_of(space, written)
        assert shares["exit_margin"] == pytest.approx({"0.3": 1 / 3, "0.7": 1 / 3, "1": 1 / 3})
        assert shares["time_steps"] == pytest.approx({"1": 1 / 4, "2": 3 / 4})
