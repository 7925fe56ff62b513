"""The synapses: a linear map or convolution with its batch normalisation, and on request the neurons behind it.

One layout throughout: `[T, B, H, W, C]`, channels last. A linear map reads it as positions, a convolution as images, and neither
copies. A synapse's `fused()` is the same map in inference, as one linear map or convolution with a bias: normalisation, and what is
linear without a neuron between, folds into it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from autospike.kernels.lif import Rows
from autospike.kernels.sparse_conv import Geometry, convolved, rows
from autospike.nn.neuron import LIF
from autospike.nn.norm import Norm, Statistics


class PreNorm(NamedTuple):
    """Intermediate results of a synapse that may be computed once and passed to several calls.

    Attributes:
        y: `synapse.pre_norm(x)`, `[T, B, H', W', out_channels]`.
        statistics: `synapse.bn.statistics(y)`, or None to compute them in the call.
    """

    y: Tensor
    statistics: Statistics | None = None


class Linear(nn.Linear):
    """A linear map at every position. Shape: `[T, B, H, W, in_features]` to `[T, B, H, W, out_features]`.

    On CPU it runs as a 1x1 convolution: torch leaves matrix products to MKL, which on AMD's processors takes twice as long as
    oneDNN, which does the convolutions.

    Args:
        spikes: whether zeros are most of what enters, so that it is worth while to pass over them.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, spikes: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.spikes = spikes

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # without memory there is nothing to write, slowly
            super().reset_parameters()

    def forward(self, x: Tensor, *, bias_cancels: bool = False) -> Tensor:
        if x.is_cuda:
            return super().forward(x)
        weight = self.weight[:, :, None, None]
        return convolved(x, weight, self.bias, Geometry(), bias_is_lost=bias_cancels, spikes=self.spikes)


class Conv(nn.Conv2d):
    """A convolution of channels-last images. Shape: `[T, B, H, W, in_channels]` to `[T, B, H', W', out_channels]`."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor, *, bias_cancels: bool = False) -> Tensor:
        geometry = Geometry(self.stride[0], int(self.padding[0]), self.groups)
        return convolved(x, self.weight, self.bias, geometry, bias_is_lost=bias_cancels, spikes=True)


class Synapse(nn.Module):
    """What carries spikes from neurons to neurons: a map, then a normalisation.

    Shape: `[T, B, H, W, in_channels]` to input current `[T, B, H', W', out_channels]`, or to spikes of the LIF layer that it is
    given, which then normalises and fires in one pass over memory.
    """

    bn: nn.Module
    shared = False
    """Whether several LIF layers follow, so that the linear layer is not fused with any of them."""

    def pre_norm(self, x: Tensor) -> Tensor:
        """Compute the linear part, without the last BatchNorm."""
        raise NotImplementedError

    def fused(self) -> nn.Module:
        """The same map in inference, as one."""
        raise NotImplementedError

    def bias_cancels(self) -> bool:
        """Whether the normalisation takes away the mean, and with it a bias before it."""
        return isinstance(self.bn, _BatchNorm) and (self.bn.training or self.bn.running_mean is None)

    def update_statistics(self, x: Tensor) -> Tensor:
        """Update the statistics of every BatchNorm, and return the input of the last one."""
        y = self.pre_norm(x)
        if isinstance(self.bn, Norm):
            self.bn.statistics(y)
        return y

    def forward(
        self, x: Tensor, *, lif: LIF | None = None, stream: Tensor | None = None, pre_norm: PreNorm | None = None
    ) -> Tensor:
        """Compute the input current, or the spikes of the LIF layer behind it.

        Args:
            x: `[T, B, H, W, in_channels]`.
            lif: the LIF layer that receives the current.
            stream: a residual stream to which spikes of `lif` are added, `[T, B, H', W', out_channels]`.
            pre_norm: the linear part and the statistics, if they were computed before.

        Returns:
            The current, or spikes, or stream plus spikes, `[T, B, H', W', out_channels]`.
        """
        y, statistics = pre_norm or PreNorm(self.pre_norm(x))
        if lif is not None:
            spikes: Tensor = lif(y, self.bn, stream=stream, statistics=statistics)
            return spikes
        current: Tensor = self.bn(y) if statistics is None else self.bn(y, statistics)
        return current


class Mixer(nn.Module):
    """Base class of token and channel mixers: layers that end in a synapse.

    Shape: `[T, B, H, W, D]` to input current `[T, B, H, W, D]`, or to spikes of the LIF layer that it is given.
    """

    def hidden(self, x: Tensor) -> Tensor:
        """Compute the input of the last synapse."""
        raise NotImplementedError

    @property
    def last_synapse(self) -> Synapse:
        """The synapse that computes the output."""
        raise NotImplementedError

    def forward(self, x: Tensor, *, lif: LIF | None = None, stream: Tensor | None = None) -> Tensor:
        """Compute as `Synapse.forward`.

        Args:
            x: `[T, B, H, W, D]`.
            lif: the LIF layer that receives the current.
            stream: a residual stream to which spikes of `lif` are added.

        Returns:
            The current, or spikes, or stream plus spikes, `[T, B, H, W, D]`.
        """
        out: Tensor = self.last_synapse(self.hidden(x), lif=lif, stream=stream)
        return out

    def update_statistics(self, x: Tensor) -> Tensor:
        """Update the statistics of every BatchNorm, and return the input of the last one."""
        return self.last_synapse.update_statistics(self.hidden(x))


class LinearNorm(Synapse):
    """`BN(W x + b)` at every position. Shape: `[T, B, H, W, in_features]` to `[T, B, H, W, out_features]`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = Linear(in_features, out_features, bias=bias)
        self.bn: nn.Module = Norm(out_features)

    def forward(
        self, x: Tensor, *, lif: LIF | None = None, stream: Tensor | None = None, pre_norm: PreNorm | None = None
    ) -> Tensor:
        by_neurons = self._rows(x) if pre_norm is None and lif is not None and not has_forward_hooks(lif) else None
        if lif is None or by_neurons is None:
            return super().forward(x, lif=lif, stream=stream, pre_norm=pre_norm)
        spikes: Tensor = lif(by_neurons, self.bn, stream=stream)
        return spikes

    def _rows(self, x: Tensor) -> Rows | None:
        """The map, for neurons to run in one pass: in inference, if nobody else asks what leaves it."""
        asked = torch.is_grad_enabled() or self.bias_cancels() or self.shared or has_forward_hooks(self.linear)
        if asked or type(self.bn) is not Norm:
            return None
        made = rows(x, self.linear.weight, self.linear.bias)
        return made if made is not None and self.bn.compiled(made.out) else None

    def pre_norm(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x, bias_cancels=self.bias_cancels())
        return y

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.bn, self.linear.bias)
        result = LinearNorm(self.linear.in_features, self.linear.out_features, bias=True)
        return _holding(result, result.linear, self.linear.weight * scale[:, None], shift)


