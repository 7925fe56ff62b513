"""The Python interface: a run with the user's own datasets, objective, search algorithm and callbacks."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import one_line_error
from cli_runner import autospike as command
from PIL import Image
from sklearn.datasets import load_digits
from tiny_experiment import TINY_EXPERIMENT
from torch.utils.data import Dataset, Subset

import autospike
from autospike.config import DataConfig
from autospike.report import tables
from autospike.searching.algorithms import GenerationContext, Individual
from autospike.space.architecture import Architecture

SECTIONS: dict[str, Any] = {name: TINY_EXPERIMENT[name] for name in ("training", "evaluation", "space", "seed")}


class Digits(Dataset[tuple[Image.Image, int]]):
    """The digits as PIL images, with one class a sample."""

    def __init__(self) -> None:
        found = load_digits()
        self.pixels, self.classes = (found.images * 15.9375).astype("uint8"), [f"digit {i}" for i in range(10)]
        self.targets = found.target

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), int(self.targets[index])


def own_data(config: DataConfig) -> dict[str, Any]:
    assert config.image_size == 8
    return {"train": Subset(Digits(), range(400)), "test": Subset(Digits(), range(1500, 1600))}


def depth_of(evaluation: autospike.Evaluation) -> float:
    return evaluation.measurement.architecture.depth


class Sampler:
    """Samples of the space; keeps the shallow ones."""

    def __init__(self, keep: int = 3) -> None:
        self.keep = keep

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:  # noqa: ARG002
        while True:
            yield context.space.sample(context.rng)

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:  # noqa: ARG002
        return sorted(population + offspring, key=lambda i: i.architecture.depth)[: self.keep]


def datasets(train: int = 600) -> dict[str, Any]:
    """Three parts of the digits."""
    digits, parts = Digits(), {"train": range(train), "search": range(600, 800), "test": range(800, 1000)}
    return {name: Subset(digits, indices) for name, indices in parts.items()}


@pytest.fixture(scope="module")
def events() -> list[autospike.Event]:
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, events: list[autospike.Event]) -> autospike.Run:
    """Trained on three datasets of the user, and searched by an algorithm of the user with an objective of the user."""
    found = autospike.Run(tmp_path_factory.mktemp("run"), **datasets(), **SECTIONS)
    found.train(epochs=1, callbacks=[events.append])
    found.search(
        objectives=["accuracy", depth_of], algorithm=Sampler(keep=2), population=4, generations=2, callbacks=[events.append]
    )
    return found


def test_every_public_name_can_be_imported() -> None:
    assert set(autospike.LAZY) == set(autospike.__all__) <= set(dir(autospike))
    assert all(getattr(autospike, name) is not None for name in autospike.__all__)
    importlib.import_module("autospike.searching.archive")  # an imported module replaces no public name
    assert callable(autospike.search)
    assert callable(autospike.export)


def test_the_run_stores_what_was_given(run: autospike.Run) -> None:
    experiment = run.experiment
    assert (experiment.data.name, experiment.data.image_size, experiment.training.epochs) == ("datasets", 8, 1)
    assert experiment.search.objectives == ("accuracy", "test_api:depth_of")
    assert experiment.search.algorithm == "test_api:Sampler"
    assert autospike.Run(run.folder).experiment == experiment


def test_the_candidates_are_scored_on_the_search_dataset(run: autospike.Run) -> None:
    table = run.candidates()
    assert (~table["free"]).sum() == 8
    assert set(table["images"]) == {200}
    assert run.front().equals(tables.front(table))


def test_callbacks_receive_typed_events(events: list[autospike.Event], run: autospike.Run) -> None:
    """600 images in batches of 256 are 2 steps, for the reference network and for the supernet."""
    counted = Counter((type(event).__name__, getattr(event, "network", "")) for event in events)
    each = {"StepEvent": 2, "EpochEvent": 1, "CheckpointEvent": 1}
    trained = {(name, network): n for name, n in each.items() for network in ("hand-made", "supernet")}
    assert counted == trained | {("CandidateEvent", ""): 8, ("GenerationEvent", ""): 2}
    losses = [event.loss for event in events if isinstance(event, autospike.StepEvent) and event.network == "supernet"]
    (epoch,) = [event for event in events if isinstance(event, autospike.EpochEvent) and event.network == "supernet"]
    assert epoch.loss == pytest.approx(sum(losses) / 2)
    logged = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in logged if line["event"] == "train" and line["network"] == "supernet"] == losses[-1:]


def test_best_is_the_candidate_with_the_best_value_within_the_limits(run: autospike.Run) -> None:
    table = run.candidates()
    limit = float(table["energy_mj"].median() * 1000)
    best = run.best("accuracy", max_energy_uj=limit)
    within = table[table["energy_mj"] * 1000 <= limit]
    assert best.accuracy == within["accuracy"].max()
    assert best.energy_uj <= limit
    assert repr(best).startswith(f"Candidate(id='{best.id}', accuracy={best.accuracy:.4f}, energy_uj=")
    assert run.best(depth_of, max_params=int(table["params"].median())).architecture.depth == 1
    assert "no candidate is within the limits: accuracies up to" in one_line_error(lambda: run.best(max_energy_uj=1e-9))


def test_the_model_of_a_candidate_has_the_accuracy_of_the_archive(run: autospike.Run) -> None:
    again = autospike.Run(run.folder, **datasets())
    best = again.best("accuracy")
    images = torch.stack([torch.tensor(Digits().pixels[i])[None] for i in range(600, 800)]).float() / 255
    with torch.no_grad():
        predicted = best.model((images - 0.5) / 0.5).argmax(-1)
    assert int((predicted == torch.tensor(Digits().targets[600:800])).sum()) == best.evaluation.measurement.correct


def test_other_data_are_refused_and_the_command_line_says_how_to_open_the_run(
    run: autospike.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    other = autospike.Run(run.folder, **datasets(train=599))
    assert "the images are not those" in one_line_error(lambda: other.search(generations=3))
    outcome = command(capsys, "export", run.folder)
    assert outcome.code == 2
    assert "the images are objects in Python; open the run there with autospike.Run(FOLDER, train=..., test=...)" in outcome.err


@pytest.mark.slow
def test_a_run_from_import_paths_is_opened_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data source, objective and algorithm are named in a file; the search split is sampled from the training images."""
    written = {
        **SECTIONS,
        "data": {"name": "test_api:own_data", "image_size": 8},
        "search": {
            "population": 4,
            "generations": 1,
            "objectives": ["accuracy", "test_api:depth_of"],
            "algorithm": "test_api:Sampler",
        },
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(written))
    settings = ["--set", "training.epochs=1"]
    outcome = command(capsys, "train", path, "--run", tmp_path / "run", *settings)
    assert (outcome.code, outcome.err) == (0, "")
    assert "data: 500 images, 10 classes, 1x8x8; 320 train, 80 search, 100 test" in outcome.out
    assert command(capsys, "search", tmp_path / "run").code == 0
    run = autospike.Run(tmp_path / "run")
    assert set(run.candidates()["images"]) == {80}
    folder = run.best().export(tmp_path / "model")
    assert json.loads((folder / "report.json").read_text())["test_images"] == 100
    assert json.loads((folder / "config.json").read_text())["label_names"] == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"objectives": ["no_such_module:f"]}, "search.objectives: no_such_module:f: No module named 'no_such_module'; looked in"),
        ({"objectives": ["test_api:nothing"]}, "check the name after the colon"),
        ({"objectives": ["test_api:SECTIONS"]}, "write a function of an Evaluation, or an Objective"),
        ({"algorithm": "test_api:Digits"}, "has no methods ask and tell"),
    ],
)
def test_an_import_path_that_cannot_be_used_is_a_one_line_error(run: autospike.Run, section: dict[str, Any], words: str) -> None:
    opened = autospike.Run(run.folder, **datasets())
    assert words in one_line_error(lambda: opened.search(**section))


