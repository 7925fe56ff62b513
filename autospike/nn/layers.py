"""Synapses: a linear layer or convolution with its batch normalisation, and optionally the LIF layer behind it.

All tensors are `[T, B, H, W, C]`, channels last. A linear layer reads them as positions, a convolution as images; none copies.
`autospike.nn.fusion` folds a synapse into one linear layer or convolution with a bias, for inference.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from autospike.kernels import linear_lif
from autospike.kernels.sparse_conv import Geometry, spiking_conv
from autospike.nn.neuron import LIF
from autospike.nn.norm import Norm, ScaledNorm, Statistics
from autospike.nn.tracing import is_symbolic, recorded_as_one_call
from autospike.space.mixers import REPLINEAR_EXPANSION

R = TypeVar("R")


class PreNorm(NamedTuple):
    """Intermediate results of a synapse, before its last BatchNorm.

    Attributes:
        y: `synapse.pre_norm(x)`, `[T, B, H', W', out_channels]`.
        statistics: `synapse.bn.statistics(y)`, or None where the BatchNorm computes them when it is called.
    """

    y: Tensor
    statistics: Statistics | None = None


class SharedResults:
    """Results of layers that several branches apply to the same input: each is computed once, by the first branch.

    Pass one object to the `forward` of all these branches, and drop it after the last of them.

    Args:
        layers: The layers that more than one branch contains; other layers run as usual.
    """

    def __init__(self, layers: Container[nn.Module]) -> None:
        self._layers = layers
        self._results: dict[nn.Module, tuple[Tensor, Any]] = {}

    def __contains__(self, layer: nn.Module) -> bool:
        return layer in self._layers

    def get(self, layer: nn.Module, x: Tensor, compute: Callable[[Tensor], R]) -> R:
        """Return what a layer computes from an input.

        Args:
            layer: One of the shared layers.
            x: Its input. The result is computed again only for another tensor than in the last call.
            compute: Computes the result from `x`.

        Returns:
            The result.
        """
        known = self._results.get(layer)
        if known is None or known[0] is not x:
            known = self._results[layer] = (x, compute(x))
        return known[1]


class Linear(nn.Linear):
    """A linear layer at every position.

    On a CPU it runs as a 1x1 convolution: torch uses MKL for matrix products, which takes twice as long on AMD processors as
    oneDNN, which torch uses for convolutions.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether there is a bias.
        spikes: Whether most inputs are 0, so that the zero-skipping kernel is used.
        input_scale: Factor of the input, `Neuron.output_scale` of the neurons before the layer. It is applied to the weight, so
            that the layer reads integers.

    Shape: `[T, B, H, W, in_features]` to `[T, B, H, W, out_features]`.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, spikes: bool = True, input_scale: float = 1.0) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.spikes = spikes
        self.input_scale = input_scale

    def reset_parameters(self) -> None:
        """Initialise as torch does; on the meta device, where there is nothing to write, do nothing."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor, *, bias_cancels: bool = False) -> Tensor:
        """Apply the layer.

        Args:
            x: `[T, B, H, W, in_features]`.
            bias_cancels: Whether a normalisation by the batch follows; see `spiking_conv`.

        Returns:
            `[T, B, H, W, out_features]`.
        """
        weight = scaled_weight(self)
        if x.is_cuda:
            return F.linear(x, weight, self.bias)
        return spiking_conv(x, weight[:, :, None, None], self.bias, Geometry(), bias_cancels=bias_cancels, sparse=self.spikes)


class Conv(nn.Conv2d):
    """A convolution of channels-last images. Shape: `[T, B, H, W, in_channels]` to `[T, B, H', W', out_channels]`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel.
        stride: Stride in both directions.
        padding: Zero padding on every side.
        groups: As of `torch.nn.Conv2d`.
        bias: Whether there is a bias.
        input_scale: As of `Linear`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=padding, groups=groups, bias=bias)
        self.input_scale = input_scale

    def reset_parameters(self) -> None:
        """Initialise as torch does; on the meta device, where there is nothing to write, do nothing."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor, *, bias_cancels: bool = False) -> Tensor:
        """Apply the convolution.

        Args:
            x: `[T, B, H, W, in_channels]`.
            bias_cancels: Whether a normalisation by the batch follows; see `spiking_conv`.

        Returns:
            `[T, B, H', W', out_channels]`.
        """
        geometry = Geometry(self.stride[0], int(self.padding[0]), self.groups)
        return spiking_conv(x, scaled_weight(self), self.bias, geometry, bias_cancels=bias_cancels)


def scaled_weight(layer: Linear | Conv) -> Tensor:
    """Return the weight of a layer times the scale of its input.

    Args:
        layer: The layer.
    """
    weight: Tensor = layer.weight
    return weight if layer.input_scale == 1 else weight * layer.input_scale


class Synapse(nn.Module):
    """Base class of connections between neurons: a linear part, then a normalisation.

    Attributes:
        bn: The normalisation; `nn.Identity` after `autospike.nn.fusion.fuse`.

    Shape: `[T, B, H, W, in_channels]` to input current `[T, B, H', W', out_channels]`, or to spikes of the LIF layer that it is
    given, which then normalises and fires in one pass over memory.
    """

    bn: nn.Module

    def pre_norm(self, x: Tensor) -> Tensor:
        """Compute the linear part, without the last BatchNorm.

        Args:
            x: `[T, B, H, W, in_channels]`.

        Returns:
            `[T, B, H', W', out_channels]`.
        """
        raise NotImplementedError

    def add_layer_scale(self) -> None:
        """Multiply the output by a learnable factor for each channel."""
        assert isinstance(self.bn, Norm)
        self.bn = ScaledNorm(self.bn.num_features)

    def bias_cancels(self) -> bool:
        """Return whether the normalisation subtracts the mean of the batch, and with it a bias before it."""
        return isinstance(self.bn, _BatchNorm) and (self.bn.training or self.bn.running_mean is None)

    def update_statistics(self, x: Tensor) -> Tensor:
        """Update the statistics of every BatchNorm.

        Args:
            x: `[T, B, H, W, in_channels]`.

        Returns:
            The input of the last BatchNorm, `[T, B, H', W', out_channels]`.
        """
        return self._with_statistics(x).y

    def _with_statistics(self, x: Tensor) -> PreNorm:
        y = self.pre_norm(x)
        return PreNorm(y, self.bn.statistics(y) if isinstance(self.bn, Norm) else None)

    @recorded_as_one_call
    def forward(
        self, x: Tensor, *, lif: LIF | None = None, stream: Tensor | None = None, shared: SharedResults | None = None
    ) -> Tensor:
        """Compute the input current, or the spikes of the LIF layer behind it.

        Args:
            x: `[T, B, H, W, in_channels]`.
            lif: The LIF layer that receives the current.
            stream: A residual stream to which spikes of `lif` are added, `[T, B, H', W', out_channels]`.
            shared: Results of layers that other branches contain as well, possibly this one.

        Returns:
            The current, or spikes, or stream plus spikes, `[T, B, H', W', out_channels]`.
        """
        if shared is not None and self in shared:
            y, statistics = shared.get(self, x, self._with_statistics)
        else:
            y, statistics = PreNorm(self.pre_norm(x))
        if lif is not None:
            spikes: Tensor = lif(y, self.bn, stream=stream, statistics=statistics)
            return spikes
        current: Tensor = self.bn(y) if statistics is None else self.bn(y, statistics)
        return current


class Mixer(nn.Module):
    """Base class of token and channel mixers: layers that end in a synapse. By default it is the only one.

    Shape: `[T, B, H, W, D]` to input current `[T, B, H, W, D]`, or to spikes of the LIF layer that it is given.
    """

    def hidden(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Compute the input of the last synapse.

        Args:
            x: `[T, B, H, W, D]`.
            shared: Results of first layers that several mixers contain; None to compute them.

        Returns:
            `[T, B, H, W, in_channels]` of the last synapse.
        """
        del shared
        return x

    @property
    def first_synapses(self) -> tuple[str, ...]:
        """Names of the synapses before the last one that read the input."""
        return ()

    @property
    def last_synapse(self) -> Synapse:
        """The synapse that computes the output."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, *, lif: LIF | None = None, stream: Tensor | None = None, shared: SharedResults | None = None
    ) -> Tensor:
        """Compute as `Synapse.forward`.

        Args:
            x: `[T, B, H, W, D]`.
            lif: The LIF layer that receives the current.
            stream: A residual stream to which spikes of `lif` are added.
            shared: Results of the first synapses, of which other mixers may contain some as well.

        Returns:
            The current, or spikes, or stream plus spikes, `[T, B, H, W, D]`.
        """
        out: Tensor = self.last_synapse(self.hidden(x, shared), lif=lif, stream=stream)
        return out

    def update_statistics(self, x: Tensor, shared: SharedResults | None = None) -> Tensor:
        """Update the statistics of every BatchNorm.

        Args:
            x: `[T, B, H, W, D]`.
            shared: Results of first layers that several mixers contain; None to compute them.

        Returns:
            The input of the last BatchNorm, `[T, B, H, W, D]`.
        """
        return self.last_synapse.update_statistics(self.hidden(x, shared))


class LinearNorm(Synapse):
    """`BN(W x + b)` at every position.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Whether there is a bias.
        input_scale: As of `Linear`.

    Shape: `[T, B, H, W, in_features]` to `[T, B, H, W, out_features]`.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, input_scale: float = 1.0) -> None:
        super().__init__()
        self.linear = Linear(in_features, out_features, bias=bias, input_scale=input_scale)
        self.bn: nn.Module = Norm(out_features)

    def forward(
        self, x: Tensor, *, lif: LIF | None = None, stream: Tensor | None = None, shared: SharedResults | None = None
    ) -> Tensor:
        """Compute as `Synapse.forward`; in inference linear layer, normalisation and LIF layer are one operator if possible."""
        if lif is not None and isinstance(self.bn, Norm) and self._fuses(x, lif, stream, shared):
            return lif.forward_linear(x, self.linear, scaled_weight(self.linear), self.bn, stream=stream)
        return super().forward(x, lif=lif, stream=stream, shared=shared)

    def _fuses(self, x: Tensor, lif: LIF, stream: Tensor | None, shared: SharedResults | None) -> bool:
        """Whether the output of the linear layer is needed by nothing but the LIF layer."""
        if torch.is_grad_enabled() or self.bias_cancels() or type(self.bn) is not Norm or (shared is not None and self in shared):
            return False
        if _has_forward_hooks(lif) or _has_forward_hooks(self.linear):
            return False
        if stream is not None and stream.shape != (*x.shape[:-1], self.linear.out_features):
            return False
        norm = (self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var)
        return linear_lif.supports(x, self.linear.weight, self.linear.bias, norm, stream)

    def pre_norm(self, x: Tensor) -> Tensor:
        """Apply the linear layer."""
        y: Tensor = self.linear(x, bias_cancels=self.bias_cancels())
        return y


