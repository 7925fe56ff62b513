"""The last training of `autospike run`: the selected subnet is fine-tuned, and the more accurate weights are exported."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cli_runner import autospike
from scipy.stats import binomtest
from slow_parameters import slow_except
from tiny_runs import call, without_figures

from autospike.commands.plot import SearchReport
from autospike.config import Experiment
from autospike.data.loading import load_images
from autospike.evaluation.setup import open_for_measurement, protocol_id
from autospike.run_directory import RunDirectory
from autospike.searching.selection import pick_finalists


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "fine-tuned"
    shutil.copytree(finished_run, folder)
    return folder


@pytest.fixture(scope="module")
def finalists(run: Path, tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A run in which the candidates with T = 3 have classified every image of the search split correctly: one is selected."""
    folder = tmp_path_factory.mktemp("runs") / "finalists"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report", "export", "retrain"))
    with closing(sqlite3.connect(folder / "archive.sqlite")) as archive:
        every = bytes([255] * 22 + [240])  # 180 bits
        archive.execute("UPDATE evaluations SET correct = images, accuracy = 1, correct_mask = ? WHERE time_steps = 3", (every,))
        archive.commit()
    with without_figures():
        call("run", tiny_experiment, "--run", folder)
    return folder


def report(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "export" / "report.json").read_text())
    return found


def checkpoints(run: Path) -> Path:
    return run / "retrain" / report(run)["architecture_id"] / "fine-tuned" / "seed-0"


KEYS = ("energy_mj", "search_accuracy", "correct_mask")


def significantly_below(first: str, second: str) -> bool:
    """McNemar's exact test at the 5 % level, of two masks of correct predictions in hexadecimal digits."""
    one, other = int(first, 16), int(second, 16)
    lost, won = (other & ~one).bit_count(), (one & ~other).bit_count()
    return bool(lost > won and binomtest(lost, lost + won, alternative="greater").pvalue < 0.05)


def test_cheaper_finalists_are_the_most_accurate_ones_with_less_energy(run: Path) -> None:
    opened = RunDirectory.resume(run, ["export.pick=best-accuracy", "retrain.finalists=1", "retrain.cheaper_finalists=100"])
    setup = open_for_measurement(opened)
    first, *cheaper = (
        e.measurement.architecture.id for e in pick_finalists(opened, protocol_id(setup, opened.supernet), lambda _damage: None)
    )
    candidates = pd.read_csv(run / "report" / "candidates.csv", dtype={"id": str}).set_index("id")
    limit, expected = candidates["energy_mj"][first], list[str]()
    while (rest := candidates[candidates["energy_mj"] <= 0.7 * limit]).size:
        most_accurate = rest[rest["accuracy"] == rest["accuracy"].max()]
        expected.append(most_accurate["energy_mj"].idxmin())
        limit = candidates["energy_mj"][expected[-1]]
    assert cheaper
    assert cheaper == expected


@pytest.mark.slow
def test_finalists_are_the_choices_of_the_rule_at_each_smaller_t(finalists: Path) -> None:
    measured = [json.loads(path.read_text()) for path in (finalists / "retrain").rglob("measurement.json")]
    candidates = pd.read_csv(finalists / "report" / "candidates.csv", dtype={"id": str})
    assert sorted(found["time_steps"] for found in measured) == [2, 3]
    (selected,) = (found["architecture_id"] for found in measured if found["time_steps"] == 3)
    correct = candidates[candidates["time_steps"] == 3].set_index("id")
    assert selected == correct["energy_mj"].idxmin()


