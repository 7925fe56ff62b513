"""Integer neurons: their equations, spikingjelly's I-LIF, and D binary virtual steps in whole networks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron as spikingjelly_neuron
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from autospike.evaluation.calibration import calibrate
from autospike.models import build_model
from autospike.models.contract import SpikingHead, SpikingModel
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.fusion import fuse
from autospike.nn.layers import Conv, Linear, scaled_weight
from autospike.nn.neuron import LIF, Dynamics
from autospike.nn.norm import Norm
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron

implementations = pytest.mark.usefixtures("implementation")


@implementations
def test_one_step_rounds_the_clipped_input_with_halves_to_even() -> None:
    x = torch.tensor([[-1.0, 0.5, 0.51, 1.5, 2.5, 3.49, 4.4, 9.0]])
    assert LIF(Neuron(levels=4))(x).tolist() == [[0, 0, 1, 2, 2, 3, 4, 4]]


@implementations
def test_the_potential_keeps_what_was_not_emitted() -> None:
    """Tau 2: u = 1.3, 0.15 + 1.3 = 1.45, 0.225 + 1.3 = 1.525, so 1, 1, 2; without a leak u = 1.3, 1.6, 0.9, so 1, 2, 1."""
    x = torch.full((3, 1), 1.3)
    assert LIF(Neuron(levels=4))(x).flatten().tolist() == [1, 1, 2]
    assert LIF(Neuron(levels=4, leak=False))(x).flatten().tolist() == [1, 2, 1]


@implementations
def test_spikes_without_a_leak_add_up_the_input() -> None:
    """Potentials 0.4, 0.8, 1.2: the third step spikes and resets to 0."""
    assert LIF(Neuron(leak=False))(torch.full((6, 1), 0.4)).flatten().tolist() == [0, 0, 1, 0, 0, 1]


@implementations
@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("levels", [1, 4])
def test_a_neuron_that_does_not_integrate_computes_every_step_alone(levels: int, detached: bool) -> None:
    """As one step of as many images, whatever tau and leak are."""
    torch.manual_seed(0)
    x, cotangent = (torch.randn(5, 3, 131) * 2).requires_grad_(), torch.randn(5, 3, 131)
    dynamics = Dynamics(input_decays=False, reset_is_detached=detached)
    one_step = LIF(Neuron(levels=levels, v_threshold=0.7), dynamics)(x.flatten(0, 1)[None])[0].view_as(x)
    (expected,) = torch.autograd.grad(one_step, x, cotangent)
    for neuron in (Neuron(levels=levels, v_threshold=0.7, tau=3.0), Neuron(levels=levels, v_threshold=0.7, leak=False)):
        spikes = LIF(replace(neuron, integrates=False), replace(dynamics, input_decays=True))(x)
        assert torch.equal(spikes, one_step)
        (found,) = torch.autograd.grad(spikes, x, cotangent)
        torch.testing.assert_close(found, expected)


@implementations
def test_the_gradient_of_one_step_is_that_of_the_clip() -> None:
    x = torch.tensor([[-0.1, 0.0, 1.2, 2.0, 2.1]], requires_grad=True)
    LIF(Neuron(levels=4, v_threshold=0.5))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 2, 2, 2, 0]]


@implementations
@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize(("tau", "v_threshold", "levels"), [(4 / 3, 1.0, 4), (2.0, 0.5, 8), (10.0, 1.6, 2)])
def test_integers_and_gradients_equal_those_of_spikingjelly(tau: float, v_threshold: float, levels: int, detached: bool) -> None:
    torch.manual_seed(0)
    x, cotangent = (torch.randn(5, 6, 131) * 2).requires_grad_(), torch.randn(5, 6, 131)
    reference = spikingjelly_neuron.ILIFNode(
        tau=tau,
        v_threshold=v_threshold,
        surrogate_function=surrogate.MultiLevelSpikeCount(levels),
        detach_reset=detached,
        step_mode="m",
    )
    lif = LIF(Neuron(tau=tau, v_threshold=v_threshold, levels=levels), Dynamics(reset_is_detached=detached))
    actual, desired = lif(x), reference(x)
    assert torch.equal(actual, desired)
    assert actual.max() > 1
    (actual_grad,) = torch.autograd.grad(actual, x, cotangent)
    (desired_grad,) = torch.autograd.grad(desired, x, cotangent)
    torch.testing.assert_close(actual_grad, desired_grad, rtol=1e-5, atol=1e-5)


@implementations
@pytest.mark.parametrize("training", [True, False])
def test_normalisation_stream_and_counts_equal_separate_operations(training: bool) -> None:
    torch.manual_seed(0)
    y, stream = torch.randn(3, 2, 4, 4, 20).requires_grad_(), torch.randint(0, 3, (3, 2, 4, 4, 20)).float()
    bn, plain = Norm(20), nn.BatchNorm1d(20)
    with torch.no_grad():
        bn.weight.uniform_(1, 3)
        bn.bias.uniform_(-1, 2)
    plain.load_state_dict(bn.state_dict())
    bn.train(training)
    plain.train(training)
    lif, counted = LIF(Neuron(levels=4)), []
    lif.register_spike_count_hook(lambda spikes, counts: counted.append((spikes, counts)))
    desired = LIF(Neuron(levels=4))(plain(y.flatten(0, -2)).view(y.shape))
    cotangent = torch.randn(y.shape)
    spikes = lif(y, bn)
    torch.testing.assert_close(spikes, desired)
    assert torch.equal(counted[0][1], spikes.sum(dim=(1, 4), dtype=torch.float64).flatten(1))
    assert torch.equal(LIF(Neuron(levels=4))(y, bn, stream=stream), stream + spikes)
    (actual_grad,) = torch.autograd.grad(spikes, y, cotangent)
    (desired_grad,) = torch.autograd.grad(desired, y, cotangent)
    torch.testing.assert_close(actual_grad, desired_grad, rtol=1e-4, atol=1e-4)


def network(shortcut: str, mixer: str = "sdsa_3", *, normalised: bool = True) -> SpikingModel:
    """A calibrated network of integer neurons whose levels differ, in eval mode."""
    torch.manual_seed(0)
    family = "meta_spikeformer" if shortcut != "sew" else "qkformer"
    first, second = (Neuron(levels=levels, v_threshold=0.5, normalised=normalised) for levels in (4, 3))
    blocks = (Block(token_mixer=mixer, neuron=first, mlp_ratio=2), Block(neuron=second, mlp_ratio=2, num_heads=2))  # type: ignore[arg-type]
    has_neurons = (shortcut != "membrane", True)
    stages = tuple(
        Stage(embed_dim=16, embedding=Embedding(stride=2, neuron=first if spiking else Neuron()), blocks=blocks)
        for spiking in has_neurons
    )
    architecture = Architecture(family=family, shortcut=shortcut, time_steps=2, stages=stages)  # type: ignore[arg-type]
    model = build_model(architecture, num_classes=4, in_chans=3)
    calibrate(model, [images()], time_steps=2)
    return model.eval()


def images() -> Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 4


def virtual_steps(x: Tensor) -> list[Tensor]:
    """Binary spikes of D virtual time steps, of which the first x are 1."""
    return [(x > d).float() for d in range(int(x.max()))]


def check_layer(seen: list[str], name: str, layer: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
    """Forward hook: a layer that reads integers computes the sum over binary virtual steps."""
    x = args[0]
    if not torch.equal(x, x.round()) or x.min() < 0 or x.max() < 2:
        return
    weight = layer.weight if isinstance(layer, SpikingHead) else scaled_weight(layer)
    if isinstance(layer, Conv):

        def apply(s: Tensor) -> Tensor:
            nchw = s.flatten(0, 1).permute(0, 3, 1, 2)
            y = nn.functional.conv2d(nchw, weight, None, layer.stride, layer.padding, groups=layer.groups)
            return y.permute(0, 2, 3, 1).unflatten(0, s.shape[:2])
    else:

        def apply(s: Tensor) -> Tensor:
            return nn.functional.linear(s, weight)

    total = sum(apply(s) for s in virtual_steps(x))
    torch.testing.assert_close(output, total if layer.bias is None else total + layer.bias, rtol=1e-4, atol=1e-5)
    seen.append(name)


def check_product(seen: list[str], name: str, product: AttentionProduct, args: tuple[Heads], output: Tensor) -> None:
    """Forward hook: the product is the sum of products of binary virtual steps."""
    q, k, v = (virtual_steps(x) for x in args[0])
    total = sum(a @ (b.transpose(-1, -2) @ c) for a in q for b in k for c in v) * product.scale
    torch.testing.assert_close(output, total)
    seen.append(name)


@pytest.mark.parametrize(
    ("shortcut", "mixer"), [("membrane", "sdsa_3"), ("membrane", "sepconv"), ("sew", "sdsa_3"), ("vanilla", "sdsa_3")]
)
@torch.no_grad()
def test_virtual_steps_of_spikes_give_the_same_sums_in_a_whole_network(shortcut: str, mixer: str) -> None:
    model, seen, integers = network(shortcut, mixer), list[str](), 0
    for name, module in model.named_modules():
        if isinstance(module, Linear | Conv | SpikingHead):
            module.register_forward_hook(partial(check_layer, seen, name))
        elif isinstance(module, AttentionProduct):
            module.register_forward_hook(partial(check_product, seen, name))
        integers += isinstance(module, Linear | Conv | AttentionProduct)
    model(images())
    assert len(set(seen)) >= integers / 2  # the others read pixels, real values, or spikes that were at most 1 here


@torch.no_grad()
def test_a_normalised_neuron_means_a_fraction() -> None:
    """Dividing the weights that read a neuron by D and not normalising it gives the same network."""
    model, plain = network("membrane"), network("membrane", normalised=False)
    plain.load_state_dict(model.state_dict())
    layers = dict(model.named_modules())
    for name, module in plain.named_modules():
        if isinstance(module, Linear | Conv):
            module.weight.mul_(layers[name].input_scale)
        elif isinstance(module, AttentionProduct):
            module.scale = layers[name].scale
    torch.testing.assert_close(model(images()), plain(images()))


@pytest.mark.parametrize("shortcut", ["membrane", "sew"])
@torch.no_grad()
def test_fusing_keeps_the_scale_of_the_input(shortcut: str) -> None:
    model = network(shortcut, "sepconv").double()
    expected = model(images().double())
    torch.testing.assert_close(fuse(model)(images().double()), expected)
