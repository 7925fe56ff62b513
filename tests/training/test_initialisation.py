"""`train --from`: a training goes on with the normalisation of the network that it starts from, and the run records it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import one_line_error
from cli_runner import Outcome, autospike
from PIL import Image
from published_states import spikformer_cifar
from safetensors.torch import load_file, save_file

from autospike.evaluation.setup import held_out_batches
from autospike.model_folder import read_model
from autospike.run_directory import RunDirectory
from autospike.training.initialisation import read_network
from autospike.training.setup import open_run, training_batches

Capsys = pytest.CaptureFixture[str]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SPACE = {
    "family": "spikformer",
    "time_steps": [1],
    "stages": [{"embed_dim": [8, 16], "embedding": {"stride": 4}, "depth": 1, "block": {"num_heads": 1, "mlp_ratio": 4}}],
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A brief experiment on 40 images of 8x8 pixels in two classes."""
    folder = tmp_path_factory.mktemp("experiment")
    rng = np.random.default_rng(0)
    for i in range(40):
        path = folder / "images" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    fields = {
        "space": SPACE,
        "data": {"name": "folder", "root": str(folder / "images"), "image_size": 8},
        "training": {"epochs": 1, "batch_size": 8, "warmup_epochs": 0, "smoothing": 0.0},
        "evaluation": {"calibration_images": 8},
        "search": {"population": 4, "generations": 1},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(fields))
    return folder / "experiment.yaml"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(spikformer_cifar(), tmp_path / "published.pth")
    return tmp_path / "published.pth"


@pytest.fixture
def imported(checkpoint: Path, tmp_path: Path, capsys: Capsys) -> Path:
    assert autospike(capsys, "import", checkpoint, "--out", tmp_path / "imported").code == 0
    return tmp_path / "imported"


def trained(capsys: Capsys, experiment: Path, tmp_path: Path, *options: object) -> Outcome:
    outcome = autospike(capsys, "train", experiment, "--run", tmp_path / "run", *options)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome


def recorded(run: Path) -> Any:
    return yaml.safe_load((run / "experiment.yaml").read_text())["data"]["normalisation"]


def by_hand(run: Path, split: str) -> torch.Tensor:
    """The images of a split, normalised in float64."""
    setup = open_run(RunDirectory.resume(run))
    images = setup.images.splits[split]  # type: ignore[index]
    pixels = np.stack([np.asarray(images.image(i), dtype=np.float64).transpose(2, 0, 1) / 255 for i in range(len(images))])
    return torch.from_numpy((pixels - np.array(CIFAR_MEAN)[:, None, None]) / np.array(CIFAR_STD)[:, None, None]).float()


@pytest.mark.parametrize("source", ["imported", "checkpoint"])
def test_a_training_keeps_the_normalisation_of_its_source(
    experiment: Path, tmp_path: Path, capsys: Capsys, source: str, request: pytest.FixtureRequest
) -> None:
    """Training, measurement and the record of the run; one line says it."""
    outcome = trained(capsys, experiment, tmp_path, "--from", request.getfixturevalue(source))
    said = " ".join(outcome.out.split())
    assert "normalisation: mean 0.4914, 0.4822, 0.4465, std 0.247, 0.2435, 0.2616, as in " in said
    assert recorded(tmp_path / "run") == {"mean": list(CIFAR_MEAN), "std": list(CIFAR_STD)}
    setup = open_run(RunDirectory.resume(tmp_path / "run"))
    (test,) = held_out_batches(setup)(100)
    torch.testing.assert_close(test.images, by_hand(tmp_path / "run", "test"), rtol=1e-5, atol=1e-5)
    batches = training_batches(setup)
    shown, expected = next(iter(batches(0, 1))).images, by_hand(tmp_path / "run", "train")
    order = [position for position, _ in batches.sample_keys(0)]
    torch.testing.assert_close(shown, expected[order], rtol=1e-5, atol=1e-5)


