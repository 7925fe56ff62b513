"""A loss or gradient that is not finite stops the training before the update, and the step is written to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainings import CONFIG, batches, bit_identical, supernet

from autospike.errors import UserError
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.trainer import train


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path, tiny_space: SearchSpace) -> None:
    network = supernet(tiny_space)
    with torch.no_grad():
        network.shared.get_parameter("head.weight").fill_(float("inf"))
    before = {name: p.clone() for name, p in network.named_parameters()}
    with pytest.raises(UserError, match="at step 0, subnet"):
        train(network, batches(CONFIG), CONFIG, Checkpoints(folder=tmp_path), lambda _now: None, seed=0)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path, tiny_space: SearchSpace) -> None:
    network = supernet(tiny_space)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network.shared.get_parameter("head.bias").register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(UserError, match=r"the gradient norm (inf|nan) at step 0"):
        train(network, batches(CONFIG), CONFIG, Checkpoints(folder=tmp_path), lambda _now: None, seed=0)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_the_step_is_written_to_files(tmp_path: Path, tiny_space: SearchSpace) -> None:
    network = supernet(tiny_space)
    with torch.no_grad():
        network.shared.get_parameter("head.weight").fill_(float("inf"))
    with pytest.raises(UserError, match="at step 0, subnet") as error:
        train(network, batches(CONFIG), CONFIG, Checkpoints(folder=tmp_path), lambda _now: None, seed=0)
    written = tmp_path / "nonfinite"
    assert str(written) in str(error.value)
    architecture = Architecture.from_json((written / "architecture.json").read_text())
    assert json.loads((written / "step.json").read_text()) == {
        "step": 0,
        "subnet": architecture.id,
        "loss": "nan",
        "gradient": "nan",
    }
    assert tiny_space.contains(architecture)
    (batch,) = batches(CONFIG)(0, 1)
    assert bit_identical(
        load_file(written / "batch.safetensors"), {"images": batch.images, "targets": batch.targets, "taught": batch.targets}
    )
    assert Checkpoints(folder=tmp_path).record is None
