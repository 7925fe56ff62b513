"""The product of spiking attention, with kernels and with tensor operations, compared with torch's matrix products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autospike.kernels.attention import split_heads
from autospike.nn.attention_product import AttentionProduct, Heads

SCALE = 0.125
pytestmark = pytest.mark.usefixtures("implementation")


def operands(tokens: int, heads: int, head_dim: int) -> list[Tensor]:
    torch.manual_seed(tokens)
    return [(torch.rand(2, 3, tokens, heads * head_dim) < 0.3).float().requires_grad_() for _ in range(3)]


@pytest.mark.parametrize(
    ("tokens", "heads", "head_dim"),
    [(16, 4, 12), (64, 4, 32), (33, 3, 40), (49, 12, 3), (7, 3, 8), (9, 2, 64), (65, 2, 16), (1, 1, 1)],
)
def test_product_and_gradients(tokens: int, heads: int, head_dim: int) -> None:
    """The product is bit-identical, because it consists of integers; gradients agree up to rounding."""
    leaves = operands(tokens, heads, head_dim)
    q, k, v = (split_heads(x, heads) for x in leaves)
    actual, desired = AttentionProduct(SCALE)(Heads(q, k, v)), (q @ k.transpose(-1, -2)) @ v * SCALE
    assert torch.equal(actual, desired)
    cotangent = torch.randn_like(actual)
    for found, expected in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (actual, desired)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0, -0.0])
@pytest.mark.parametrize("operand", ["q", "k", "v"])
def test_values_that_are_no_spikes_are_multiplied(operand: str, value: float) -> None:
    """A single such value among spikes, at the last of 37 tokens, in the last channel."""
    with torch.no_grad():
        heads = Heads(*(split_heads(x.detach().clone(), 3) for x in operands(37, 3, 6)))
        getattr(heads, operand)[-1, -1, -1, -1, -1] = value
        assert torch.equal(AttentionProduct(SCALE)(heads), heads.q @ (heads.k.transpose(-1, -2) @ heads.v) * SCALE)


def test_flop_counters_count_the_dense_operations() -> None:
    """2 * 2 * tokens * head_dim^2 multiplications and additions of each head."""
    heads = Heads(*(split_heads(x, 2) for x in operands(16, 2, 8)))
    with FlopCounterMode(display=False) as counter:
        AttentionProduct(SCALE)(heads)
    assert counter.get_total_flops() == 2 * 3 * 2 * (2 * 2 * 16 * 8 * 8)
