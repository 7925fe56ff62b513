"""`autospike import`: what it writes and says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from cli_runner import Outcome, autospike
from e_spikeformer_reference import FORM_172M, HARDVS, state_dict
from published_states import spikformer_cifar
from safetensors.torch import load_file
from timm.data import resolve_data_config
from torch import Tensor

from autospike.space.e_spikeformer import e_spikeformer_hardvs

Capsys = pytest.CaptureFixture[str]


def imported(capsys: Capsys, tmp_path: Path, content: object, *options: object) -> Outcome:
    torch.save(content, tmp_path / "a.pth")
    return autospike(capsys, "import", tmp_path / "a.pth", "--out", tmp_path / "out", *options)


def config(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "config.json").read_text())
    return found


def stored(vectors: Path, name: str, classes: int | None = None) -> dict[str, Tensor]:
    file = np.load(vectors / f"{name}.npz", allow_pickle=False)
    state = {key.removeprefix("sd/"): torch.from_numpy(file[key]) for key in file.files if key.startswith("sd/")}
    if classes is not None:
        state["head.weight"], state["head.bias"] = torch.zeros(classes, state["head.weight"].shape[1]), torch.zeros(classes)
    return state


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CIFAR = ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616])


# From the evaluation scripts of the published code: 224 pixels from 256 in Meta-SpikeFormer and QKFormer, and none above 224.
@pytest.mark.parametrize(
    ("name", "options", "size", "crop_pct", "normalisation"),
    [
        ("sdt2_short_2p1", (), 224, 0.875, IMAGENET),
        ("sdt2_short_2p1", ("--image-size", 288), 288, 1.0, IMAGENET),
        ("qkformer_imagenet_d64_L5", (), 224, 0.875, IMAGENET),
        ("qkformer_imagenet_d64_L5", ("--image-size", 384), 384, 1.0, IMAGENET),
        ("spikformer_imagenet_d64_L2", (), 224, 1.0, IMAGENET),
        ("sdt1_imagenet_d64_L2", ("--stride", 16), 224, 0.95, IMAGENET),
        ("spikformer_cifar_d64_L2", (), 32, 1.0, CIFAR),
        ("sdt1_cifar_d64_L2", (), 32, 1.0, CIFAR),
    ],
)
def test_evaluation_protocol_in_config_json(
    vectors: Path,
    tmp_path: Path,
    capsys: Capsys,
    name: str,
    options: tuple[object, ...],
    size: int,
    crop_pct: float,
    normalisation: Any,
) -> None:
    outcome = imported(capsys, tmp_path, stored(vectors, name), *options)
    assert (outcome.code, outcome.err) == (0, "")
    cfg = config(tmp_path)["pretrained_cfg"]
    assert (cfg["input_size"], cfg["crop_pct"], cfg["interpolation"]) == ([3, size, size], crop_pct, "bicubic")
    assert (cfg["mean"], cfg["std"]) == normalisation
    said = " ".join(outcome.out.split())
    assert f"evaluated as published: {size} pixels, {'cropped from' if crop_pct < 1 else 'not cropped'}" in said


@pytest.mark.parametrize(("options", "levels"), [((), 4), (("--levels", 8), 8)])
def test_levels_of_integer_neurons(tmp_path: Path, capsys: Capsys, options: tuple[object, ...], levels: int) -> None:
    outcome = imported(capsys, tmp_path, state_dict(FORM_172M), *options)
    assert (outcome.code, outcome.err) == (0, "")
    architecture = timm.create_model(f"local-dir:{tmp_path / 'out'}").architecture
    assert {block.neuron.levels for stage in architecture.stages for block in stage.blocks} == {levels}


@pytest.mark.parametrize("levels", [1, 65])
def test_levels_that_are_not_allowed(tmp_path: Path, capsys: Capsys, levels: int) -> None:
    assert imported(capsys, tmp_path, state_dict(FORM_172M), "--levels", levels).code == 2
    assert not (tmp_path / "out").exists()


def test_levels_of_binary_neurons_are_an_error(tmp_path: Path, capsys: Capsys) -> None:
    outcome = imported(capsys, tmp_path, spikformer_cifar(), "--levels", 4)
    assert outcome.code == 2
    assert "levels can be given for E-SpikeFormer only, got 4; omit it" in " ".join(outcome.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "integrates"), [((), False), (("--integrates",), True)])
def test_an_event_form_is_imported_as_either_reading(
    tmp_path: Path, capsys: Capsys, options: tuple[object, ...], integrates: bool
) -> None:
    outcome = imported(capsys, tmp_path, state_dict(HARDVS), *options)
    assert (outcome.code, outcome.err) == (0, "")
    said = "its neurons integrate over the frames" if integrates else "every frame is computed alone"
    assert said in " ".join(outcome.out.split())
    architecture = timm.create_model(f"local-dir:{tmp_path / 'out'}").architecture
    assert architecture == e_spikeformer_hardvs((8, 16, 32, 32), (2, 1), integrates=integrates)  # widths and depths of HARDVS


def test_binary_neurons_cannot_be_imported_as_integrating_integers(tmp_path: Path, capsys: Capsys) -> None:
    outcome = imported(capsys, tmp_path, spikformer_cifar(), "--integrates")
    assert outcome.code == 2
    expected = "integrating neurons can be chosen for the event forms of E-SpikeFormer only; omit integrates"
    assert expected in " ".join(outcome.err.split())
    assert not (tmp_path / "out").exists()


def test_timm_reads_the_protocol(vectors: Path, tmp_path: Path, capsys: Capsys) -> None:
    imported(capsys, tmp_path, stored(vectors, "sdt2_short_2p1"))
    found = resolve_data_config(model=timm.create_model(f"local-dir:{tmp_path / 'out'}"))
    assert (found["crop_pct"], found["interpolation"], found["input_size"]) == (0.875, "bicubic", (3, 224, 224))
    assert (list(found["mean"]), list(found["std"])) == IMAGENET


def test_event_frames_are_not_normalised(vectors: Path, tmp_path: Path, capsys: Capsys) -> None:
    imported(capsys, tmp_path, stored(vectors, "sdt1_dvs_d32_L2"))
    cfg = config(tmp_path)["pretrained_cfg"]
    assert (cfg["input_size"], cfg["crop_pct"], cfg["mean"], cfg["std"]) == ([2, 128, 128], 1.0, [0, 0], [1, 1])


def test_the_lower_accuracy_of_qkformer_is_said(vectors: Path, tmp_path: Path, capsys: Capsys) -> None:
    words = "expect 4.5 to 5.5 points less than published"
    assert words in " ".join(imported(capsys, tmp_path, stored(vectors, "qkformer_imagenet_d64_L5")).out.split())
    assert words not in " ".join(imported(capsys, tmp_path, stored(vectors, "spikformer_imagenet_d64_L2")).out.split())


def test_classes_of_imagenet_have_names(vectors: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The WordNet ids by which ImageNet's folders are named, in alphabetical order; other classes have numbers."""
    imported(capsys, tmp_path, stored(vectors, "spikformer_imagenet_d64_L2", classes=1000))
    names = config(tmp_path)["label_names"]
    assert (len(names), names[0], names[-1], names == sorted(names)) == (1000, "n01440764", "n15075141", True)
    imported(capsys, tmp_path, stored(vectors, "spikformer_imagenet_d64_L2"))
    assert config(tmp_path)["label_names"] == [str(i) for i in range(10)]


