"""Retraining: trained networks, initial weights, seeds, resuming and the report."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import timm
import torch
import yaml
from cli_runner import Outcome, autospike
from processes import kill_command
from safetensors.torch import load_file
from tiny_experiment import TINY_EXPERIMENT
from tiny_runs import call
from torch import Tensor

from autospike.config import Experiment
from autospike.data.batches import TrainingBatches
from autospike.data.loading import load_images
from autospike.evaluation.setup import calibration_split
from autospike.randomness import keyed_seed
from autospike.report.retrained import MeanAndDeviation, RetrainedModel, group_by_seed
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.setup import open_experiment
from autospike.training.trainer import train

SEED = 3  # of the tiny experiment


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A run after training and search."""
    folder = tmp_path_factory.mktemp("runs") / "searched"
    fewer = ["data.search_share=0.5", "data.test_share=0.4", "search.population=4", "search.generations=1"]
    call("train", tiny_experiment, "--run", folder, *(part for setting in fewer for part in ("--set", setting)))
    call("search", folder)
    return folder


@pytest.fixture(scope="module")
def run(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with two subnets, that of least energy and the largest, retrained with two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "retrained"
    shutil.copytree(searched, folder)
    call("retrain", folder, "--pick", "least-energy", "--pick", reference(folder), "--seeds", 2)
    return folder


def reference(run: Path) -> str:
    return Experiment.load(run / "experiment.yaml").search_space.largest().id


def cheapest(run: Path) -> str:
    picked: str = report(run)["picks"]["least-energy"]
    return picked


def report(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "retrain" / "report.json").read_text())
    return found


def way_of(run: Path, architecture_id: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in report(run)["ways"] if (one["architecture_id"], one["way"]) == (architecture_id, name)]
    return dict(found)


def checkpoint(folder: Path) -> dict[str, Tensor]:
    newest: str = json.loads((folder / "checkpoint.json").read_text())["file"]
    return load_file(folder / newest)


def parameters(folder: Path) -> dict[str, Tensor]:
    """Return the parameters in the checkpoint of a supernet, by the names of a plain model."""
    prefix = "model.shared."
    return {name.removeprefix(prefix): t for name, t in checkpoint(folder).items() if name.startswith(prefix)}


