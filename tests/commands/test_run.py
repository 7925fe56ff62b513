"""A whole run on real digits, tiny: what it leaves behind, what it may read, and that nothing is done twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import yaml
from cli_runner import autospike

from autospike.config import load_experiment
from autospike.data.images import Split, load_images
from autospike.pareto import on_front
from autospike.space.architecture import Architecture

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A finished run, made by the four commands one after another."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    for command in (
        ["train", tiny_experiment, "--run", folder],
        ["search", folder],
        ["plot", folder],
        ["export", folder, "--pick", "knee"],
    ):
        call(*command)
    return folder


def call(*args: object) -> None:
    """Run a command that must succeed."""
    from autospike.cli import app

    app([str(arg) for arg in args], standalone_mode=False)


def rows(run: Path) -> list[sqlite3.Row]:
    db = sqlite3.connect(run / "archive.sqlite")
    db.row_factory = sqlite3.Row
    return db.execute("SELECT * FROM evaluations ORDER BY rowid").fetchall()


def asked(found: list[sqlite3.Row]) -> list[sqlite3.Row]:
    """Those that a search asked for; the others came along."""
    return [row for row in found if not row["free"]]


def along(text: str) -> set[str]:
    """Ids of those that come along with an architecture of the tiny space, its own among them: T of 2 and 3, one block or two."""
    architecture = Architecture.from_json(text)
    (stage,) = architecture.stages
    return {
        replace(architecture, time_steps=time_steps, stages=(replace(stage, blocks=stage.blocks[:depth]),)).id
        for time_steps in (2, 3)
        for depth in range(1, len(stage.blocks) + 1)
    }


def test_the_run_folder_holds_what_its_contract_names(run: Path) -> None:
    expected = [
        *("experiment.yaml", "environment.json", "log.jsonl", "archive.sqlite"),
        *("supernet/checkpoint.json", "baseline/checkpoint.json"),
        *("export/model.safetensors", "export/config.json", "export/architecture.json", "export/report.json"),
        *("report/pareto.png", "report/pareto.svg", "report/search.png", "report/genes.png"),
        *("report/candidates.csv", "report/front.csv"),
    ]
    assert [name for name in expected if not (run / name).is_file()] == []
    assert not list(run.rglob("*.part"))


def test_the_resolved_experiment_stands_alone(run: Path, tiny_experiment: Path) -> None:
    assert load_experiment(run / "experiment.yaml") == load_experiment(tiny_experiment)
    assert isinstance(yaml.safe_load((run / "experiment.yaml").read_text())["space"], dict)


def test_the_environment_names_versions_seed_and_machine(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 3
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["machine"]["cores"] > 0


def test_the_log_tells_the_story_in_order(run: Path) -> None:
    events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    milestones = [event for event in events if event != "train"]
    assert milestones == [
        *["train started", "train finished"] * 2,
        "search started",
        "search finished",
        "test split opened",
        "exported",
    ]


def test_every_candidate_is_one_row(run: Path) -> None:
    found = rows(run)
    assert len(found) == len({row["architecture_id"] for row in found})
    assert len(asked(found)) == 6 * 3
    for row in found:
        architecture = Architecture.from_json(row["architecture"])
        assert architecture.id == row["architecture_id"]
        assert row["time_steps"] == architecture.time_steps
        assert row["accuracy"] == row["correct"] / row["images"]
        assert row["energy_mj"] == pytest.approx((4.6 * row["macs"] + 0.9 * row["acs"]) * 1e-9)
    assert {row["generation"] for row in found} == {0, 1, 2}


def test_relatives_come_along(run: Path) -> None:
    found = rows(run)
    assert {row["architecture_id"] for row in found} == set().union(*(along(row["architecture"]) for row in asked(found)))
    assert len(found) >= 2 * len(asked(found))  # every T at least
    assert {row["free"] for row in found} == {0, 1}
    assert {row["images"] for row in found} == {180}


def test_tables_hold_the_documented_columns(run: Path) -> None:
    columns = [
        "id",
        "accuracy",
        "energy_mj",
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
    """Score the exported model by hand on the test split: the report's accuracy, and so the scored model's logits."""
    report = json.loads((run / "export" / "report.json").read_text())
    model = timm.create_model(f"local-dir:{run / 'export'}", pretrained=True).eval()
    experiment = load_experiment(run / "experiment.yaml")
    test = load_images(experiment.data, seed=experiment.seed).splits["test"]
    pixels = [torch.tensor(list(test.image(i).tobytes())).view(1, 8, 8) / 127.5 - 1 for i in range(len(test))]
    with torch.no_grad():
        answers = model(torch.stack(pixels)).argmax(dim=1)
    right = (answers == torch.tensor(test.labels)).float().mean().item()
    assert report["test_accuracy"] == pytest.approx(right)
    assert report["test_images"] == len(test)
    assert report["params"] == sum(p.numel() for p in model.parameters())


def test_the_report_compares_with_the_reference_network(run: Path) -> None:
    report = json.loads((run / "export" / "report.json").read_text())
    experiment = load_experiment(run / "experiment.yaml")
    assert Architecture.from_dict(report["baseline"]["architecture"]) == experiment.search_space.largest()
    for part in (report, report["baseline"]):
        assert part["energy_mj"] == pytest.approx((4.6 * part["macs"] + 0.9 * part["acs"]) * 1e-9)
        assert all(0 <= rate <= 1 for rate in part["firing_rates"].values())
        assert len(part["layers"]) >= len(part["firing_rates"])
    assert report["provenance"]["pick"] == "knee"
    assert report["provenance"]["run"] == str(run.resolve())


def test_the_export_can_be_trained_on(run: Path) -> None:
    model = timm.create_model(f"local-dir:{run / 'export'}", pretrained=True, num_classes=3).train()
    loss = torch.nn.functional.cross_entropy(model(torch.rand(8, 1, 8, 8)), torch.arange(8) % 3)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_no_test_image_is_read_before_export(tmp_path: Path, tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    original = Split.image

    def spy(self: Split, position: int) -> object:
        read.append((self.name, position))
        return original(self, position)

    monkeypatch.setattr(Split, "image", spy)
    call("train", tiny_experiment, "--run", tmp_path, "--set", "training.epochs=1")
    call("search", tmp_path, "--set", "search.generations=1")
    call("plot", tmp_path)
    assert {name for name, _ in read} == {"train", "search"}
    read.clear()
    call("export", tmp_path)
    assert sorted(position for name, position in read if name == "test") == list(range(180))


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


def own_images(folder: Path) -> list[str]:
    """Sixty digits as a folder of images of two classes, and the settings that make the README's experiment a short run on it."""
    whole = load_images(load_experiment(EXPERIMENTS / "digits.yaml").data, seed=0).splits["train"]
    for i in range(60):
        path = folder / f"digit {whole.labels[i] % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.image(i).resize((20, 16)).save(path)
    return [part for key, value in {"data.root": folder, **SHORT}.items() for part in ("--set", f"{key}={value}")]


