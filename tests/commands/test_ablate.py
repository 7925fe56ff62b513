"""`autospike ablate` on a tiny run: inherited weights, networks trained alone, and resumption."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from cli_runner import autospike


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
