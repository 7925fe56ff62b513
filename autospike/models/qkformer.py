"""QKFormer (Zhou et al., NeurIPS 2024): Spikformer's blocks in a hierarchy, with q-k attention in the wide early stages.

    embedding:  [conv3x3 - BN - pool - LIF] ... [conv3x3 - BN - LIF], plus a strided [conv1x1 - BN - LIF] of the input
    block:      x = x + QKTA(x), QKCA(x) or SSA(x);  x = x + MLP(x)
    head:       mean over positions, linear, mean over time

The published ImageNet networks have three stages of 1, 2 and 7 blocks, at strides 4, 2, 2: two with token attention, the last with
SSA. With `compact_embedding`, the CIFAR form, the first embedding has one convolution less, and the others pool after their second
convolution.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from autospike.models.contract import SpikingModel
from autospike.nn.layers import ConvNorm, fire
from autospike.nn.max_pool import TimewiseMaxPool
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Stage
from autospike.space.block import Neuron


class SpikingConv(nn.Module):
    """`LIF(pool(BN(conv3x3(x))))`, where the pool is omitted at stride 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        neuron: The neurons.
        stride: 2 for a max-pool that halves height and width, or 1.
        input_scale: `Neuron.output_scale` of the neurons before the convolution; 1 for a stream or an image.
    """

    def __init__(self, in_channels: int, out_channels: int, neuron: Neuron, *, stride: int = 1, input_scale: float = 1.0) -> None:
        super().__init__()
        self.conv = ConvNorm(in_channels, out_channels, input_scale=input_scale)
        self.pool = TimewiseMaxPool() if stride == 2 else nn.Identity()
        self.lif = LIF(neuron)

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the spikes.

        Args:
            x: `[T, B, H, W, in_channels]`, or a still image `[1, B, H, W, C]`.
            time_steps: T, if `x` is a still image.

        Returns:
            Spikes, `[T, B, ceil(H / stride), ceil(W / stride), out_channels]`.
        """
        if isinstance(self.pool, nn.Identity):
            return fire(self.conv, self.lif, x, time_steps)
        spikes: Tensor = self.lif(self.pool(self.conv(x, time_steps)))
        return spikes


class PatchEmbedding(nn.Module):
    """The embedding between stages: one or two convolutions in a row, plus a strided one in parallel, whose spikes are added.

    Args:
        in_channels: Width of the stage before it.
        embed_dim: Width of the stage, D.
        neuron: The neurons.
        strides: Stride of each convolution in the row.
        input_scale: `Neuron.output_scale` of the neurons before it; 1 for a stream.
    """

    def __init__(
        self, in_channels: int, embed_dim: int, neuron: Neuron, *, strides: tuple[int, ...], input_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.conv1 = SpikingConv(in_channels, embed_dim, neuron, stride=strides[0], input_scale=input_scale)
        self.conv2: nn.Module = nn.Identity()
        if len(strides) > 1:
            self.conv2 = SpikingConv(embed_dim, embed_dim, neuron, stride=strides[1], input_scale=neuron.output_scale)
        stride = math.prod(strides)
        self.residual = ConvNorm(in_channels, embed_dim, kernel_size=1, stride=stride, input_scale=input_scale)
        self.residual_lif = LIF(neuron)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stream before the first block.

        Args:
            x: The stream, `[T, B, H, W, in_channels]`.

        Returns:
            `[T, B, ceil(H / stride), ceil(W / stride), D]`, whole numbers from 0 to 2, with the product of the strides.
        """
        y: Tensor = self.conv2(self.conv1(x))
        return fire(self.residual, self.residual_lif, x, stream=y)


class FirstPatchEmbedding(nn.Module):
    """The first embedding: a convolution to half the width, then a `PatchEmbedding`.

    At stride 4 both halve height and width, at stride 2 only the second does.

    Args:
        stage: The stage of the architecture.
        in_channels: Channels of the image.
        compact: Whether the `PatchEmbedding` has one convolution instead of two in a row.
    """

    def __init__(self, stage: Stage, in_channels: int, *, compact: bool) -> None:
        super().__init__()
        width, stride, neuron = stage.embed_dim, stage.embedding.stride, stage.embedding.neuron
        self.conv = SpikingConv(in_channels, width // 2, neuron, stride=2 if stride == 4 else 1)
        strides = (min(stride, 2),) if compact else (min(stride, 2), 1)
        self.rest = PatchEmbedding(width // 2, width, neuron, strides=strides, input_scale=neuron.output_scale)

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream before the first block.

        Args:
            x: Frames `[T, B, H, W, C]`, or a still image `[1, B, H, W, C]`.
            time_steps: T, if `x` is a still image.

        Returns:
            `[T, B, ceil(H / stride), ceil(W / stride), D]`, whole numbers from 0 to 2.
        """
        out: Tensor = self.rest(self.conv(x, time_steps))
        return out


class QKFormer(SpikingModel):
    """QKFormer."""

    @staticmethod
    def embedding(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
        """Build the embedding of a stage; see `SpikingModel.embedding`."""
        stage, compact = architecture.stages[index], architecture.compact_embedding
        if index == 0:
            return FirstPatchEmbedding(stage, in_channels, compact=compact)
        stride = stage.embedding.stride
        return PatchEmbedding(in_channels, stage.embed_dim, stage.embedding.neuron, strides=(1, stride) if compact else (stride, 1))
