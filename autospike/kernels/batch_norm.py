"""Batch normalisation of the last dimension, with statistics that are given: `batch_norm.c`.

x = weight * (y - mean) * inverse + bias,    inverse = 1 / sqrt(variance + eps)
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autospike.kernels.operator import INT32, INT64, POINTER, Library, Operator


class Affine(NamedTuple):
    """Parameters and statistics of a normalisation, `[C]` each.

    Attributes:
        weight: Scale.
        bias: Shift.
        mean: Mean of y.
        inverse: `1 / sqrt(variance + eps)`.
        by_batch: Whether mean and inverse are those of y itself, so that gradient passes through them.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    inverse: Tensor
    by_batch: bool


class BatchNormStruct(ctypes.Structure):
    """`batch_norm` in batch_norm.h."""

    tensors: list[Tensor]
    _fields_ = (("weight", POINTER), ("bias", POINTER), ("mean", POINTER), ("inverse", POINTER))


def batch_norm_struct(weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor) -> BatchNormStruct:
    """Return the struct of `[C]` tensors, which it keeps alive.

    Args:
        weight: Weight of the normalisation.
        bias: Bias of the normalisation.
        mean: Mean that is subtracted.
        inverse: Inverse standard deviation.
    """
    tensors = [x.contiguous() for x in (weight, bias, mean, inverse)]
    struct = BatchNormStruct(*(x.data_ptr() for x in tensors))
    struct.tensors = tensors
    return struct


_sizes = (INT64, INT64, INT32)  # rows, channels, threads
_struct = ctypes.POINTER(BatchNormStruct)
LIBRARY = Library(
    "batch_norm",
    {
        "batch_statistics": (POINTER, *_sizes, POINTER, POINTER),
        "normalise": (POINTER, *_sizes, _struct, POINTER),
        "normalise_backward": (POINTER, *_sizes, _struct, INT32, POINTER, POINTER, POINTER),
    },
    structs={"batch_norm": BatchNormStruct},
)


def batch_statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """Compute statistics over all dimensions but the last one; no gradient passes.

    Args:
        y: `[..., C]`, of a type that `LIBRARY.supports`, or any other.

    Returns:
        Mean and biased variance, `[C]` each, in float32 or wider.
    """
    if LIBRARY.supports(y):
        return _batch_statistics(y.contiguous())
    wide = y.to(torch.promote_types(y.dtype, torch.float32))
    variance, mean = torch.var_mean(wide.flatten(0, -2), dim=0, correction=0)
    return mean, variance


def normalise(y: Tensor, affine: Affine) -> Tensor:
    """Normalise channels: `(y - mean) * inverse * weight + bias`.

    `torch.nn.functional.batch_norm` is the composite for tensors that `LIBRARY.supports` does not allow.

    Args:
        y: `[..., C]` of a type that `LIBRARY.supports`.
        affine: Parameters and statistics, `[C]` each.

    Returns:
        Of the shape of `y`.
    """
    return _normalise(y.contiguous(), *affine)


def _size(y: Tensor) -> tuple[int, int, int]:
    channels = y.shape[-1]
    return y.numel() // channels, channels, torch.get_num_threads()


def _batch_statistics_cpu(y: Tensor) -> tuple[Tensor, Tensor]:
    y, channels = y.contiguous(), y.shape[-1]
    mean, variance = y.new_empty(channels), y.new_empty(channels)
    LIBRARY.functions.batch_statistics(y.data_ptr(), *_size(y), mean.data_ptr(), variance.data_ptr())
    return mean, variance


def _batch_statistics_fake(y: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape[-1]), y.new_empty(y.shape[-1])


_batch_statistics = Operator("batch_statistics(Tensor y) -> (Tensor, Tensor)", _batch_statistics_cpu, _batch_statistics_fake)


def _normalise_cpu(y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, by_batch: bool) -> Tensor:  # noqa: ARG001
    y = y.contiguous()
    x = torch.empty_like(y)
    LIBRARY.functions.normalise(y.data_ptr(), *_size(y), batch_norm_struct(weight, bias, mean, inverse), x.data_ptr())
    return x


def _normalise_fake(y: Tensor, *_affine: Any) -> Tensor:
    return y.new_empty(y.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.by_batch = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_normalise_backward(*ctx.saved_tensors, grad, ctx.by_batch), None, None, None


_normalise = Operator(
    "normalise(Tensor y, Tensor weight, Tensor bias, Tensor mean, Tensor inverse, bool by_batch) -> Tensor",
    _normalise_cpu,
    _normalise_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)


def _normalise_backward_cpu(
    y: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, grad: Tensor, by_batch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    y, grad = y.contiguous(), grad.clone(memory_format=torch.contiguous_format)
    grad_weight, grad_bias = weight.new_empty(weight.shape), bias.new_empty(bias.shape)
    struct, pointers = batch_norm_struct(weight, bias, mean, inverse), (x.data_ptr() for x in (grad, grad_weight, grad_bias))
    LIBRARY.functions.normalise_backward(y.data_ptr(), *_size(y), struct, by_batch, *pointers)
    return grad, grad_weight, grad_bias


def _normalise_backward_fake(y: Tensor, weight: Tensor, bias: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


_normalise_backward = Operator(
    "normalise_backward(Tensor y, Tensor weight, Tensor bias, Tensor mean, Tensor inverse, Tensor grad, bool by_batch) "
    "-> (Tensor, Tensor, Tensor)",
    _normalise_backward_cpu,
    _normalise_backward_fake,
)