def bit_identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def corners(run: Path, shapes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the leading corners of the parameters of the supernet (weight entanglement)."""
    shared = parameters(run / "supernet")
    return {name: shared[name][tuple(slice(size) for size in tensor.shape)] for name, tensor in shapes.items()}


def test_every_network_has_a_folder(run: Path) -> None:
    for name in (cheapest(run), reference(run)):
        for expected in ("fine-tuned/seed-0", "fine-tuned/seed-1", "scratch/seed-0", "scratch/seed-1"):
            assert (run / "retrain" / name / expected / "checkpoint.json").is_file()
            assert (run / "retrain" / name / expected / "model" / "config.json").is_file()
        assert (run / "retrain" / name / "inherited" / "model" / "model.safetensors").is_file()
    assert (run / "retrain" / "hand-made" / "seed-1" / "checkpoint.json").is_file()
    assert not list(run.rglob("*.part"))


def test_the_report_has_a_group_for_each_architecture_and_way(run: Path) -> None:
    once, twice = ("inherited", 1), [("fine-tuned", 2), ("scratch", 2)]
    found = [(one["architecture_id"], one["way"], one["seeds"]) for one in report(run)["ways"]]
    expected = [(name, *row) for name in (cheapest(run), reference(run)) for row in (once, *twice)]
    assert found == [*expected, (reference(run), "hand-made", 2)]


def test_mean_and_deviation_over_the_seeds(run: Path) -> None:
    """The sample standard deviation of two values x and y is |x - y| / sqrt(2)."""
    for one in report(run)["ways"]:
        assert [network["seed"] for network in one["networks"]] == list(range(one["seeds"]))
        for quantity in ("test_accuracy", "energy_mj"):
            values = [network[quantity] for network in one["networks"]]
            assert one[f"{quantity}_mean"] == pytest.approx(sum(values) / len(values), rel=1e-12)
            deviation = abs(values[0] - values[1]) / math.sqrt(2) if len(values) == 2 else None
            assert one[f"{quantity}_deviation"] == (deviation and pytest.approx(deviation, rel=1e-9))


def test_the_deviation_is_the_sample_standard_deviation() -> None:
    """1, 2, 3, 4 differ from their mean by 1.5, 0.5, 0.5 and 1.5; the sum of squares is 5, divided by n - 1 = 3."""
    found = MeanAndDeviation.of([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.deviation == pytest.approx(math.sqrt(5 / 3), rel=1e-12)
    assert MeanAndDeviation.of([0.75]) == MeanAndDeviation(mean=0.75, deviation=None)


def test_a_selected_subnet_and_an_equal_reference_network_are_two_groups() -> None:
    one = RetrainedModel(
        architecture_id="a", way="scratch", seed=0, test_accuracy=0.5, energy_mj=1.0, params=9, time_steps=2, model="m"
    )
    other = replace(one, way="hand-made", test_accuracy=0.25)
    found = group_by_seed([one, other, replace(one, seed=1)])
    assert [(row.way, [model.seed for model in row.models]) for row in found] == [("scratch", [0, 1]), ("hand-made", [0])]


def test_table_and_figure_of_the_report(run: Path) -> None:
    table = pd.read_csv(run / "report" / "retrained.csv", dtype={"architecture_id": str})
    assert list(table.columns) == [
        *("architecture_id", "way", "seeds"),
        *("test_accuracy_mean", "test_accuracy_deviation"),
        *("energy_mj_mean", "energy_uj_mean", "energy_mj_deviation", "energy_uj_deviation"),
        *("params", "time_steps"),
    ]
    assert table["test_accuracy_mean"].tolist() == [one["test_accuracy_mean"] for one in report(run)["ways"]]
    assert table["energy_mj_deviation"].isna().tolist() == [one["way"] == "inherited" for one in report(run)["ways"]]
    assert (run / "report" / "retrained.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(run / "report" / "retrained.svg").getroot().tag.endswith("svg")


def test_energy_is_under_the_convention_of_the_run(run: Path) -> None:
    for one in report(run)["ways"]:
        for network in one["networks"]:
            found = json.loads((run / network["model"] / "report.json").read_text())
            assert network["energy_mj"] == pytest.approx((4.6 * found["macs"] + 0.9 * found["acs"]) * 1e-9)
            assert found["convention"] == "exact"


def test_the_reference_network_of_the_run_is_used_for_the_first_seed(run: Path) -> None:
    """It is not trained again."""
    folder = run / "retrain" / "hand-made" / "seed-0"
    assert not list(folder.glob("*.safetensors"))
    model, expected = load_file(folder / "model" / "model.safetensors"), parameters(run / "baseline")
    assert bit_identical({name: model[name] for name in expected}, expected)


def test_inherited_weights_are_corners_of_the_supernet(run: Path) -> None:
    found = load_file(run / "retrain" / cheapest(run) / "inherited" / "model" / "model.safetensors")
    weights = {name: found[name] for name in parameters(run / "retrain" / cheapest(run) / "scratch" / "seed-0")}
    assert bit_identical(weights, corners(run, weights))


def test_training_from_scratch_is_bit_identical_to_that_of_the_reference_network(run: Path) -> None:
    """The largest subnet is the reference network; with the seed of the run, it equals the result of `autospike train`."""
    scratch, reference_folder = run / "retrain" / reference(run) / "scratch", run / "retrain" / "hand-made"
    assert bit_identical(checkpoint(scratch / "seed-0"), checkpoint(run / "baseline"))
    assert bit_identical(checkpoint(scratch / "seed-1"), checkpoint(reference_folder / "seed-1"))
    assert not bit_identical(parameters(scratch / "seed-0"), parameters(scratch / "seed-1"))


def test_another_seed_changes_weights_batches_and_samples_but_not_the_splits(run: Path, tmp_path: Path) -> None:
    """Compared with a direct call of the trainer on the splits of the run's seed."""
    experiment, seed = Experiment.load(run / "experiment.yaml"), keyed_seed(SEED, "repetition", 1)
    with torch.random.fork_rng():
        torch.manual_seed(keyed_seed(seed, "initial parameters"))
        supernet = Supernet(SearchSpace.of(experiment.search_space.largest()), num_classes=10, in_chans=1)
    config = experiment.training
    batches = TrainingBatches(
        split=load_images(experiment.data, seed=SEED).splits["train"],
        num_classes=10,
        channels=1,
        image_size=8,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        smoothing=config.smoothing,
        workers=0,
        seed=seed,
    )
    train(supernet, batches, config, Checkpoints(folder=tmp_path), lambda _now: None, seed=seed)
    assert bit_identical(checkpoint(run / "retrain" / reference(run) / "scratch" / "seed-1"), checkpoint(tmp_path))


def test_a_repetition_is_calibrated_and_measured_on_the_same_images() -> None:
    first = open_experiment(Experiment.model_validate(TINY_EXPERIMENT))
    other = replace(first, repetition=1)
    assert first.training_seed == SEED != other.training_seed
    assert calibration_split(first) == calibration_split(other)
    assert first.images == other.images


def recipe(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "recipe.json").read_text())["training"]
    return found