def test_a_folder_that_changed_after_training_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = own_images(tmp_path / "images")
    assert autospike(capsys, "train", EXPERIMENTS / "folder.yaml", "--run", tmp_path / "run", *settings).code == 0
    (tmp_path / "images" / "digit 0" / "new.png").write_bytes(next((tmp_path / "images" / "digit 1").iterdir()).read_bytes())
    outcome = autospike(capsys, "search", tmp_path / "run")
    assert outcome.code == 2
    assert "not those that this run was trained on" in outcome.err


def test_a_folder_may_move_after_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = own_images(tmp_path / "images")
    assert autospike(capsys, "train", EXPERIMENTS / "folder.yaml", "--run", tmp_path / "run", *settings).code == 0
    (tmp_path / "images").rename(tmp_path / "moved")
    assert autospike(capsys, "search", tmp_path / "run", "--set", f"data.root={tmp_path / 'moved'}").code == 0


def test_a_file_that_is_no_image_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = own_images(tmp_path / "images")
    for path in (tmp_path / "images" / "digit 0").iterdir():
        path.write_bytes(b"nothing")
    outcome = autospike(capsys, "train", EXPERIMENTS / "folder.yaml", "--run", tmp_path / "run", *settings)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "not a readable" in outcome.err


def test_a_folder_of_one_s_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's experiment for ImageFolders, cut short."""
    settings = own_images(tmp_path / "images")
    outcome = autospike(capsys, "run", EXPERIMENTS / "folder.yaml", "--run", tmp_path / "run", *settings)
    assert outcome.code == 0, outcome.err
    config = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert config["label_names"] == ["digit 0", "digit 1"]
    assert config["pretrained_cfg"]["input_size"] == [3, 16, 16]


