"""`autospike evaluate`: accuracy by hand, energy, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from builders import one_line_error

from autospike.commands.evaluate import EvaluationRequest, evaluate
from autospike.data.batches import FixedBatches
from autospike.data.source import open_images
from autospike.energy.conventions import INTEGER
from autospike.evaluation.calibration import calibrate
from autospike.model_folder import InputSpec, read_model, write_model
from autospike.models import build_model
from autospike.randomness import keyed
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network of integer neurons for the digits, with random weights."""
    torch.manual_seed(0)
    neuron = Neuron(levels=4, normalised=True, v_threshold=0.5)
    block = Block(token_mixer="e_sdsa", num_heads=2, mlp_ratio=1, neuron=neuron)
    stage = Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=(block,))
    architecture = Architecture(family="e_spikeformer", shortcut="membrane", time_steps=2, stages=(stage,))
    built = build_model(architecture, num_classes=10, in_chans=1)
    calibrate(built, [torch.randn(16, 1, 8, 8)], time_steps=2)
    folder = tmp_path_factory.mktemp("exported") / "model"
    classes, spec = tuple(map(str, range(10))), InputSpec.of_training(1, 8)
    write_model(folder, built.eval(), architecture, classes=classes, input_spec=spec)
    return folder


def request(model: Path, out: Path) -> EvaluationRequest:
    return EvaluationRequest(
        model=model, data="digits", split="test", images=60, batch_size=10, time_steps=(1, 2), convention=INTEGER, out=out
    )


@torch.no_grad()
def test_accuracies_and_energy_at_every_time_step(model: Path, tmp_path: Path) -> None:
    report = evaluate(request(model, tmp_path))
    assert report == json.loads((tmp_path / "evaluation.json").read_text())
    assert report["images"] == 60
    exported = read_model(model)
    images = open_images("digits", image_size=8)

    split = images.splits["test"].sample(60, keyed(0, "evaluate"))
    spec = exported.input_spec
    batch = FixedBatches(split=split, channels=1, image_size=8, preparation=spec.preparation).batch((0, 60))
    steps = exported.model.forward_steps(batch.images, 2)
    for t, row in enumerate(report["results"], start=1):
        logits = steps[:t].mean(dim=0)
        top = logits.topk(5, dim=1).indices == batch.targets[:, None]
        assert row["time_steps"] == t
        assert row["top1"] == pytest.approx(top[:, 0].float().mean().item())
        assert row["top5"] == pytest.approx(top.any(dim=1).float().mean().item())
        assert row["top1_interval"][0] <= row["top1"] <= row["top1_interval"][1]
        assert row["energy_mj"] == row["energies_mj"]["integer"] > 0
    assert report["results"][1]["energy_mj"] > report["results"][0]["energy_mj"]


def test_a_stopped_evaluation_goes_on_with_the_same_result(model: Path, tmp_path: Path) -> None:
    whole = evaluate(request(model, tmp_path / "whole"))
    evaluate(request(model, tmp_path / "stopped"))
    parts = tmp_path / "stopped" / "parts.jsonl"
    lines = parts.read_text().splitlines()
    assert len(lines) == 1 + 6
    altered = json.loads(lines[1])
    altered["first"] = [n + 1000 for n in altered["first"]]  # shows that the part is not measured again
    parts.write_text("\n".join([lines[0], json.dumps(altered), lines[2], lines[3][:40]]))
    again = evaluate(request(model, tmp_path / "stopped"))
    assert [row["energy_mj"] for row in again["results"]] == [row["energy_mj"] for row in whole["results"]]
    assert [row["top5"] for row in again["results"]] == [row["top5"] for row in whole["results"]]
    assert again["results"][0]["top1"] == pytest.approx(whole["results"][0]["top1"] + 1000 / 60)


def test_parts_of_other_settings_are_not_used(model: Path, tmp_path: Path) -> None:
    first = evaluate(request(model, tmp_path))
    parts = tmp_path / "parts.jsonl"
    header, *rest = parts.read_text().splitlines()
    parts.write_text("\n".join([header.replace('"test"', '"train"'), *rest[:1]]))
    assert evaluate(request(model, tmp_path)) == first


def test_a_published_name_has_no_weights(tmp_path: Path) -> None:
    message = one_line_error(lambda: evaluate(request(Path("spikformer_8_384"), tmp_path)))
    assert "import a checkpoint first" in message
