"""Spiking self-attention (SSA), Spikformer section 3.3: attention without a softmax, because queries, keys and values are spikes.

y = (q k^T) v * scale,   SSA = LIF(BN(W_proj LIF_attention(y)))
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from autospike.architecture import Block
from autospike.nn.layers import SpikingLinear
from autospike.nn.neuron import LIF

SCALE = 0.125  # whatever the head size (Spikformer's published code)


class Heads(NamedTuple):
    """Spikes of the three projections, by head: each `[T, B, heads, N, head_dim]`."""

    q: Tensor
    k: Tensor
    v: Tensor


class AttentionProduct(nn.Module):
    """`q (k^T v) * scale`, equal to `(q k^T) v * scale` to the last bit, for the products are sums of small integers.

    It is a module of its own so that its operations can be counted where they happen. Shape: `[T, B, heads, N, head_dim]` each.
    """

    def forward(self, heads: Heads) -> Tensor:
        q, k, v = heads
        tokens, head_dim = q.shape[-2:]
        if tokens < head_dim:  # the cheaper order of the two
            return (q @ k.transpose(-1, -2)) @ v * SCALE
        return q @ (k.transpose(-1, -2) @ v) * SCALE


class SpikingSelfAttention(nn.Module):
    """SSA over the tokens of one image. Shape: `[T, B, N, D]` integer-valued stream to `[T, B, N, D]` spikes."""

    def __init__(self, embed_dim: int, block: Block) -> None:
        super().__init__()
        self.num_heads = block.num_heads
        self.q = SpikingLinear(embed_dim, embed_dim, block.neuron_of("q"))
        self.k = SpikingLinear(embed_dim, embed_dim, block.neuron_of("k"))
        self.v = SpikingLinear(embed_dim, embed_dim, block.neuron_of("v"))
        self.product = AttentionProduct()
        self.lif = LIF(block.neuron_of("attention"))
        self.projection = SpikingLinear(embed_dim, embed_dim, block.neuron_of("projection"))

    def forward(self, x: Tensor) -> Tensor:
        heads = Heads(*(self._split(branch(x)) for branch in (self.q, self.k, self.v)))
        y = self.product(heads).transpose(2, 3).flatten(3)
        out: Tensor = self.projection(self.lif(y))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """`[T, B, N, D]` to `[T, B, heads, N, D / heads]`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
