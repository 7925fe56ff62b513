"""The block that all families share: a token mixer and a channel mixer, each in a residual branch.

    membrane (MS)   x + mixer(LIF(x))      the stream is a membrane potential; every mixer reads spikes
    SEW             x + LIF(mixer(x))      the stream counts spikes: small integers
    vanilla (VS)    LIF(x + mixer(x))      the stream is spikes

A mixer ends in a synapse, which fires the neurons behind it where they come next. Spikformer and QKFormer have SEW shortcuts, the
Spike-driven Transformer and Meta-SpikeFormer membrane shortcuts; Meta-SpikeFormer's paper compares the three.
"""

from __future__ import annotations

from torch import Tensor, nn

from autospike.nn.attention import Attention
from autospike.nn.layers import ConvNorm, LinearNorm, Neurons, SeparableConvNorm, fire
from autospike.nn.neuron import LIF
from autospike.nn.norm import Norm
from autospike.space.architecture import OPERANDS, Architecture, Block, Neuron

SEPCONV_EXPANSION = 2  # Meta-SpikeFormer's published code
SEPCONV_KERNEL_SIZE = 7


class Residual(nn.Module):
    """A mixer in its shortcut, with the branch's outer neurons. Shape: stream `[T, B, H, W, D]` to stream `[T, B, H, W, D]`."""

    def __init__(self, mixer: nn.Module, shortcut: str, neuron: Neuron) -> None:
        super().__init__()
        self.mixer = mixer
        self.shortcut = shortcut
        self.lif = LIF(neuron)

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut == "membrane":
            return x + self.mixer(self.lif(x))
        if self.shortcut == "sew":
            return fire(self.mixer, self.lif, x, onto=x)
        out: Tensor = self.lif(x + self.mixer(x))
        return out

    def measure(self, x: Tensor) -> Tensor:
        """Run for the sake of the statistics alone: all but what follows the last normalisation. Returns what enters that."""
        mixed: Tensor = self.mixer(self.lif(x) if self.shortcut == "membrane" else x, lif=_measured)
        return mixed

    def extra_repr(self) -> str:
        return self.shortcut


def _measured(y: Tensor, bn: nn.Module, _time_steps: int | None = None) -> Tensor:
    """In the place of neurons: measured as they would have it, for torch's own normalisation rounds differently."""
    if isinstance(bn, Norm) and bn.compiled(y) is not None:
        bn.measured(y)
    else:
        bn(y)
    return y


class SepConv(nn.Module):
    """`BN(pointwise(depthwise7x7(LIF(BN(W x)))))`, twice as wide inside. Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`."""

    def __init__(self, embed_dim: int, block: Block) -> None:
        super().__init__()
        hidden = SEPCONV_EXPANSION * embed_dim
        self.expand = LinearNorm(embed_dim, hidden, bias=False)
        self.lif = LIF(block.neuron_of("sepconv"))
        self.separable = SeparableConvNorm(hidden, embed_dim, kernel_size=SEPCONV_KERNEL_SIZE)

    def forward(self, x: Tensor, *, lif: Neurons | None = None) -> Tensor:
        out: Tensor = self.separable(fire(self.expand, self.lif, x), lif=lif)
        return out


class MLP(nn.Module):
    """`BN(W2 LIF(BN(W1 x)))`. Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`."""

    def __init__(self, embed_dim: int, hidden_features: int, block: Block) -> None:
        super().__init__()
        self.fc1 = LinearNorm(embed_dim, hidden_features, bias=True)
        self.lif = LIF(block.neuron_of("fc1"))
        self.fc2 = LinearNorm(hidden_features, embed_dim, bias=True)

    def forward(self, x: Tensor, *, lif: Neurons | None = None) -> Tensor:
        out: Tensor = self.fc2(fire(self.fc1, self.lif, x), lif=lif)
        return out


class ChannelConv(nn.Module):
    """As `MLP`, with two 3x3 convolutions without biases. Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`."""

    def __init__(self, embed_dim: int, hidden_features: int, block: Block) -> None:
        super().__init__()
        self.conv1 = ConvNorm(embed_dim, hidden_features)
        self.lif = LIF(block.neuron_of("fc1"))
        self.conv2 = ConvNorm(hidden_features, embed_dim)

    def forward(self, x: Tensor, *, lif: Neurons | None = None) -> Tensor:
        out: Tensor = self.conv2(fire(self.conv1, self.lif, x), lif=lif)
        return out


class SpikingBlock(nn.Module):
    """Shape: stream `[T, B, H, W, D]` to stream `[T, B, H, W, D]`."""

    def __init__(self, architecture: Architecture, embed_dim: int, hidden_features: int, block: Block) -> None:
        super().__init__()
        self.token = token_branch(architecture, embed_dim, block)
        self.channel = channel_branch(architecture, embed_dim, hidden_features, block)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.channel(self.token(x))
        return out


def token_branch(architecture: Architecture, embed_dim: int, block: Block) -> nn.Module:
    """The first half of a block; nothing, in one without a token mixer."""
    if block.token_mixer == "none":
        return nn.Identity()
    neuron = block.neuron_of("token_input" if architecture.shortcut == "membrane" else "projection")
    return Residual(_token_mixer(architecture, embed_dim, block), architecture.shortcut, neuron)


def channel_branch(architecture: Architecture, embed_dim: int, hidden_features: int, block: Block) -> nn.Module:
    """The second half of a block."""
    mixer = {"mlp": MLP, "conv": ChannelConv}[block.channel_mixer](embed_dim, hidden_features, block)
    neuron = block.neuron_of("channel_input" if architecture.shortcut == "membrane" else "fc2")
    return Residual(mixer, architecture.shortcut, neuron)


def _token_mixer(architecture: Architecture, embed_dim: int, block: Block) -> nn.Module:
    if block.token_mixer in OPERANDS:
        return Attention(embed_dim, block, scale=architecture.attention_scale, qkv_bias=architecture.qkv_bias)
    return SepConv(embed_dim, block)
