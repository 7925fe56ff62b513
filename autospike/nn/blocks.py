"""The block of all families: a token mixer and a channel mixer, each in a residual branch.

    membrane (MS)   x + mixer(LIF(x))      the stream is a membrane potential; every mixer reads spikes
    SEW             x + LIF(mixer(x))      the stream counts spikes: small integers
    vanilla (VS)    LIF(x + mixer(x))      the stream is spikes

A mixer ends in a synapse, which also computes the LIF layer behind it under a SEW shortcut. Spikformer and QKFormer have SEW
shortcuts, the Spike-driven Transformer and Meta-SpikeFormer membrane shortcuts; Meta-SpikeFormer's paper compares the three.
"""

from __future__ import annotations

from torch import Tensor, nn

from autospike.nn.attention import Attention
from autospike.nn.layers import ConvNorm, LinearNorm, Mixer, RepLinear, SeparableConvNorm, SharedResults, Synapse, fire
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture
from autospike.space.block import Block, Neuron, channel_groups
from autospike.space.mixers import (
    CHANNEL_REPLINEAR_EXPANSION,
    DEPTHWISE,
    OPERANDS,
    SEPCONV_EXPANSION,
    SEPCONV_KERNEL_SIZE,
    SPIKING_SEPCONVS,
)


