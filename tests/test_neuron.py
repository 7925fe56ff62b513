"""The LIF neuron against its equations, spikingjelly and the published reference vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron as spikingjelly_neuron
from spikingjelly.activation_based import surrogate
from torch import Tensor

from autospike.architecture import Neuron
from autospike.nn import neuron as neuron_module
from autospike.nn.kernel import lif_kernel
from autospike.nn.neuron import LIF


@pytest.fixture(autouse=True, params=["compiled", "vector"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with the compiled kernel and with the fallback."""
    if request.param == "vector":
        monkeypatch.setattr(neuron_module, "lif_kernel", lambda: None)
    elif lif_kernel() is None:
        pytest.skip("no C compiler here")
    return str(request.param)


def run(x: Tensor, v_threshold: float = 1.0, tau: float = 2.0) -> Tensor:
    return LIF(Neuron(v_threshold=v_threshold, tau=tau))(x)


def test_constant_input_fires_when_the_analytic_potential_crosses() -> None:
    """Under constant input x from rest, h[t] = x (1 - (1 - 1/tau)^t): 1.2 at tau 2 gives 0.6, 0.9, 1.05; the third step fires."""
    spikes = run(torch.full((7, 1), 1.2))
    assert spikes.flatten().tolist() == [0, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("tau", [1.25, 2.0, 10.0])
@pytest.mark.parametrize("x", [1.05, 1.3, 3.0, 20.0])
def test_first_spike_comes_at_the_analytic_time(tau: float, x: float) -> None:
    first = next(t for t in range(1, 200) if x * (1 - (1 - 1 / tau) ** t) >= 1)
    spikes = run(torch.full((first, 1), x), tau=tau)
    assert spikes.flatten().tolist() == [0] * (first - 1) + [1]


def test_a_tie_fires() -> None:
    assert run(torch.tensor([[2.0]])).item() == 1  # h = 2 / 2 = v_threshold


def test_nothing_is_remembered_between_calls() -> None:
    lif, x = LIF(Neuron()), torch.full((2, 3), 0.9)
    assert torch.equal(lif(x), lif(x))


def test_gradient_of_one_step_is_the_surrogate_over_tau() -> None:
    x = torch.tensor([[1.4]], requires_grad=True)
    run(x, tau=2.0).backward()
    g = 1 / (1 + np.exp(-4 * (1.4 / 2 - 1)))
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(4 * g * (1 - g) / 2, rel=1e-6)


@pytest.mark.parametrize("tau", [1.25, 2.0, 10.0])
@pytest.mark.parametrize("v_threshold", [0.5, 1.0, 1.6])
def test_spikes_equal_spikingjelly_and_gradients_agree(tau: float, v_threshold: float) -> None:
    torch.manual_seed(0)
    x = (torch.randn(5, 6, 7) * 2).requires_grad_()
    reference = spikingjelly_neuron.LIFNode(
        tau=tau, v_threshold=v_threshold, v_reset=0.0, surrogate_function=surrogate.Sigmoid(4.0), detach_reset=True, step_mode="m"
    )
    ours, theirs, cotangent = run(x, v_threshold, tau), reference(x), torch.randn(5, 6, 7)
    assert torch.equal(ours, theirs)
    (ours_grad,) = torch.autograd.grad(ours, x, cotangent)
    (theirs_grad,) = torch.autograd.grad(theirs, x, cotangent)
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-5, atol=1e-6)


def test_an_input_that_is_the_same_at_every_step_may_be_a_broadcast_view() -> None:
    x = torch.randn(1, 3, 50).mul_(2).requires_grad_()
    expanded, copied = run(x.expand(4, 3, 50)), run(x.expand(4, 3, 50).contiguous())
    assert torch.equal(expanded, copied)
    grads = [torch.autograd.grad(spikes.cumsum(0).sum(), x)[0] for spikes in (expanded, copied)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("neurons", [1, 127, 128, 129, 300])
def test_every_neuron_counts_for_itself(neurons: int) -> None:
    """As many at once as a kernel's block holds, one more, one less: each as if alone."""
    x = torch.randn(3, neurons, generator=torch.Generator().manual_seed(0)) * 2
    together = run(x)
    assert torch.equal(together, torch.cat([run(x[:, i : i + 1].contiguous()) for i in range(neurons)], dim=1))


def test_layouts_in_memory_do_not_matter() -> None:
    x = torch.randn(4, 6, 5) * 2
    assert torch.equal(run(x.transpose(1, 2)).transpose(1, 2), run(x))
    assert torch.equal(run(x.double()).float(), run(x))


def test_reference_vectors(vectors: Path) -> None:
    """Every case of the file with this neuron: input decays, hard reset to 0, reset detached, sigmoid of slope 4."""
    stored = np.load(vectors / "lif.npz", allow_pickle=False)
    ours = {"v_reset": 0.0, "detach_reset": True, "decay_input": True, "surrogate": "Sigmoid(alpha=4.0)"}
    cases = [case for case in json.loads(str(stored["cases_json"])) if ours.items() <= case.items()]
    assert cases
    for case in cases:
        x = torch.from_numpy(stored["x"]).float().requires_grad_()
        spikes = run(x, case["v_threshold"], case["tau"])
        (grad,) = torch.autograd.grad(spikes, x, torch.from_numpy(stored["cotangent"]).float())
        np.testing.assert_array_equal(spikes.detach().numpy(), stored[f"{case['case']}/spike"])
        np.testing.assert_allclose(grad.numpy(), stored[f"{case['case']}/grad_x"], rtol=1e-5, atol=1e-5)
