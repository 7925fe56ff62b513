"""`autospike ablate` on a tiny run and on an experiment: inherited weights, networks trained alone, and resumption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from builders import one_line_error
from cli_runner import autospike
from tiny_experiment import TINY_EXPERIMENT, TINY_SPACE
from tiny_runs import without_figures

from autospike import Run
from autospike.config import Experiment
from autospike.run_directory import RunDirectory
from autospike.space.search_space import SearchSpace

SMALLEST = SearchSpace.from_dict(TINY_SPACE).smallest()
ALONE = ("--gene", "time_steps", "--retrain", "--epochs", "1")


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the smallest network of the tiny space, which has two values of T."""
    path = tmp_path_factory.mktemp("architecture") / "smallest.yaml"
    path.write_text(yaml.safe_dump(SMALLEST.to_dict()))
    return path


def trainings(run: Path) -> int:
    return (run / "log.jsonl").read_text().count('"event": "train"')


def test_a_table_and_a_figure_of_inherited_weights(searched_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "ablate", searched_run, "--architecture", "best-accuracy", "--gene", "time_steps", "--gene", "tau")
    assert outcome.code == 0
    (path,) = (searched_run / "ablation").glob("*-inherited.csv")
    table = pd.read_csv(path)
    candidates = pd.read_csv(searched_run / "report" / "candidates.csv").set_index("id")
    assert table["accuracy"][0] == candidates["accuracy"].max()
    known = [name for name in table["id"] if name in candidates.index]
    assert table.set_index("id").loc[known, "energy_mj"].tolist() == candidates.loc[known, "energy_mj"].tolist()
    assert path.with_suffix(".png").exists()
    again = autospike(capsys, "ablate", searched_run, "--architecture", "best-accuracy", "--gene", "time_steps", "--gene", "tau")
    assert again.code == 0
    assert pd.read_csv(path).equals(table)


