"""`autospike energy`: reports of exports, runs, published names and imported folders, and rejected input."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cli_runner import Outcome, autospike
from PIL import Image

from autospike.config import DataConfig
from autospike.data.batches import FixedBatches
from autospike.data.loading import load_images
from autospike.data.source import open_images
from autospike.evaluation.calibration import calibrate
from autospike.model_folder import InputSpec, read_model, write_model
from autospike.models import build_model
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron

Capsys = pytest.CaptureFixture[str]

NAMES = ["exact", "rate", "spikformer", "binary-only", "fused", "integer", "memory"]
PJ = dict.fromkeys(NAMES, (4.6, 0.9)) | {"memory": (24.6, 30.9)}
ALL_IMAGES = 10**6


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose export has inherited weights, so that its counts are in the archive."""
    from autospike.cli import app

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("retrain", "export"))
    app(["export", str(folder)], standalone_mode=False)
    return folder


LAYERS = ("layers.png", "layers.svg", "layers.pdf")


def run_energy(capsys: Capsys, *args: object) -> Outcome:
    outcome = autospike(capsys, "energy", *args)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def tables(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.csv")}


def totals(folder: Path) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = pd.read_csv(folder / "totals.csv").to_dict("records")  # type: ignore[assignment]
    return {row["convention"]: row for row in rows}


def report(folder: Path) -> dict[str, Any]:
    """Return `energy.json`, which must be strict JSON without NaN."""
    found: dict[str, Any] = json.loads((folder / "energy.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    return found


def archived(run: Path) -> dict[str, Any]:
    """Return the archive's row of the exported subnet."""
    name = json.loads((run / "export" / "report.json").read_text())["architecture_id"]
    db = sqlite3.connect(run / "archive.sqlite")
    db.row_factory = sqlite3.Row
    return dict(db.execute("SELECT * FROM evaluations WHERE architecture_id = ?", (name,)).fetchone())


def macs_and_acs(rows: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Return MACs and ACs of counts, by the table of conventions in docs/energy.md."""
    fused, once = name not in ("spikformer", "binary-only"), name in ("exact", "rate", "integer", "memory")
    macs = acs = 0.0
    for row in rows:
        steps = row["time_steps"]
        if row["form"] == ("separate" if fused else "fused"):
            continue
        if row["input"] == "real":
            macs += row["macs"] * (1 if row["reads"] == "mean" or (row["reads"] == "image" and once) else steps)
        elif row["input"] == "integer" and name == "binary-only":
            macs += row["macs"] * steps
        else:
            acs += sum(row["acs"]) if name in ("exact", "memory") else row["macs"] * sum(row["rate"])
    return macs, acs


def test_an_export_has_the_counts_and_accuracy_of_its_candidate(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """On all images of the search split, counts, energy and accuracy are bit-identical to those in the archive."""
    run_energy(capsys, run / "export", "--images", ALL_IMAGES, "--out", tmp_path / "out")
    row, found = archived(run), totals(tmp_path / "out")["exact"]
    assert (found["energy_mj"], found["macs"], found["acs"]) == (row["energy_mj"], row["macs"], row["acs"])
    written = report(tmp_path / "out")
    assert written["layers"] == json.loads(zlib.decompress(row["counts"]))
    assert (written["accuracy"], written["images"]) == (row["accuracy"], row["images"])


def test_the_test_split_gives_the_values_of_the_export_report(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    run_energy(capsys, run / "export", "--split", "test", "--images", ALL_IMAGES, "--out", tmp_path / "out")
    reported, written = json.loads((run / "export" / "report.json").read_text()), report(tmp_path / "out")
    assert totals(tmp_path / "out")["exact"]["energy_mj"] == reported["energy_mj"]
    assert {name: row["energy_mj"] for name, row in totals(tmp_path / "out").items()} == reported["energy_mj_by_convention"]
    assert (written["accuracy"], written["images"]) == (reported["test_accuracy"], reported["test_images"])
    assert written["layers"] == reported["layers"]


@pytest.mark.parametrize("convention", ["exact", "binary-only", "spikformer/int8/image-once"])
def test_layers_sum_to_the_total(run: Path, tmp_path: Path, capsys: Capsys, convention: str) -> None:
    run_energy(capsys, run, "--convention", convention, "--out", tmp_path / "out")
    layers, total = pd.read_csv(tmp_path / "out" / "layers.csv"), totals(tmp_path / "out")[convention]
    assert next(iter(totals(tmp_path / "out"))) == convention
    for column in ("macs", "acs", "energy_mj"):
        assert layers[column].sum() == pytest.approx(total[column], rel=1e-9)
    assert layers["share"].sum() == pytest.approx(1, rel=1e-9)
    assert total["ratio"] == 1
    assert report(tmp_path / "out")["convention"] == convention


def test_totals_follow_from_the_counts(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    run_energy(capsys, run, "--out", tmp_path / "out")
    rows, found = report(tmp_path / "out")["layers"], totals(tmp_path / "out")
    assert list(found) == NAMES
    for name, row in found.items():
        macs, acs = macs_and_acs(rows, name)
        assert (row["macs"], row["acs"]) == (macs, pytest.approx(acs, rel=1e-12))
        pj_per_mac, pj_per_ac = PJ[name]
        assert row["energy_mj"] == pytest.approx((pj_per_mac * macs + pj_per_ac * acs) * 1e-9, rel=1e-12)
        assert row["ratio"] == pytest.approx(row["energy_mj"] / found["exact"]["energy_mj"], rel=1e-12)


def test_layers_have_the_counts_of_each_step(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    run_energy(capsys, run, "--time-steps", 3, "--out", tmp_path / "out")
    rows = report(tmp_path / "out")["layers"]
    table = pd.read_csv(tmp_path / "out" / "layers.csv")
    assert table["layer"].tolist() == [row["layer"] for row in rows if row["form"] != "separate"]
    by_name = {row["layer"]: row for row in rows}
    for found in table.to_dict("records"):
        row = by_name[found["layer"]]
        assert (found["dense_macs"], found["input"], found["time_steps"]) == (row["macs"], row["input"], 3)
        if row["input"] != "real":
            assert [found[f"acs_{t}"] for t in (1, 2, 3)] == row["acs"]
            assert [found[f"rate_{t}"] for t in (1, 2, 3)] == row["rate"]
            assert found["rate"] == pytest.approx(sum(row["rate"]) / 3, rel=1e-12)


@pytest.mark.usefixtures("with_figures")
def test_all_documented_files_are_written(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    out = tmp_path / "out"
    outcome = run_energy(capsys, run, "--images", 24, "--split", "train", "--curve", "--out", out)
    assert {path.name for path in out.iterdir()} == {
        *("layers.csv", "totals.csv", "energy.json", *LAYERS),
        *("curve.csv", "curve.png", "curve.svg", "curve.pdf"),
    }
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("layers.png", "curve.png"))
    written = report(out)
    assert (written["model"], written["data"], written["split"], written["images"]) == (str(run), str(run), "train", 24)
    assert (written["time_steps"], written["pj_per_mac"], written["pj_per_ac"]) == (archived(run)["time_steps"], 4.6, 0.9)
    assert written["totals"] == list(totals(out).values())
    assert written["unknown"] == {}
    assert "normalisation, which folds into weights" in written["free"]
    assert all(name in outcome.out for name in NAMES)
    assert str(out) in outcome.out


def test_break_even_rates(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """At T = 3: 2 bits; 4.6 / (3 x 0.9); 2 x 0.30448 / (3 x 3.05448). With int8 costs 0.23 / (3 x 0.03).

    The rate of computing alone excludes the costs that `memory` adds.
    """
    run_energy(capsys, run, "--time-steps", 3, "--out", tmp_path / "out")
    written = report(tmp_path / "out")
    spiking = [row for row in written["layers"] if row["input"] != "real" and row["form"] != "separate"]
    measured = sum(row["macs"] * sum(row["rate"]) for row in spiking) / sum(row["macs"] * 3 for row in spiking)
    assert written["break_even"] == {
        "time_steps": 3,
        "bits": 2,
        "measured_rate": pytest.approx(measured, rel=1e-12),
        "computing_rate": pytest.approx(4.6 / 2.7, rel=1e-12),
        "movement_rate": pytest.approx(0.60896 / 9.16344, rel=1e-12),
    }
    for convention, expected in (("rate/int8", 0.23 / 0.09), ("memory", 4.6 / 2.7)):
        run_energy(capsys, run, "--time-steps", 3, "--convention", convention, "--out", tmp_path / convention)
        assert report(tmp_path / convention)["break_even"]["computing_rate"] == pytest.approx(expected, rel=1e-12)


def test_a_run_is_measured_by_its_export(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The report is in the folder of the export."""
    run_energy(capsys, run, "--images", 16)
    run_energy(capsys, run / "export", "--images", 16, "--out", tmp_path / "out")
    assert tables(run / "export" / "energy") == tables(tmp_path / "out")
    assert set(tables(tmp_path / "out")) == {"layers.csv", "totals.csv"}


def test_data_from_a_run_an_experiment_or_a_name(run: Path, tiny_experiment: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The run of an export or its experiment have equal splits; `digits` has other splits of the same images."""
    for i, data in enumerate([run, run / "experiment.yaml", tiny_experiment]):
        run_energy(capsys, run, "--images", ALL_IMAGES, "--data", data, "--out", tmp_path / str(i))
        assert totals(tmp_path / str(i))["exact"]["energy_mj"] == archived(run)["energy_mj"]
        assert report(tmp_path / str(i))["data"] == str(data)
    run_energy(capsys, run, "--images", ALL_IMAGES, "--data", "digits", "--out", tmp_path / "digits")
    assert report(tmp_path / "digits")["images"] == 360  # a fifth of 1,797 by default


def test_the_default_convention_is_that_of_the_run(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """For images of the run; for other images it is `exact`."""
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    assert autospike(capsys, "search", moved, "--set", "search.convention=binary-only/int8").code == 0
    run_energy(capsys, moved, "--images", ALL_IMAGES, "--out", tmp_path / "own")
    assert report(tmp_path / "own")["convention"] == "binary-only/int8"
    assert totals(tmp_path / "own")["binary-only/int8"]["energy_mj"] == archived(moved)["energy_mj"]
    for name, flags in (("other", ["--data", "digits"]), ("given", ["--convention", "exact"])):
        run_energy(capsys, moved, "--images", 4, *flags, "--out", tmp_path / name)
        assert report(tmp_path / name)["convention"] == "exact"


def test_the_curve_of_an_earlier_command_is_deleted(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """It may be of other images."""
    out = tmp_path / "out"
    run_energy(capsys, run, "--images", 8, "--curve", "--out", out)
    (out / "curve.png").write_bytes(b"")
    run_energy(capsys, run, "--images", 4, "--out", out)
    assert {path.name for path in out.iterdir()} == {"layers.csv", "totals.csv", "energy.json", *LAYERS}


def test_a_source_of_images_is_not_changed(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """A folder that contains only an experiment is read and not written."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(run / "experiment.yaml", bare / "experiment.yaml")
    run_energy(capsys, run, "--data", bare, "--images", 4, "--out", tmp_path / "out")
    assert [path.name for path in bare.iterdir()] == ["experiment.yaml"]


def test_other_images_than_in_training_are_rejected(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Training images could be in another split."""
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    edited(changed / "data.json", "fingerprint", "another")
    assert_rejected(capsys, tmp_path / "out", "not those that this run was trained on", changed)


@pytest.mark.slow
def test_equal_commands_write_equal_tables(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    for name in ("one", "two"):
        torch.manual_seed(len(name))
        run_energy(capsys, run, "--images", 20, "--curve", "--out", tmp_path / name)
    assert tables(tmp_path / "one") == tables(tmp_path / "two")
    assert report(tmp_path / "one") == report(tmp_path / "two")


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_results_are_independent_of_the_batch_size(run: Path, tmp_path: Path, capsys: Capsys, batch_size: int) -> None:
    run_energy(capsys, run, "--images", 30, "--curve", "--out", tmp_path / "usual")
    run_energy(capsys, run, "--images", 30, "--curve", "--batch-size", batch_size, "--out", tmp_path / "other")
    assert tables(tmp_path / "usual") == tables(tmp_path / "other")


def test_a_single_image_is_measured(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    run_energy(capsys, run, "--images", 1, "--out", tmp_path / "out")
    assert report(tmp_path / "out")["images"] == 1


@pytest.fixture(scope="module")
def curve(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A curve up to T = 4, more than in the search space."""
    from autospike.cli import app

    folder = tmp_path_factory.mktemp("curve")
    app(["energy", str(run), "--curve", "--time-steps", "4", "--images", "64", "--out", str(folder)], standalone_mode=False)
    yield folder


@pytest.mark.slow
def test_every_row_of_a_curve_equals_a_run_with_its_t(run: Path, curve: Path, tmp_path: Path, capsys: Capsys) -> None:
    for row in pd.read_csv(curve / "curve.csv").to_dict("records"):
        out = tmp_path / str(row["time_steps"])
        run_energy(capsys, run, "--images", 64, "--time-steps", row["time_steps"], "--out", out)
        for name, total in totals(out).items():
            assert row[f"energy_mj_{name}"] == total["energy_mj"]
        assert row["accuracy"] == report(out)["accuracy"]


def test_the_last_row_of_a_curve_equals_the_totals(curve: Path) -> None:
    table = pd.read_csv(curve / "curve.csv")
    assert table["time_steps"].tolist() == [1, 2, 3, 4]
    last = table.iloc[-1]
    assert {name: last[f"energy_mj_{name}"] for name in NAMES} == {n: row["energy_mj"] for n, row in totals(curve).items()}
    assert last["accuracy"] == report(curve)["accuracy"]
    assert all(row["time_steps"] == 4 for row in report(curve)["layers"])


def test_energy_increases_with_t(curve: Path) -> None:
    table = pd.read_csv(curve / "curve.csv")
    for column in ("energy_mj", *(f"energy_mj_{name}" for name in NAMES)):
        assert table[column].is_monotonic_increasing
        assert table[column].is_unique


def test_a_published_name_is_a_network_with_random_weights(tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spikformer-4-256 on 32 x 32: the first convolution has 3 x 32 kernels, the head 256 x 10 weights."""
    monkeypatch.chdir(tmp_path)
    outcome = run_energy(capsys, "spikformer_cifar_4_256", "--data", "digits", "--images", 8)
    out = tmp_path / "energy" / "spikformer_cifar_4_256"
    assert [path.name for path in tmp_path.iterdir()] == ["energy"]
    rows = {row["layer"]: row for row in report(out)["layers"]}
    assert rows["stages.0.embedding.convs.0.conv"]["macs"] == 32 * 32 * 9 * 3 * 32
    assert rows["head"]["macs"] == 256 * 10
    assert {row["time_steps"] for row in rows.values()} == {4}
    assert sum(rows["stages.0.blocks.3.channel.mixer.fc2.linear"]["acs"]) > 0
    assert report(out)["accuracy"] is None
    assert "untrained" in outcome.out


@pytest.mark.slow
def test_random_weights_are_reproducible(tmp_path: Path, capsys: Capsys) -> None:
    """They do not depend on torch's random generator and do not change it."""
    random_after: list[float] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        out = tmp_path / str(len(random_after))
        run_energy(capsys, "spikformer_cifar_4_256", "--data", "digits", "--images", 2, "--out", out)
        random_after.append(torch.rand(1).item())
        assert tables(out) == tables(tmp_path / "0")
    for seed, number in zip((1, 2), random_after, strict=True):
        torch.manual_seed(seed)
        assert torch.rand(1).item() == number


def test_random_weights_have_no_accuracy(tmp_path: Path, capsys: Capsys) -> None:
    """Also with as many classes as the data."""
    assert_rejected(capsys, tmp_path / "out", "is untrained", "spikformer_cifar_4_256", "--data", "digits", "--curve")


def test_a_published_name_needs_data(tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_rejected(capsys, tmp_path / "out", "give the data: --data", "spikformer_cifar_4_256")


@pytest.fixture
def imported(vectors: Path, tmp_path: Path, capsys: Capsys) -> Path:
    """A published checkpoint of a Spikformer of width 64 with two blocks, for ten classes of 32 x 32 images."""
    stored = np.load(vectors / "spikformer_cifar_d64_L2.npz", allow_pickle=False)
    state = {key.removeprefix("sd/"): torch.from_numpy(stored[key]) for key in stored.files if key.startswith("sd/")}
    return import_state(state, tmp_path, capsys)


def import_state(state: dict[str, torch.Tensor], tmp_path: Path, capsys: Capsys) -> Path:
    torch.save({"state_dict": state}, tmp_path / "published.pth")
    out = tmp_path / "imported"
    assert autospike(capsys, "import", tmp_path / "published.pth", "--out", out, "--time-steps", 2).code == 0
    return out


def test_an_imported_folder_is_measured(imported: Path, capsys: Capsys) -> None:
    """Its classes are numbered, so they fit any data with ten classes."""
    run_energy(capsys, imported, "--data", "digits", "--images", 12, "--curve")
    rows = {row["layer"]: row for row in report(imported / "energy")["layers"]}
    assert rows["stages.0.embedding.convs.0.conv"]["macs"] == 32 * 32 * 9 * 3 * 8
    assert {row["time_steps"] for row in rows.values()} == {2}
    assert 0 <= report(imported / "energy")["accuracy"] <= 1
    assert len(pd.read_csv(imported / "energy" / "curve.csv")) == 2


def ten_folders(root: Path, names: list[str]) -> Path:
    """The digits of scikit-learn as files, in folders with other names than their numbers."""
    split = load_images(DataConfig(name="digits", image_size=8), seed=0).splits["test"]
    for i in range(len(split)):
        path = root / names[split.labels[i]] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        split.image(i).save(path)
    return root


NAMES_OF_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_numbered_classes_are_not_those_of_other_names(imported: Path, tmp_path: Path, capsys: Capsys) -> None:
    """A checkpoint has no names of classes, so there is no accuracy on ten folders with other names; but energy."""
    folder = ten_folders(tmp_path / "digits", NAMES_OF_DIGITS)
    outcome = run_energy(capsys, imported, "--data", folder, "--images", 8, "--out", tmp_path / "plain")
    assert report(tmp_path / "plain")["accuracy"] is None
    assert "no accuracy: its 10 classes are not the 10 of the data" in " ".join(outcome.out.split())
    assert_rejected(capsys, tmp_path / "out", "--class-map FILE", imported, "--data", folder, "--curve")


@pytest.fixture
def digits_network(tmp_path: Path) -> Path:
    """A network with numbered classes, of which the logit of class 3 is always the largest."""
    stage = Stage(embed_dim=8, embedding=Embedding(stride=4), blocks=(Block(num_heads=1),))
    architecture = Architecture(time_steps=1, stages=(stage,))
    torch.manual_seed(0)
    model = build_model(architecture, num_classes=10, in_chans=3)
    calibrate(model, [torch.rand(8, 3, 8, 8)], time_steps=1)
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
        model.get_parameter("head.bias")[3] = 1
    numbers = tuple(str(i) for i in range(10))
    write_model(tmp_path / "network", model, architecture, classes=numbers, input_spec=InputSpec.of_training(3, 8))
    return tmp_path / "network"


@pytest.mark.parametrize("kind", ["json", "csv", "order"])
def test_a_class_map_gives_an_accuracy(digits_network: Path, tmp_path: Path, capsys: Capsys, kind: str) -> None:
    """The network says class 3, which is the folder `three` by the files, and the fourth in alphabetical order, `nine`, by order.

    The split has all images, so the accuracy is the share of that folder.
    """
    folder = ten_folders(tmp_path / "digits", NAMES_OF_DIGITS)
    pairs = {str(i): name for i, name in enumerate(NAMES_OF_DIGITS)}
    given = tmp_path / f"map.{kind}"
    if kind == "json":
        given.write_text(json.dumps(pairs))
    elif kind == "csv":
        given.write_text("class,folder\n" + "".join(f"{number},{name}\n" for number, name in pairs.items()))
    chosen, said = ("order", sorted(NAMES_OF_DIGITS)[3]) if kind == "order" else (given, "three")
    out = tmp_path / "out"
    run_energy(capsys, digits_network, "--data", folder, "--images", ALL_IMAGES, "--curve", "--class-map", chosen, "--out", out)
    images = open_images(str(folder), image_size=8)
    labels = [images.classes[label] for label in images.splits["search"].labels]
    assert report(out)["accuracy"] == pytest.approx(labels.count(said) / len(labels), rel=1e-12)
    assert labels.count(said) > 0


def test_a_class_map_that_does_not_fit(digits_network: Path, tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "map.csv").write_text("0,zero\n")
    folder = ten_folders(tmp_path / "digits", NAMES_OF_DIGITS)
    options = ("--data", folder, "--class-map", tmp_path / "map.csv")
    assert_rejected(capsys, tmp_path / "out", "no class of the model is 'eight'", digits_network, *options)
    assert_rejected(capsys, tmp_path / "out", "is untrained and has no accuracy", "spikformer_cifar_4_256", *options)


def test_an_imported_folder_is_measured_with_its_crop_and_interpolation(
    digits_network: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """By PIL: images of 8 pixels are resized to 10 by bicubic interpolation, and the central 8 are kept."""
    folder = ten_folders(tmp_path / "digits", NAMES_OF_DIGITS)
    found: list[float] = []
    for crop_pct, interpolation in ((1.0, "bilinear"), (0.8, "bicubic"), (0.8, "bilinear")):
        config = json.loads((digits_network / "config.json").read_text())
        config["pretrained_cfg"] |= {"crop_pct": crop_pct, "interpolation": interpolation}
        (digits_network / "config.json").write_text(json.dumps(config))
        spec = read_model(digits_network).input_spec
        split = open_images(str(folder), image_size=8).splits["search"]
        batches = FixedBatches(split=split, channels=3, image_size=8, preparation=spec.preparation)
        size = int(8 / crop_pct)
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        edge = (size - 8) // 2
        expected = np.stack(
            [
                np.asarray(split.image(i).convert("RGB").resize((size, size), filters[interpolation]))[
                    edge : edge + 8, edge : edge + 8
                ]
                for i in range(4)
            ]
        ).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(batches.batch((0, 4)).images.numpy(), (expected / 255 - 0.5) / 0.5, rtol=1e-5, atol=1e-6)
        run_energy(capsys, digits_network, "--data", folder, "--images", 8, "--out", tmp_path / str(len(found)))
        found.append(totals(tmp_path / str(len(found)))["exact"]["acs"])
    assert len(set(found)) == 3


def test_an_imported_folder_normalises_pixels_as_configured(imported: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Another mean and standard deviation in its folder changes the counts."""
    config = json.loads((imported / "config.json").read_text())
    found = []
    for mean, std in ((0.4, 0.2), (0.5, 0.5)):
        config["pretrained_cfg"] |= {"mean": [mean] * 3, "std": [std] * 3}
        (imported / "config.json").write_text(json.dumps(config))
        run_energy(capsys, imported, "--data", "digits", "--images", 12, "--out", tmp_path / str(mean))
        found.append(totals(tmp_path / str(mean))["exact"]["acs"])
    assert found[0] != found[1]


def test_an_imported_folder_needs_data(imported: Path, tmp_path: Path, capsys: Capsys) -> None:
    assert_rejected(capsys, tmp_path / "out", "give the data: --data", imported)


def test_a_network_without_statistics_is_a_one_line_error(vectors: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Such as a checkpoint that was saved before any training."""
    stored = np.load(vectors / "spikformer_cifar_d64_L2.npz", allow_pickle=False)
    state = {key.removeprefix("sd/"): torch.from_numpy(stored[key]) for key in stored.files if key.startswith("sd/")}
    without_statistics = {
        key: torch.zeros_like(value) if key.endswith("num_batches_tracked") else value for key, value in state.items()
    }
    assert_rejected(capsys, tmp_path / "out", "statistics", import_state(without_statistics, tmp_path, capsys), "--data", "digits")


def frames_folder(root: Path, *, steps: int = 4, channels: int = 2) -> Path:
    """Write event counts of 0 to 3 as spikingjelly does."""
    rng = np.random.default_rng(0)
    for name, count in {"clap": 10, "wave": 20}.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            np.savez_compressed(root / name / f"{i}.npz", frames=rng.integers(0, 4, (steps, channels, 8, 8)).astype(float))
    return root


@pytest.fixture
def event_network(tmp_path: Path) -> Path:
    """An exported network for event frames, and `tmp_path / "frames"` to run it on."""
    images = load_images(DataConfig(name="events", root=frames_folder(tmp_path / "frames"), image_size=8), seed=0)
    spiking = Neuron(v_threshold=0.3)
    stage = Stage(embed_dim=16, embedding=Embedding(stride=4, neuron=spiking), blocks=(Block(num_heads=2, neuron=spiking),))
    architecture = Architecture(time_steps=3, stages=(stage,))
    torch.manual_seed(0)
    model = build_model(architecture, num_classes=2, in_chans=2)
    (batch,) = FixedBatches(split=images.splits["train"], channels=2, image_size=8)(100)
    calibrate(model, [batch.images], time_steps=3)
    write_model(
        tmp_path / "network", model, architecture, classes=images.classes, input_spec=InputSpec.of_training(2, 8, events=True)
    )
    return tmp_path / "network"


def test_event_frames_are_accumulated(event_network: Path, capsys: Capsys) -> None:
    """The event counts of the first three of four frames; the rates of the first layer are the means of the frames."""
    frames = event_network.parent / "frames"
    run_energy(capsys, event_network, "--data", frames, "--images", ALL_IMAGES, "--split", "train", "--curve")
    first = pd.read_csv(event_network / "energy" / "layers.csv").iloc[0]
    train = load_images(DataConfig(name="events", root=frames, image_size=8), seed=0).splits["train"]
    frames_of_split = np.stack([train.image(i) for i in range(len(train))])
    assert (first["input"], first["reads"], first["time_steps"]) == ("integer", "stream", 3)
    assert [first[f"rate_{t + 1}"] for t in range(3)] == pytest.approx(
        frames_of_split.mean(axis=(0, 2, 3, 4))[:3].tolist(), rel=1e-6
    )
    taps = np.array([2, 3, 3, 3, 3, 3, 3, 2])
    reached = frames_of_split[:, :3].sum(axis=2) * np.outer(taps, taps) * 2  # two outputs of a kernel of 3 x 3
    assert [first[f"acs_{t + 1}"] for t in range(3)] == pytest.approx(reached.sum(axis=(2, 3)).mean(axis=0).tolist(), rel=1e-6)
    assert report(event_network / "energy")["accuracy"] is not None


def test_more_time_steps_than_event_frames_are_rejected(event_network: Path, capsys: Capsys) -> None:
    frames = event_network.parent / "frames"
    run_energy(capsys, event_network, "--data", frames, "--time-steps", 4)
    out = event_network.parent / "out"
    assert_rejected(
        capsys,
        out,
        "5 steps, but the samples under data.root have 4 event frames",
        event_network,
        "--data",
        frames,
        "--time-steps",
        5,
    )


def assert_rejected(capsys: Capsys, out: Path, words: str, *args: object) -> None:
    """One line on standard error, exit code 2, and nothing written."""
    outcome = autospike(capsys, "energy", *args, "--out", out)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nowhere"], "nowhere: no such folder, and no published network of this name; similar ones are "),
        (["RUN/experiment.yaml"], "no such folder"),
        (["RUN/supernet"], "no exported or imported model here (no architecture.json); see: autospike export, import"),
        (["RUN", "--data", "nowhere"], "--data nowhere: no such folder; give a folder of images"),
        (["RUN", "--data", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["RUN", "--data", "RUN/supernet"], "is not a valid image folder"),
        (["RUN", "--convention", "joules"], "no energy convention 'joules'; choose from exact, rate, spikformer, binary-only"),
        (["RUN", "--convention", "exact/int4"], "/fp32, /fp16, /int8, /sram"),
        (["RUN", "--split", "val"], "'--split'"),
        (["RUN", "--images", "0"], "'--images'"),
        (["RUN", "--images", "many"], "'--images'"),
        (["RUN", "--time-steps", "0"], "'--time-steps'"),
        (["RUN", "--batch-size", "0"], "'--batch-size'"),
        ([], "Missing argument"),
    ],
)
def test_an_invalid_call_is_a_one_line_error(run: Path, tmp_path: Path, capsys: Capsys, args: list[str], words: str) -> None:
    assert_rejected(capsys, tmp_path / "out", words, *(arg.replace("RUN", str(run)) for arg in args))


def test_a_run_without_an_export_is_rejected(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    assert_rejected(capsys, tmp_path / "out", "no exported or imported model here", tmp_path / "run")


def test_still_images_are_rejected_for_a_network_of_event_frames(event_network: Path, tmp_path: Path, capsys: Capsys) -> None:
    assert_rejected(capsys, tmp_path / "out", "takes 2 channels; give data that fit", event_network, "--data", "digits")


def test_event_frames_are_rejected_for_a_network_of_images(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    frames = frames_folder(tmp_path / "frames")
    assert_rejected(capsys, tmp_path / "out", "event frames of 2 channels", run, "--data", frames)


def test_event_frames_with_other_channels_are_rejected(event_network: Path, tmp_path: Path, capsys: Capsys) -> None:
    frames = frames_folder(tmp_path / "others", channels=3)
    assert_rejected(capsys, tmp_path / "out", "event frames of 3 channels, but", event_network, "--data", frames)


def image_folder(root: Path) -> Path:
    """Write a folder of random images in two classes."""
    rng = np.random.default_rng(0)
    for i in range(40):
        path = root / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


def test_data_with_other_classes_give_energy_without_accuracy(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """A curve of accuracy is rejected."""
    folder = image_folder(tmp_path / "pictures")
    run_energy(capsys, run, "--data", folder, "--out", tmp_path / "plain")
    assert report(tmp_path / "plain")["accuracy"] is None
    assert report(tmp_path / "plain")["images"] == 8  # a fifth of 40
    assert_rejected(capsys, tmp_path / "out", "its 10 classes are not the 2 of the data", run, "--data", folder, "--curve")


def test_an_export_of_a_missing_run_needs_data(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    exported = copied(run, tmp_path, lambda folder: edited(folder / "report.json", "provenance", {"run": str(tmp_path / "gone")}))
    assert_rejected(capsys, tmp_path / "out", "is unknown; give the data: --data", exported)
    run_energy(capsys, exported, "--data", run, "--images", ALL_IMAGES, "--out", tmp_path / "out")
    assert totals(tmp_path / "out")["exact"]["energy_mj"] == archived(run)["energy_mj"]


def test_a_moved_export_uses_the_data_of_its_run(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    exported = copied(run, tmp_path, lambda _folder: None)
    run_energy(capsys, exported, "--images", ALL_IMAGES)
    assert totals(exported / "energy")["exact"]["energy_mj"] == archived(run)["energy_mj"]


def test_a_moved_run_uses_its_own_data(run: Path, tmp_path: Path, capsys: Capsys) -> None:
    """Although its export names the original folder."""
    shutil.copytree(run, tmp_path / "moved")
    edited(tmp_path / "moved" / "export" / "report.json", "provenance", {"run": str(tmp_path / "gone")})
    run_energy(capsys, tmp_path / "moved", "--images", ALL_IMAGES, "--out", tmp_path / "out")
    assert totals(tmp_path / "out")["exact"]["energy_mj"] == archived(run)["energy_mj"]


def copied(run: Path, tmp_path: Path, change: Callable[[Path], object]) -> Path:
    """Return a copy of the export outside of its run, changed by `spoil`."""
    folder = tmp_path / "copy" / "export"
    shutil.copytree(run / "export", folder, ignore=shutil.ignore_patterns("energy"))
    change(folder)
    return folder


def edited(path: Path, field: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))


def with_pretrained_cfg(field: str, value: object) -> Callable[[Path], None]:
    """Return a function that changes a field of `pretrained_cfg` in `config.json`."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["pretrained_cfg"][field] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


DAMAGE: dict[str, Callable[[Path], object]] = {
    "invalid weights": lambda folder: (folder / "model.safetensors").write_bytes(b"weights"),
    "truncated weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-9]
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "config that is not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config that is not text": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
    "config that is not a mapping": lambda folder: (folder / "config.json").write_text("[]"),
    "empty config": lambda folder: (folder / "config.json").write_text("{}"),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "wrong number of classes": lambda folder: edited(folder / "config.json", "label_names", ["one"]),
    "number instead of classes": lambda folder: edited(folder / "config.json", "label_names", 10),
    "no size": with_pretrained_cfg("input_size", None),
    "incomplete size": with_pretrained_cfg("input_size", [1, 8]),
    "size that is not a number": with_pretrained_cfg("input_size", [1, "large", "large"]),
    "zero size": with_pretrained_cfg("input_size", [1, 0, 0]),
    "mean that is not a number": with_pretrained_cfg("mean", ["grey"]),
    "means of more channels": with_pretrained_cfg("mean", [0.1, 0.2, 0.3]),
    "architecture that is not JSON": lambda folder: (folder / "architecture.json").write_text("{"),
    "architecture that is not a mapping": lambda folder: (folder / "architecture.json").write_text("[]"),
    "zero crop": with_pretrained_cfg("crop_pct", 0),
    "crop that is not a number": with_pretrained_cfg("crop_pct", "centre"),
    "interpolation that does not exist": with_pretrained_cfg("interpolation", "sharp"),
    "empty architecture": lambda folder: (folder / "architecture.json").write_text("{}"),
    "another architecture": lambda folder: edited(folder / "architecture.json", "stages", [{"embed_dim": 24, "blocks": [{}]}]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_a_one_line_error_naming_the_folder(run: Path, tmp_path: Path, capsys: Capsys, name: str) -> None:
    exported = copied(run, tmp_path, DAMAGE[name])
    assert_rejected(capsys, tmp_path / "out", str(exported), exported, "--data", "digits")


@pytest.mark.parametrize("text", ["{", "{}", "[]", "null", '{"provenance": {}}', '{"provenance": {"run": 3}}'])
def test_a_damaged_report_of_an_export_is_a_one_line_error(run: Path, tmp_path: Path, capsys: Capsys, text: str) -> None:
    exported = copied(run, tmp_path, lambda folder: (folder / "report.json").write_text(text))
    assert_rejected(capsys, tmp_path / "out", str(exported), exported)


@pytest.mark.parametrize("out", ["out", "out/deeper/still"])
def test_a_file_instead_of_the_output_folder_is_a_one_line_error(run: Path, tmp_path: Path, capsys: Capsys, out: str) -> None:
    (tmp_path / "out").write_text("mine")
    outcome = autospike(capsys, "energy", run, "--images", 4, "--out", tmp_path / out)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert f"{tmp_path / 'out'} is a file" in outcome.err
    assert (tmp_path / "out").read_text() == "mine"


def test_the_files_of_a_model_are_not_changed(run: Path, capsys: Capsys) -> None:
    """The report is added to its folder."""
    before = {path: path.read_bytes() for path in (run / "export").iterdir() if path.is_file()}
    run_energy(capsys, run, "--images", 4)
    assert {path: path.read_bytes() for path in (run / "export").iterdir() if path.is_file()} == before


def test_kinds_of_image_sources(run: Path, tmp_path: Path) -> None:
    """The kind follows from the content of a folder, the splits from its experiment if it has one."""
    still = open_images(str(image_folder(tmp_path / "pictures")), image_size=5)
    assert (still.classes, still.channels, still.time_steps) == (("cat", "dog"), 3, None)
    frames = open_images(str(frames_folder(tmp_path / "frames")), image_size=5)
    assert (frames.classes, frames.channels, frames.time_steps) == (("clap", "wave"), 2, 4)
    assert {name: len(split) for name, split in open_images("digits", image_size=9).splits.items()} == {
        "train": 1077,
        "search": 360,
        "test": 360,
    }
    from_run = open_images(str(run), image_size=8)
    expected = load_images(DataConfig(name="digits", image_size=8, search_share=0.1, test_share=0.1), seed=3)
    assert from_run.fingerprint == expected.fingerprint != open_images("digits", image_size=8).fingerprint
