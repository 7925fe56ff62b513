"""Meta-SpikeFormer (Spike-driven Transformer V2; Yao et al., ICLR 2024): stages of convolutional, then of transformer blocks.

    embedding:  conv7x7 - BN for the first stage; LIF - conv3x3 - BN between stages
    block:      x = x + SepConv(LIF(x));  x = x + ChannelConv(LIF(x))      convolutional
                x = x + SDSA(LIF(x));     x = x + MLP(LIF(x))              transformer
    head:       mean over positions, LIF, linear, mean over time; a second one if distilled

The published networks have five stages: 1, 1 and 2 convolutional blocks, then 6 and 2 transformer blocks, at strides 2, 2, 2, 2, 1.
"""

from __future__ import annotations

from torch import Tensor, nn

from autospike.models.contract import SpikingModel
from autospike.nn.layers import ConvNorm, fire
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Stage


class Downsampling(nn.Module):
    """The convolution before the blocks of a stage.

    With membrane shortcuts neurons precede it, except in the first stage, where it reads the image. With other shortcuts neurons
    follow it.

    Args:
        stage: The stage of the architecture.
        in_channels: Width of the stage before it, or channels of the image.
        shortcut: The kind of shortcut.
        first: Whether it belongs to the first stage.
    """

    def __init__(self, stage: Stage, in_channels: int, shortcut: str, *, first: bool) -> None:
        super().__init__()
        membrane, lif = shortcut == "membrane", LIF(stage.embedding.neuron)
        self.before = lif if membrane and not first else nn.Identity()
        scale = lif.neuron.output_scale if membrane and not first else 1.0
        size, stride = 7 if first else 3, stage.embedding.stride
        self.conv = ConvNorm(in_channels, stage.embed_dim, kernel_size=size, stride=stride, bias=True, input_scale=scale)
        self.after = nn.Identity() if membrane else lif

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream before the first block.

        Args:
            x: The stream, `[T, B, H, W, in_channels]`, or a still image `[1, B, H, W, C]`.
            time_steps: T, if `x` is a still image.

        Returns:
            `[T, B, ceil(H / stride), ceil(W / stride), D]`.
        """
        return fire(self.conv, self.after, self.before(x), time_steps)


class MetaSpikeFormer(SpikingModel):
    """Meta-SpikeFormer."""

    @staticmethod
    def embedding(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
        """Build the embedding of a stage; see `SpikingModel.embedding`."""
        return Downsampling(architecture.stages[index], in_channels, architecture.shortcut, first=index == 0)


class ESpikeFormer(MetaSpikeFormer):
    """E-SpikeFormer (Spike-driven Transformer V3; Yao et al., TPAMI 2025): the layout of Meta-SpikeFormer with integer neurons.

        block:  x = x + SpikingSepConv7(S(x));  x = x + ChannelConv(S(x))                            convolutional
                x = x + SpikingSepConv3(S(x));  x = x + E-SDSA(S(x));  x = x + MLP(S(x))             transformer
        head:   mean over positions, S, linear, mean over time

    Its architectures differ in their mixers and neurons. A published transformer block is two blocks here: one with a separable
    convolution and no channel mixer, and one with the attention and the MLP.
    """