def test_a_lambda_has_no_import_path(run: autospike.Run) -> None:
    assert "has no import path; define it with def or class" in one_line_error(lambda: run.search(objectives=[lambda _: 1.0]))


def test_train_and_test_are_required() -> None:
    assert "train and test are required" in one_line_error(lambda: autospike.Run("x", train=Digits()))


def test_an_experiment_from_a_dict_from_a_file_and_from_keyword_arguments_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_EXPERIMENT, sort_keys=False))
    fields: dict[str, Any] = {name: section for name, section in TINY_EXPERIMENT.items() if name != "search"}
    runs = [
        autospike.Run("x", TINY_EXPERIMENT),
        autospike.Run("x", path),
        autospike.Run("x", {"search": TINY_EXPERIMENT["search"]}, **fields),
        autospike.Run("x", autospike.Experiment(**TINY_EXPERIMENT)),
    ]
    assert {run.experiment.to_yaml() for run in runs} == {autospike.Experiment.load(path).to_yaml()}


def test_settings_of_the_search_in_place_of_a_dataset_are_a_one_line_error(tmp_path: Path) -> None:
    message = one_line_error(lambda: autospike.Run(tmp_path, space="spikformer_small", search={"generations": 2}))  # type: ignore[arg-type]
    assert message == (
        "Run: search is a dataset, got a dict; its settings go to run.search, or to an experiment: Run(FOLDER, {...})"
    )
