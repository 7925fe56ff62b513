"""Convolutions and linear maps of spikes: what is zero is neither read nor multiplied.

On CPU a compiled kernel (`sparse.c`); what is not for it (few channels, groups, other devices and types) is torch's. The gradient
with respect to the input is a dense product, and always torch's.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from autospike.kernels.build import library
from autospike.kernels.lif import Rows, count, flag, observed, pointer, takes

SOURCE = "sparse_conv"
FEWEST_INPUTS = 16  # of fewer, it takes longer to find zeros than to multiply by them


class Geometry(NamedTuple):
    """Of a convolution, alike in both directions of the image."""

    stride: int = 1
    padding: int = 0
    groups: int = 1


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, *, bias_is_lost: bool, spikes: bool) -> Tensor:
    """A convolution of channels-last images.

    Shape: x `[T, B, H, W, in]`, weight `[out, in / groups, kernel, kernel]`, bias `[out]`; to `[T, B, H', W', out]`.

    Args:
        bias_is_lost: in a normalisation by the batch behind it, which takes the mean away. Its gradient is then zero, and not
            computed: what rounding leaves of it would only move the bias at random.
        spikes: whether `x` is worth a look for zeros.
    """
    images = x.flatten(0, 1).contiguous()
    functions = _functions() if spikes and _fits(images, weight, bias, geometry) else None
    if functions is None:
        known = bias.detach() + 0 * bias if bias is not None and bias_is_lost else bias
        y = F.conv2d(images.permute(0, 3, 1, 2), weight, known, *geometry[:2], groups=geometry.groups).permute(0, 2, 3, 1)
    else:
        y = SparseConvolution.apply(images, weight, bias, geometry, bias_is_lost, functions)
    return y.unflatten(0, x.shape[:2]).contiguous()


def rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Rows | None:
    """A linear map for neurons to run, if the kernel can; no gradient passes. x `[T, B, H, W, in]`, weight `[out, in]`."""
    spikes, taps = x.contiguous(), weight[:, :, None, None]
    functions = _functions() if _fits(spikes.flatten(0, 1), taps, bias, Geometry()) else None
    if functions is None:
        return None
    out, shifts, made = x.new_empty(*x.shape[:-1], weight.shape[0]), None if bias is None else bias.contiguous(), _Map()
    shape = _shape(spikes.flatten(0, 1), out.flatten(0, 1), taps, Geometry())
    functions.begin_map(spikes.data_ptr(), shape, weight.data_ptr(), None if shifts is None else shifts.data_ptr(), made)
    return Rows(function=ctypes.cast(functions.map_rows, pointer), map=made, out=out, read=spikes)


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> bool:
    kernel = weight.shape[2]
    sizes = x.shape[3] == weight.shape[1] >= FEWEST_INPUTS and min(x.shape[1:3]) + 2 * geometry.padding >= kernel and x.numel() > 0
    read = (x, weight) if bias is None else (x, weight, bias)
    return sizes and geometry.groups == 1 and all(map(takes, read)) and not (torch.is_autocast_enabled("cpu") or observed())


class SparseConvolution(torch.autograd.Function):
    """x: `[images, H, W, in]`, contiguous."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, bias_is_lost: bool, functions: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.functions, ctx.biased, ctx.bias_is_lost = geometry, functions, bias is not None, bias_is_lost
        weight, shifts = _dense_taps(weight), None if bias is None else bias.contiguous()
        sides = [(size + 2 * geometry.padding - weight.shape[2]) // geometry.stride + 1 for size in x.shape[1:3]]
        y = x.new_empty(x.shape[0], *sides, weight.shape[0])
        pointers = (weight.data_ptr(), None if shifts is None else shifts.data_ptr(), y.data_ptr())
        functions.convolve(x.data_ptr(), _shape(x, y, weight, geometry), *pointers)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, geometry = grad_outputs[0].contiguous(), ctx.geometry
        of_x, of_weight, _ = ctx.needs_input_grad[:3]
        sparse = of_weight and geometry.stride == 1
        grad_x, grad_weight = _dense_gradients(grad, x, weight, geometry, (of_x, of_weight and not sparse))
        if sparse:
            grad_weight = weight.new_empty(weight.shape)
            shape = _shape(x, grad, weight, geometry)
            ctx.functions.convolve_backward_weight(x.data_ptr(), grad.data_ptr(), shape, grad_weight.data_ptr())
        grad_bias = None
        if ctx.biased:
            grad_bias = grad.new_zeros(grad.shape[-1]) if ctx.bias_is_lost else grad.sum(dim=(0, 1, 2))
        return grad_x, grad_weight, grad_bias, None, None, None


def _dense_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """By torch: with respect to the input, `[images, H, W, in]`, and to the weight."""
    if not any(wanted):
        return None, None
    stride, padding = [geometry.stride] * 2, [geometry.padding] * 2
    images, grads = x.permute(0, 3, 1, 2), grad.permute(0, 3, 1, 2)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grads, images, weight, None, stride, padding, [1, 1], False, [0, 0], 1, [*wanted, False]
    )
    return grad_x.permute(0, 2, 3, 1).contiguous() if wanted[0] else None, grad_weight if wanted[1] else None


class _Shape(ctypes.Structure):
    _sizes = ("images", "height", "width", "in_", "out_height", "out_width", "out")
    _steps = ("kernel", "stride", "padding", "by_out", "by_in")
    _fields_ = (*((name, count) for name in (*_sizes, *_steps)), ("threads", flag))


class _Map(ctypes.Structure):
    _fields_ = (("x", pointer), ("shape", _Shape), ("weight", pointer), ("bias", pointer))


def _shape(x: Tensor, y: Tensor, weight: Tensor, geometry: Geometry) -> _Shape:
    """A linear map sees every position alone: one image, of one column."""
    kernel, pointwise = weight.shape[2], weight.shape[2] == geometry.stride == 1 and geometry.padding == 0
    sizes = [[1, x.shape[:3].numel(), 1, x.shape[3]], [y.shape[:3].numel(), 1]] if pointwise else [x.shape, y.shape[1:3]]
    by_out, by_in = weight.stride()[:2]
    return _Shape(*sizes[0], *sizes[1], y.shape[3], kernel, *geometry[:2], by_out, by_in, torch.get_num_threads())


def _dense_taps(weight: Tensor) -> Tensor:
    """The weight, copied unless the taps of each pair of channels lie together. A slice of a larger weight is not."""
    together = weight.stride()[2:] == (weight.shape[3], 1) or weight.shape[2:].numel() == 1
    return weight if together else weight.contiguous()


@cache
def _functions() -> Any:
    functions = library(SOURCE, "-ffp-contract=fast")
    if functions is not None:
        shape = ctypes.POINTER(_Shape)
        functions.convolve.argtypes = (pointer, shape, pointer, pointer, pointer)
        functions.convolve_backward_weight.argtypes = (pointer, pointer, shape, pointer)
        functions.begin_map.argtypes = (pointer, shape, pointer, pointer, ctypes.POINTER(_Map))
        for function in (functions.convolve, functions.convolve_backward_weight, functions.begin_map):
            function.restype = None
    return functions
