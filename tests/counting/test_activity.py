"""Firing rates by step, silent and saturated neurons, and attention maps, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from traced_models import firing_model, images

from autospike.commands.firing import layers_table, neurons_table
from autospike.counting.activity import Activity, attention_map
from autospike.counting.firing import FiringRates
from autospike.nn.attention import Attention, Gate, MatrixAttention
from autospike.nn.neuron import LIF
from autospike.space.block import Neuron


def test_neurons_by_hand() -> None:
    """Time constant 2, threshold 1, constant inputs 0, 1.5, 2: never; at every second step (0.75, then 1.125); at every step."""
    model = nn.Sequential(LIF(Neuron(v_threshold=1.0, tau=2.0)))
    activity = Activity()
    with activity.watch(model):
        for _ in range(2):  # batches of 3 images
            model(torch.tensor([0.0, 1.5, 2.0]).expand(4, 3, 3))
    layer = activity.layers["0"]
    assert layer.rates == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3])
    assert (layer.silent.tolist(), layer.saturated.tolist()) == ([True, False, False], [False, False, True])
    assert layers_table(activity)[["neurons", "rate", "silent", "saturated"]].to_numpy().tolist() == [[3, 0.5, 1, 1]]
    assert neurons_table(activity).to_numpy().tolist() == [["0", 0, "silent"], ["0", 2, "saturated"]]


@torch.no_grad()
def test_rates_are_those_of_the_energy_report() -> None:
    model, activity, rates = firing_model("qkformer"), Activity(), FiringRates()
    with activity.watch(model), rates.watch(model):
        model(images())
    found = {name: sum(layer.rates) / len(layer.rates) for name, layer in activity.layers.items()}
    assert found == pytest.approx(rates.rates())


def test_the_map_of_a_product_is_the_sum_over_queries() -> None:
    """The column sums of q k^T, which the operator never computes, mean over time."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.rand(2, 3, 2, 2, 8, generator=generator).round() for _ in range(3))
    operator = MatrixAttention(Neuron(), 2, 0.125, learnable=False)
    flat_q, flat_k = (x.flatten(2, 3).unflatten(-1, (2, 4)).transpose(2, 3) for x in (q, k))
    expected = (flat_q @ flat_k.transpose(-1, -2)).sum(dim=(2, 3)).mean(dim=0).view(3, 2, 2)
    torch.testing.assert_close(attention_map(operator, (q, k, v), torch.zeros(2, 3, 2, 2, 8)), expected)


def test_the_map_of_a_gate_is_the_share_of_channels() -> None:
    spikes = torch.zeros(2, 1, 1, 2, 4)
    spikes[0, 0, 0, 1, :3] = 1
    assert attention_map(Gate(), (), spikes).tolist() == [[[0.0, 0.375]]]


@torch.no_grad()
@pytest.mark.parametrize("name", ["spikformer", "spike_driven", "qkformer", "meta_spikeformer"])
def test_each_attention_has_a_map(name: str) -> None:
    model, activity = firing_model(name), Activity()
    with activity.watch(model):
        model(images())
    mixers = [path for path, module in model.named_modules() if isinstance(module, Attention)]
    assert list(activity.attention) == mixers
    assert all(values.shape == (6, 4, 4) for values in activity.attention.values())
