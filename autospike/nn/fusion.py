"""Fusion for inference: normalisations and consecutive linear operations become one linear layer or convolution with a bias.

With given statistics a normalisation is affine, and so is the whole synapse:

    x = weight * (y - mean) / sqrt(var + eps) + bias = scale * y + shift
    scale = weight / sqrt(var + eps),    shift = bias - scale * mean
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, RepLinear, SeparableConvNorm, Synapse, scaled_weight
from autospike.nn.norm import ScaledNorm


def fuse(model: nn.Module) -> nn.Module:
    """Fold every normalisation, and the layers of RepConv and SepConv, into single linear layers and convolutions.

    Args:
        model: A model in eval mode, which is changed in place.

    Returns:
        The model; a new module if it is itself a synapse.

    Raises:
        ValueError: A normalisation is in training mode, where it depends on the batch, or has no statistics.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.num_batches_tracked):
            raise ValueError(
                f"{name or 'the model'} cannot be fused: a normalisation needs statistics of its own, calibrated or loaded, "
                "and eval mode; call model.eval()"
            )
    if isinstance(model, Synapse):
        return fused(model).eval()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Synapse):
                setattr(parent, name, fused(child).eval())
    return model


@singledispatch
def fused(synapse: Synapse) -> nn.Module:
    """Return one linear layer or convolution that computes the same as a synapse in inference.

    Args:
        synapse: The synapse, with statistics of its own. A new kind of synapse registers a function of its own.

    Returns:
        A `LinearNorm` or `ConvNorm` without normalisation.
    """
    raise NotImplementedError(f"{type(synapse).__name__} has no rule for fusion")


@fused.register
def _(synapse: LinearNorm) -> nn.Module:
    scale, shift = _affine(synapse.bn, synapse.linear.bias)
    result = LinearNorm(synapse.linear.in_features, synapse.linear.out_features, bias=True)
    return _holding(result, result.linear, scaled_weight(synapse.linear) * scale[:, None], shift)


@fused.register
def _(synapse: ConvNorm) -> nn.Module:
    scale, shift = _affine(synapse.bn, synapse.conv.bias)
    kernel = scaled_weight(synapse.conv) * scale[:, None, None, None]
    return _convolution(kernel, shift, stride=synapse.conv.stride[0], groups=synapse.conv.groups)


@fused.register
def _(synapse: SeparableConvNorm) -> nn.Module:
    scale, shift = _affine(synapse.bn, None)
    kernel = synapse.pointwise.weight[:, :, None, None] * scaled_weight(synapse.depthwise)[:, 0]
    return _convolution(kernel * scale[:, None, None, None], shift)


@fused.register
def _(synapse: RepConv) -> nn.Module:
    scale, shift = _affine(synapse.first_bn, None)
    first = scaled_weight(synapse.first) * scale[:, None]
    kernel = torch.einsum("om,mhw,mi->oihw", synapse.last.weight, synapse.depthwise.weight[:, 0], first)
    bias = synapse.last.weight @ (synapse.depthwise.weight[:, 0].sum(dim=(1, 2)) * shift)
    for bn in (synapse.last_bn, synapse.outer_bn):
        scale, bias = _affine(bn, bias)
        kernel = kernel * scale[:, None, None, None]
    return _convolution(kernel, bias)


@fused.register
def _(synapse: RepLinear) -> nn.Module:
    scale, bias = _affine(synapse.first_bn, None)
    weight = synapse.last.weight @ (scaled_weight(synapse.first) * scale[:, None])
    bias = synapse.last.weight @ bias
    for bn in (synapse.last_bn, synapse.bn):
        if bn is not None:
            scale, bias = _affine(bn, bias)
            weight = weight * scale[:, None]
    result = LinearNorm(*reversed(weight.shape), bias=True)
    return _holding(result, result.linear, weight, bias)


def _affine(bn: nn.Module, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and shift by which a bias and the normalisation behind it act in inference."""
    if not isinstance(bn, _BatchNorm):  # fused already
        return torch.ones_like(bias), bias  # type: ignore[arg-type,return-value]
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    shift = bn.bias + scale * ((0 if bias is None else bias) - bn.running_mean)
    return (scale * bn.layer_scale, shift * bn.layer_scale) if isinstance(bn, ScaledNorm) else (scale, shift)


def _convolution(kernel: Tensor, bias: Tensor, *, stride: int = 1, groups: int = 1) -> nn.Module:
    out_channels, in_group, size, _ = kernel.shape
    result = ConvNorm(in_group * groups, out_channels, kernel_size=size, stride=stride, bias=True, groups=groups)
    return _holding(result, result.conv, kernel, bias)


def _holding(result: LinearNorm | ConvNorm, inner: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Module:
    """`result` with these parameters and no normalisation."""
    inner.weight, inner.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    result.bn = nn.Identity()
    return result