def test_the_same_seed_gives_the_same_front(run: Path, tmp_path: Path, tiny_experiment: Path) -> None:
    call("run", tiny_experiment, "--run", tmp_path)
    assert (tmp_path / "report" / "candidates.csv").read_text() == (run / "report" / "candidates.csv").read_text()
    assert (tmp_path / "report" / "front.csv").read_text() == (run / "report" / "front.csv").read_text()


def test_nothing_is_done_twice(run: Path, tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything again on a finished run, with all work barred: no step is trained, nothing is calibrated or scored."""
    before = [tuple(row) for row in rows(run)]
    files = {path: path.stat().st_mtime_ns for folder in ("supernet", "baseline", "export") for path in (run / folder).iterdir()}

    monkeypatch.setattr("autospike.training.trainer.accumulate_gradients", barred)
    bar_measuring(monkeypatch)
    monkeypatch.setattr("autospike.export.measure_stepwise", barred)
    call("run", tiny_experiment, "--run", run, "--no-fine-tune")
    assert [tuple(row) for row in rows(run)] == before
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_search_killed_in_the_middle_ends_at_the_same_front(
    run: Path, tmp_path: Path, tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was archived is not measured again; the generation at hand is lost."""
    call("train", tiny_experiment, "--run", tmp_path)
    generations = [row["generation"] for row in rows(run)]
    # passes over the 180 images of the search split, 64 at a time: the reference network, the three generations
    first, second = generations.count(0), generations.count(0) + generations.count(1)
    for shards, archived in [(2, 0), (3, 0), (2, 0), (4, first), (4, second)]:
        kill_after(monkeypatch, shards, tmp_path)
        assert [untimed(row) for row in rows(tmp_path)] == [untimed(row) for row in rows(run)][:archived]
    call("search", tmp_path)
    call("plot", tmp_path)
    assert [untimed(row) for row in rows(tmp_path)] == [untimed(row) for row in rows(run)]
    assert (tmp_path / "report" / "candidates.csv").read_text() == (run / "report" / "candidates.csv").read_text()


def kill_after(monkeypatch: pytest.MonkeyPatch, shards: int, run: Path) -> None:
    """Search until so many shards more are scored, then die."""
    from autospike.evaluation.trie_evaluator import TrieEvaluator

    original, left = TrieEvaluator.score, [shards]

    def dying(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError
        return original(*args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(TrieEvaluator, "score", dying)
        call("search", run)


def test_a_finished_search_goes_on_for_more_generations(tmp_path: Path, tiny_experiment: Path) -> None:
    call("train", tiny_experiment, "--run", tmp_path, "--set", "training.epochs=1")
    call("search", tmp_path, "--set", "search.generations=1")
    first = [tuple(row) for row in rows(tmp_path)]
    call("search", tmp_path, "--set", "search.generations=2")
    assert [tuple(row) for row in rows(tmp_path)][: len(first)] == first
    assert len(asked(rows(tmp_path))) == 12


def test_two_algorithms_share_an_archive(tmp_path: Path, tiny_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "training.epochs=1", "--set", "search.generations=1"]
    call("train", tiny_experiment, "--run", tmp_path, *settings)
    call("search", tmp_path)
    assert autospike(capsys, "search", tmp_path, "--set", "search.algorithm=random").code == 0
    assert autospike(capsys, "search", tmp_path, "--set", "search.algorithm=aeb").code == 0
    searches = sqlite3.connect(tmp_path / "archive.sqlite").execute("SELECT DISTINCT search_id FROM proposals").fetchall()
    assert {name.split("-")[0] for (name,) in searches} == {"nsga2", "random", "aeb"}
    assert len(asked(rows(tmp_path))) == 6  # the first generation is the same for all three
    assert autospike(capsys, "plot", tmp_path).code == 0


def test_the_cheapest_within_a_tolerance_of_the_best(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(run / "report" / "candidates.csv")
    for tolerance in (0.0, 0.02, 1.0):
        settings = ["--pick", "least-energy", "--set", f"export.tolerance={tolerance}", "--out", tmp_path / str(tolerance)]
        assert autospike(capsys, "export", run, *settings).code == 0
        enough = table[table["accuracy"] >= table["accuracy"].max() - tolerance]
        report = json.loads((tmp_path / str(tolerance) / "report.json").read_text())
        assert report["architecture_id"] == enough.loc[enough["energy_mj"].idxmin(), "id"]


@pytest.mark.parametrize("pick", ["best-accuracy", "least-energy", "best-faeb", "knee"])
def test_each_pick_exports_what_it_names(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pick: str) -> None:
    table = pd.read_csv(run / "report" / "candidates.csv")
    assert autospike(capsys, "export", run, "--pick", pick, "--out", tmp_path).code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    chosen = table.set_index("id").loc[report["architecture_id"]]
    best = {"best-accuracy": ("accuracy", "max"), "least-energy": ("energy_mj", "min"), "best-faeb": ("f_aeb", "max")}
    if pick in best:
        column, extreme = best[pick]
        assert chosen[column] == table[column].agg(extreme)
    assert bool(chosen["on_front"]) or pick == "best-faeb"


def test_a_rejected_option_does_not_come_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "experiment.yaml").read_text()
    assert autospike(capsys, "export", run, "--pick", "nobody").code == 2
    assert autospike(capsys, "search", run, "--set", "device=cuda").code == (0 if torch.cuda.is_available() else 2)
    assert autospike(capsys, "export", run, "--pick", "least-energy", "--out", tmp_path / "elsewhere").code == 0
    assert (run / "experiment.yaml").read_text() == before or torch.cuda.is_available()


def test_an_export_that_was_cut_off_is_not_taken_for_complete(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert autospike(capsys, "export", run, "--pick", "best-accuracy", "--out", tmp_path).code == 0
    first = (tmp_path / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("autospike.export.measure_stepwise", lambda *_args, **_kwargs: 1 / 0)
        call("export", run, "--pick", "least-energy", "--out", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() != first
    assert autospike(capsys, "export", run, "--pick", "best-accuracy", "--out", tmp_path).code == 0
    assert (tmp_path / "model.safetensors").read_bytes() == first


def test_another_protocol_measures_the_baseline_anew(tmp_path: Path, tiny_experiment: Path) -> None:
    settings = ["--set", "training.epochs=1", "--set", "search.generations=1"]
    call("train", tiny_experiment, "--run", tmp_path, *settings)
    found = []
    for images in (64, 8):
        call("search", tmp_path, "--set", f"evaluation.calibration_images={images}")
        found.append(json.loads((tmp_path / "baseline" / "measurement.json").read_text()))
    assert found[0]["protocol_id"] != found[1]["protocol_id"]
    assert found[0]["acs"] != found[1]["acs"]


@pytest.mark.parametrize("name", ["0123", "12", "no", "1e5", "nobody"])
def test_a_pick_that_names_nobody(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    outcome = autospike(capsys, "export", run, "--pick", name, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert f"--pick {name}: " in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_candidate_can_be_picked_by_id(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = rows(run)[7]["architecture_id"]
    assert autospike(capsys, "export", run, "--pick", name, "--out", tmp_path).code == 0
    assert json.loads((tmp_path / "report.json").read_text())["architecture_id"] == name


def binary_only(counts: list[dict[str, Any]]) -> tuple[float, float]:
    """MACs and ACs by hand: what is not spikes is dense, spikes are rates times dense, a mean is taken once, RepConv is apart."""
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
    return load_experiment(run / "experiment.yaml").search_space.largest().id


def test_a_plot_under_another_convention_follows_from_the_archive(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {name: (run / "report" / name).read_bytes() for name in ("candidates.csv", "front.csv")}
    outcome = autospike(capsys, "plot", run, "--energy", "binary-only")
    assert (outcome.code, outcome.err) == (0, "")
    table = pd.read_csv(run / "report" / "binary-only" / "candidates.csv", dtype={"id": str}).set_index("id")
    energies = {row["architecture_id"]: binary_only_mj(row) for row in rows(run)}
    assert table["energy_mj"].to_dict() == pytest.approx(energies, rel=1e-12)
    f_aeb = by_f_aeb(energies, {str(name): float(value) for name, value in table["accuracy"].items()}, largest_of(run))
    assert table["f_aeb"].to_dict() == pytest.approx(f_aeb, rel=1e-12)
    assert {name: (run / "report" / name).read_bytes() for name in own} == own
    assert {row["convention"] for row in rows(run)} == {"exact"}


@pytest.mark.parametrize("text", ["joules", "binary-only/int4", "exact/"])
def test_a_plot_under_no_convention_is_one_line(run: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    outcome = autospike(capsys, "plot", run, "--energy", text)
    assert (outcome.code, outcome.err.count("\n"), outcome.out) == (2, 1, "")
    assert f"no energy convention '{text}'; choose from exact, rate, spikformer, binary-only, fused, memory" in outcome.err
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
def drawn_by_chance(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> tuple[Path, Path]:
    """Two runs of one supernet: one searched under `exact` and then under `binary-only`, one under `binary-only` alone."""
    again, fresh = (tmp_path_factory.mktemp("conventions") / name for name in ("again", "fresh"))
    call("train", tiny_experiment, "--run", again, "--set", "training.epochs=1", "--set", "search.algorithm=random")
    shutil.copytree(again, fresh)
    call("search", again)
    with pytest.MonkeyPatch.context() as patch:
        bar_measuring(patch)
        call("search", again, "--set", "search.convention=binary-only")
    call("search", fresh, "--set", "search.convention=binary-only")
    for run in (again, fresh):
        call("plot", run)
    return again, fresh


def barred(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("work was done again")


def bar_measuring(patch: pytest.MonkeyPatch) -> None:
    """Nothing may be calibrated or scored, neither one model nor a population."""
    works = (
        "trie_evaluator.TrieEvaluator.calibrate",
        "trie_evaluator.TrieEvaluator.score",
        "population.PopulationEvaluator._measure",
        "calibration.calibrate",
    )
    for work in works:
        patch.setattr(f"autospike.evaluation.{work}", barred)


def test_a_search_under_another_convention_measures_nothing_anew(drawn_by_chance: tuple[Path, Path]) -> None:
    """And ends at the front that a fresh one ends at; chance asks for the same candidates under any convention."""
    again, fresh = drawn_by_chance
    for name in ("candidates.csv", "front.csv"):
        assert (again / "report" / name).read_text() == (fresh / "report" / name).read_text()
    assert [untimed(row) for row in rows(again)] == [untimed(row) for row in rows(fresh)]


def untimed(row: sqlite3.Row) -> dict[str, Any]:
    """Without what a clock says."""
    return {name: value for name, value in dict(row).items() if name not in ("seconds", "measured_at")}


def test_an_archive_holds_the_energies_of_the_search_begun_last(drawn_by_chance: tuple[Path, Path]) -> None:
    again, _ = drawn_by_chance
    found = rows(again)
    assert len(asked(found)) == 18
    energies = {row["architecture_id"]: binary_only_mj(row) for row in found}
    f_aeb = by_f_aeb(energies, {row["architecture_id"]: row["accuracy"] for row in found}, largest_of(again))
    for row in found:
        macs, acs = binary_only(json.loads(zlib.decompress(row["counts"])))
        assert (row["convention"], row["macs"], row["acs"]) == ("binary-only", macs, pytest.approx(acs, rel=1e-12))
        assert row["energy_mj"] == pytest.approx(energies[row["architecture_id"]], rel=1e-12)
        assert row["f_aeb"] == pytest.approx(f_aeb[row["architecture_id"]], rel=1e-12)


def test_a_run_goes_on_under_the_convention_of_its_last_search(drawn_by_chance: tuple[Path, Path], tmp_path: Path) -> None:
    again, _ = drawn_by_chance
    assert load_experiment(again / "experiment.yaml").search.convention == "binary-only"
    call("export", again, "--pick", "least-energy", "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["architecture_id"] == min(rows(again), key=binary_only_mj)["architecture_id"]
    for part in (report, report["baseline"]):
        macs, acs = binary_only(part["layers"])
        assert (part["convention"], part["macs"], part["acs"]) == ("binary-only", macs, pytest.approx(acs, rel=1e-12))


def test_an_export_under_another_convention_is_reported_under_it(run: Path, tmp_path: Path) -> None:
    """Energy, and the fitness that stands beside it."""
    name, out = largest_of(run), tmp_path / "out"
    for convention in ("exact", "binary-only"):
        call("export", run, "--pick", name, "--out", out, "--set", f"search.convention={convention}")
        report = json.loads((out / "report.json").read_text())
        assert (report["architecture_id"], report["convention"]) == (name, convention)


def test_an_export_under_another_fitness_is_reported_with_it(run: Path, tmp_path: Path) -> None:
    """F_AEB by hand, of the accuracy and the energy that the archive holds."""
    found, name = {row["architecture_id"]: row for row in rows(run)}, rows(run)[3]["architecture_id"]
    ratio = found[name]["energy_mj"] / found[largest_of(run)]["energy_mj"]
    for beta in (0.07, 0.5):
        call("export", run, "--pick", name, "--out", tmp_path / "out", "--set", f"search.fitness.beta={beta}")
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["f_aeb"] == pytest.approx(found[name]["accuracy"] * ratio**-beta, rel=1e-12)


def test_the_best_by_faeb_is_best_under_the_convention_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    found = {row["architecture_id"]: row for row in rows(run)}
    energies = {name: binary_only_mj(row) for name, row in found.items()}
    f_aeb = by_f_aeb(energies, {name: row["accuracy"] for name, row in found.items()}, largest_of(run))
    call("export", run, "--pick", "best-faeb", "--out", tmp_path / "out", "--set", "search.convention=binary-only")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["f_aeb"] == pytest.approx(f_aeb[report["architecture_id"]], rel=1e-12)
    assert report["f_aeb"] == pytest.approx(max(f_aeb.values()), rel=1e-12)


def test_the_report_holds_its_energy_under_every_convention(run: Path) -> None:
    report = json.loads((run / "export" / "report.json").read_text())
    for part in (report, report["baseline"]):
        macs, acs = binary_only(part["layers"])
        assert list(part["energy_mj_by_convention"]) == ["exact", "rate", "spikformer", "binary-only", "fused", "memory"]
        assert part["energy_mj_by_convention"]["exact"] == part["energy_mj"]
        assert part["energy_mj_by_convention"]["binary-only"] == pytest.approx((4.6 * macs + 0.9 * acs) * 1e-9, rel=1e-12)
        assert (part["pj_per_mac"], part["pj_per_ac"]) == (4.6, 0.9)


def test_the_reference_network_is_measured_with_its_counts(run: Path) -> None:
    """It is the largest of the space, trained alone."""
    measured = json.loads((run / "baseline" / "measurement.json").read_text())
    assert measured["architecture_id"] == largest_of(run)
    assert (measured["convention"], measured["search_images"]) == ("exact", 180)
    layers = [row for row in measured["layers"] if row["input"] != "real"]
    assert measured["acs"] == pytest.approx(sum(sum(row["acs"]) for row in layers if row["form"] != "separate"), rel=1e-12)
