"""Neurons that run the linear map before them, in one pass over memory, against the two one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autospike.kernels import sparse_conv as sparse
from autospike.kernels.lif import kernel
from autospike.nn import neuron, norm
from autospike.nn.layers import LinearNorm, fire
from autospike.nn.neuron import LIF
from autospike.space.architecture import Neuron

needs_kernel = pytest.mark.skipif(sparse._functions() is None or kernel() is None, reason="no C compiler here")


def fired(layer: LinearNorm, lif: LIF, x: Tensor, onto: Tensor | None) -> tuple[Tensor, list[Tensor], int]:
    """What neurons make of a layer's answer, the spikes that they tell of, and how often the map ran by itself."""
    told, ran = [], []
    handle = lif.register_spike_count_hook(lambda _spikes, sums: told.append(sums))
    forward = layer.linear.forward
    layer.linear.forward = lambda *args, **kwargs: ran.append(0) or forward(*args, **kwargs)  # type: ignore[method-assign]
    out = fire(layer, lif, x, stream=onto)
    del layer.linear.forward
    handle.remove()
    return out, told, len(ran)


@needs_kernel
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape", [(4, 5, 72, 72), (1, 2, 24, 33), (2, 3, 16, 600), (4, 40, 200, 48), (3, 1, 16, 1), (4, 1400, 16, 48)]
)
def test_neurons_that_run_the_map_before_them_fire_as_behind_it(shape: tuple[int, ...], threads: int, adds: bool) -> None:
    """The same bits and counts, added to a stream or not; with a gradient, or in training, the map runs by itself. What the largest
    gives is written past the cache."""
    steps, batch, in_features, out_features = shape
    torch.manual_seed(0)
    x = (torch.rand(steps, batch, 3, 4, in_features) < 0.3).float()
    stream = torch.randint(0, 4, (steps, batch, 3, 4, out_features)).float() if adds else None
    layer, lif = LinearNorm(in_features, out_features, bias=True), LIF(Neuron(v_threshold=0.3, tau=1.7))
    layer(x)
    layer.eval()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    expected, counts, ran = fired(layer, lif, x, stream)
    assert ran == 1
    with torch.no_grad():
        found, counted, ran = fired(layer, lif, x, stream)
        assert fired(layer.train(), lif, x, stream)[2] == 1
    torch.set_num_threads(before)
    assert ran == 0
    assert torch.equal(found, expected)
    assert found.any()
    assert len(counted) == len(counts) == (not adds)
    assert all(map(torch.equal, counted, counts))


@needs_kernel
@torch.no_grad()
def test_who_listens_to_a_map_or_its_neurons_hears_them() -> None:
    layer, lif = LinearNorm(16, 8, bias=False).eval(), LIF(Neuron(v_threshold=0.3))
    x = torch.ones(2, 1, 2, 2, 16)
    expected, _, ran = fired(layer, lif, x, None)
    assert ran == 0
    for module in (layer.linear, lif):
        for listen in (module.register_forward_hook, module.register_forward_pre_hook):
            heard: list[Any] = []
            hook = listen(lambda _module, args, *_left, heard=heard: heard.append(args[0]))
            assert torch.equal(fire(layer, lif, x), expected)
            hook.remove()
            assert [type(y) for y in heard] == [Tensor]


@pytest.mark.parametrize("missing", ["a kernel of neurons", "a kernel of maps", "a normalisation"])
@torch.no_grad()
def test_a_map_runs_by_itself_without(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, lif = LinearNorm(16, 8, bias=False).eval(), LIF(Neuron(v_threshold=0.3))
    x = torch.ones(2, 1, 2, 2, 16)
    expected = lif(layer(x))
    match missing:
        case "a kernel of neurons":
            monkeypatch.setattr(neuron, "kernel", lambda: None)
            monkeypatch.setattr(norm, "kernel", lambda: None)
        case "a kernel of maps":
            monkeypatch.setattr(sparse, "_functions", lambda: None)
        case _:
            layer = layer.fused().eval()
    out, _, ran = fired(layer, lif, x, None)
    assert ran == 1
    assert torch.equal(out, expected)
