"""`autospike early-exit` and `autospike export --exit-margin` on a tiny run."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
import timm
from cli_runner import autospike

from autospike.config.experiment import EXIT_MARGINS
from autospike.report.html.data import page_data
from autospike.run_directory import RunDirectory


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
    written = json.loads((folder / "early_exit" / "early_exit.json").read_text())
    assert written["split"] == "search"
    assert 0 < written["pass"]["images"] <= 128
    assert min(written["pass"]["all_steps_ms"], written["pass"]["early_exit_ms"]) > 0
    assert (folder / "early_exit" / "early_exit.png").exists()


def test_an_export_without_a_margin_has_no_early_exit(
    searched_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    assert autospike(capsys, "export", searched_run, "--pick", "best-accuracy", "--out", folder).code == 0
    assert "early_exit" not in json.loads((folder / "report.json").read_text())
    assert "exit_margin" not in (folder / "config.json").read_text()
    assert "exit_margin" not in (folder / "report.json").read_text()


def test_a_search_with_early_exit_from_archive_to_export(
    searched_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The archive of a search without the option stays as it is, and candidates with early exit are added to it."""
    run = tmp_path / "run"
    shutil.copytree(searched_run, run)
    rows = "SELECT * FROM evaluations WHERE mean_time_steps IS NULL ORDER BY rowid"
    before = sqlite3.connect(run / "archive.sqlite").execute(rows).fetchall()
    command = ("search", run, "--set", "search.early_exit=true", "--set", "search.generations=1", "--set", "search.population=4")
    assert autospike(capsys, *command).code == 0
    assert sqlite3.connect(run / "archive.sqlite").execute(rows).fetchall()[: len(before)] == before
    assert autospike(capsys, "plot", run).code == 0
    table = pd.read_csv(run / "report" / "candidates.csv")
    early = table[table["energy_is_estimate"]]
    assert set(early["exit_margin"]) == set(EXIT_MARGINS[:-1])
    assert (early["mean_time_steps"] <= early["time_steps"]).all()
    assert "mean time steps" in (run / "report" / "front.md").read_text()
    assert {EXIT_MARGINS[0], None} < set(page_data(RunDirectory.resume(run))["candidates"]["exit_margin"])
    chosen = early.sort_values("mean_time_steps").iloc[0]
    assert autospike(capsys, "export", run, "--pick", chosen["id"], "--out", tmp_path / "exported").code == 0
    report = json.loads((tmp_path / "exported" / "report.json").read_text())
    assert report["architecture_id"] == chosen["id"]
    assert report["early_exit"]["exit_margin"] == chosen["exit_margin"] == report["architecture"]["exit_margin"]
    assert timm.create_model(f"local-dir:{tmp_path / 'exported'}").exit_margin == chosen["exit_margin"]


@pytest.mark.parametrize("value", ["1", "[true]"])
def test_the_option_of_a_search_is_a_boolean(value: str, searched_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "search", searched_run, "--set", f"search.early_exit={value}")
    assert outcome.code == 2
    assert "search.early_exit" in outcome.err
