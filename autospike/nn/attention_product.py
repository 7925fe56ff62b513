"""The product of spiking attention as a module, so that its operations can be counted where they happen."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from autospike.kernels.attention import attention_product
from autospike.nn.tracing import recorded_as_one_call


class Heads(NamedTuple):
    """Spikes of the three projections by head, `[T, B, heads, N, head_dim]` each.

    Attributes:
        q: Queries.
        k: Keys.
        v: Values.
    """

    q: Tensor
    k: Tensor
    v: Tensor


class AttentionProduct(nn.Module):
    """The product `q (k^T v) * scale` of each head.

    Args:
        scale: Factor of the product.

    Shape: `[T, B, heads, N, head_dim]` each to `[T, B, heads, N, head_dim]`.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    @recorded_as_one_call
    def forward(self, heads: Heads) -> Tensor:
        """Multiply the heads."""
        return attention_product(*heads, self.scale)
