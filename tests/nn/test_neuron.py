"""The LIF neuron against its equations, spikingjelly and the published reference vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_parameters import slow_except
from spikingjelly.activation_based import neuron as spikingjelly_neuron
from spikingjelly.activation_based import surrogate
from torch import Tensor

from autospike.nn.neuron import LIF, Dynamics, continued
from autospike.nn.norm import Norm
from autospike.space.block import Neuron
from autospike.space.limits import MIN_THRESHOLD

# Every test runs with the kernels of each instruction set, and with tensor operations ("off").
pytestmark = pytest.mark.usefixtures("implementation")


def run(x: Tensor, v_threshold: float = 1.0, tau: float = 2.0) -> Tensor:
    return LIF(Neuron(v_threshold=v_threshold, tau=tau))(x)


def test_constant_input_spikes_when_the_analytic_potential_crosses_the_threshold() -> None:
    """Constant input x gives h[t] = x (1 - (1 - 1/tau)^t): 0.6, 0.9, 1.05 for x = 1.2 and tau = 2, so the third step spikes."""
    spikes = run(torch.full((7, 1), 1.2))
    assert spikes.flatten().tolist() == [0, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("tau", [1.25, 2.0, 10.0])
@pytest.mark.parametrize("x", [1.05, 1.3, 3.0, 20.0])
def test_the_first_spike_is_at_the_analytic_time(tau: float, x: float) -> None:
    first = next(t for t in range(1, 200) if x * (1 - (1 - 1 / tau) ** t) >= 1)
    spikes = run(torch.full((first, 1), x), tau=tau)
    assert spikes.flatten().tolist() == [0] * (first - 1) + [1]


def test_a_potential_equal_to_the_threshold_spikes() -> None:
    assert run(torch.tensor([[2.0]])).item() == 1  # h = 2 / 2 = v_threshold


def test_calls_are_independent() -> None:
    lif, x = LIF(Neuron()), torch.full((2, 3), 0.9)
    assert torch.equal(lif(x), lif(x))


NEURONS = {
    "binary": (Neuron(v_threshold=0.7, tau=1.5), Dynamics()),
    "soft reset": (Neuron(), Dynamics(reset="soft", input_decays=False)),
    "integers": (Neuron(levels=3, tau=2.5), Dynamics()),
    "no leak": (Neuron(levels=3, leak=False), Dynamics()),
    "no integration": (Neuron(levels=3, integrates=False), Dynamics()),
}


@pytest.mark.parametrize("kind", NEURONS)
@pytest.mark.parametrize("norm", [False, True])
def test_continued_calls_equal_one_call(kind: str, norm: bool) -> None:
    """A sequence of 5 steps in calls of 1, 2 and 2 steps; 700 channels, so that a position needs two blocks of neurons."""
    torch.manual_seed(0)
    lif, bn, x = LIF(*NEURONS[kind]), Norm(700).eval() if norm else None, torch.randn(5, 3, 2, 2, 700) * 2
    stream = torch.randn_like(x)
    with torch.no_grad():
        expected, added = lif(x, bn), lif(x, bn, stream=stream)
    with continued(lif):
        found = torch.cat([lif(part, bn) for part in x.split([1, 2, 2])])
    assert torch.equal(found, expected)
    with continued(lif):
        parts = zip(x.split([1, 2, 2]), stream.split([1, 2, 2]), strict=True)
        assert torch.equal(torch.cat([lif(part, bn, stream=above) for part, above in parts]), added)
    assert torch.equal(lif(x, bn), expected), "after the block, calls are independent again"


def test_a_layer_has_one_start_hook() -> None:
    """It supplies the potentials of a call, which replaces them; without it, a call starts from 0 again."""
    lif, x = LIF(Neuron(tau=2.0)), torch.tensor([[[0.5]]])
    potential = torch.tensor([[1.5]])
    handle = lif.register_start_hook(lambda _layer, _current, _channels: potential)
    with pytest.raises(ValueError, match="already has a start hook"), continued(lif):
        pass
    with torch.no_grad():
        assert lif(x).item() == 1  # h = 1.5 + (0.5 - 1.5) / 2 = 1
        assert potential.item() == 0
        handle.remove()
        assert lif(x).item() == 0


def test_potentials_of_some_images() -> None:
    torch.manual_seed(0)
    lif, x, images = LIF(Neuron()), torch.randn(2, 4, 50) * 2, torch.tensor([3, 1])
    with continued(lif) as potentials:
        lif(x[:1])
        potentials.select(images)
        found = lif(x[1:, images])
        with pytest.raises(ValueError, match=r"the potentials are \[2, 50\], but this call has \[4, 50\]"):
            lif(x[1:])
    assert torch.equal(found, lif(x)[1:, images])


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
    actual, desired, cotangent = run(x, v_threshold, tau), reference(x), torch.randn(5, 6, 7)
    assert torch.equal(actual, desired)
    (actual_grad,) = torch.autograd.grad(actual, x, cotangent)
    (desired_grad,) = torch.autograd.grad(desired, x, cotangent)
    torch.testing.assert_close(actual_grad, desired_grad, rtol=1e-5, atol=1e-6)


def test_a_broadcast_view_over_time_is_a_valid_input() -> None:
    x = torch.randn(1, 3, 50).mul_(2).requires_grad_()
    expanded, copied = run(x.expand(4, 3, 50)), run(x.expand(4, 3, 50).contiguous())
    assert torch.equal(expanded, copied)
    grads = [torch.autograd.grad(spikes.cumsum(0).sum(), x)[0] for spikes in (expanded, copied)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("neurons", [1, 127, 128, 129, 300])
def test_neurons_are_independent(neurons: int) -> None:
    """With as many neurons as a block of the kernel, one more and one less."""
    x = torch.randn(3, neurons, generator=torch.Generator().manual_seed(0)) * 2
    together = run(x)
    assert torch.equal(together, torch.cat([run(x[:, i : i + 1].contiguous()) for i in range(neurons)], dim=1))


def test_memory_layouts_give_the_same_spikes() -> None:
    x = torch.randn(4, 6, 5) * 2
    assert torch.equal(run(x.transpose(1, 2)).transpose(1, 2), run(x))
    assert torch.equal(run(x.double()).float(), run(x))


# Names of surrogates in the file of reference vectors.
SURROGATES: dict[str, Any] = {"Sigmoid(alpha=4.0)": "sigmoid", "ATan(alpha=2.0)": "arctan"}


def test_spikes_and_gradients_equal_the_reference_vectors(vectors: Path) -> None:
    """48 cases: hard and soft reset, sigmoid and arctan surrogate, detached reset or not, decaying input or not."""
    stored = np.load(vectors / "lif.npz", allow_pickle=False)
    cases = json.loads(str(stored["cases_json"]))
    assert len(cases) == 48
    for case in cases:
        dynamics = Dynamics(
            reset="soft" if case["v_reset"] is None else "hard",
            input_decays=case["decay_input"],
            reset_is_detached=case["detach_reset"],
            surrogate=SURROGATES[case["surrogate"]],
        )
        x = torch.from_numpy(stored["x"]).float().requires_grad_()
        spikes = LIF(Neuron(v_threshold=case["v_threshold"], tau=case["tau"]), dynamics)(x)
        (grad,) = torch.autograd.grad(spikes, x, torch.from_numpy(stored["cotangent"]).float())
        np.testing.assert_array_equal(spikes.detach().numpy(), stored[f"{case['case']}/spike"])
        np.testing.assert_allclose(grad.numpy(), stored[f"{case['case']}/grad_x"], rtol=1e-5, atol=1e-5)


@given(tau=st.floats(1.0009765625, 64, width=32), scale=st.sampled_from([1e-3, 1.0, 1e5]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_potentials_are_rounded_like_a_division_by_tau(tau: float, scale: float, seed: int) -> None:
    """The threshold equals a potential of the reference, so a result that is one bit smaller would not spike."""
    x = torch.randn(1, 4096, generator=torch.Generator().manual_seed(seed)) * scale
    h = (x[0] / tau).sort().values
    for threshold in (float(h[-1]), float(h[-100])):
        if threshold >= MIN_THRESHOLD:
            assert torch.equal(run(x, threshold, tau)[0], (x[0] / tau >= threshold).float())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("steps", [None, 4])
@pytest.mark.parametrize("channels", [3, 16, 300])
def test_normalisation_and_neurons_equal_torch_and_spikingjelly(channels: int, steps: int | None, training: bool) -> None:
    """The normalisation is compared in double precision."""
    torch.manual_seed(channels)
    bn, reference = Norm(channels).train(training), torch.nn.BatchNorm1d(channels).train(training)
    for values in (bn.weight.data, bn.running_var):
        values.uniform_(0.5, 2)
    reference.load_state_dict(bn.state_dict())
    reference.double()
    sigmoid = surrogate.Sigmoid(4.0)
    lif = spikingjelly_neuron.LIFNode(
        tau=1.7, v_threshold=0.8, v_reset=0.0, surrogate_function=sigmoid, detach_reset=True, step_mode="m"
    )
    y = (torch.randn(4 if steps is None else 1, 5, 3, 2, channels) * 2 + 3).requires_grad_()
    copied = y.detach().double().requires_grad_()
    actual = LIF(Neuron(tau=1.7, v_threshold=0.8))(y, bn, steps)
    current = reference(copied.flatten(0, -2)).view(y.shape)
    desired = lif(current.expand(4, *y.shape[1:]))
    assert (actual != desired).sum() == 0
    cotangent = torch.randn_like(actual)
    actual.backward(cotangent)
    desired.backward(cotangent.double())
    assert y.grad is not None
    assert copied.grad is not None
    torch.testing.assert_close(y.grad, copied.grad.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bn.weight.grad, reference.weight.grad.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bn.bias.grad, reference.bias.grad.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bn.running_var, reference.running_var.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bn.running_mean, reference.running_mean.float(), rtol=1e-5, atol=1e-6)


def test_bfloat16_currents_are_integrated_in_single_precision() -> None:
    x = (torch.randn(6, 500, generator=torch.Generator().manual_seed(0)) * 2).bfloat16().requires_grad_()
    single = x.detach().float().requires_grad_()
    actual, desired = run(x), run(single)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual.float(), desired)
    actual.sum().backward()
    desired.sum().backward()
    assert x.grad is not None
    assert single.grad is not None
    assert torch.equal(x.grad, single.grad.bfloat16())


@pytest.mark.parametrize("channels", [3, 16, 48, 300])
@pytest.mark.parametrize("steps", [None, 4])
def test_spikes_are_counted_by_step_and_position(steps: int | None, channels: int) -> None:
    reported: list[tuple[Tensor, Tensor]] = []
    lif, x = LIF(Neuron()), torch.randn(4 if steps is None else 1, 5, 3, 2, channels) * 2
    handle = lif.register_spike_count_hook(lambda *seen: reported.append(seen))
    spikes = lif(x, Norm(channels), steps)
    handle.remove()
    lif(x, Norm(channels), steps)
    ((fired, counts),) = reported
    assert fired is spikes
    assert torch.equal(counts, spikes.double().sum(dim=(1, 4)).flatten(1))


@pytest.mark.parametrize("batch", slow_except([5], [5, 2700]))
@pytest.mark.parametrize("kind", ["plain", "repeated", "transposed", "bfloat16", "broadcast"])
def test_spikes_are_added_to_a_residual_stream(kind: str, batch: int) -> None:
    """Also covers the gradients; the hook is not called. The output of 2700 images is written with non-temporal stores."""
    torch.manual_seed(0)
    x, shape = torch.randn(1 if kind == "repeated" else 4, batch, 3, 2, 48), (4, batch, 3, 2, 48)
    stream = torch.randint(0, 5, shape).float().requires_grad_()
    x, under = (x.bfloat16(), stream) if kind == "bfloat16" else (x, stream)
    if kind == "transposed":
        under = stream.transpose(2, 3).reshape(4, batch, 2, 3, 48).transpose(2, 3)
    if kind == "broadcast":
        under = stream[:, :1]
    x, steps, lif, bn = x.requires_grad_(), 4 if kind == "repeated" else None, LIF(Neuron(v_threshold=0.3)), Norm(48).eval()
    expected = under + lif(x, bn, steps)
    reported: list[Tensor] = []
    lif.register_spike_count_hook(lambda fired, _counts: reported.append(fired))
    found = lif(x, bn, steps, stream=under)
    assert torch.equal(found, expected)
    assert 0.02 < (found - under).detach().mean() < 0.9
    assert not reported
    cotangent = torch.randn_like(expected)
    for actual, desired in zip(*(torch.autograd.grad(y, (x, stream), cotangent) for y in (found, expected)), strict=True):
        assert torch.equal(actual, desired)


def test_results_are_independent_of_the_number_of_threads(implementation: str) -> None:
    """Spikes and gradients, because sums over the batch have a fixed number of parts."""
    if implementation == "off":
        pytest.skip("torch's sums depend on them")
    torch.manual_seed(0)
    y, bn, cotangent = torch.randn(4, 16, 8, 8, 48), Norm(48), torch.randn(4, 16, 8, 8, 48)
    threads, found = torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        bn.zero_grad()
        x = y.clone().requires_grad_()
        spikes = LIF(Neuron())(x, bn)
        spikes.backward(cotangent)
        found.append((spikes, x.grad, bn.weight.grad, bn.bias.grad))
    torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True) if one is not None)


def test_inputs_that_the_kernel_does_not_support_are_computed_by_torch() -> None:
    """Half-precision parameters, other sizes, an empty batch, one value per channel, strided statistics."""
    x = torch.randn(4, 5, 3, 2, 8)
    narrow = Norm(8).eval().bfloat16()
    assert 0 < LIF(Neuron())(x.bfloat16() * 4, narrow).float().mean() < 0.5
    with pytest.raises(RuntimeError):
        Norm(8).eval()(torch.randn(2, 4096))
    with pytest.raises(ValueError, match="more than 1 value"):
        Norm(8)(torch.randn(1, 8))
    assert LIF(Neuron())(torch.empty(4, 0, 2, 2, 8), Norm(8).eval()).shape == (4, 0, 2, 2, 8)
    separate_norm = Norm(8).eval()
    separate_norm.running_mean = torch.randn(8, 2)[:, 0]
    expected = (x - separate_norm.running_mean) / (separate_norm.running_var + separate_norm.eps).sqrt()  # type: ignore[operator]
    torch.testing.assert_close(separate_norm(x), expected)


def test_repeating_an_input_of_several_steps_is_an_error() -> None:
    with pytest.raises((ValueError, RuntimeError)):
        LIF(Neuron())(torch.randn(3, 2, 4), None, 2)


def test_statistics_that_change_before_backward_are_an_error(implementation: str) -> None:
    if implementation == "off":
        pytest.skip("torch's normalisation saves other tensors")
    bn, x = Norm(8).eval(), torch.randn(4, 5, 2, 2, 8, requires_grad=True)
    spikes = LIF(Neuron())(x, bn)
    bn.running_mean.add_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


@pytest.mark.parametrize("wrong", [{"reset": "Soft"}, {"surrogate": "relu"}])
def test_unknown_dynamics_are_rejected(wrong: Any) -> None:
    with pytest.raises(ValueError, match="reset is hard or soft"):
        Dynamics(**wrong)