class ConvNorm(Synapse):
    """`BN(conv(x))`, padded so that stride 1 keeps the size.

    Shape: `[T, B, H, W, in_channels]` to `[T, B, ceil(H / stride), ceil(W / stride), out_channels]`. A still image may be given
    once, as `[1, B, ...]`, with the number of steps at which it is seen: what is the same at all of them is then computed once.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias)
        self.bn: nn.Module = Norm(out_channels)

    def pre_norm(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x, bias_cancels=self.bias_cancels())
        return y

    def forward(
        self,
        x: Tensor,
        time_steps: int | None = None,
        *,
        lif: LIF | None = None,
        stream: Tensor | None = None,
        pre_norm: PreNorm | None = None,
    ) -> Tensor:
        """Compute as `Synapse.forward`.

        Args:
            x: `[T, B, H, W, in_channels]`, or a still image `[1, B, H, W, in_channels]`.
            time_steps: T, of a still image.
            lif: the LIF layer that receives the current.
            stream: a residual stream to which spikes of `lif` are added.
            pre_norm: the linear part and the statistics, if they were computed before.

        Returns:
            The current, or spikes, or stream plus spikes, `[T, B, H', W', out_channels]`.
        """
        if time_steps is None:
            return super().forward(x, lif=lif, stream=stream, pre_norm=pre_norm)
        y = self.pre_norm(x)
        if lif is not None:
            spikes: Tensor = lif(y, self.bn, time_steps, stream=stream)
            return spikes
        current: Tensor = self.bn(y)
        return current.expand(time_steps, *current.shape[1:])

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.bn, self.conv.bias)
        return _convolution(self.conv.weight * scale[:, None, None, None], shift, stride=self.conv.stride[0])


class SeparableConvNorm(Synapse):
    """A depthwise convolution, a pointwise one, and their normalisation (the second half of SepConv). No biases.

    Shape: `[T, B, H, W, in_channels]` to `[T, B, H, W, out_channels]`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = Conv(in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels, bias=False)
        self.pointwise = Linear(in_channels, out_channels, bias=False, spikes=False)
        self.bn = Norm(out_channels)

    def pre_norm(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.bn, None)
        kernel = self.pointwise.weight[:, :, None, None] * self.depthwise.weight[:, 0]
        return _convolution(kernel * scale[:, None, None, None], shift)


