"""Spiking attention without softmax: queries, keys and values are spikes. Eight operators with one LIF layer (SN) each.

| token mixer      | operator                           | source                                        | operations       |
|------------------|------------------------------------|-----------------------------------------------|------------------|
| `sdsa_3`         | `SN(q (k^T v) s)`                  | SSA of Spikformer; SDSA-3 of Meta-SpikeFormer | O(N D^2 / heads) |
| `sdsa_4`         | as 3, with a learnable threshold   | SDSA-4 of Meta-SpikeFormer                    | as 3             |
| `e_sdsa`         | as 3, v four times as wide         | E-SDSA of E-SpikeFormer; s = head ** -0.5     | as 3, times 2.5  |
| `sdsa_1`         | `q * SN(sum over tokens of k * v)` | Spike-driven Transformer; SDSA-1              | O(N D)           |
| `sdsa_1_dilated` | as 1, with max-pools 3x3           | Spike-driven Transformer, event form          | O(N D)           |
| `sdsa_2`         | `SN(sum over tokens of q) * v`     | SDSA-2 of Meta-SpikeFormer                    | O(N D)           |
| `token_qk`       | `SN(sum over a head of q) * k`     | QKFormer's token attention                    | O(N D)           |
| `channel_qk`     | `SN(sum over tokens of q) * k`     | QKFormer's channel attention                  | O(N D)           |

SDSA-2 and SDSA-4 follow the paper's description; no released code has them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autospike.kernels.attention import merge_heads, split_heads
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import LinearNorm, Mixer, SharedResults, Synapse, fire, synapse
from autospike.nn.neuron import LIF
from autospike.space.block import Block, Neuron
from autospike.space.mixers import E_SDSA_EXPANSION, OPERANDS

# Keeps a learnable threshold positive in training.
SMALLEST_THRESHOLD_SCALE = 0.01


class SumOfSpikes(nn.Module):
    """Number of spikes along one dimension, which is kept with size 1. A module so that its operations can be counted.

    Args:
        dim: The dimension.
        scale: Factor of the sum.
    """

    def __init__(self, dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.scale = scale

    def forward(self, spikes: Tensor) -> Tensor:
        """Sum spikes.

        Args:
            spikes: `[T, B, ...]`.

        Returns:
            The sum, with size 1 along `dim`.
        """
        total = spikes.sum(dim=self.dim, keepdim=True)
        return total if self.scale == 1 else total * self.scale


class Gate(nn.Module):
    """Passes spikes where another LIF layer fired; integers are multiplied. A module so that its operations can be counted."""

    def forward(self, spikes: Tensor, gate: Tensor) -> Tensor:
        """Multiply two layers of spikes.

        Args:
            spikes: The spikes that pass, `[T, B, ...]`.
            gate: Spikes of the other layer, whose shape may broadcast.

        Returns:
            The product.
        """
        return spikes * gate


class MatrixAttention(nn.Module):
    """SSA, SDSA-3 and SDSA-4: `SN(q (k^T v) s)`.

    Args:
        neuron: Parameters of the LIF layer.
        num_heads: Number of heads.
        scale: s.
        learnable: Whether the threshold is learnable (SDSA-4).

    Shape: q, k `[T, B, H, W, D]` and v `[T, B, H, W, V]` to spikes `[T, B, H, W, V]`.
    """

    def __init__(self, neuron: Neuron, num_heads: int, scale: float, *, learnable: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.product = AttentionProduct(scale)
        self.lif = LIF(neuron)
        # With a hard reset to 0 potentials are proportional to the input: scaling the threshold equals dividing the input.
        self.threshold_scale = nn.Parameter(torch.ones(1)) if learnable else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute the spikes behind the product."""
        y = self.product(Heads(*(by_head(x, self.num_heads) for x in (q, k, v))))
        if self.threshold_scale is not None:
            y = y / self.threshold_scale.clamp(min=SMALLEST_THRESHOLD_SCALE)
        return self.lif(merge_heads(y).view(v.shape))