class ConvNorm(Synapse):
    """`BN(conv(x))`, padded so that stride 1 keeps the size.

    A still image may be passed once, as `[1, B, ...]`, with the number of time steps: the convolution is then computed once.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel, odd.
        stride: Stride in both directions.
        bias: Whether there is a bias.
        groups: As of `torch.nn.Conv2d`; as many as channels for a depthwise convolution.
        input_scale: As of `Linear`.
        norm: Whether there is a normalisation.

    Shape: `[T, B, H, W, in_channels]` to `[T, B, ceil(H / stride), ceil(W / stride), out_channels]`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = False,
        groups: int = 1,
        input_scale: float = 1.0,
        norm: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = Conv(
            in_channels, out_channels, kernel_size, stride, padding=padding, groups=groups, bias=bias, input_scale=input_scale
        )
        self.bn: nn.Module = Norm(out_channels) if norm else nn.Identity()

    def pre_norm(self, x: Tensor) -> Tensor:
        """Apply the convolution."""
        y: Tensor = self.conv(x, bias_cancels=self.bias_cancels())
        return y

    @recorded_as_one_call
    def forward(
        self,
        x: Tensor,
        time_steps: int | None = None,
        *,
        lif: LIF | None = None,
        stream: Tensor | None = None,
        shared: SharedResults | None = None,
    ) -> Tensor:
        """Compute as `Synapse.forward`.

        Args:
            x: `[T, B, H, W, in_channels]`, or a still image `[1, B, H, W, in_channels]`.
            time_steps: T, of a still image.
            lif: The LIF layer that receives the current.
            stream: A residual stream to which spikes of `lif` are added.
            shared: Results of layers that other branches contain as well, possibly this one.

        Returns:
            The current, or spikes, or stream plus spikes, `[T, B, H', W', out_channels]`.
        """
        if time_steps is None:
            return super().forward(x, lif=lif, stream=stream, shared=shared)
        y = self.pre_norm(x)
        if lif is not None:
            spikes: Tensor = lif(y, self.bn, time_steps, stream=stream)
            return spikes
        current: Tensor = self.bn(y)
        return current.expand(time_steps, *current.shape[1:])


class SeparableConvNorm(Synapse):
    """A depthwise convolution, a pointwise one, and their normalisation (the second half of SepConv). No biases.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the depthwise kernel, odd.
        input_scale: As of `Linear`.

    Shape: `[T, B, H, W, in_channels]` to `[T, B, H, W, out_channels]`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, input_scale: float = 1.0) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.depthwise = Conv(
            in_channels, in_channels, kernel_size, padding=padding, groups=in_channels, bias=False, input_scale=input_scale
        )
        self.pointwise = Linear(in_channels, out_channels, bias=False, spikes=False)
        self.bn = Norm(out_channels)

    def pre_norm(self, x: Tensor) -> Tensor:
        """Apply both convolutions."""
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class RepConv(Synapse):
    """A convolution that is trained as several and fused to one 3x3 (Meta-SpikeFormer's q, k, v and projection). No biases.

        1x1, BN, border of BN(0), depthwise 3x3 without padding, 1x1, BN, BN

    The border has the value to which the first normalisation maps 0, so that the whole equals one zero-padded convolution. In
    inference that value comes from the running statistics; in training from those of the batch, which normalise the inside too
    (the published code takes the running statistics there).

    Args:
        channels: Channels of input and output.
        input_scale: As of `Linear`.

    Shape: `[T, B, H, W, C]` to `[T, B, H, W, C]`.
    """

    def __init__(self, channels: int, *, input_scale: float = 1.0) -> None:
        super().__init__()
        self.first = Linear(channels, channels, bias=False, input_scale=input_scale)
        self.first_bn = Norm(channels)
        self.depthwise = Conv(channels, channels, kernel_size=3, groups=channels, bias=False)
        self.last = Linear(channels, channels, bias=False, spikes=False)
        self.last_bn = Norm(channels)
        self.outer_bn = Norm(channels)

    @property
    def bn(self) -> nn.Module:  # type: ignore[override]
        """The last normalisation."""
        return self.outer_bn

    def add_layer_scale(self) -> None:
        """Multiply the output by a learnable factor for each channel."""
        self.outer_bn = ScaledNorm(self.outer_bn.num_features)

    def pre_norm(self, x: Tensor) -> Tensor:
        """Apply everything but the last normalisation."""
        y = self.first(x)
        y = _bordered(self.first_bn(y), self.first_bn.of_zero(y))
        z: Tensor = self.last_bn(self.last(self.depthwise(y)))
        return z


