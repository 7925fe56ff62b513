"""Generated code computes the model, in plain PyTorch and with spikingjelly's neurons, exact, fused and in 8 bits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slow_parameters import slow_except
from torch import Tensor, nn
from traced_models import ARCHITECTURES, firing_model, images

from autospike.errors import UserError
from autospike.exporting import plain, plain_layers
from autospike.exporting.variants import Int8Weight, VariantName, variant_of
from autospike.nn.neuron import LIF
from autospike.space.block import Neuron

VARIANTS: tuple[VariantName, ...] = ("exact", "fused", "int8")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("neurons", ["plain", "spikingjelly"])
@pytest.mark.parametrize("name", slow_except(["spikformer", "meta_spikeformer", "e_spikeformer"], ARCHITECTURES))
def test_logits_of_the_file(tmp_path: Path, name: str, neurons: plain.Neurons, variant: VariantName) -> None:
    written = variant_of(firing_model(name), variant)
    plain.write(written, tmp_path, neurons=neurons, title="A test.")
    with torch.no_grad():
        expected = written.model(images())
        assert len(expected.unique(dim=0)) > 1
        torch.testing.assert_close(plain.load(tmp_path)(images()), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_frames(tmp_path: Path) -> None:
    model = firing_model("spike_driven")
    plain.write(variant_of(model, "exact"), tmp_path, neurons="plain", title="A test.")
    frames = torch.randn(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain.load(tmp_path)(frames), model(frames), rtol=1e-5, atol=1e-5)


def test_the_file_imports_torch_and_safetensors_only(tmp_path: Path) -> None:
    plain.write(variant_of(firing_model("spikformer"), "fused"), tmp_path, neurons="plain", title="A test.")
    imported = set(re.findall(r"^(?:import|from) (\w+)", (tmp_path / "model.py").read_text(), flags=re.MULTILINE))
    assert imported == {"__future__", "collections", "pathlib", "torch", "safetensors"}


def test_a_fused_file_has_no_normalisation(tmp_path: Path) -> None:
    plain.write(variant_of(firing_model("meta_spikeformer"), "fused"), tmp_path, neurons="plain", title="A test.")
    assert "BatchNorm" not in (tmp_path / "model.py").read_text()


@pytest.mark.parametrize("leak", [True, False])
@torch.no_grad()
def test_integer_neurons(leak: bool) -> None:
    neuron = Neuron(v_threshold=0.7, tau=1.5, levels=3, leak=leak)
    currents = 2 * torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    written = plain_layers.IntegerLIF(0.7, 3, 1.5 if leak else None)(currents)
    assert len(written.unique()) == 4
    assert torch.equal(written, LIF(neuron)(currents))


def test_binary_neurons_without_a_leak_are_refused(tmp_path: Path) -> None:
    model = firing_model("spikformer")
    model.head_lif = LIF(Neuron(leak=False))
    with pytest.raises(UserError, match="binary neurons with other dynamics"):
        plain.write(variant_of(model, "exact"), tmp_path, neurons="plain", title="A test.")
    assert not list(tmp_path.iterdir())


def test_an_unknown_layer_is_refused(tmp_path: Path) -> None:
    model = firing_model("spikformer")
    model.head_lif = nn.Tanh()
    with pytest.raises(UserError, match="Tanh has no form in plain PyTorch"):
        plain.write(variant_of(model, "exact"), tmp_path, neurons="plain", title="A test.")
    assert not list(tmp_path.iterdir())


def test_8_bits_by_hand() -> None:
    """The largest magnitude of a channel is 127; 0.3 / (1.27 / 127) = 30; a channel of zeros has scale 1."""
    weight = Int8Weight.of(torch.tensor([[1.27, -0.3, 0.004], [0.0, 0.0, 0.0]]))
    assert weight.integers.tolist() == [[127, -30, 0], [0, 0, 0]]
    torch.testing.assert_close(weight.scale, torch.tensor([0.01, 1.0]))
    torch.testing.assert_close(weight.values, torch.tensor([[1.27, -0.3, 0.0], [0.0, 0.0, 0.0]]))


def test_rounding_is_at_most_half_a_step() -> None:
    model = firing_model("qkformer")
    variant, fused = variant_of(model, "int8"), variant_of(model, "fused")
    assert variant.int8
    for name, weight in variant.int8.items():
        before: Tensor = fused.model.get_parameter(name)
        step = weight.scale.view(-1, *(1 for _ in before.shape[1:]))
        assert ((weight.values - before).abs() <= step / 2 + 1e-7).all()
        assert torch.equal(variant.model.get_parameter(name), weight.values)


def test_stored_weights_have_8_bits(tmp_path: Path) -> None:
    plain.write(variant_of(firing_model("spikformer"), "int8"), tmp_path, neurons="plain", title="A test.")
    tensors = load_file(tmp_path / "model.safetensors")
    weights = {name: tensor for name, tensor in tensors.items() if tensor.dim() > 1}
    assert {tensor.dtype for tensor in weights.values()} == {torch.int8}
    assert all(tensors[f"{name}.scale"].shape == tensor.shape[:1] for name, tensor in weights.items())


def test_a_variant_does_not_change_the_model() -> None:
    model = firing_model("spikformer")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    variant_of(model, "int8")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
