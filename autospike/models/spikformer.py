"""Spikformer (Zhou et al., ICLR 2023), as a chain of segments: stem, block 0, block 1, ..., head.

    stem:   four [conv3x3 - BN - LIF], of which the last `pools` end in a max-pool; then x + LIF(BN(conv3x3(x))) as position code
    block:  x = x + SSA(x);  x = x + MLP(x)      the stream adds spikes: small integers, at most 2 + 2 * depth
    head:   mean over tokens, linear, mean over time

A segment's output depends on its own genes and on those of the segments before it, on nothing else.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from autospike.architecture import Architecture, Block, Stem
from autospike.models.contract import SpikingModel, initialise
from autospike.nn.attention import SpikingSelfAttention
from autospike.nn.layers import SpikingConv, SpikingLinear, TimewiseMaxPool


class SpikingPatchSplitting(nn.Module):
    """The stem (SPS). Shape: images `[B, C, H, W]`, or frames `[T, B, C, H, W]`, to tokens `[T, B, N, D]`."""

    def __init__(self, stem: Stem, embed_dim: int, in_chans: int) -> None:
        super().__init__()
        widths = (in_chans, embed_dim // 8, embed_dim // 4, embed_dim // 2, embed_dim)
        self.stages = nn.ModuleList(SpikingConv(i, o, stem.neuron) for i, o in pairwise(widths))
        self.pools = nn.ModuleList(TimewiseMaxPool() if i >= 4 - stem.pools else nn.Identity() for i in range(4))
        self.position = SpikingConv(embed_dim, embed_dim, stem.neuron)

    def forward(self, x: Tensor, time_steps: int) -> Tensor:
        if x.dim() == 4:  # a still image: its first convolution is the same at every step
            x = self.pools[0](self.stages[0](x.unsqueeze(0), time_steps))
        else:
            x = self.pools[0](self.stages[0](x[:time_steps]))
        for conv, pool in zip(self.stages[1:], self.pools[1:], strict=True):
            x = pool(conv(x))
        x = x + self.position(x)
        return x.flatten(-2).transpose(-1, -2).contiguous()


class MLP(nn.Module):
    """`LIF(BN(W2 LIF(BN(W1 x))))`. Shape: `[T, B, N, D]` to `[T, B, N, D]` spikes."""

    def __init__(self, embed_dim: int, hidden_features: int, block: Block) -> None:
        super().__init__()
        self.fc1 = SpikingLinear(embed_dim, hidden_features, block.neuron_of("fc1"))
        self.fc2 = SpikingLinear(hidden_features, embed_dim, block.neuron_of("fc2"))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x))
        return out


class SpikformerBlock(nn.Module):
    """Attention and MLP, each added to the stream. Shape: `[T, B, N, D]` to `[T, B, N, D]`, integer-valued."""

    def __init__(self, embed_dim: int, hidden_features: int, block: Block) -> None:
        super().__init__()
        self.attention = SpikingSelfAttention(embed_dim, block)
        self.mlp = MLP(embed_dim, hidden_features, block)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Spikformer(SpikingModel):
    """A plain Spikformer of one architecture. It knows nothing of supernets.

    Args:
        architecture: one stage, family "spikformer".
        num_classes: outputs; 0 gives features.
        in_chans: channels of an image.
    """

    def __init__(self, architecture: Architecture, *, num_classes: int, in_chans: int) -> None:
        (stage,) = architecture.stages
        super().__init__(architecture, num_features=stage.embed_dim)
        self.stem = SpikingPatchSplitting(architecture.stem, stage.embed_dim, in_chans)
        self.blocks = nn.ModuleList(SpikformerBlock(stage.embed_dim, stage.hidden_features(b), b) for b in stage.blocks)
        self.reset_classifier(num_classes)
        self.apply(initialise)