class RepLinear(Synapse):
    """A linear layer that is trained as two (the RepConv of the large forms of E-SpikeFormer). No biases.

        linear, BN, linear, BN, BN      as a projection of an attention
        linear, BN, linear, BN          as a channel mixer

    Args:
        channels: Channels of input and output.
        hidden: Channels between the two layers.
        outer_norm: Whether there is a second normalisation behind the second layer.
        input_scale: As of `Linear`.

    Shape: `[T, B, H, W, C]` to `[T, B, H, W, C]`.
    """

    def __init__(self, channels: int, hidden: int, *, outer_norm: bool, input_scale: float = 1.0) -> None:
        super().__init__()
        self.first = Linear(channels, hidden, bias=False, input_scale=input_scale)
        self.first_bn = Norm(hidden)
        self.last = Linear(hidden, channels, bias=False, spikes=False)
        self.last_bn = Norm(channels) if outer_norm else None
        self.bn: nn.Module = Norm(channels)

    def pre_norm(self, x: Tensor) -> Tensor:
        """Apply everything but the last normalisation."""
        y: Tensor = self.last(self.first_bn(self.first(x)))
        return y if self.last_bn is None else self.last_bn(y)


def fire(
    layer: nn.Module, lif: nn.Module, *inputs: Any, stream: Tensor | None = None, shared: SharedResults | None = None
) -> Tensor:
    """Compute the spikes of a neuron layer behind another layer, in one pass over memory where that is possible.

    Args:
        layer: A layer that ends in a synapse, and passes `lif` and `stream` to it.
        lif: The neurons: a `LIF`, or any other module, which then is called with the layer's output.
        inputs: Arguments of `layer`.
        stream: A residual stream `[T, B, H, W, C]` to which spikes are added.
        shared: Results of layers that other branches contain as well; `layer` reads them, or adds those that are missing.

    Returns:
        Spikes, or stream plus spikes, `[T, B, H, W, C]`.
    """
    reused = {} if shared is None else {"shared": shared}
    if is_symbolic(inputs):  # one call for each layer
        current = layer(*inputs)
        return lif(current) if stream is None else stream + lif(current)
    if isinstance(lif, LIF) and not _has_forward_hooks(lif):
        fired: Tensor = layer(*inputs, lif=lif, stream=stream, **reused)
        return fired
    spikes: Tensor = layer(*inputs, lif=lif, **reused) if isinstance(lif, LIF) else lif(layer(*inputs, **reused))
    return spikes if stream is None else stream + spikes


