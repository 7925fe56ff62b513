"""Kernels for different instruction sets are bit-identical if the processor has fused multiply-adds.

Without (the baseline of x86-64), the normalisation and real sums round once more: values agree up to rounding, and spikes but for
neurons at their threshold. Integers are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autospike.kernels.build import X86, library, usable_instruction_sets, use_kernels
from autospike.kernels.input_values import sum_values
from autospike.kernels.packing import bits_needed, pack, unpack
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import ConvNorm, LinearNorm, fire
from autospike.nn.max_pool import TimewiseMaxPool
from autospike.nn.neuron import LIF
from autospike.nn.norm import Norm
from autospike.space.block import Neuron

pytestmark = pytest.mark.skipif(library("lif") is None, reason="no C compiler here")


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def spikes(*shape: int, density: float = 0.3) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(len(shape))) < density).float()


def with_gradients(out: Tensor, *leaves: Tensor) -> list[Tensor]:
    cotangent = torch.cos(torch.arange(out.numel())).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent)]


def neurons() -> list[Tensor]:
    """Return spikes and gradients for real currents without normalisation."""
    x = values(5, 7, 3, 3, 40).mul(2).requires_grad_()
    return with_gradients(LIF(Neuron(v_threshold=0.7, tau=1.7))(x), x)


def normalised_neurons() -> list[Tensor]:
    """Return spikes and gradients with the statistics of the batch."""
    x, bn = values(5, 7, 3, 3, 40).mul(2).requires_grad_(), Norm(40)
    return with_gradients(LIF(Neuron(v_threshold=0.7))(x, bn), x, bn.weight, bn.bias)


def normalisation() -> list[Tensor]:
    x, bn = values(5, 7, 3, 3, 40).mul(2).requires_grad_(), Norm(40)
    return with_gradients(bn(x), x, bn.weight, bn.bias)


def convolution() -> list[Tensor]:
    """Return a convolution of spikes with a given density and real weights."""
    found = []
    for density in (0.02, 0.5):
        for layer in (ConvNorm(40, 70), LinearNorm(40, 70, bias=True)):
            for i, parameter in enumerate(layer.parameters()):
                parameter.data = values(*parameter.shape, i + 1)[..., 0]
            x = spikes(2, 3, 6, 6, 40, density=density)
            inner = layer.conv if isinstance(layer, ConvNorm) else layer.linear
            found += with_gradients(inner(x), inner.weight)
    return found


def linear_lif() -> list[Tensor]:
    layer = LinearNorm(40, 70, bias=True)
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = values(*parameter.shape, i + 1)[..., 0]
    with torch.no_grad():
        return [fire(layer.eval(), LIF(Neuron(v_threshold=0.7)), spikes(2, 3, 6, 6, 40))]


def attention() -> list[Tensor]:
    """Products of spikes are integers; their gradients are real."""
    q, k, v = (spikes(2, 3, 4, 20, 12, density=density) for density in (0.2, 0.3, 0.4))
    return [AttentionProduct(0.125)(Heads(q, k, v))]


def attention_gradients() -> list[Tensor]:
    leaves = [spikes(2, 3, 4, 20, 12, density=density).requires_grad_() for density in (0.2, 0.3, 0.4)]
    return with_gradients(AttentionProduct(0.125)(Heads(*leaves)), *leaves)


def pool() -> list[Tensor]:
    x = values(2, 3, 7, 6, 20).requires_grad_()
    return with_gradients(TimewiseMaxPool()(x), x)


def packing() -> list[Tensor]:
    x = torch.randint(0, 16, (1001,), generator=torch.Generator().manual_seed(0)).float()
    packed = pack(x, bits_needed(x) or 8)
    return [packed, unpack(packed, 4, x.shape)]


def sums() -> list[Tensor]:
    return [*sum_values(spikes(2, 3, 5, 40)), *sum_values(spikes(2, 3, 5, 200)), sum_values(values(2, 3, 5, 40))[1]]


EXACT = (neurons, attention, pool, packing, sums)
ROUNDED = (normalised_neurons, normalisation, convolution, linear_lif, attention_gradients)


def computed(kernel: Callable[[], list[Tensor]], isa: str) -> list[Tensor]:
    with use_kernels(isa):
        return kernel()


@pytest.mark.parametrize("isa", [isa for isa in usable_instruction_sets() if isa not in ("native", "plain")])
@pytest.mark.parametrize("kernel", [*EXACT, *ROUNDED])
def test_with_fused_multiply_add_results_are_bit_identical(kernel: Callable[[], list[Tensor]], isa: str) -> None:
    found, expected = computed(kernel, isa), computed(kernel, "native")
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kernel", EXACT)
def test_without_fused_multiply_add_integers_and_plain_neurons_are_bit_identical(kernel: Callable[[], list[Tensor]]) -> None:
    """A gradient of neurons contains an exponential, which is made of multiply-adds: it agrees up to rounding."""
    (found, *gradients), (expected, *others) = computed(kernel, "plain"), computed(kernel, "native")
    assert torch.equal(found, expected)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [normalisation, convolution, attention_gradients])
def test_without_fused_multiply_add_real_sums_agree_up_to_rounding(kernel: Callable[[], list[Tensor]]) -> None:
    for one, other in zip(computed(kernel, "plain"), computed(kernel, "native"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not X86, reason="the baseline of AArch64 has fused multiply-adds")
@pytest.mark.parametrize("kernel", [normalised_neurons, linear_lif])
def test_without_fused_multiply_add_few_spikes_differ(kernel: Callable[[], list[Tensor]]) -> None:
    """Only neurons whose potential is within rounding of the threshold: fewer than one in a thousand here."""
    differ = computed(kernel, "plain")[0] != computed(kernel, "native")[0]
    assert differ.float().mean() < 1e-3
