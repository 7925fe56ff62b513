"""The trials of a search in a storage of Optuna, read back by Optuna and compared with the archive."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import one_line_error
from cli_runner import autospike
from searches import KilledError, make_search, recording, settings_of
from slow_parameters import slow_except
from tiny_experiment import TINY_EXPERIMENT
from tiny_runs import call

from autospike.config import ConstraintsConfig, Experiment, SearchConfig
from autospike.config.search import ALGORITHM_NAMES
from autospike.events import Event, GenerationEvent, ignore
from autospike.searching.archive import Archive
from autospike.searching.constraints import Constraints
from autospike.searching.optuna_study import StudyWriter, open_storage

optuna = pytest.importorskip("optuna")


def searched(
    archive_file: Path,
    storage: str | None,
    *,
    algorithm: str = "nsga2",
    generations: int = 3,
    kill_after: float = float("inf"),
    on_event: Callable[[Event], None] = ignore,
    prepare: Callable[[StudyWriter], None] = lambda _writer: None,
) -> list[str]:
    """Search, with the trials in a storage if one is given; returns the failures that were reported."""
    archive, failures = Archive(archive_file, "p"), list[str]()
    try:
        search = make_search(archive, settings_of(algorithm, generations=generations), recording([], kill_after=kill_after))
        writer = None if storage is None else StudyWriter.of(search, open_storage(storage), failures.append)
        if writer is not None:
            prepare(writer)

        def report(event: Event) -> None:
            for callback in (writer or ignore, on_event):
                callback(event)

        replace(search, on_event=report).run()
    finally:
        archive.close()
    return failures


def the_study(name: str) -> Any:
    """The only study of a storage, as another program opens it."""
    journal = optuna.storages.journal
    storage = name if "://" in name else optuna.storages.JournalStorage(journal.JournalFileBackend(name))
    return optuna.load_study(study_name=None, storage=storage)


def trials_of(name: str) -> list[Any]:
    """Everything of the trials except the times at which they were written."""
    return [(t.number, t.values, t.params, t.distributions, t.user_attrs, t.constraints) for t in the_study(name).trials]


def contents(archive_file: Path) -> list[Any]:
    """All columns except the moment and the duration of a measurement."""
    db = sqlite3.connect(archive_file)
    columns = "architecture_id, architecture, accuracy, energy_mj, f_aeb, generation, free, params, time_steps, counts"
    rows = db.execute(f"SELECT {columns} FROM evaluations ORDER BY rowid").fetchall()
    return (
        rows + db.execute("SELECT * FROM proposals ORDER BY rowid").fetchall() + db.execute("SELECT * FROM populations").fetchall()
    )


@pytest.mark.parametrize("algorithm", slow_except(["nsga2"], ALGORITHM_NAMES))
def test_a_study_has_every_candidate_of_the_archive(algorithm: str, tmp_path: Path) -> None:
    archive_file, url = tmp_path / "archive.sqlite", f"sqlite:///{tmp_path}/optuna.db"
    searched(archive_file, url, algorithm=algorithm, generations=2)
    study = the_study(url)
    assert study.metric_names == ["accuracy", "energy_mj"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.user_attrs == {"run": str(tmp_path), "convention": "exact"}
    db = sqlite3.connect(archive_file)
    db.row_factory = sqlite3.Row
    query = "SELECT * FROM proposals JOIN evaluations USING (architecture_id, protocol_id) ORDER BY proposals.rowid"
    rows = db.execute(query).fetchall()
    assert len(study.trials) == len(rows) > 12
    for trial, row in zip(study.trials, rows, strict=True):
        assert trial.values == [row["accuracy"], row["energy_mj"]]
        assert trial.user_attrs == {
            "architecture": row["architecture_id"],
            "accuracy": row["accuracy"],
            "energy_uj": pytest.approx(row["energy_mj"] * 1000, rel=1e-12),
            "time_steps": row["time_steps"],
            "params": row["params"],
            "f_aeb": row["f_aeb"],
            "generation": row["generation"],
            "by_product": bool(row["free"]),
        }
        stage = json.loads(row["architecture"])["stages"][0]
        assert trial.params["time_steps"] == row["time_steps"]
        assert trial.params["stages.0.embed_dim"] == stage["embed_dim"]
        assert trial.params["stages.0.depth"] == len(stage["blocks"])
        assert {name for name in trial.params if name.endswith(".mlp_ratio")} == {
            f"stages.0.blocks.{i}.mlp_ratio" for i in range(len(stage["blocks"]))
        }


@pytest.mark.parametrize("algorithm", slow_except(["nsga2"], ALGORITHM_NAMES))
def test_a_storage_changes_nothing_and_a_killed_search_resumes_to_the_same_trials(algorithm: str, tmp_path: Path) -> None:
    whole, killed = f"{tmp_path}/whole.log", f"{tmp_path}/killed.log"
    searched(tmp_path / "plain.sqlite", None, algorithm=algorithm)
    searched(tmp_path / "whole.sqlite", whole, algorithm=algorithm)
    assert contents(tmp_path / "whole.sqlite") == contents(tmp_path / "plain.sqlite")
    first = len([t for t in the_study(whole).trials if t.user_attrs["generation"] < 2])
    with pytest.raises(KilledError):
        searched(tmp_path / "killed.sqlite", killed, algorithm=algorithm, kill_after=first + 1)
    assert trials_of(killed) == trials_of(whole)[:first]
    searched(tmp_path / "killed.sqlite", killed, algorithm=algorithm)
    assert contents(tmp_path / "killed.sqlite") == contents(tmp_path / "plain.sqlite")
    assert trials_of(killed) == trials_of(whole)


def test_trials_are_there_after_each_generation(tmp_path: Path) -> None:
    archive_file, journal, counts = tmp_path / "archive.sqlite", f"{tmp_path}/optuna.log", list[tuple[int, int]]()

    def count(event: Event) -> None:
        if isinstance(event, GenerationEvent):
            ((proposed,),) = sqlite3.connect(archive_file).execute("SELECT count(*) FROM proposals").fetchall()
            counts.append((len(the_study(journal).trials), proposed))

    searched(archive_file, journal, on_event=count)
    assert len(counts) == 3
    assert all(written == proposed for written, proposed in counts)


def test_a_new_storage_gets_the_finished_generations_of_the_archive(tmp_path: Path) -> None:
    """A study with a trial that the archive does not have is written again."""
    archive_file, first, second = tmp_path / "archive.sqlite", f"{tmp_path}/first.log", f"{tmp_path}/second.log"
    searched(archive_file, first)
    expected = trials_of(first)
    searched(archive_file, second)
    assert trials_of(second) == expected
    the_study(second).add_trial(optuna.trial.create_trial(values=[2.0, 0.0], user_attrs={"architecture": "other"}))
    searched(archive_file, second)
    assert trials_of(second) == expected


def test_trials_that_cannot_be_written_are_written_later(tmp_path: Path) -> None:
    """The search goes on. Here the storage refuses the first trial of the second and of the third generation once."""
    archive_file, journal, refused = tmp_path / "archive.sqlite", f"{tmp_path}/optuna.log", list[int]()

    def prepare(writer: StudyWriter) -> None:
        add = writer.study.add_trial

        def failing(trial: Any) -> None:
            generation = trial.user_attrs["generation"]
            if generation > 0 and generation not in refused:
                refused.append(generation)
                raise optuna.exceptions.StorageInternalError("locked")
            add(trial)

        writer.study.add_trial = failing  # type: ignore[method-assign]

    failures = searched(archive_file, journal, prepare=prepare)
    assert len(failures) == 2
    assert all("StorageInternalError: locked" in line and "\n" not in line for line in failures)
    searched(tmp_path / "other.sqlite", f"{tmp_path}/other.log")
    complete = trials_of(f"{tmp_path}/other.log")
    assert trials_of(journal) == [trial for trial in complete if trial[4]["generation"] < 2]
    searched(archive_file, journal)
    assert trials_of(journal) == complete
    assert contents(archive_file) == contents(tmp_path / "other.sqlite")


def test_limits_are_constraints_of_trials(tmp_path: Path) -> None:
    archive, journal = Archive(tmp_path / "archive.sqlite", "p"), f"{tmp_path}/optuna.log"
    constraints = Constraints(config=ConstraintsConfig(min_accuracy=0.5))
    search = make_search(archive, settings_of("nsga2", generations=1), recording([]), constraints=constraints)
    replace(search, on_event=StudyWriter.of(search, open_storage(journal), pytest.fail)).run()
    archive.close()
    trials = the_study(journal).trials
    violated = [trial.values[0] < 0.5 for trial in trials]
    assert any(violated)
    assert not all(violated)
    assert [trial.constraints.get("limits", 0.0) > 0 for trial in trials] == violated


@pytest.mark.parametrize(
    ("name", "content"),
    [("sqlite:///{folder}/none/x.db", None), ("sqlite:///{folder}/x", "no database, " * 100), ("{folder}/x", "no journal\n{{}}\n")],
)
def test_what_is_no_storage_is_an_error_of_one_line(name: str, content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x").write_text(content)
    assert "search.optuna_storage" in one_line_error(lambda: open_storage(name.format(folder=tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ([] if content is None else ["x"])
    assert content is None or (tmp_path / "x").read_text() == content


@pytest.mark.parametrize(
    ("given", "message"),
    [("postgresql://me:secret@host/db", "password"), ("sqlite://", "in memory"), ("http://[x", "neither a URL nor a path")],
)
def test_storages_that_an_experiment_cannot_have(given: str, message: str) -> None:
    found = one_line_error(lambda: Experiment.from_dict(TINY_EXPERIMENT | {"search": {"optuna_storage": given}}))
    assert message in found
    assert "secret" not in found


def test_paths_are_absolute_and_no_part_of_the_identity(tmp_path: Path) -> None:
    def stored(given: str) -> str | None:
        fields = TINY_EXPERIMENT | {"search": {"optuna_storage": given}}
        return Experiment.from_dict(fields, folder=tmp_path).search.optuna_storage

    assert stored("sqlite:///runs/optuna.db") == f"sqlite:///{tmp_path}/runs/optuna.db"
    assert stored("sqlite:////data/optuna.db") == "sqlite:////data/optuna.db"
    assert stored("runs/optuna.log") == f"{tmp_path}/runs/optuna.log"
    assert stored("postgresql://me@host/db") == "postgresql://me@host/db"
    assert SearchConfig(optuna_storage="x").identity == SearchConfig().identity


def test_the_command_writes_to_the_storage_of_the_experiment(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a sampler of Optuna has one by default. The archive of the run is refused."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, "run")
    command = ("search", "run", "--set", "search.generations=1", "--set")
    refused = autospike(capsys, *command, "search.optuna_storage=sqlite:///run/archive.sqlite")
    assert refused.code == 2
    assert "is the archive of the run" in refused.err
    call(*command, "search.optuna_storage=sqlite:///run/optuna.db")
    assert not Path("run", "optuna.log").exists()
    trials = the_study(f"sqlite:///{tmp_path}/run/optuna.db").trials
    ((count,),) = sqlite3.connect("run/archive.sqlite").execute("SELECT count(*) FROM proposals").fetchall()
    assert len(trials) == count >= 6
    call(*command, "search.optuna_storage=null", "--set", "search.algorithm=optuna")
    assert Path("run", "optuna.log").exists()


@pytest.mark.slow
def test_candidates_with_early_exit_have_margin_and_mean_time_steps(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that another one dominates are left out; a resumed search leaves out the same ones."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained_run, "run")
    command = ("search", "run", "--set", "search.early_exit=true", "--set")
    call(*command, "search.optuna_storage=whole.log")
    study = the_study("whole.log")
    exits = [trial for trial in study.trials if "exit_margin" in trial.user_attrs]
    assert exits
    assert all(trial.params["exit_margin"] == trial.user_attrs["exit_margin"] < 1 for trial in exits)
    assert all(1 <= trial.user_attrs["mean_time_steps"] <= trial.params["time_steps"] for trial in exits)
    query = "SELECT count(*) FROM proposals JOIN evaluations USING (architecture_id, protocol_id) WHERE mean_time_steps IS NULL"
    ((whole,),) = sqlite3.connect("run/archive.sqlite").execute(query).fetchall()
    assert len(study.trials) - len(exits) == whole
    call(*command, "search.optuna_storage=resumed.log")
    assert trials_of("resumed.log") == trials_of("whole.log")