@pytest.mark.parametrize("folder", slow_except(["run"], ["run", "finalists"]))
def test_the_cheapest_finalist_within_noise_is_exported(folder: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(folder)
    measured = {path.parents[2].name: json.loads(path.read_text()) for path in (run / "retrain").rglob("measurement.json")}
    archived = pd.read_csv(run / "report" / "candidates.csv", dtype={"id": str}).set_index("id")
    with closing(sqlite3.connect(run / "archive.sqlite")) as archive:
        masks = dict(archive.execute("SELECT architecture_id, lower(hex(correct_mask)) FROM evaluations").fetchall())
    first = max(measured, key=lambda name: int(measured[name]["time_steps"]))
    rows = [("fine-tuned", name, *(found[key] for key in KEYS)) for name, found in measured.items()]
    inherited = ("inherited", first, archived.loc[first, "energy_mj"], archived.loc[first, "accuracy"], masks[first])
    everyone = [*rows, inherited]
    tuned = next(row for row in rows if row[1] == first)
    if significantly_below(str(tuned[4]), str(inherited[4])):  # otherwise the fine-tuned weights of a candidate compete
        rows[rows.index(tuned)] = inherited
    best = max(rows, key=lambda row: (float(row[3]), -float(row[2])))
    chosen = min((row for row in rows if not significantly_below(str(row[4]), str(best[4]))), key=lambda row: float(row[2]))
    found = report(run)
    assert (found["weights"], found["architecture_id"], found["search_accuracy"]) == (chosen[0], chosen[1], chosen[3])
    assert found["by_weights"][found["weights"]]["test_accuracy"] == found["test_accuracy"]
    others = {(finalist["weights"], finalist["architecture_id"]) for finalist in found["finalists"]}
    assert others == {row[:2] for row in everyone if row[1] != chosen[1]}
    names = pd.read_csv(run / "report" / "comparison.csv")["name"].tolist()
    assert names.count("finalist (fine-tuned)") + names.count("finalist (inherited)") == len(others)


@pytest.mark.slow
def test_the_figure_has_the_exported_point_and_every_fine_tuned_one(finalists: Path) -> None:
    run = RunDirectory.resume(finalists)
    curves = {curve.label: curve for curve in SearchReport.of(run, run.experiment.search.energy_convention).curves}
    found = report(finalists)
    (exported,) = curves["exported subnet"].points
    assert exported.accuracy == found["search_accuracy"]
    tuned = [
        point.accuracy
        for name, curve in curves.items()
        for point in curve.points
        if name.endswith("fine-tuned") or (name == "exported subnet" and found["weights"] == "fine-tuned")
    ]
    measured = [json.loads(path.read_text()) for path in (finalists / "retrain").rglob("measurement.json")]
    assert sorted(tuned) == sorted(each["search_accuracy"] for each in measured)


def test_masks_of_the_report_agree_with_its_accuracies(run: Path) -> None:
    for part in (report(run), report(run)["baseline"]):
        correct = int(part["correct_mask"], 16).bit_count()
        assert correct == part["test_correct"] == round(part["test_accuracy"] * part["test_images"])
        low, high = part["test_accuracy_interval"]
        assert low < part["test_accuracy"] < high


def test_the_report_has_the_share_of_the_most_frequent_class(run: Path) -> None:
    experiment = Experiment.load(run / "experiment.yaml")
    labels = load_images(experiment.data, seed=experiment.seed).splits["test"].labels
    assert report(run)["most_frequent_class"] == max(labels.count(label) for label in range(10)) / len(labels)


def test_networks_without_spikes_are_trained_and_compared(run: Path) -> None:
    found = {rival["name"]: rival for rival in report(run)["rivals"]}
    assert list(found) == ["cnn", "cnn-small", "vit"]
    for name, rival in found.items():
        assert rival["energy_uj"] == pytest.approx(4.6e-6 * sum(layer["macs"] for layer in rival["layers"]))
        assert int(rival["correct_mask"], 16).bit_count() == rival["test_correct"]
        assert json.loads((run / "rivals" / name / "measurement.json").read_text())["search_images"] == 180
    compared = pd.read_csv(run / "report" / "comparison.csv")
    assert compared["name"].tolist()[2:] == ["reference network"] * 3 + ["CNN", "small CNN", "ViT"]
    assert compared["accuracy"].tolist()[5:] == [rival["test_accuracy"] for rival in found.values()]
    assert (run / "report" / "comparison.png").exists()


def test_the_front_is_measured_on_the_test_split(run: Path) -> None:
    """The exported candidate is one of its subnets unless its fine-tuned weights are exported; both measurements agree."""
    found = report(run)
    best = pd.read_csv(run / "report" / "front.csv", dtype={"id": str})
    assert [subnet["architecture_id"] for subnet in found["front"]] == best["id"].tolist()
    inherited = found["by_weights"]["inherited"]
    same = [subnet for subnet in found["front"] if subnet["architecture_id"] == found["architecture_id"]]
    assert [(subnet["correct_mask"], subnet["energy_mj"]) for subnet in same] == [
        (inherited["correct_mask"], pytest.approx(inherited["energy_mj"], rel=1e-12))
    ] * len(same)


def test_the_last_time_step_of_the_reference_network_is_its_measurement(run: Path) -> None:
    reference = report(run)["baseline"]
    assert [at["time_steps"] for at in reference["by_time_steps"]] == [1, 2, 3]
    last = reference["by_time_steps"][-1]
    assert {name: reference[name] for name in last} == last


@pytest.mark.slow
def test_a_second_run_fine_tunes_nothing(run: Path, tiny_experiment: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in checkpoints(run).iterdir() if path.suffix == ".safetensors"}
    call("run", tiny_experiment, "--run", run)
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.slow
def test_without_fine_tuning_the_inherited_weights_are_exported(trained_run: Path, tmp_path: Path, tiny_experiment: Path) -> None:
    folder = tmp_path / "inherited"
    shutil.copytree(trained_run, folder)
    call("run", tiny_experiment, "--run", folder, "--no-fine-tune", "--no-rivals")
    assert report(folder)["weights"] == "inherited"
    assert report(folder)["rivals"] == []
    assert not (folder / "rivals").exists()
    assert not (folder / "retrain").exists()


@pytest.mark.slow
def test_retrain_uses_the_fine_tuning_of_the_run(run: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in checkpoints(run).iterdir() if path.suffix == ".safetensors"}
    call("retrain", run, "--seeds", "1")
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize("network", ["supernet", "baseline", "rivals/cnn", "retrain"])
def test_a_damaged_network_is_found_before_an_export_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], network: str
) -> None:
    """The test split is not opened either."""
    folder, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report", "export"))
    for path in (folder / network).rglob("step-*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    log = (folder / "log.jsonl").read_bytes()
    outcome = autospike(capsys, "export", folder, "--out", out)
    assert outcome.code == 2
    assert "damaged, its content differs from what was written" in outcome.err
    assert not out.exists() or not list(out.iterdir())
    assert (folder / "log.jsonl").read_bytes() == log


def test_an_export_with_other_weights_of_the_same_subnet_is_written_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the fine-tuned weights have become significantly worse than the inherited ones."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = report(folder)
    assert before["weights"] == "fine-tuned"
    path = checkpoints(folder) / "measurement.json"
    measured = json.loads(path.read_text())
    path.write_text(json.dumps(measured | {"search_accuracy": 0.0, "correct_mask": "0" * len(measured["correct_mask"])}))
    outcome = autospike(capsys, "export", folder)
    assert outcome.code == 0
    assert "already holds" not in outcome.out
    assert (report(folder)["weights"], report(folder)["architecture_id"]) == ("inherited", before["architecture_id"])


def test_a_network_without_spikes_that_was_trained_for_other_epochs_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trained one stays: the report would otherwise compare other networks than the run has trained."""
    trained, *_ = autospike(capsys, "rivals", run).out.splitlines()
    assert trained.startswith("cnn: already trained, ")
    assert "in place of" not in trained
    other, *_ = autospike(capsys, "rivals", run, "--set", "rivals.epochs=77").out.splitlines()
    assert other.startswith(f"{trained}, in place of ")
    assert other.endswith(f"delete {run / 'rivals' / 'cnn'} to train it again")