@pytest.mark.slow
def test_networks_that_are_trained_alone_are_not_trained_again(searched_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("ablate", searched_run, "--architecture", "least-energy", "--gene", "time_steps", "--retrain", "--epochs", "1")
    assert autospike(capsys, *command).code == 0
    (path,) = (searched_run / "ablation").glob("*-retrained.csv")
    table = pd.read_csv(path)
    assert len(table) == 2
    for row in table.to_dict("records"):
        folder = searched_run / "retrain" / row["id"] / "scratch" / "seed-0"
        assert json.loads((folder / "measurement.json").read_text())["search_accuracy"] == row["accuracy"]
    log = (searched_run / "log.jsonl").read_text()
    assert autospike(capsys, *command).code == 0
    steps = '"event": "train"'
    assert (searched_run / "log.jsonl").read_text().count(steps) == log.count(steps)


def test_an_architecture_of_another_space_is_refused(
    searched_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = pd.read_csv(searched_run / "report" / "candidates.csv").iloc[0]
    architecture = json.loads(row["architecture"]) | {"time_steps": 7}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(architecture))
    outcome = autospike(capsys, "ablate", searched_run, "--architecture", path)
    assert outcome.code == 2
    assert "not an architecture of the space" in outcome.err
    assert "time_steps is not one of 2, 3" in outcome.err


def test_an_architecture_of_an_experiment_without_a_run(
    tiny_experiment: Path, architecture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each network is trained once; then neither data nor seed of the folder may change."""
    run = tmp_path / "run"
    command = ("ablate", tiny_experiment, "--run", run, "--architecture", architecture, *ALONE)
    with without_figures():
        assert autospike(capsys, *command).code == 0
        (path,) = (run / "ablation").glob("*.csv")
        table = pd.read_csv(path)
        assert path.name == f"{SMALLEST.id}-retrained.csv"
        assert table["time_steps"].tolist() == [2, 3]
        assert table["params"].nunique() == 1
        for row in table.to_dict("records"):
            measured = json.loads((run / "retrain" / row["id"] / "scratch" / "seed-0" / "measurement.json").read_text())
            assert (measured["search_accuracy"], measured["energy_mj"]) == (row["accuracy"], row["energy_mj"])
        steps = trainings(run)
        assert steps > 0
        assert autospike(capsys, *command).code == 0
        assert autospike(capsys, "ablate", run, "--architecture", architecture, *ALONE).code == 0
    assert trainings(run) == steps
    assert pd.read_csv(path).equals(table)
    outcome = autospike(capsys, *command, "--set", "seed=5")
    assert outcome.code == 2
    assert "seed differs" in outcome.err


@pytest.mark.slow
def test_networks_of_an_experiment_are_those_of_a_trained_run(
    tiny_experiment: Path, trained_run: Path, architecture: Path, tmp_path: Path
) -> None:
    """A supernet changes nothing; the folder of an ablation may be trained later."""
    with_supernet, alone = tmp_path / "trained", Run(tmp_path / "alone", tiny_experiment)
    shutil.copytree(trained_run, with_supernet)
    tables = []
    for run, given in ((Run(with_supernet), architecture), (alone, SMALLEST)):
        folder = run.ablate(given, genes=["time_steps"], retrain=True, epochs=1)
        tables.append(pd.read_csv(folder / f"{SMALLEST.id}-retrained.csv"))
    assert tables[0].equals(tables[1])
    alone.train()
    records = [json.loads((run.folder / "supernet" / "checkpoint.json").read_text()) for run in (Run(with_supernet), alone)]
    assert records[0]["sha256"] == records[1]["sha256"]


def test_a_run_without_a_search_measures_a_given_architecture(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here that of a folder with `architecture.json`, as an export has it; its exit margin is left out."""
    run, exported = tmp_path / "run", tmp_path / "exported"
    shutil.copytree(trained_run, run)
    exported.mkdir()
    (exported / "architecture.json").write_text(json.dumps(SMALLEST.to_dict() | {"exit_margin": 0.9}))
    with without_figures():
        assert autospike(capsys, "ablate", run, "--architecture", exported, "--gene", "time_steps").code == 0
    assert pd.read_csv(run / "ablation" / f"{SMALLEST.id}-inherited.csv")["time_steps"].tolist() == [2, 3]
    assert not (run / "archive.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{experiment}", "--architecture", "{architecture}", *ALONE], "with --run FOLDER"),
        (["digits"], "with --run FOLDER"),
        (["{folder}", "--architecture", "{architecture}", *ALONE], "no run here"),
        (["{experiment}", "--run", "{run}", "--architecture", "{architecture}"], "no trained supernet to inherit weights from"),
        (["{experiment}", "--run", "{run}", *ALONE], "nothing was searched"),
        (["{experiment}", "--run", "{run}", "--architecture", "{folder}", *ALONE], "architecture.json: no such file"),
        (["{experiment}", "--run", "{run}", "--architecture", "spikformer_8_384", *ALONE], "time_steps is not one of 2, 3"),
        (
            ["{experiment}", "--run", "{run}", "--architecture", "{architecture}", "--gene", "x", "--retrain"],
            "choose from time_steps",
        ),
        (
            ["{experiment}", "--run", "{run}", "--architecture", "{architecture}", *ALONE, "--set", "training.start_from=other"],
            "start from fresh weights",
        ),
    ],
)
def test_what_cannot_be_ablated_leaves_nothing_behind(
    arguments: list[str],
    message: str,
    tiny_experiment: Path,
    architecture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    paths = {"experiment": tiny_experiment, "architecture": architecture, "folder": tmp_path / "empty", "run": tmp_path / "run"}
    outcome = autospike(capsys, "ablate", *(argument.format(**paths) for argument in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_folder_whose_training_was_not_started_takes_another_experiment(tmp_path: Path) -> None:
    """A checkpoint of a network that is trained alone fixes the experiment as one of the supernet does."""

    def started(**changed: Any) -> RunDirectory:
        return RunDirectory.start(Experiment.from_dict(TINY_EXPERIMENT | changed), tmp_path)

    started().save()
    assert started(seed=4).experiment.seed == 4
    checkpoint = tmp_path / "retrain" / "0123456789ab" / "scratch" / "seed-0" / "checkpoint.json"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("{}")
    assert "seed differs" in one_line_error(lambda: started(seed=4))
