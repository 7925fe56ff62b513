"""A complete tiny run on the digits: its files, the data that it reads, and repeated, killed and resumed commands."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import yaml
from cli_runner import autospike
from processes import kill_command
from slow_parameters import slow_except
from tiny_runs import call, searched, without_figures

from autospike.config import Experiment
from autospike.data.loading import load_images
from autospike.pareto import on_front
from autospike.space.architecture import Architecture

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A finished run, made by the commands `train`, `search`, `plot` and `export` in sequence."""
    folder = searched(tiny_experiment, tmp_path_factory)
    call("export", folder, "--pick", "knee")
    return folder


def rows(run: Path) -> list[sqlite3.Row]:
    db = sqlite3.connect(run / "archive.sqlite")
    db.row_factory = sqlite3.Row
    return db.execute("SELECT * FROM evaluations ORDER BY rowid").fetchall()


def proposed(found: list[sqlite3.Row]) -> list[sqlite3.Row]:
    """Return the rows of proposed candidates, without by-product candidates."""
    return [row for row in found if not row["free"]]


def ids_with_by_products(text: str) -> set[str]:
    """Return the ids of an architecture of the tiny space and its by-product candidates: T of 2 and 3, one or two blocks."""
    architecture = Architecture.from_json(text)
    (stage,) = architecture.stages
    return {
        replace(architecture, time_steps=time_steps, stages=(replace(stage, blocks=stage.blocks[:depth]),)).id
        for time_steps in (2, 3)
        for depth in range(1, len(stage.blocks) + 1)
    }


def test_the_run_folder_has_the_documented_files(run: Path) -> None:
    expected = [
        *("experiment.yaml", "environment.json", "log.jsonl", "archive.sqlite"),
        *("supernet/checkpoint.json", "baseline/checkpoint.json"),
        *("export/model.safetensors", "export/config.json", "export/architecture.json", "export/report.json"),
        *("report/pareto.png", "report/pareto.svg", "report/search.png", "report/genes.png"),
        *("report/candidates.csv", "report/front.csv"),
    ]
    assert [name for name in expected if not (run / name).is_file()] == []
    assert not list(run.rglob("*.part"))


def test_the_resolved_experiment_contains_its_space(run: Path, tiny_experiment: Path) -> None:
    assert Experiment.load(run / "experiment.yaml") == Experiment.load(tiny_experiment)
    assert isinstance(yaml.safe_load((run / "experiment.yaml").read_text())["space"], dict)


