"""`autospike assess` on a tiny run: files, resumption, and more candidates later."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from cli_runner import autospike


def test_networks_are_trained_once_and_more_may_follow(searched_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = searched_run / "assess"
    stopped = autospike(capsys, "assess", searched_run, "--candidates", "4", "--epochs", "1", "--budget", "0.001s")
    assert stopped.code == 0
    assert json.loads((folder / "assessment.json").read_text())["trained"] == 1
    assert autospike(capsys, "assess", searched_run, "--candidates", "4", "--epochs", "1").code == 0
    found = json.loads((folder / "assessment.json").read_text())
    assert (found["trained"], found["asked"], found["everywhere"]["networks"], found["epochs"]) == (4, 4, 4, 1)
    table = pd.read_csv(folder / "candidates.csv")
    candidates = pd.read_csv(searched_run / "report" / "candidates.csv").set_index("id")
    assert table["inherited"].tolist() == candidates.loc[table["id"], "accuracy"].tolist()
    for row in table.to_dict("records"):
        measured = json.loads((searched_run / "retrain" / row["id"] / "scratch" / "seed-0" / "measurement.json").read_text())
        assert measured["search_accuracy"] == row["alone"]
    assert found["difference"]["value"] == pytest.approx((table["inherited"] - table["alone"]).mean())
    steps = (searched_run / "log.jsonl").read_text().count('"event": "train"')
    assert autospike(capsys, "assess", searched_run, "--candidates", "4", "--epochs", "1").code == 0
    assert (searched_run / "log.jsonl").read_text().count('"event": "train"') == steps
    assert pd.read_csv(folder / "candidates.csv").equals(table)
    assert json.loads((folder / "candidates.json").read_text())["ids"] == table["id"].tolist()


def test_an_assessment_needs_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "assess", tmp_path)
    assert outcome.code == 2
    assert "no run here" in outcome.err