@pytest.mark.slow
def test_fine_tuning_starts_from_the_inherited_weights(searched: Path, tmp_path: Path) -> None:
    """A learning rate of 1e-30 changes no weight. Fine-tuning takes a third of the epochs."""
    folder = tmp_path / "run"
    shutil.copytree(searched, folder)
    settings = ["--epochs", 7, "--seeds", 1, "--set", "retrain.fine_tune_learning_rate=1e-30"]
    call("retrain", folder, "--pick", "least-energy", *settings)
    fine_tuned = folder / "retrain" / cheapest(folder) / "fine-tuned" / "seed-0"
    found, inherited = parameters(fine_tuned), corners(folder, parameters(fine_tuned))
    assert all(torch.allclose(found[name], inherited[name], rtol=0, atol=1e-20) for name in inherited)  # zeros become 1e-30
    assert recipe(fine_tuned)["epochs"] == 2


def test_default_recipe_of_fine_tuning(run: Path) -> None:
    """At least one epoch, at the learning rate of the training."""
    found = recipe(run / "retrain" / cheapest(run) / "fine-tuned" / "seed-0")
    assert (found["epochs"], found["learning_rate"], found["min_learning_rate"]) == (1, pytest.approx(0.01), 1e-5)


def finished_checkpoints(run: Path) -> dict[Path, int]:
    """Return the modification times of the records of finished trainings."""
    records = [path for path in (run / "retrain").rglob("checkpoint.json") if json.loads(path.read_text())["finished"]]
    return {path: path.stat().st_mtime_ns for path in records}


def has_checkpoints(folder: Path, count: int) -> bool:
    return len(list(folder.rglob("checkpoint.json"))) >= count


@pytest.mark.slow
def test_a_killed_retraining_resumes_bit_identically(searched: Path, run: Path, tmp_path: Path) -> None:
    """Finished trainings are not repeated."""
    folder = tmp_path / "run"
    shutil.copytree(searched, folder)
    command = ["retrain", folder, "--pick", "least-energy", "--seeds", 2]
    for checkpoints in (1, 3):
        kill_command(partial(has_checkpoints, folder / "retrain", checkpoints), *command)
    finished = finished_checkpoints(folder)
    call(*command)
    assert {path: finished_checkpoints(folder)[path] for path in finished} == finished
    for name in ("fine-tuned/seed-0", "fine-tuned/seed-1", "scratch/seed-0", "scratch/seed-1"):
        assert bit_identical(*(checkpoint(path / "retrain" / cheapest(run) / name) for path in (run, folder)))
    assert report(folder)["ways"][:3] == report(run)["ways"][:3]


def test_a_finished_retraining_repeats_no_work(run: Path) -> None:
    before = report(run)
    files = {
        path: path.stat().st_mtime_ns for path in (run / "retrain").rglob("*") if path.is_file() and path.parent != run / "retrain"
    }
    events = (run / "log.jsonl").read_text()
    call("retrain", run, "--pick", "least-energy", "--pick", reference(run), "--seeds", 2)
    assert report(run) == before
    written = {"recipe.json"}  # written again with the same content
    assert {path: path.stat().st_mtime_ns for path in files if path.name not in written} == {
        path: time for path, time in files.items() if path.name not in written
    }
    assert "test split opened" not in (run / "log.jsonl").read_text().removeprefix(events)


