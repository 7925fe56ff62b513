"""`autospike early-exit` and `autospike export --exit-margin` on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import timm
from cli_runner import autospike


def test_an_export_with_a_margin_carries_and_measures_it(
    searched_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    command = ("export", searched_run, "--pick", "best-accuracy", "--out", folder)
    assert autospike(capsys, *command, "--exit-margin", "0.02").code == 0
    report = json.loads((folder / "report.json").read_text())
    found = report["early_exit"]
    assert found["exit_margin"] == 0.02
    assert sum(found["images_by_time_steps"]) == found["images"] == report["test_images"]
    assert found["energy_mj"] <= report["energy_mj"] + 1e-15
    assert timm.create_model(f"local-dir:{folder}").exit_margin == 0.02
    outcome = autospike(capsys, "early-exit", folder, "--data", searched_run)
    assert outcome.code == 0
    curve = pd.read_csv(folder / "early_exit" / "curve.csv")
    last, whole = curve.iloc[-1], report["search_accuracy"]
    assert (last["margin"], last["mean_time_steps"]) == (1.0, report["time_steps"])
    assert last["accuracy"] == pytest.approx(whole)
    assert curve["mean_time_steps"].is_monotonic_increasing
    assert json.loads((folder / "early_exit" / "early_exit.json").read_text())["split"] == "search"
    assert (folder / "early_exit" / "early_exit.png").exists()


def test_an_export_without_a_margin_has_no_early_exit(
    searched_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    assert autospike(capsys, "export", searched_run, "--pick", "best-accuracy", "--out", folder).code == 0
    assert "early_exit" not in json.loads((folder / "report.json").read_text())
    assert "exit_margin" not in (folder / "config.json").read_text()
    assert "exit_margin" not in (folder / "report.json").read_text()