class Residual(nn.Module):
    """A residual branch: a mixer, its shortcut, and the LIF layer before or behind the mixer.

    Args:
        mixer: The mixer.
        shortcut: "membrane", "sew" or "vanilla".
        neuron: Parameters of the LIF layer.
        layer_scale: Whether the output of the mixer is multiplied by a learnable factor for each channel.

    Shape: stream `[T, B, H, W, D]` to stream `[T, B, H, W, D]`.
    """

    def __init__(self, mixer: Mixer | Synapse, shortcut: str, neuron: Neuron, *, layer_scale: bool = False) -> None:
        super().__init__()
        self.mixer = mixer
        if layer_scale:
            (mixer.last_synapse if isinstance(mixer, Mixer) else mixer).add_layer_scale()
        self.shortcut = shortcut
        self.lif = LIF(neuron)

    def forward(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Compute the stream behind the branch.

        Args:
            x: The stream, `[T, B, H, W, D]`.
            shared: Results of the first layers, of which other branches on the same stream may contain some as well.

        Returns:
            The stream, `[T, B, H, W, D]`.
        """
        reused = {} if shared is None else {"shared": shared}
        if self.shortcut == "membrane":
            return x + self.mixer(self._spikes(x, shared), **reused)
        if self.shortcut == "sew":
            return fire(self.mixer, self.lif, x, stream=x, shared=shared)
        out: Tensor = self.lif(x + self.mixer(x, **reused))
        return out

    def update_statistics(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Update the statistics of every BatchNorm in the branch, without the operations behind the last one.

        Args:
            x: The stream, `[T, B, H, W, D]`.
            shared: Results of the first layers, as in `forward`.

        Returns:
            The input of the last BatchNorm, `[T, B, H, W, D]`.
        """
        reused = {} if shared is None else {"shared": shared}
        return self.mixer.update_statistics(self._spikes(x, shared) if self.shortcut == "membrane" else x, **reused)

    def _spikes(self, x: Tensor, shared: SharedResults | None) -> Tensor:
        """The spikes that a mixer reads under a membrane shortcut."""
        spikes: Tensor = self.lif(x) if shared is None or self.lif not in shared else shared.get(self.lif, x, self.lif)
        return spikes

    def extra_repr(self) -> str:
        """Return the shortcut."""
        return self.shortcut


class SepConv(Mixer):
    """`BN(pointwise(depthwise7x7(LIF(BN(W x)))))`, twice as wide inside.

    Args:
        embed_dim: D.
        block: Parameters of the LIF layer.
        input_scale: `Neuron.output_scale` of the neurons before the mixer; 1 for a stream.

    Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`.
    """

    def __init__(self, embed_dim: int, block: Block, *, input_scale: float = 1.0) -> None:
        super().__init__()
        hidden = SEPCONV_EXPANSION * embed_dim
        self.expand = LinearNorm(embed_dim, hidden, bias=False, input_scale=input_scale)
        self.lif = LIF(block.neuron_of("sepconv"))
        inner = self.lif.neuron.output_scale
        self.separable = SeparableConvNorm(hidden, embed_dim, kernel_size=SEPCONV_KERNEL_SIZE, input_scale=inner)

    def hidden(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Compute the spikes between the two layers."""
        return fire(self.expand, self.lif, x, shared=shared)

    @property
    def first_synapses(self) -> tuple[str, ...]:
        """The first layer."""
        return ("expand",)

    @property
    def last_synapse(self) -> Synapse:
        """The second layer."""
        return self.separable


class SpikingSepConv(Mixer):
    """SepConv of E-SpikeFormer, in which every layer reads spikes: `BN(W2 LIF(BN(depthwise(LIF(BN(W1 x))))))`. No biases.

    Args:
        embed_dim: D.
        block: Token mixer, whose name has the size of the kernel, and parameters of the LIF layers.
        input_scale: `Neuron.output_scale` of the neurons before the mixer; 1 for a stream.

    Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`.
    """

    def __init__(self, embed_dim: int, block: Block, *, input_scale: float = 1.0) -> None:
        super().__init__()
        hidden, size = SEPCONV_EXPANSION * embed_dim, SPIKING_SEPCONVS[block.token_mixer]
        self.expand = LinearNorm(embed_dim, hidden, bias=False, input_scale=input_scale)
        self.expand_lif = LIF(block.neuron_of("sepconv"))
        of_expand = self.expand_lif.neuron.output_scale
        self.depthwise_name = f"depthwise{size}"  # kernels of other sizes have parameters of their own in a supernet
        depthwise = ConvNorm(hidden, hidden, kernel_size=size, groups=hidden, input_scale=of_expand)
        self.add_module(self.depthwise_name, depthwise)
        self.depthwise_lif = LIF(block.neuron_of("depthwise"))
        self.reduce = LinearNorm(hidden, embed_dim, bias=False, input_scale=self.depthwise_lif.neuron.output_scale)

    def hidden(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Compute the spikes before the last layer."""
        y = fire(self.expand, self.expand_lif, x, shared=shared)
        return fire(getattr(self, self.depthwise_name), self.depthwise_lif, y)

    @property
    def first_synapses(self) -> tuple[str, ...]:
        """The first layer."""
        return ("expand",)

    @property
    def last_synapse(self) -> Synapse:
        """The last layer."""
        return self.reduce


class DepthwiseConv(Mixer):
    """Depthwise convolution of Max-Former: `BN(depthwise(x))`.

    Args:
        embed_dim: D.
        block: Token mixer, whose name has the size of the kernel.
        input_scale: `Neuron.output_scale` of the neurons before the mixer; 1 for a stream.

    Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`.
    """

    def __init__(self, embed_dim: int, block: Block, *, input_scale: float = 1.0) -> None:
        super().__init__()
        size = DEPTHWISE[block.token_mixer]
        self.conv_name = f"conv{size}"
        conv = ConvNorm(embed_dim, embed_dim, kernel_size=size, bias=True, groups=embed_dim, input_scale=input_scale)
        self.add_module(self.conv_name, conv)

    @property
    def last_synapse(self) -> Synapse:
        """The convolution."""
        conv: Synapse = getattr(self, self.conv_name)
        return conv


class MLP(Mixer):
    """`BN(W2 LIF(BN(W1 x)))`.

    Args:
        embed_dim: D.
        hidden_features: Width inside.
        block: Parameters of the LIF layer.
        input_scale: `Neuron.output_scale` of the neurons before the mixer; 1 for a stream.

    Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`.
    """

    def __init__(self, embed_dim: int, hidden_features: int, block: Block, *, input_scale: float = 1.0) -> None:
        super().__init__()
        self.fc1 = LinearNorm(embed_dim, hidden_features, bias=True, input_scale=input_scale)
        self.lif = LIF(block.neuron_of("fc1"))
        self.fc2 = LinearNorm(hidden_features, embed_dim, bias=True, input_scale=self.lif.neuron.output_scale)

    def hidden(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Compute the spikes between the two layers."""
        return fire(self.fc1, self.lif, x, shared=shared)

    @property
    def first_synapses(self) -> tuple[str, ...]:
        """The first layer."""
        return ("fc1",)

    @property
    def last_synapse(self) -> Synapse:
        """The second layer."""
        return self.fc2


class ChannelConv(Mixer):
    """As `MLP`, with two 3x3 convolutions.

    Args:
        embed_dim: D.
        hidden_features: Width inside.
        block: Parameters of the LIF layer.
        bias: Whether the convolutions have biases.
        input_scale: `Neuron.output_scale` of the neurons before the mixer; 1 for a stream.

    Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`.
    """

    def __init__(self, embed_dim: int, hidden_features: int, block: Block, *, bias: bool, input_scale: float = 1.0) -> None:
        super().__init__()
        self.conv1 = ConvNorm(embed_dim, hidden_features, bias=bias, input_scale=input_scale)
        self.lif = LIF(block.neuron_of("fc1"))
        self.conv2 = ConvNorm(hidden_features, embed_dim, bias=bias, input_scale=self.lif.neuron.output_scale)

    def hidden(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Compute the spikes between the two layers."""
        return fire(self.conv1, self.lif, x, shared=shared)

    @property
    def first_synapses(self) -> tuple[str, ...]:
        """The first layer."""
        return ("conv1",)

    @property
    def last_synapse(self) -> Synapse:
        """The second layer."""
        return self.conv2


class ChannelRepLinear(Mixer):
    """A `RepLinear` of width D (the form of E-SpikeFormer with 83 million parameters).

    Args:
        embed_dim: D.
        input_scale: `Neuron.output_scale` of the neurons before the mixer; 1 for a stream.

    Shape: `[T, B, H, W, D]` to `[T, B, H, W, D]`.
    """

    def __init__(self, embed_dim: int, *, input_scale: float = 1.0) -> None:
        super().__init__()
        hidden = int(CHANNEL_REPLINEAR_EXPANSION * embed_dim)
        self.replinear = RepLinear(embed_dim, hidden, outer_norm=False, input_scale=input_scale)

    @property
    def last_synapse(self) -> Synapse:
        """The synapse."""
        return self.replinear


class ResidualMLP(nn.Module):
    """Two linear layers of width D, each in a residual branch of its own (event form of Max-Former).

    Args:
        embed_dim: D.
        block: Parameters of the LIF layers.
        shortcut: "membrane", "sew" or "vanilla".

    Shape: stream `[T, B, H, W, D]` to stream `[T, B, H, W, D]`.
    """

    def __init__(self, embed_dim: int, block: Block, shortcut: str) -> None:
        super().__init__()
        first, second = map(block.neuron_of, channel_groups(block.channel_mixer, shortcut))
        self.fc1 = self._branch(embed_dim, first, shortcut, layer_scale=block.layer_scale)
        self.fc2 = self._branch(embed_dim, second, shortcut, layer_scale=block.layer_scale)

    @staticmethod
    def _branch(embed_dim: int, neuron: Neuron, shortcut: str, *, layer_scale: bool) -> Residual:
        scale = neuron.output_scale if shortcut == "membrane" else 1.0
        linear = LinearNorm(embed_dim, embed_dim, bias=True, input_scale=scale)
        return Residual(linear, shortcut, neuron, layer_scale=layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stream behind both branches."""
        out: Tensor = self.fc2(self.fc1(x))
        return out


class SpikingBlock(nn.Module):
    """A token branch, then a channel branch.

    Args:
        architecture: Shortcut, attention scale and biases.
        embed_dim: D.
        hidden_features: Width inside the channel mixer.
        block: Mixers and neurons.

    Shape: stream `[T, B, H, W, D]` to stream `[T, B, H, W, D]`.
    """

    def __init__(self, architecture: Architecture, embed_dim: int, hidden_features: int, block: Block) -> None:
        super().__init__()
        self.token = token_branch(architecture, embed_dim, block)
        self.channel = channel_branch(architecture, embed_dim, hidden_features, block)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stream behind the block."""
        out: Tensor = self.channel(self.token(x))
        return out


def token_branch(architecture: Architecture, embed_dim: int, block: Block) -> nn.Module:
    """Return the first half of a block; `nn.Identity` in a block without a token mixer.

    Args:
        architecture: Its shortcut and attention settings.
        embed_dim: Width of the stage, D.
        block: Genes of the block.
    """
    if block.token_mixer == "none":
        return nn.Identity()
    membrane = architecture.shortcut == "membrane"
    neuron = block.neuron_of("token_input" if membrane else "projection")
    mixer = _token_mixer(architecture, embed_dim, block, neuron.output_scale if membrane else 1.0)
    return Residual(mixer, architecture.shortcut, neuron, layer_scale=block.layer_scale)


def channel_branch(architecture: Architecture, embed_dim: int, hidden_features: int, block: Block) -> nn.Module:
    """Return the second half of a block; `nn.Identity` in a block without a channel mixer.

    Args:
        architecture: Its shortcut.
        embed_dim: Width of the stage, D.
        hidden_features: Width between the two layers.
        block: Genes of the block.
    """
    if block.channel_mixer == "none":
        return nn.Identity()
    if block.channel_mixer == "mlp_residual":
        return ResidualMLP(embed_dim, block, architecture.shortcut)
    membrane = architecture.shortcut == "membrane"
    neuron = block.neuron_of("channel_input" if membrane else "fc2")
    scale = neuron.output_scale if membrane else 1.0
    mixer: Mixer
    if block.channel_mixer == "conv":
        mixer = ChannelConv(embed_dim, hidden_features, block, bias=architecture.conv_bias, input_scale=scale)
    elif block.channel_mixer == "replinear":
        mixer = ChannelRepLinear(embed_dim, input_scale=scale)
    else:
        mixer = MLP(embed_dim, hidden_features, block, input_scale=scale)
    return Residual(mixer, architecture.shortcut, neuron, layer_scale=block.layer_scale)


def _token_mixer(architecture: Architecture, embed_dim: int, block: Block, input_scale: float) -> Mixer:
    if block.token_mixer in OPERANDS:
        scale, bias = architecture.attention_scale, architecture.qkv_bias
        return Attention(embed_dim, block, scale=scale, qkv_bias=bias, input_scale=input_scale)
    kind = DepthwiseConv if block.token_mixer in DEPTHWISE else SpikingSepConv if block.token_mixer in SPIKING_SEPCONVS else SepConv
    mixer: Mixer = kind(embed_dim, block, input_scale=input_scale)
    return mixer