@pytest.mark.parametrize(("options", "factor"), [((), 2), (("--weights", "ema"), 2), (("--weights", "raw"), 1)])
def test_average_or_raw_weights(tmp_path: Path, capsys: Capsys, options: tuple[str, ...], factor: int) -> None:
    """The average has another head."""
    raw = spikformer_cifar()
    average = {**raw, "head.weight": 2 * raw["head.weight"]}
    outcome = imported(capsys, tmp_path, {"state_dict": raw, "state_dict_ema": average}, *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["head.weight"], factor * raw["head.weight"])
    kind = "the average of the weights (state_dict_ema)" if factor == 2 else "the raw weights (state_dict)"
    assert f"takes {kind}" in " ".join(outcome.out.split())


def test_weights_that_the_checkpoint_does_not_have(tmp_path: Path, capsys: Capsys) -> None:
    outcome = imported(capsys, tmp_path, spikformer_cifar(), "--weights", "ema")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "has raw weights only" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["head.weight", "patch_embed.proj_conv.weight", "block.0.mlp.fc1_bn.running_var"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, capsys: Capsys, key: str, value: float) -> None:
    """The message names the tensor, and nothing is written."""
    state = spikformer_cifar()
    state[key].view(-1)[1] = value
    outcome = imported(capsys, tmp_path, state)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert f"key '{key}' has 1 of {state[key].numel():,} values that are NaN or infinite" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_value_too_large_for_single_precision_is_refused(tmp_path: Path, capsys: Capsys) -> None:
    state = spikformer_cifar()
    state["head.bias"] = torch.full((10,), 1e39, dtype=torch.float64)
    assert "key 'head.bias' has 10 of 10 values that are NaN or infinite" in imported(capsys, tmp_path, state).err


def test_a_negative_variance_is_refused(tmp_path: Path, capsys: Capsys) -> None:
    state = spikformer_cifar()
    state["block.0.attn.q_bn.running_var"][0] = -0.5
    assert "key 'block.0.attn.q_bn.running_var' has a negative variance, -0.5" in imported(capsys, tmp_path, state).err