def test_the_environment_has_versions_seed_and_machine(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 3
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["machine"]["cores"] > 0


def test_the_log_has_the_events_in_order(run: Path) -> None:
    events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    milestones = [event for event in events if event not in ("train", "search")]
    assert milestones == [
        *["train started", "train finished"] * 2,
        "search started",
        "search finished",
        "test split opened",
        "exported",
    ]


def test_every_candidate_has_one_row(run: Path) -> None:
    found = rows(run)
    assert len(found) == len({row["architecture_id"] for row in found})
    assert len(proposed(found)) == 6 * 3
    for row in found:
        architecture = Architecture.from_json(row["architecture"])
        assert architecture.id == row["architecture_id"]
        assert row["time_steps"] == architecture.time_steps
        assert row["accuracy"] == row["correct"] / row["images"]
        assert row["energy_mj"] == pytest.approx((4.6 * row["macs"] + 0.9 * row["acs"]) * 1e-9)
    assert {row["generation"] for row in found} == {0, 1, 2}


def test_by_product_candidates_are_archived(run: Path) -> None:
    found = rows(run)
    assert {row["architecture_id"] for row in found} == set().union(
        *(ids_with_by_products(row["architecture"]) for row in proposed(found))
    )
    assert len(found) >= 2 * len(proposed(found))  # every T at least
    assert {row["free"] for row in found} == {0, 1}
    assert {row["images"] for row in found} == {180}


def test_tables_have_the_documented_columns(run: Path) -> None:
    columns = [
        "id",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "energy_mj",
        "energy_uj",
        "params",
        "time_steps",
        "f_aeb",
        "generation",
        "free",
        "images",
        "on_front",
        "architecture",
    ]
    candidates, front = (pd.read_csv(run / "report" / name) for name in ("candidates.csv", "front.csv"))
    assert list(candidates.columns) == list(front.columns) == columns
    assert len(candidates) == len(rows(run))
    flags = on_front(list(zip(candidates["accuracy"], candidates["energy_mj"], strict=True)))
    assert candidates["on_front"].tolist() == flags
    assert set(front["id"]) == set(candidates["id"][flags])


def test_timm_opens_the_export_with_the_reported_accuracy(run: Path) -> None:
    """Compute the accuracy of the exported model on the test split without the package's evaluation."""
    report = json.loads((run / "export" / "report.json").read_text())
    model = timm.create_model(f"local-dir:{run / 'export'}", pretrained=True).eval()
    experiment = Experiment.load(run / "experiment.yaml")
    test = load_images(experiment.data, seed=experiment.seed).splits["test"]
    pixels = [torch.tensor(list(test.image(i).tobytes())).view(1, 8, 8) / 127.5 - 1 for i in range(len(test))]
    with torch.no_grad():
        predictions = model(torch.stack(pixels)).argmax(dim=1)
    accuracy = (predictions == torch.tensor(test.labels)).float().mean().item()
    assert report["test_accuracy"] == pytest.approx(accuracy)
    assert report["test_images"] == len(test)
    assert report["params"] == sum(p.numel() for p in model.parameters())


def test_the_report_compares_with_the_reference_network(run: Path) -> None:
    report = json.loads((run / "export" / "report.json").read_text())
    experiment = Experiment.load(run / "experiment.yaml")
    assert Architecture.from_dict(report["baseline"]["architecture"]) == experiment.search_space.largest()
    for part in (report, report["baseline"]):
        assert part["energy_mj"] == pytest.approx((4.6 * part["macs"] + 0.9 * part["acs"]) * 1e-9)
        assert all(0 <= rate <= 1 for rate in part["firing_rates"].values())
        assert len(part["layers"]) >= len(part["firing_rates"])
    assert report["provenance"]["pick"] == "knee"
    assert report["provenance"]["run"] == str(run.resolve())


def test_an_export_can_be_trained(run: Path) -> None:
    model = timm.create_model(f"local-dir:{run / 'export'}", pretrained=True, num_classes=3).train()
    loss = torch.nn.functional.cross_entropy(model(torch.rand(8, 1, 8, 8)), torch.arange(8) % 3)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


SHORT = {
    "data.image_size": 16,
    "training.epochs": 1,
    "training.warmup_epochs": 0,
    "training.batch_size": 16,
    "search.generations": 1,
    "search.population": 4,
    "space.stages.0.embed_dim": [16],
    "space.stages.0.depth": [1, 2],
}


def digit_images(folder: Path) -> list[str]:
    """Write sixty digits as a folder of images of two classes; return settings for a short run of the folder experiment."""
    train = load_images(Experiment.load(EXPERIMENTS / "digits.yaml").data, seed=0).splits["train"]
    for i in range(60):
        path = folder / f"digit {train.labels[i] % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        train.image(i).resize((20, 16)).save(path)
    return [part for key, value in {"data.root": folder, **SHORT}.items() for part in ("--set", f"{key}={value}")]


@contextmanager
def unreadable_test_images(images: Path, experiment: Experiment) -> Iterator[None]:
    """Replace the images of the test split by invalid files."""
    data = experiment.data.model_copy(update={"root": images})
    files = sorted(images.rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    contents = {files[i]: files[i].read_bytes() for i in load_images(data, seed=experiment.seed).splits["test"].indices}
    for path in contents:
        path.write_bytes(b"unreadable")
    yield
    for path, content in contents.items():
        path.write_bytes(content)


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images, and a run that was trained, searched and plotted while its test images were unreadable."""
    images, run = tmp_path_factory.mktemp("folder") / "images", tmp_path_factory.mktemp("runs") / "folder"
    settings = [*digit_images(images), "--set", "data.channels=1"]  # otherwise all images are searched for colours
    with unreadable_test_images(images, Experiment.load(EXPERIMENTS / "folder.yaml", settings[1::2])):
        call("train", EXPERIMENTS / "folder.yaml", "--run", run, *settings)
        call("search", run)
        with without_figures():
            call("plot", run)
    return images, run


def test_training_search_and_plots_read_no_test_image(folder_run: tuple[Path, Path]) -> None:
    """They succeeded with unreadable test images."""
    assert (folder_run[1] / "report" / "front.csv").is_file()


def test_an_interrupted_export_is_repeated(
    folder_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unreadable test images end the second export after it has written another model."""
    images, run = tmp_path / "images", folder_run[1]
    shutil.copytree(folder_run[0], images)
    command = ["export", run, "--out", tmp_path / "out", "--set", f"data.root={images}", "--pick"]
    assert autospike(capsys, *command, largest_of(run)).code == 0
    model = (tmp_path / "out" / "model.safetensors").read_bytes()
    (other, *_) = [row["architecture_id"] for row in rows(run) if row["architecture_id"] != largest_of(run)]
    with unreadable_test_images(images, Experiment.load(run / "experiment.yaml")):
        failed = autospike(capsys, *command, other)
    assert (failed.code, failed.err.count("\n")) == (2, 1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != model
    assert not (tmp_path / "out" / "report.json").exists()
    assert autospike(capsys, *command, largest_of(run)).code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == model
    assert json.loads((tmp_path / "out" / "report.json").read_text())["architecture_id"] == largest_of(run)


def test_a_folder_with_other_images_than_in_training_is_rejected(
    folder_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, run = folder_run
    shutil.copytree(images, tmp_path / "images")
    shutil.copy(next((images / "digit 1").iterdir()), tmp_path / "images" / "digit 0" / "new.png")
    outcome = autospike(capsys, "search", run, "--set", f"data.root={tmp_path / 'images'}")
    assert outcome.code == 2
    assert "not those that this run was trained on" in outcome.err


def test_a_folder_can_be_moved_after_training(
    folder_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, run = folder_run
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(images, tmp_path / "moved")
    settings = ["--set", f"data.root={tmp_path / 'moved'}", "--set", "search.generations=2"]
    assert autospike(capsys, "search", tmp_path / "run", *settings).code == 0


def test_an_unreadable_image_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = digit_images(tmp_path / "images")
    for path in (tmp_path / "images" / "digit 0").iterdir():
        path.write_bytes(b"nothing")
    outcome = autospike(capsys, "train", EXPERIMENTS / "folder.yaml", "--run", tmp_path / "run", *settings)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "not a readable" in outcome.err


def test_a_run_on_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The experiment for image folders, with short training."""
    settings = digit_images(tmp_path / "images")
    outcome = autospike(capsys, "run", EXPERIMENTS / "folder.yaml", "--run", tmp_path / "run", *settings)
    assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert config["label_names"] == ["digit 0", "digit 1"]
    assert config["pretrained_cfg"]["input_size"] == [1, 16, 16]  # the digits are grey


@pytest.mark.slow
def test_equal_seeds_give_equal_fronts(run: Path, tmp_path: Path, tiny_experiment: Path) -> None:
    call("run", tiny_experiment, "--run", tmp_path)
    assert (tmp_path / "report" / "candidates.csv").read_text() == (run / "report" / "candidates.csv").read_text()
    assert (tmp_path / "report" / "front.csv").read_text() == (run / "report" / "front.csv").read_text()


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_finished_run_repeats_no_work(run: Path, tiny_experiment: Path) -> None:
    """Rows contain the time of their measurement, and files keep their modification time."""
    before, events = [tuple(row) for row in rows(run)], len(log_of(run))
    files = {path: path.stat().st_mtime_ns for folder in ("supernet", "baseline", "export") for path in (run / folder).iterdir()}
    call("run", tiny_experiment, "--run", run, "--no-fine-tune", "--no-rivals", "--set", "export.pick=knee")
    assert [tuple(row) for row in rows(run)] == before
    assert {path: path.stat().st_mtime_ns for path in files} == files
    new = {event["event"]: event for event in log_of(run)[events:]}
    assert new.keys().isdisjoint({"train started", "train", "test split opened", "exported"})
    assert new["search finished"]["measured_now"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("generations", [0, 1])
def test_a_killed_search_resumes_to_the_same_front(run: Path, tmp_path: Path, generations: int) -> None:
    """Archived generations are not measured again; the generation in progress is lost."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("archive.sqlite*", "report", "export", "log.jsonl"))
    kill_command(lambda: "search started" in events_of(folder) and archived_generations(folder) >= generations, "search", folder)
    expected, archived = [untimed(row) for row in rows(run)], rows(folder)
    assert [untimed(row) for row in archived] == expected[: len(archived)]
    assert len(archived) in (0, *accumulate(Counter(row["generation"] for row in expected).values()))
    call("search", folder)
    call("plot", folder)
    assert [untimed(row) for row in rows(folder)] == expected
    assert [tuple(row) for row in rows(folder)][: len(archived)] == [tuple(row) for row in archived]
    assert (folder / "report" / "candidates.csv").read_text() == (run / "report" / "candidates.csv").read_text()


def events_of(run: Path) -> list[str]:
    return [event["event"] for event in log_of(run)] if (run / "log.jsonl").exists() else []


def archived_generations(run: Path) -> int:
    """Return the number of generations in the archive, also while another process writes to it."""
    try:
        return len({row["generation"] for row in rows(run)})
    except sqlite3.OperationalError:  # no table yet
        return 0


def copied(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    return folder


@pytest.mark.slow
def test_a_finished_search_continues_with_more_generations(tmp_path: Path, trained_run: Path) -> None:
    run = copied(trained_run, tmp_path / "run")
    call("search", run, "--set", "search.generations=1")
    first = [tuple(row) for row in rows(run)]
    call("search", run, "--set", "search.generations=2")
    assert [tuple(row) for row in rows(run)][: len(first)] == first
    assert len(proposed(rows(run))) == 12


@pytest.mark.slow
def test_two_algorithms_share_an_archive(tmp_path: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(trained_run, tmp_path / "run")
    for algorithm in ("nsga2", "random", "aeb"):
        command = ("search", run, "--set", "search.generations=1", "--set", f"search.algorithm={algorithm}")
        assert autospike(capsys, *command).code == 0
    searches = sqlite3.connect(run / "archive.sqlite").execute("SELECT DISTINCT search_id FROM proposals").fetchall()
    assert {name.split("-")[0] for (name,) in searches} == {"nsga2", "random", "aeb"}
    assert len(proposed(rows(run))) == 6  # all three have the same first generation
    assert autospike(capsys, "plot", run).code == 0


@pytest.mark.slow
def test_least_energy_within_a_tolerance_of_the_best_accuracy(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(run / "report" / "candidates.csv")
    for tolerance in (0.0, 0.02, 1.0):
        settings = ["--pick", "least-energy", "--set", f"export.tolerance={tolerance}", "--out", tmp_path / str(tolerance)]
        assert autospike(capsys, "export", run, *settings).code == 0
        accurate = table[table["accuracy"] >= table["accuracy"].max() - tolerance]
        report = json.loads((tmp_path / str(tolerance) / "report.json").read_text())
        assert report["architecture_id"] == accurate.loc[accurate["energy_mj"].idxmin(), "id"]


@pytest.mark.parametrize("pick", slow_except(["least-energy"], ["best-accuracy", "least-energy", "best-faeb", "knee"]))
def test_each_selection_rule_exports_its_candidate(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pick: str
) -> None:
    table = pd.read_csv(run / "report" / "candidates.csv")
    assert autospike(capsys, "export", run, "--pick", pick, "--out", tmp_path).code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    selected = table.set_index("id").loc[report["architecture_id"]]
    best = {"best-accuracy": ("accuracy", "max"), "least-energy": ("energy_mj", "min"), "best-faeb": ("f_aeb", "max")}
    if pick in best:
        column, extreme = best[pick]
        assert selected[column] == table[column].agg(extreme)
    assert bool(selected["on_front"]) or pick == "best-faeb"


def test_a_rejected_option_is_not_stored(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "experiment.yaml").read_text()
    assert autospike(capsys, "export", run, "--pick", "unknown").code == 2
    assert autospike(capsys, "search", run, "--set", "device=cuda").code == (0 if torch.cuda.is_available() else 2)
    assert autospike(capsys, "export", run, "--pick", "least-energy", "--out", tmp_path / "other").code == 0
    assert (run / "experiment.yaml").read_text() == before or torch.cuda.is_available()


@pytest.mark.slow
def test_another_protocol_measures_the_baseline_again(tmp_path: Path, trained_run: Path) -> None:
    run, found = copied(trained_run, tmp_path / "run"), []
    for images in (64, 8):
        call("search", run, "--set", "search.generations=1", "--set", f"evaluation.calibration_images={images}")
        found.append(json.loads((run / "baseline" / "measurement.json").read_text()))
    assert found[0]["protocol_id"] != found[1]["protocol_id"]
    assert found[0]["acs"] != found[1]["acs"]


@pytest.mark.parametrize("name", ["0123", "12", "no", "1e5", "unknown"])
def test_an_unknown_candidate_is_a_one_line_error(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    outcome = autospike(capsys, "export", run, "--pick", name, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert f"--pick {name}: " in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_candidate_is_selected_by_id(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = rows(run)[7]["architecture_id"]
    assert autospike(capsys, "export", run, "--pick", name, "--out", tmp_path).code == 0
    assert json.loads((tmp_path / "report.json").read_text())["architecture_id"] == name


def binary_only(counts: list[dict[str, Any]]) -> tuple[float, float]:
    """Return MACs and ACs: inputs except spikes are dense, spikes are rate times dense, a mean counts once."""
    macs = acs = 0.0
    for row in counts:
        if row["form"] == "fused":
            continue
        if row["input"] == "binary":
            acs += row["macs"] * sum(row["rate"])
        else:
            macs += row["macs"] * (1 if row["reads"] == "mean" else row["time_steps"])
    return macs, acs


def binary_only_mj(row: sqlite3.Row) -> float:
    macs, acs = binary_only(json.loads(zlib.decompress(row["counts"])))
    return (4.6 * macs + 0.9 * acs) * 1e-9


def by_f_aeb(energies: dict[str, float], accuracies: dict[str, float], largest: str) -> dict[str, float]:
    return {name: accuracies[name] * (energy / energies[largest]) ** -0.07 for name, energy in energies.items()}


def largest_of(run: Path) -> str:
    return Experiment.load(run / "experiment.yaml").search_space.largest().id


def test_a_plot_under_another_convention_uses_the_counts_in_the_archive(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: (run / "report" / name).read_bytes() for name in ("candidates.csv", "front.csv")}
    outcome = autospike(capsys, "plot", run, "--energy", "binary-only")
    assert (outcome.code, outcome.err) == (0, "")
    table = pd.read_csv(run / "report" / "binary-only" / "candidates.csv", dtype={"id": str}).set_index("id")
    energies = {row["architecture_id"]: binary_only_mj(row) for row in rows(run)}
    assert table["energy_mj"].to_dict() == pytest.approx(energies, rel=1e-12)
    f_aeb = by_f_aeb(energies, {str(name): float(value) for name, value in table["accuracy"].items()}, largest_of(run))
    assert table["f_aeb"].to_dict() == pytest.approx(f_aeb, rel=1e-12)
    assert {name: (run / "report" / name).read_bytes() for name in before} == before
    assert {row["convention"] for row in rows(run)} == {"exact"}


@pytest.mark.parametrize("text", ["joules", "binary-only/int4", "exact/"])
def test_a_plot_under_an_unknown_convention_is_a_one_line_error(run: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    outcome = autospike(capsys, "plot", run, "--energy", text)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert f"no energy convention '{text}'; choose from exact, rate, spikformer, binary-only, fused, integer, memory" in outcome.err
    assert not [path for path in (run / "report").iterdir() if path.is_dir() and path.name != "binary-only"]


def test_a_reference_network_of_an_older_version_is_a_one_line_error(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "baseline" / "measurement.json").write_text(json.dumps({"accuracy": 0.5, "energy_mj": 0.001}))
    outcome = autospike(capsys, "plot", tmp_path / "run", "--energy", "spikformer")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "measured by an older version; run: autospike search" in outcome.err
    assert not (tmp_path / "run" / "report" / "spikformer").exists()


@pytest.fixture(scope="module")
def random_searches(tmp_path_factory: pytest.TempPathFactory, trained_run: Path) -> tuple[Path, Path]:
    """Two runs of one supernet: one searched under `exact` and then under `binary-only`, one only under `binary-only`."""
    reused, fresh = (copied(trained_run, tmp_path_factory.mktemp("conventions") / name) for name in ("reused", "fresh"))
    random = ("--set", "search.algorithm=random", "--set", "search.generations=2")
    call("search", reused, *random)
    measured = [(row["seconds"], row["measured_at"]) for row in rows(reused)]
    call("search", reused, "--set", "search.convention=binary-only")
    assert [(row["seconds"], row["measured_at"]) for row in rows(reused)] == measured
    call("search", fresh, *random, "--set", "search.convention=binary-only")
    with without_figures():
        for run in (reused, fresh):
            call("plot", run)
    return reused, fresh


@pytest.mark.slow
def test_a_random_search_under_another_convention_measures_nothing(random_searches: tuple[Path, Path]) -> None:
    """The front equals that of a new search, because random search proposes the same candidates under any convention."""
    reused, fresh = random_searches
    for name in ("candidates.csv", "front.csv"):
        assert (reused / "report" / name).read_text() == (fresh / "report" / name).read_text()
    assert [untimed(row) for row in rows(reused)] == [untimed(row) for row in rows(fresh)]


def untimed(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row without times."""
    return {name: value for name, value in dict(row).items() if name not in ("seconds", "measured_at")}


@pytest.mark.slow
def test_an_archive_has_the_energies_of_the_latest_search(random_searches: tuple[Path, Path]) -> None:
    reused, _ = random_searches
    found = rows(reused)
    assert len(proposed(found)) == 6 * 2
    energies = {row["architecture_id"]: binary_only_mj(row) for row in found}
    f_aeb = by_f_aeb(energies, {row["architecture_id"]: row["accuracy"] for row in found}, largest_of(reused))
    for row in found:
        macs, acs = binary_only(json.loads(zlib.decompress(row["counts"])))
        assert (row["convention"], row["macs"], row["acs"]) == ("binary-only", macs, pytest.approx(acs, rel=1e-12))
        assert row["energy_mj"] == pytest.approx(energies[row["architecture_id"]], rel=1e-12)
        assert row["f_aeb"] == pytest.approx(f_aeb[row["architecture_id"]], rel=1e-12)


@pytest.mark.slow
def test_an_export_uses_the_convention_of_the_latest_search(random_searches: tuple[Path, Path], tmp_path: Path) -> None:
    reused, _ = random_searches
    assert Experiment.load(reused / "experiment.yaml").search.convention == "binary-only"
    call("export", reused, "--pick", "least-energy", "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["architecture_id"] == min(rows(reused), key=binary_only_mj)["architecture_id"]
    for part in (report, report["baseline"]):
        macs, acs = binary_only(part["layers"])
        assert (part["convention"], part["macs"], part["acs"]) == ("binary-only", macs, pytest.approx(acs, rel=1e-12))


@pytest.mark.slow
def test_an_export_under_another_convention_is_reported_under_it(run: Path, tmp_path: Path) -> None:
    """Energy and fitness are under that convention."""
    name, out = largest_of(run), tmp_path / "out"
    for convention in ("exact", "binary-only"):
        call("export", run, "--pick", name, "--out", out, "--set", f"search.convention={convention}")
        report = json.loads((out / "report.json").read_text())
        assert (report["architecture_id"], report["convention"]) == (name, convention)


@pytest.mark.slow
def test_an_export_under_another_fitness_is_reported_with_it(run: Path, tmp_path: Path) -> None:
    """F_AEB follows from the accuracy and the energy in the archive."""
    found, name = {row["architecture_id"]: row for row in rows(run)}, rows(run)[3]["architecture_id"]
    ratio = found[name]["energy_mj"] / found[largest_of(run)]["energy_mj"]
    for beta in (0.07, 0.5):
        call("export", run, "--pick", name, "--out", tmp_path / "out", "--set", f"search.fitness.beta={beta}")
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["f_aeb"] == pytest.approx(found[name]["accuracy"] * ratio**-beta, rel=1e-12)


def test_best_faeb_selects_under_the_configured_convention(run: Path, tmp_path: Path) -> None:
    found = {row["architecture_id"]: row for row in rows(run)}
    energies = {name: binary_only_mj(row) for name, row in found.items()}
    f_aeb = by_f_aeb(energies, {name: row["accuracy"] for name, row in found.items()}, largest_of(run))
    call("export", run, "--pick", "best-faeb", "--out", tmp_path / "out", "--set", "search.convention=binary-only")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["f_aeb"] == pytest.approx(f_aeb[report["architecture_id"]], rel=1e-12)
    assert report["f_aeb"] == pytest.approx(max(f_aeb.values()), rel=1e-12)


def test_the_report_has_the_energy_under_every_convention(run: Path) -> None:
    report = json.loads((run / "export" / "report.json").read_text())
    for part in (report, report["baseline"]):
        macs, acs = binary_only(part["layers"])
        assert list(part["energy_mj_by_convention"]) == ["exact", "rate", "spikformer", "binary-only", "fused", "integer", "memory"]
        assert part["energy_mj_by_convention"]["exact"] == part["energy_mj"]
        assert part["energy_mj_by_convention"]["binary-only"] == pytest.approx((4.6 * macs + 0.9 * acs) * 1e-9, rel=1e-12)
        assert (part["pj_per_mac"], part["pj_per_ac"]) == (4.6, 0.9)


def test_the_reference_network_is_measured_with_its_counts(run: Path) -> None:
    """It is the largest architecture of the space, trained separately."""
    measured = json.loads((run / "baseline" / "measurement.json").read_text())
    assert measured["architecture_id"] == largest_of(run)
    assert (measured["convention"], measured["search_images"]) == ("exact", 180)
    layers = [row for row in measured["layers"] if row["input"] != "real"]
    assert measured["acs"] == pytest.approx(sum(sum(row["acs"]) for row in layers if row["form"] != "separate"), rel=1e-12)
