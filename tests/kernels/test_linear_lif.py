"""The fused inference operator, compared with separate linear layer, normalisation and LIF layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from autospike.kernels.build import library, use_kernels
from autospike.nn.fusion import fused
from autospike.nn.layers import LinearNorm, fire
from autospike.nn.neuron import LIF, continued
from autospike.space.block import Neuron


@contextmanager
def observed(module: torch.nn.Module) -> Iterator[list[Any]]:
    """The first arguments of every call of a module; a module with a hook is not fused."""
    seen: list[Any] = []
    handle = module.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    yield seen
    handle.remove()


def fired(layer: LinearNorm, lif: LIF, x: Tensor, stream: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Return the spikes and their counts."""
    counts: list[Tensor] = []
    handle = lif.register_spike_count_hook(lambda _spikes, count: counts.append(count))
    out = fire(layer, lif, x, stream=stream)
    handle.remove()
    return out, counts


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape", [(4, 5, 72, 72), (1, 2, 24, 33), (2, 3, 16, 600), (4, 40, 200, 48), (3, 1, 16, 1), (4, 1400, 16, 48)]
)
def test_the_fused_operator_is_bit_identical(shape: tuple[int, ...], threads: int, adds: bool) -> None:
    """Spikes and counts, added to a stream or not. The largest output is written with non-temporal stores."""
    steps, batch, in_features, out_features = shape
    torch.manual_seed(0)
    x = (torch.rand(steps, batch, 3, 4, in_features) < 0.3).float()
    stream = torch.randint(0, 4, (steps, batch, 3, 4, out_features)).float() if adds else None
    layer, lif = LinearNorm(in_features, out_features, bias=True), LIF(Neuron(v_threshold=0.3, tau=1.7))
    layer(x)
    layer.eval()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected, expected_counts = fired(layer, lif, x, stream)  # with gradients, so not fused
        with torch.no_grad():
            found, counts = fired(layer, lif, x, stream)
    finally:
        torch.set_num_threads(before)
    assert expected.requires_grad
    assert torch.equal(found, expected)
    assert found.any()
    assert len(counts) == len(expected_counts) == (not adds)
    assert all(map(torch.equal, counts, expected_counts))


@pytest.mark.usefixtures("isa")
@torch.no_grad()
def test_two_operators_do_not_share_state() -> None:
    """Packed weights are in thread-local memory, and each call packs its own weights."""
    torch.manual_seed(0)
    x, lif = (torch.rand(2, 3, 2, 2, 32) < 0.5).float(), LIF(Neuron(v_threshold=0.1))
    layers = [LinearNorm(32, out, bias=False).eval() for out in (24, 40)]
    first = [fire(layer, lif, x) for layer in layers]
    again = [fire(layer, lif, x) for layer in reversed(layers)]
    assert all(map(torch.equal, first, reversed(again)))
    assert all(spikes.any() for spikes in first)


@torch.no_grad()
def test_hooks_see_the_linear_layer_and_its_neurons() -> None:
    """Hooks on both receive tensors, and the result is the same."""
    torch.manual_seed(0)
    layer, lif = LinearNorm(16, 8, bias=False).eval(), LIF(Neuron(v_threshold=0.3))
    x = torch.ones(2, 1, 2, 2, 16)
    expected = fire(layer, lif, x)
    for module in (layer.linear, lif):
        with observed(module) as seen:
            assert torch.equal(fire(layer, lif, x), expected)
        assert [type(y) for y in seen] == [Tensor]


@torch.no_grad()
def test_neurons_with_a_hook_output_spikes_not_the_stream() -> None:
    torch.manual_seed(0)
    layer, lif, x = LinearNorm(16, 8, bias=False).eval(), LIF(Neuron(v_threshold=0.3)), torch.ones(2, 1, 2, 2, 16)
    stream, outputs = torch.full((2, 1, 2, 2, 8), 3.0), []
    expected = fire(layer, lif, x, stream=stream)
    handle = lif.register_forward_hook(lambda _module, _args, out: outputs.append(out))
    assert torch.equal(fire(layer, lif, x, stream=stream), expected)
    handle.remove()
    assert set(outputs[0].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("instead", ["off", "normalisation folded", "training"])
@torch.no_grad()
def test_layers_that_cannot_be_fused_compute_the_same(instead: str) -> None:
    torch.manual_seed(0)
    layer, lif, x = LinearNorm(16, 8, bias=False).eval(), LIF(Neuron(v_threshold=0.3)), torch.ones(2, 1, 2, 2, 16)
    expected = lif(layer(x))
    if instead == "off":
        with use_kernels("off"):
            assert torch.equal(fire(layer, lif, x), expected)
    elif instead == "training":
        assert torch.equal(fire(layer.train(), lif, x), lif(layer(x)))
    else:
        assert torch.equal(fire(fused(layer).eval(), lif, x), expected)
    assert library("lif") is None or expected.any()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("adds", [False, True])
@torch.no_grad()
def test_continued_calls_are_bit_identical(adds: bool) -> None:
    """Three steps in calls of one step each, against one call; both fused."""
    torch.manual_seed(0)
    x = (torch.rand(3, 2, 3, 4, 24) < 0.3).float()
    stream = torch.randint(0, 4, (3, 2, 3, 4, 33)).float() if adds else None
    layer, lif = LinearNorm(24, 33, bias=True), LIF(Neuron(v_threshold=0.3, tau=1.7))
    layer(x)
    layer.eval()
    expected = fire(layer, lif, x, stream=stream)
    streams = (None,) * 3 if stream is None else stream.split(1)
    with continued(lif):
        found = [fire(layer, lif, part, stream=above) for part, above in zip(x.split(1), streams, strict=True)]
    assert torch.equal(torch.cat(found), expected)
