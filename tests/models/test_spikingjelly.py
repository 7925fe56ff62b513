"""Networks of this package compared with spikingjelly, an independent implementation: spikes, logits and gradients.

They are in double precision, so that rounding moves no potential across a threshold. Some convolutions of spikingjelly have a bias
that this package omits; a bias before a normalisation is a shift of its running mean.
"""

from __future__ import annotations

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from spikingjelly_models import (
    CLASSES,
    FRAMES,
    IMAGES,
    SIZE,
    Layers,
    T,
    autospike_qkformer,
    autospike_spike_driven,
    autospike_spikformer,
    calibrated,
    counted,
    remove_pools,
    run,
    spikingjelly_qkformer,
    spikingjelly_spike_driven,
    spikingjelly_spikformer,
    to_compact,
)
from torch import Tensor, nn

from autospike.models.contract import SpikingModel


def assert_equal(net: nn.Module, model: SpikingModel, layers: Layers, x: Tensor = IMAGES) -> None:
    """Assert equal logits, image gradients and spikes; every layer spikes, and most firing rates are between 0.02 and 0.9."""
    pixels = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    with counted([reference for reference, _ in layers] + [each for _, found in layers for each in found]) as counts:
        expected = run(net, pixels[0])
        expected = expected.mean(dim=0) if expected.dim() == 3 else expected
        logits = model(pixels[1])
    assert expected.std(dim=0).max() > 1e-2  # the images differ
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for reference, found in layers:
        assert torch.equal(counts[reference], sum(counts[each] for each in found))
        assert counts[reference][:-1].sum() > 0
    rates = [count[:-1].mean() / count[-1] for count in (counts[reference] for reference, _ in layers)]
    assert sum(0.02 < rate < 0.9 for rate in rates) > len(rates) / 2
    weights = torch.linspace(-1, 1, CLASSES, dtype=torch.float64)
    for answer in (expected, logits):
        (answer * weights).sum().backward()
    assert pixels[0].grad.norm() > 0
    torch.testing.assert_close(pixels[1].grad, pixels[0].grad, rtol=1e-6, atol=1e-9)


def test_spikformer_without_pools() -> None:
    """The whole network without pools. spikingjelly pools before the neurons of the stem, the published code after them."""
    net = spikingjelly_spikformer(stride=4)
    remove_pools(net)
    calibrated(net)
    assert_equal(net, *autospike_spikformer(net, stride=1), x=IMAGES[..., :12, :8])


@pytest.mark.parametrize("stride", [4, 16])
def test_spikformer_with_pools_after_the_neurons(stride: int) -> None:
    """The whole network, with the pools of spikingjelly moved after the neurons, as in the published code."""
    net = spikingjelly_spikformer(stride)
    for each, pool in zip(net.patch_embed.stages, remove_pools(net), strict=True):
        each.neuron = nn.Sequential(each.neuron, layer.SeqToANNContainer(pool))
    calibrated(net)
    assert_equal(net, *autospike_spikformer(net, stride))


@pytest.mark.parametrize("stride", [4, 16])
def test_spikformer_after_the_stem(stride: int) -> None:
    """The stems differ, because spikingjelly pools before the neurons. From the output of its stem on, the rest is equal."""
    net = calibrated(spikingjelly_spikformer(stride))
    model, layers = autospike_spikformer(net, stride)
    with torch.no_grad():
        expected = run(net, IMAGES)
        functional.reset_net(net)
        stem = net.patch_embed(IMAGES.repeat(T, 1, 1, 1, 1)).permute(0, 1, 3, 4, 2)
        assert stem.shape[2:] == (SIZE[0] // stride, SIZE[1] // stride, 32)
        with counted([found for _, separate in layers for found in separate]) as counts:
            stream = stem
            for block in model.stages[0].blocks:
                stream = block(stream)
            logits = model.head(stream.flatten(2, 3).mean(dim=2))
        assert not torch.allclose(model.forward_steps(IMAGES), expected)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert sum(0.02 < count[:-1].mean() / count[-1] < 0.9 for count in counts.values()) > len(counts) / 2


@pytest.mark.parametrize(("pooling", "stride"), [("1111", 16), ("0111", 8), ("0011", 4), ("0001", 2)])
def test_spike_driven_transformer(pooling: str, stride: int) -> None:
    """The whole network; its stem is the same, with the last pool on membrane potentials."""
    net = calibrated(spikingjelly_spike_driven(pooling, mlp_ratio=2), shift=-0.5)
    assert_equal(net, *autospike_spike_driven(net, stride, mlp_ratio=2))


def test_spike_driven_transformer_on_frames() -> None:
    net = calibrated(spikingjelly_spike_driven("0011", mlp_ratio=4), shift=-0.5)
    assert_equal(net, *autospike_spike_driven(net, 4, mlp_ratio=4), x=FRAMES)


@pytest.mark.parametrize("qka_type", ["token", "channel"])
def test_qkformer(qka_type: str) -> None:
    """The whole network, with different numbers of heads in the stages."""
    net = calibrated(spikingjelly_qkformer(qka_type))
    assert_equal(net, *autospike_qkformer(net, qka_type))


def test_qkformer_on_frames() -> None:
    net = calibrated(spikingjelly_qkformer("token"))
    assert_equal(net, *autospike_qkformer(net, "token"), x=FRAMES)


def test_compact_qkformer() -> None:
    net = calibrated(to_compact(spikingjelly_qkformer("token")))
    assert_equal(net, *autospike_qkformer(net, "token", compact=True), x=IMAGES[..., :12, :16])
