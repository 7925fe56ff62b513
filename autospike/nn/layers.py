"""The synapses: a linear map or convolution with its batch normalisation. Neurons stand outside, between them.

One layout throughout: `[T, B, H, W, C]`, channels last. A linear map reads it as positions, a convolution as images, and neither
copies. A synapse's `fused()` is the same map in inference, as one linear map or convolution with a bias: normalisation, and what is
linear without a neuron between, folds into it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Norm(nn.BatchNorm1d):
    """Batch normalisation of the last dimension; statistics run over all others together. Shape: `[..., C]` to `[..., C]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel of a batch, never in half precision. Shape: `[..., C]` to two of `[C]`."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide.flatten(0, -2), dim=0, correction=0)
        return mean, var


class Conv(nn.Conv2d):
    """A convolution of channels-last images. Shape: `[T, B, H, W, in_channels]` to `[T, B, H', W', out_channels]`."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


class LinearNorm(nn.Module):
    """`BN(W x + b)` at every position. Shape: `[T, B, H, W, in_features]` to `[T, B, H, W, out_features]`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.bn: nn.Module = Norm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.linear(x))
        return out

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.bn, self.linear.bias)
        result = LinearNorm(self.linear.in_features, self.linear.out_features, bias=True)
        return _holding(result, result.linear, self.linear.weight * scale[:, None], shift)


class ConvNorm(nn.Module):
    """`BN(conv(x))`, padded so that stride 1 keeps the size.

    Shape: `[T, B, H, W, in_channels]` to `[T, B, ceil(H / stride), ceil(W / stride), out_channels]`. A still image may be given
    once, as `[1, B, ...]`, with the number of steps at which it is seen: what is the same at all of them is then computed once.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias)
        self.bn: nn.Module = Norm(out_channels)

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y if time_steps is None else y.expand(time_steps, *y.shape[1:])

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.bn, self.conv.bias)
        return _convolution(self.conv.weight * scale[:, None, None, None], shift, stride=self.conv.stride[0])


class SeparableConvNorm(nn.Module):
    """A depthwise convolution, a pointwise one, and their normalisation (the second half of SepConv). No biases.

    Shape: `[T, B, H, W, in_channels]` to `[T, B, H, W, out_channels]`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = Conv(in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels, bias=False)
        self.pointwise = nn.Linear(in_channels, out_channels, bias=False)
        self.bn = Norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.pointwise(self.depthwise(x)))
        return out

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.bn, None)
        kernel = self.pointwise.weight[:, :, None, None] * self.depthwise.weight[:, 0]
        return _convolution(kernel * scale[:, None, None, None], shift)


class RepConv(nn.Module):
    """A convolution that trains as several and runs as one 3x3 (Meta-SpikeFormer's q, k, v and projection). No biases.

        1x1, BN, border of BN(0), depthwise 3x3 without padding, 1x1, BN, BN

    The border has the value that the first normalisation gives to 0, so that the whole equals one zero-padded convolution. In
    inference that value comes from the running statistics; in training, unlike in the published code, from those of the batch, by
    which the inside is normalised too.

    Shape: `[T, B, H, W, C]` to `[T, B, H, W, C]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels, bias=False)
        self.first_bn = Norm(channels)
        self.depthwise = Conv(channels, channels, kernel_size=3, groups=channels, bias=False)
        self.last = nn.Linear(channels, channels, bias=False)
        self.last_bn = Norm(channels)
        self.outer_bn = Norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = _bordered(self.first_bn(y), _of_zero(self.first_bn, y))
        out: Tensor = self.outer_bn(self.last_bn(self.last(self.depthwise(y))))
        return out

    def fused(self) -> nn.Module:
        scale, shift = _affine(self.first_bn, None)
        first = self.first.weight * scale[:, None]
        kernel = torch.einsum("om,mhw,mi->oihw", self.last.weight, self.depthwise.weight[:, 0], first)
        bias = self.last.weight @ (self.depthwise.weight[:, 0].sum(dim=(1, 2)) * shift)
        for bn in (self.last_bn, self.outer_bn):
            scale, bias = _affine(bn, bias)
            kernel = kernel * scale[:, None, None, None]
        return _convolution(kernel, bias)


class TimewiseMaxPool(nn.Module):
    """Max-pool 3x3, stride 2, at every step; spikes stay spikes. `[T, B, H, W, C]` to `[T, B, ceil(H / 2), ceil(W / 2), C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pool(x.flatten(0, 1).permute(0, 3, 1, 2))
        return pooled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


SYNAPSES = (LinearNorm, ConvNorm, SeparableConvNorm, RepConv)


def synapse(kind: str, channels: int, *, bias: bool) -> nn.Module:
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
    if isinstance(model, SYNAPSES):
        return model.fused().eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SYNAPSES):
                setattr(parent, name, child.fused().eval())
    return model


def _of_zero(bn: Norm, x: Tensor) -> Tensor:
    """What a normalisation makes of 0 in every channel, given that it normalises `x`; no gradient passes (as published)."""
    with torch.no_grad():
        if bn.training or bn.running_mean is None or bn.running_var is None:
            mean, var = bn.statistics(x)
        else:
            mean, var = bn.running_mean, bn.running_var
        return bn.bias - mean * bn.weight / torch.sqrt(var + bn.eps)


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