class QueryGate(nn.Module):
    """SDSA-2 and QKFormer's channel attention: channels of `passed` (v or k) pass where the query fired at any token.

    Args:
        neuron: Parameters of the LIF layer.
        scale: Factor of the sum.

    Shape: `[T, B, H, W, D]` each to spikes `[T, B, H, W, D]`.
    """

    def __init__(self, neuron: Neuron, *, scale: float = 1.0) -> None:
        super().__init__()
        self.sum = SumOfSpikes(dim=2, scale=scale)
        self.lif = LIF(neuron)
        self.gate = Gate()

    def forward(self, q: Tensor, passed: Tensor) -> Tensor:
        """Gate the channels of `passed`."""
        gated: Tensor = self.gate(passed.flatten(2, 3), self.lif(self.sum(q.flatten(2, 3))))
        return gated.view(q.shape)


class KeyValueGate(QueryGate):
    """SDSA-1: a channel of q passes where k and v coincide at any token (its neuron is an OR at half the usual threshold).

    Args:
        neuron: Parameters of the LIF layer.
        scale: Factor of the sum.

    Shape: q, k, v `[T, B, H, W, D]` to spikes `[T, B, H, W, D]`.
    """

    def __init__(self, neuron: Neuron, *, scale: float = 1.0) -> None:
        super().__init__(neuron, scale=scale)
        self.coincidence = Gate()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        """Gate the channels of q."""
        return super().forward(self.coincidence(k, v), q)