def test_the_first_convolution_is_copied_unchanged(experiment: Path, imported: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The normalisation is not folded into it, which would be inexact at the border. The learning rate is almost 0."""
    still = ("training.learning_rate=1.0e-30", "training.min_learning_rate=0", "training.weight_decay=0")
    trained(capsys, experiment, tmp_path, "--from", imported, *(part for field in still for part in ("--set", field)))
    record = json.loads((tmp_path / "run" / "supernet" / "checkpoint.json").read_text())
    name = "stages.0.embedding.convs.0.conv.weight"
    copied = load_file(tmp_path / "run" / "supernet" / record["file"])[f"model.shared.{name}"]
    assert torch.equal(copied, load_file(imported / "model.safetensors")[name])


@pytest.mark.slow
def test_later_commands_and_the_export_use_it(experiment: Path, imported: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The same command without --from resumes the run; the exported model records mean and deviation; energy reads them."""
    run = tmp_path / "run"
    assert autospike(capsys, "run", experiment, "--run", run, "--from", imported).code == 0
    assert recorded(run) == {"mean": list(CIFAR_MEAN), "std": list(CIFAR_STD)}
    spec = read_model(run / "export").input_spec
    assert (spec.mean, spec.std, spec.crop_pct, spec.interpolation) == (CIFAR_MEAN, CIFAR_STD, 1.0, "bilinear")
    assert autospike(capsys, "run", experiment, "--run", run).code == 0
    reported = json.loads((run / "export" / "report.json").read_text())
    out = tmp_path / "energy"
    assert autospike(capsys, "energy", run, "--split", "test", "--images", 1000, "--out", out).code == 0
    measured = json.loads((out / "energy.json").read_text())
    assert measured["accuracy"] == reported["test_accuracy"]
    assert {row["convention"]: row["energy_mj"] for row in measured["totals"]} == reported["energy_mj_by_convention"]


def test_a_run_that_starts_from_a_run_keeps_it_too(experiment: Path, imported: Path, tmp_path: Path, capsys: Capsys) -> None:
    trained(capsys, experiment, tmp_path, "--from", imported)
    outcome = autospike(capsys, "train", experiment, "--run", tmp_path / "second", "--from", tmp_path / "run")
    assert (outcome.code, outcome.err) == (0, "")
    assert recorded(tmp_path / "second") == recorded(tmp_path / "run") != None  # noqa: E711


def test_the_normalisation_of_the_experiment_takes_precedence(
    experiment: Path, imported: Path, tmp_path: Path, capsys: Capsys
) -> None:
    own = "data.normalisation={mean: [0.1, 0.2, 0.3], std: [1, 2, 3]}"
    outcome = trained(capsys, experiment, tmp_path, "--from", imported, "--set", own)
    assert recorded(tmp_path / "run") == {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}
    assert "as data.normalisation says, not as in" in " ".join(outcome.out.split())


def test_without_a_source_nothing_changes(experiment: Path, tmp_path: Path, capsys: Capsys) -> None:
    outcome = trained(capsys, experiment, tmp_path)
    assert recorded(tmp_path / "run") is None
    assert "normalisation:" not in outcome.out
    setup = open_run(RunDirectory.resume(tmp_path / "run"))
    (batch,) = held_out_batches(setup)(100)
    pixels = torch.from_numpy(np.stack([np.asarray(setup.images.splits["test"].image(i)) for i in range(len(batch.targets))]))
    assert torch.equal(batch.images, (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{mean: [0.5], std: [0.5]}", "1 values, but the images have 3 channels"),
        ("{mean: [0.5, 0.5], std: [0.5]}", "mean has 2 values and std has 1"),
        ("{mean: [0, 0, 0], std: [0, 1, 1]}", "data.normalisation.std"),
        ("{mean: [.nan, 0, 0], std: [1, 1, 1]}", "data.normalisation.mean"),
        ("{mean: [0, 0, 0]}", "data.normalisation.std: required, but missing"),
    ],
)
def test_a_normalisation_that_does_not_fit(experiment: Path, tmp_path: Path, capsys: Capsys, value: str, words: str) -> None:
    outcome = autospike(capsys, "train", experiment, "--run", tmp_path / "run", "--set", f"data.normalisation={value}")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert words in outcome.err
    assert not (tmp_path / "run" / "supernet").exists()


@pytest.mark.slow
def test_a_source_for_other_channels_keeps_the_default(
    imported: Path, tiny_experiment: Path, tmp_path: Path, capsys: Capsys
) -> None:
    """The first convolution is not copied either. The digits have one channel."""
    outcome = trained(capsys, tiny_experiment, tmp_path, "--from", imported)
    assert recorded(tmp_path / "run") is None
    assert "normalisation: mean 0.5, std 0.5, the default, because" in " ".join(outcome.out.split())


def test_the_average_of_a_checkpoint_is_taken_and_said(experiment: Path, tmp_path: Path, capsys: Capsys) -> None:
    torch.save({"state_dict": spikformer_cifar(), "state_dict_ema": spikformer_cifar()}, tmp_path / "both.pth")
    outcome = trained(capsys, experiment, tmp_path, "--from", tmp_path / "both.pth")
    assert "takes the average of the weights (state_dict_ema)" in " ".join(outcome.out.split())


def test_parameters_that_are_not_finite_are_refused(imported: Path) -> None:
    tensors = load_file(imported / "model.safetensors")
    tensors["head.bias"][3] = float("nan")
    save_file(tensors, imported / "model.safetensors")
    message = one_line_error(lambda: read_network(imported, "supernet"))
    assert "head.bias has values that are NaN or infinite" in message


@pytest.mark.parametrize(("field", "value"), [("mean", None), ("std", [0, 1, 1]), ("mean", ["grey"]), ("std", [1.0])])
def test_a_damaged_normalisation_is_an_error(imported: Path, field: str, value: object) -> None:
    config = json.loads((imported / "config.json").read_text())
    config["pretrained_cfg"][field] = value
    (imported / "config.json").write_text(json.dumps(config))
    assert "mean and std are damaged" in one_line_error(lambda: read_network(imported, "supernet"))