class RepConv(Synapse):
    """A convolution that trains as several and runs as one 3x3 (Meta-SpikeFormer's q, k, v and projection). No biases.

        1x1, BN, border of BN(0), depthwise 3x3 without padding, 1x1, BN, BN

    The border has the value that the first normalisation gives to 0, so that the whole equals one zero-padded convolution. In
    inference that value comes from the running statistics; in training, unlike in the published code, from those of the batch, by
    which the inside is normalised too.

    Shape: `[T, B, H, W, C]` to `[T, B, H, W, C]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Linear(channels, channels, bias=False)
        self.first_bn = Norm(channels)
        self.depthwise = Conv(channels, channels, kernel_size=3, groups=channels, bias=False)
        self.last = Linear(channels, channels, bias=False, spikes=False)
        self.last_bn = Norm(channels)
        self.outer_bn = Norm(channels)

    @property
    def bn(self) -> nn.Module:  # type: ignore[override]
        return self.outer_bn

    def pre_norm(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = _bordered(self.first_bn(y), self.first_bn.of_zero(y))
        z: Tensor = self.last_bn(self.last(self.depthwise(y)))
        return z

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.first_bn, None)
        first = self.first.weight * scale[:, None]
        kernel = torch.einsum("om,mhw,mi->oihw", self.last.weight, self.depthwise.weight[:, 0], first)
        bias = self.last.weight @ (self.depthwise.weight[:, 0].sum(dim=(1, 2)) * shift)
        for bn in (self.last_bn, self.outer_bn):
            scale, bias = _affine(bn, bias)
            kernel = kernel * scale[:, None, None, None]
        return _convolution(kernel, bias)


def fire(layer: nn.Module, lif: nn.Module, *inputs: Any, stream: Tensor | None = None) -> Tensor:
    """Compute the spikes of a neuron layer behind another layer, in one pass over memory where that is possible.

    Args:
        layer: a layer that ends in a synapse, and passes `lif` and `stream` to it.
        lif: the neurons: a `LIF`, or any other module, which then is called with the layer's output.
        inputs: arguments of `layer`.
        stream: a residual stream `[T, B, H, W, C]` to which spikes are added.

    Returns:
        Spikes, or stream plus spikes, `[T, B, H, W, C]`.
    """
    if isinstance(lif, LIF) and not has_forward_hooks(lif):
        fired: Tensor = layer(*inputs, lif=lif, stream=stream)
        return fired
    spikes: Tensor = layer(*inputs, lif=lif) if isinstance(lif, LIF) else lif(layer(*inputs))
    return spikes if stream is None else stream + spikes


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether forward hooks observe a module, so that its inputs and outputs have to exist: it is not fused then.

    `torch.nn.TransformerEncoderLayer` leaves its fast path for the same reason.
    """
    hooks = (module._forward_pre_hooks, module._forward_hooks, _global_forward_pre_hooks, _global_forward_hooks)
    return any(hooks)


def synapse(kind: str, channels: int, *, bias: bool) -> Synapse:
    """A synapse of attention: "linear" or "repconv", which has no bias."""
    return RepConv(channels) if kind == "repconv" else LinearNorm(channels, channels, bias=bias)


def fuse(model: nn.Module) -> nn.Module:
    """Fold every normalisation, and RepConv and SepConv, into single maps; in place, and returned.

    Raises:
        ValueError: a normalisation is in training mode, where it depends on the batch, or has never seen one.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.num_batches_tracked):
            raise ValueError(
                f"{name or 'the model'} cannot be fused: a normalisation needs statistics of its own, calibrated or loaded, "
                "and eval mode; call model.eval()"
            )
    if isinstance(model, Synapse):
        return model.fused().eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Synapse):
                setattr(parent, name, child.fused().eval())
    return model


def _bordered(x: Tensor, value: Tensor) -> Tensor:
    """`x` with one more position on every side, of a value for each channel. `[T, B, H, W, C]` to `[T, B, H + 2, W + 2, C]`."""
    steps, batch, height, width, channels = x.shape
    result = value.expand(steps, batch, height + 2, width + 2, channels).contiguous()
    result[:, :, 1:-1, 1:-1] = x
    return result


def _affine(bn: nn.Module, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and shift that a map's bias and its normalisation amount to in inference."""
    if not isinstance(bn, _BatchNorm):  # fused already
        return torch.ones_like(bias), bias  # type: ignore[arg-type,return-value]
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return scale, bn.bias + scale * ((0 if bias is None else bias) - bn.running_mean)


def _convolution(kernel: Tensor, bias: Tensor, *, stride: int = 1) -> nn.Module:
    out_channels, in_channels, size, _ = kernel.shape
    result = ConvNorm(in_channels, out_channels, kernel_size=size, stride=stride, bias=True)
    return _holding(result, result.conv, kernel, bias)


def _holding(result: LinearNorm | ConvNorm, inner: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Module:
    """`result` with these parameters and no normalisation."""
    inner.weight, inner.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    result.bn = nn.Identity()
    return result