class DilatedKeyValueGate(nn.Module):
    """SDSA-1 of the published code for events, with max-pools 3x3 of stride 1.

    k and v are pooled over the image, their coincidence and the result over tokens and the channels of a head, as in that code.

    Args:
        neuron: Parameters of the LIF layer.
        num_heads: Number of heads.
        scale: Factor of the sum.

    Shape: q, k, v `[T, B, H, W, D]` to spikes `[T, B, H, W, D]`.
    """

    def __init__(self, neuron: Neuron, num_heads: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.coincidence = Gate()
        self.sum = SumOfSpikes(dim=-2, scale=scale)
        self.lif = LIF(neuron)
        self.gate = Gate()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Gate the channels of q."""
        k, v = (by_head(_dilated(x.movedim(4, 2)).movedim(2, 4), self.num_heads) for x in (k, v))
        gate = self.lif(self.sum(_dilated(self.coincidence(k, v))))
        return merge_heads(_dilated(self.gate(by_head(q, self.num_heads), gate))).view(q.shape)


class TokenQueryGate(nn.Module):
    """QKFormer's token attention: tokens of k pass where the query fired at any channel of the head.

    Args:
        neuron: Parameters of the LIF layer.
        num_heads: Number of heads.
        scale: Factor of the sum.

    Shape: `[T, B, H, W, D]` each to spikes `[T, B, H, W, D]`.
    """

    def __init__(self, neuron: Neuron, num_heads: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sum = SumOfSpikes(dim=-1, scale=scale)
        self.lif = LIF(neuron)
        self.gate = Gate()

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Gate the tokens of k."""
        gate = self.lif(self.sum(q.unflatten(-1, (self.num_heads, -1))))
        gated: Tensor = self.gate(k.unflatten(-1, (self.num_heads, -1)), gate)
        return gated.flatten(-2)


def operator(block: Block, scale: float) -> nn.Module:
    """Return the operator of a block's token mixer, which is called with the operands of that mixer.

    Args:
        block: The block.
        scale: Factor of the product of `sdsa_3` and `sdsa_4`.
    """
    neuron, heads = block.neuron_of("attention"), block.num_heads or 1
    scale_of = {name: block.neuron_of(name).output_scale for name in ("q", "k", "v")}
    of_key_and_value = scale_of["k"] * scale_of["v"]
    match block.token_mixer:
        case "sdsa_1":
            return KeyValueGate(neuron, scale=of_key_and_value)
        case "sdsa_1_dilated":
            return DilatedKeyValueGate(neuron, heads, scale=of_key_and_value)
        case "sdsa_2" | "channel_qk":
            return QueryGate(neuron, scale=scale_of["q"])
        case "token_qk":
            return TokenQueryGate(neuron, heads, scale=scale_of["q"])
        case mixer:
            product = scale * scale_of["q"] * of_key_and_value
            return MatrixAttention(neuron, heads, product, learnable=mixer == "sdsa_4")


def operator_output_scale(block: Block) -> float:
    """Return what one level of the operator's output means: a gate multiplies two layers of neurons.

    Args:
        block: The block.
    """
    scale = block.neuron_of("attention").output_scale
    match block.token_mixer:
        case "sdsa_3" | "sdsa_4" | "e_sdsa":
            return scale
        case "sdsa_1" | "sdsa_1_dilated":
            return scale * block.neuron_of("q").output_scale
        case mixer:
            return scale * block.neuron_of(OPERANDS[mixer][-1]).output_scale


class Attention(Mixer):
    """Projections to spikes, an operator on them, and a projection back.

    Args:
        embed_dim: D.
        block: Heads, token mixer, neurons and kinds of the projections.
        scale: Factor of the product of `sdsa_3` and `sdsa_4`.
        qkv_bias: Whether projections to the operands have a bias.
        input_scale: `Neuron.output_scale` of the neurons before the mixer; 1 for a stream.

    Shape: stream or spikes `[T, B, H, W, D]` to input current `[T, B, H, W, D]`, or to spikes of the LIF layer that it is given.
    """

    def __init__(self, embed_dim: int, block: Block, *, scale: float, qkv_bias: bool, input_scale: float = 1.0) -> None:
        super().__init__()
        self.operands = OPERANDS[block.token_mixer]
        for name in self.operands:
            bias = qkv_bias and block.token_mixer != "e_sdsa"
            self.add_module(name, synapse(block.qkv or "linear", embed_dim, bias=bias, input_scale=input_scale))
            self.add_module(f"{name}_lif", LIF(block.neuron_of(name)))
        # E-SDSA scales by the size of its heads. The published form has twice that scale and threshold: the same.
        by_head_size = (embed_dim / (block.num_heads or 1)) ** -0.5
        self.operator = operator(block, by_head_size if block.token_mixer == "e_sdsa" else scale)
        of_operator = operator_output_scale(block)
        if block.token_mixer == "e_sdsa":
            values = E_SDSA_EXPANSION * embed_dim
            self.v: nn.Module = LinearNorm(embed_dim, values, bias=False, input_scale=input_scale)
            self.projection: Synapse = LinearNorm(values, embed_dim, bias=False, input_scale=of_operator)
            return
        self.projection = synapse(block.projection or "linear", embed_dim, bias=True, input_scale=of_operator)

    def hidden(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Compute the spikes that the projection reads, `[T, B, H, W, D]`."""
        operands = [fire(getattr(self, name), getattr(self, f"{name}_lif"), x, shared=shared) for name in self.operands]
        spikes: Tensor = self.operator(*operands)
        return spikes

    @property
    def first_synapses(self) -> tuple[str, ...]:
        """The projections to the operands."""
        return self.operands

    @property
    def last_synapse(self) -> Synapse:
        """The projection."""
        return self.projection


def by_head(x: Tensor, num_heads: int) -> Tensor:
    """Return a view `[T, B, heads, N, D / heads]` of `[T, B, H, W, D]`.

    Args:
        x: `[T, B, H, W, D]`.
        num_heads: Number of heads, which divides D.
    """
    return split_heads(x.flatten(2, 3), num_heads)


def _dilated(x: Tensor) -> Tensor:
    """Max-pool 3x3 over the last two dimensions, keeping their size."""
    return F.max_pool2d(x.flatten(0, 1), kernel_size=3, stride=1, padding=1).view(x.shape)