def test_the_printed_table_has_means_and_deviations(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = autospike(capsys, "retrain", run, "--pick", "least-energy", "--seeds", 2)
    assert outcome.code == 0
    rows = [line for line in outcome.out.splitlines() if line.startswith("│")]
    assert len(rows) == 4
    inherited, scratch = way_of(run, cheapest(run), "inherited"), way_of(run, cheapest(run), "scratch")
    assert f"{inherited['test_accuracy_mean']:.4f} ± -" in rows[0]
    assert f"{scratch['test_accuracy_mean']:.4f} ± {scratch['test_accuracy_deviation']:.4f}" in rows[2]
    assert f"{1000 * scratch['energy_mj_mean']:.3f} ± {1000 * scratch['energy_mj_deviation']:.3f}" in rows[2]


def test_timm_opens_a_retrained_network_with_the_reported_accuracy(run: Path) -> None:
    """The accuracy is computed without the package's evaluation."""
    folder = run / "retrain" / cheapest(run) / "scratch" / "seed-1" / "model"
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    experiment = Experiment.load(run / "experiment.yaml")
    test = load_images(experiment.data, seed=experiment.seed).splits["test"]
    pixels = [torch.tensor(list(test.image(i).tobytes())).view(1, 8, 8) / 127.5 - 1 for i in range(len(test))]
    with torch.no_grad():
        predictions = model(torch.stack(pixels)).argmax(dim=1)
    accuracy = (predictions == torch.tensor(test.labels)).float().mean().item()
    assert way_of(run, cheapest(run), "scratch")["networks"][1]["test_accuracy"] == pytest.approx(accuracy)


def test_the_opening_of_the_test_split_is_logged_once(run: Path) -> None:
    events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert events.count("test split opened") == 1
    assert events.index("test split opened") > max(i for i, event in enumerate(events) if event == "train finished")


def assert_one_line_error(outcome: Outcome, *parts: str) -> None:
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert all(part in outcome.err for part in parts)


def test_another_number_of_epochs_is_rejected_before_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    outcome = autospike(capsys, "retrain", tmp_path / "run", "--pick", "least-energy", "--seeds", 3, "--epochs", 4)
    assert_one_line_error(outcome, f"{cheapest(run)}/scratch/seed-0: was trained with epochs 2, not 4", "delete the folder")
    assert report(tmp_path / "run") == report(run)
    assert not list((tmp_path / "run").rglob("seed-2"))


@pytest.mark.parametrize("damaged", ["{}", "[]", '{"training": {"epochs": 0}, "supernet": null}'])
def test_a_damaged_recipe_is_a_one_line_error(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    recipe = tmp_path / "run" / "retrain" / cheapest(run) / "scratch" / "seed-0" / "recipe.json"
    recipe.write_text(damaged)
    assert_one_line_error(autospike(capsys, "retrain", tmp_path / "run", "--pick", "least-energy"), str(recipe), "delete")


def test_runs_that_cannot_be_retrained_are_one_line_errors(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained, unsearched = tmp_path / "untrained", tmp_path / "unsearched"
    untrained.mkdir()
    (untrained / "experiment.yaml").write_text(yaml.safe_dump(TINY_EXPERIMENT))
    shutil.copytree(searched, unsearched)
    (unsearched / "archive.sqlite").unlink()
    assert_one_line_error(autospike(capsys, "retrain", tmp_path / "missing"), "missing: no run here")
    assert_one_line_error(autospike(capsys, "retrain", untrained), "training has not finished; run: autospike train")
    assert_one_line_error(autospike(capsys, "retrain", unsearched), "no archive yet; run: autospike search")
    assert_one_line_error(
        autospike(capsys, "retrain", searched, "--pick", "knee", "--pick", "unknown"), "--pick unknown: no candidate has that id"
    )
    assert_one_line_error(autospike(capsys, "retrain", searched, "--seeds", 0), "--seeds")
    assert_one_line_error(autospike(capsys, "retrain", searched, "--set", "retrain.seeds=0"), "retrain.seeds")
    assert_one_line_error(autospike(capsys, "retrain", searched, "--min-accuracy", 1.0), "is within the limits (min_accuracy 1)")
    assert not (searched / "retrain").exists()


def test_a_warm_up_as_long_as_the_training_is_rejected(searched: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    written = yaml.safe_load((searched / "experiment.yaml").read_text())
    written["training"] |= {"epochs": 20, "warmup_epochs": 5}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(written))
    assert_one_line_error(autospike(capsys, "retrain", tmp_path, "--epochs", 5), "retrain.epochs: 5", "training.warmup_epochs")


@pytest.mark.slow
def test_retraining_of_random_subnets(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(searched, folder)
    call("retrain", folder, "--pick", "least-energy", "--random", 1, "--seeds", 1, "--epochs", 1)
    found = report(folder)
    assert list(found["picks"]) == ["least-energy", "random-1"]
    assert {one["architecture_id"] for one in found["ways"]} == {*found["picks"].values(), reference(folder)}
    assert "random-1" in capsys.readouterr().out
    stored = folder / "retrain" / "random.json"
    drawn, written_at = json.loads(stored.read_text())["architectures"], stored.stat().st_mtime_ns
    call("retrain", folder, "--pick", "least-energy", "--random", 1, "--seeds", 1, "--epochs", 1)
    assert report(folder) == found
    assert stored.stat().st_mtime_ns == written_at  # the subnets are not drawn and measured again
    assert [Architecture.from_dict(values).id for values in drawn] == [found["picks"]["random-1"]]