def _has_forward_hooks(module: nn.Module) -> bool:
    """Return whether forward hooks observe a module. Its inputs and outputs have to exist then, so it is not fused.

    `torch.nn.TransformerEncoderLayer` leaves its fast path for the same reason.

    Args:
        module: The module. Hooks of all modules count too.
    """
    hooks = (module._forward_pre_hooks, module._forward_hooks, _global_forward_pre_hooks, _global_forward_hooks)
    return any(hooks)


def synapse(kind: str, channels: int, *, bias: bool, input_scale: float = 1.0) -> Synapse:
    """Return a synapse of attention.

    Args:
        kind: "linear", or "repconv" or "replinear", which have no bias.
        channels: Channels of input and output.
        bias: Whether a linear layer has a bias.
        input_scale: As of `Linear`.
    """
    if kind == "repconv":
        return RepConv(channels, input_scale=input_scale)
    if kind == "replinear":
        return RepLinear(channels, int(REPLINEAR_EXPANSION * channels), outer_norm=True, input_scale=input_scale)
    return LinearNorm(channels, channels, bias=bias, input_scale=input_scale)


def _bordered(x: Tensor, value: Tensor) -> Tensor:
    """Pad `x` by one position on every side with a value for each channel. `[T, B, H, W, C]` to `[T, B, H + 2, W + 2, C]`."""
    steps, batch, height, width, channels = x.shape
    result = x.new_empty((steps, batch, height + 2, width + 2, channels), dtype=value.dtype)  # vmap writes into what x made
    result.copy_(value.expand_as(result))
    result[:, :, 1:-1, 1:-1] = x
    return result
