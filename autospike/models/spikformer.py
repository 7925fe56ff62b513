"""Spikformer (Zhou et al., ICLR 2023): patch splitting, then one stage of blocks.

    embedding:  four [conv3x3 - BN - LIF], of which the last log2(stride) end in a max-pool; then a residual convolution as
                position embedding
    block:      x = x + SSA(x);  x = x + MLP(x)      the stream adds spikes: small integers, at most 2 + 2 * depth
    head:       mean over positions, linear, mean over time

Stride 16 is the form for ImageNet and events, stride 4 (with biases in q, k, v) the one for CIFAR. With vanilla shortcuts the
stream is spikes, because neurons follow each addition.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from autospike.models.contract import SpikingModel
from autospike.nn.blocks import Residual
from autospike.nn.layers import ConvNorm, fire
from autospike.nn.max_pool import TimewiseMaxPool
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Stage


class SpikingPatchSplitting(nn.Module):
    """Spiking patch splitting (SPS), the embedding of Spikformer.

    With a membrane shortcut no neurons follow the last convolution: its pooled output is the stream (Spike-driven Transformer).

    Args:
        stage: The stage of the architecture.
        in_channels: Channels of the image.
        shortcut: The kind of shortcut.
    """

    def __init__(self, stage: Stage, in_channels: int, shortcut: str) -> None:
        super().__init__()
        width, neuron = stage.embed_dim, stage.embedding.neuron
        pools = stage.embedding.stride.bit_length() - 1
        widths = (in_channels, width // 8, width // 4, width // 2, width)
        has_neurons = [True, True, True, shortcut != "membrane"]
        scale = neuron.output_scale
        self.convs = nn.ModuleList(ConvNorm(i, o, input_scale=scale if n else 1.0) for n, (i, o) in enumerate(pairwise(widths)))
        self.lifs = nn.ModuleList(LIF(neuron) if spiking else nn.Identity() for spiking in has_neurons)
        self.pools = nn.ModuleList(TimewiseMaxPool() if i >= 4 - pools else nn.Identity() for i in range(4))
        position = ConvNorm(width, width, input_scale=scale if shortcut == "membrane" else 1.0)
        self.position = Residual(position, shortcut, neuron)

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream before the first block.

        Args:
            x: Frames `[T, B, H, W, C]`, or a still image `[1, B, H, W, C]`.
            time_steps: T, if `x` is a still image.

        Returns:
            `[T, B, ceil(H / stride), ceil(W / stride), D]`.
        """
        for i, (conv, lif, pool) in enumerate(zip(self.convs, self.lifs, self.pools, strict=True)):
            x = pool(fire(conv, lif, x, time_steps if i == 0 else None))
        out: Tensor = self.position(x)
        return out


class Spikformer(SpikingModel):
    """Spikformer."""

    @staticmethod
    def embedding(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
        """Build the embedding of a stage; see `SpikingModel.embedding`."""
        return SpikingPatchSplitting(architecture.stages[index], in_channels, architecture.shortcut)
