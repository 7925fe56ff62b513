"""The synapses: a linear map or convolution with its batch normalisation, and on request the neurons behind it.

One layout throughout: `[T, B, H, W, C]`, channels last. A linear map reads it as positions, a convolution as images, and neither
copies. A synapse's `fused()` is the same map in inference, as one linear map or convolution with a bias: normalisation, and what is
linear without a neuron between, folds into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from autospike.kernels.lif import Rows
from autospike.kernels.sparse_conv import Geometry, convolved, rows
from autospike.nn.neuron import LIF
from autospike.nn.norm import Norm

# Takes a current and the normalisation before it: a `LIF`, or one to which nobody listens.
Neurons = Callable[..., Tensor]


@dataclass(frozen=True)
class Unheard:
    """Neurons of which nobody asks what enters and leaves: they may add to a stream `onto`, and run the map before them."""

    lif: LIF
    onto: Tensor | None

    def __call__(self, x: Tensor | Rows, bn: nn.Module, time_steps: int | None = None) -> Tensor:
        spikes: Tensor = self.lif(x, bn, time_steps, onto=self.onto)
        return spikes


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

    def forward(self, x: Tensor, *, bias_is_lost: bool = False) -> Tensor:
        if x.is_cuda:
            return super().forward(x)
        weight = self.weight[:, :, None, None]
        return convolved(x, weight, self.bias, Geometry(), bias_is_lost=bias_is_lost, spikes=self.spikes)


class Conv(nn.Conv2d):
    """A convolution of channels-last images. Shape: `[T, B, H, W, in_channels]` to `[T, B, H', W', out_channels]`."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor, *, bias_is_lost: bool = False) -> Tensor:
        geometry = Geometry(self.stride[0], int(self.padding[0]), self.groups)
        return convolved(x, self.weight, self.bias, geometry, bias_is_lost=bias_is_lost, spikes=True)


class Synapse(nn.Module):
    """What carries spikes from neurons to neurons: a map, then a normalisation.

    Shape: `[T, B, H, W, in_channels]` to input current `[T, B, H', W', out_channels]`; to spikes, if it is given the neurons that
    follow, which then normalise and fire in one pass over memory.
    """

    bn: nn.Module
    shared = False
    """Whether several neurons follow, each by itself: the map is then not theirs to run."""

    def mapped(self, x: Tensor) -> Tensor:
        """Before its last normalisation."""
        raise NotImplementedError

    def fused(self) -> nn.Module:
        """The same map in inference, as one."""
        raise NotImplementedError

    def loses_bias(self) -> bool:
        """Whether the normalisation takes away the mean, and with it a bias before it."""
        return isinstance(self.bn, _BatchNorm) and (self.bn.training or self.bn.running_mean is None)

    def forward(self, x: Tensor, *, lif: Neurons | None = None) -> Tensor:
        y = self.mapped(x)
        out: Tensor = self.bn(y) if lif is None else lif(y, self.bn)
        return out


class LinearNorm(Synapse):
    """`BN(W x + b)` at every position. Shape: `[T, B, H, W, in_features]` to `[T, B, H, W, out_features]`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = Linear(in_features, out_features, bias=bias)
        self.bn: nn.Module = Norm(out_features)

    def forward(self, x: Tensor, *, lif: Neurons | None = None) -> Tensor:
        by_neurons = self._rows(x) if isinstance(lif, Unheard) else None
        if lif is None or by_neurons is None:
            return super().forward(x, lif=lif)
        return lif(by_neurons, self.bn)

    def _rows(self, x: Tensor) -> Rows | None:
        """The map, for neurons to run in one pass: in inference, if nobody else asks what leaves it."""
        asked = torch.is_grad_enabled() or self.loses_bias() or self.shared or _listened_to(self.linear)
        if asked or type(self.bn) is not Norm:
            return None
        made = rows(x, self.linear.weight, self.linear.bias)
        return made if made is not None and self.bn.compiled(made.out) else None

    def mapped(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x, bias_is_lost=self.loses_bias())
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

    def mapped(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x, bias_is_lost=self.loses_bias())
        return y

    def forward(self, x: Tensor, time_steps: int | None = None, *, lif: Neurons | None = None) -> Tensor:
        y = self.mapped(x)
        if lif is not None:
            spikes: Tensor = lif(y, self.bn, time_steps)
            return spikes
        current: Tensor = self.bn(y)
        return current if time_steps is None else current.expand(time_steps, *current.shape[1:])

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

    def mapped(self, x: Tensor) -> Tensor:
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

    def mapped(self, x: Tensor) -> Tensor:
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


def fire(layer: nn.Module, lif: nn.Module, *entering: Any, onto: Tensor | None = None) -> Tensor:
    """What neurons make of a layer's answer, added to a stream if there is one.

    Neurons of ours are left to the layer, which ends in a synapse. They add to the stream by themselves, and may run the map before
    them, unless somebody listens to them: what enters them is current, what leaves them spikes.
    """
    if isinstance(lif, LIF) and not _listened_to(lif):
        fired: Tensor = layer(*entering, lif=Unheard(lif, onto))
        return fired
    spikes: Tensor = layer(*entering, lif=lif) if isinstance(lif, LIF) else lif(layer(*entering))
    return spikes if onto is None else onto + spikes


def _listened_to(module: nn.Module) -> bool:
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
