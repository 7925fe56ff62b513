"""Firing rates of the neurons of a model."""

from __future__ import annotations

import pytest
import torch

from autospike.counting.firing import FiringRates
from autospike.models import build_model
from autospike.nn.neuron import LIF
from autospike.space.search_space import SearchSpace


def test_firing_rates_are_means_of_neuron_outputs(tiny_space: SearchSpace) -> None:
    torch.manual_seed(0)
    model, firing, seen = build_model(tiny_space.smallest(), num_classes=10, in_chans=1).eval(), FiringRates(), []
    lif = model.get_submodule("stages.0.embedding.lifs.0")
    handle = lif.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad(), firing.watch(model):
        model(torch.rand(3, 1, 8, 8) * 9)
        model(torch.rand(2, 1, 8, 8) * 9)
    handle.remove()
    rates = firing.rates()
    model(torch.rand(2, 1, 8, 8) * 99)
    assert firing.rates() == rates  # the hooks are removed
    expected = torch.cat([s.flatten() for s in seen]).mean().item()
    assert expected > 0
    assert firing.rates()["stages.0.embedding.lifs.0"] == pytest.approx(expected)
    assert firing.rates().keys() == {name for name, module in model.named_modules() if isinstance(module, LIF)}
    assert len(firing.rates()) == 5 + 7  # four convolutions and the position code; q, k, v, attention, projection, fc1, fc2
