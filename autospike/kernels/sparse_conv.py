"""Zero-skipping convolutions and linear layers: inputs that are 0 are neither read nor multiplied. `sparse_conv.c` is the kernel.

Inputs with few channels, grouped convolutions and other devices and types are left to torch, and so is the gradient with respect to
the input, which is a dense product.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.kernels.operator import INT32, INT64, POINTER, Library, Operator

FEWEST_INPUTS = 16  # with fewer, finding zeros takes longer than multiplying by them


class Geometry(NamedTuple):
    """Geometry of a convolution, the same in both directions of the image.

    Attributes:
        stride: Step of the kernel.
        padding: Zeros on each side of the image.
        groups: Number of groups of channels.
    """

    stride: int = 1
    padding: int = 0
    groups: int = 1


class ShapeStruct(ctypes.Structure):
    """`shape` in sparse_conv.c."""

    _fields_ = (
        *((name, INT64) for name in ("images", "height", "width", "in_", "out_height", "out_width", "out")),
        *((name, INT64) for name in ("kernel", "stride", "padding", "by_out", "by_in")),
        ("threads", INT32),
    )


class LinearStruct(ctypes.Structure):
    """`linear` in sparse_conv.c: a linear layer of which any rows can be computed, until the thread begins another one."""

    _fields_ = (("x", POINTER), ("shape", ShapeStruct), ("weight", POINTER), ("bias", POINTER))


_shape_pointer = ctypes.POINTER(ShapeStruct)
LIBRARY = Library(
    "sparse_conv",
    {
        "convolve": (POINTER, _shape_pointer, POINTER, POINTER, POINTER),
        "convolve_backward_weight": (POINTER, POINTER, _shape_pointer, POINTER),
        "begin_linear": (POINTER, _shape_pointer, POINTER, POINTER, ctypes.POINTER(LinearStruct)),
    },
    structs={"shape": ShapeStruct, "linear": LinearStruct},
)


def spiking_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, *, bias_cancels: bool = False, sparse: bool = True
) -> Tensor:
    """Compute a convolution of channels-last images.

    Args:
        x: `[T, B, H, W, in]`.
        weight: `[out, in / groups, kernel, kernel]`.
        bias: `[out]`.
        geometry: Stride, padding and groups.
        bias_cancels: Whether a normalisation by the batch follows, which subtracts the mean and the bias with it. The gradient of
            the bias is then 0 and not computed: its rounding error would move the bias at random.
        sparse: Whether x has zeros that are worth skipping.

    Returns:
        `[T, B, H', W', out]`, contiguous.
    """
    images = x.flatten(0, 1).contiguous()
    if sparse and supports(images, weight, bias, geometry):
        y = _sparse_conv(images, weight, bias, geometry.stride, geometry.padding, bias_cancels)
    else:
        shift = bias.detach() + 0 * bias if bias is not None and bias_cancels else bias
        y = _dense_conv(images, weight, shift, geometry)
    return y.unflatten(0, x.shape[:2]).contiguous()


def _dense_conv(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Compute a convolution of `[images, H, W, in]` to `[images, H', W', out]` by torch.

    Of a strided 1x1 convolution, the positions that it reads are copied before. In the gradient of its weight, oneDNN writes past
    its workspace if channels-last images have fewer channels than a vector has elements (uxlfoundation/oneDNN issue 6035).
    """
    stride, padding, groups = geometry
    if weight.shape[2] == 1 and stride > 1 and padding == 0:
        x, stride = x[:, ::stride, ::stride].contiguous(), 1
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups).permute(0, 2, 3, 1)


def supports(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> bool:
    """Return whether the kernel computes this convolution of images `[images, H, W, in]`.

    Args:
        x: `[images, H, W, in]`.
        weight: `[out, in, kernel, kernel]`.
        bias: `[out]`, if there is one.
        geometry: Stride, padding and groups.
    """
    kernel, in_channels = weight.shape[2], weight.shape[1]
    if geometry.groups != 1 or in_channels < FEWEST_INPUTS or x.shape[3] != in_channels or x.numel() == 0:
        return False  # what is wrong with a shape, torch reports
    if min(x.shape[1:3]) + 2 * geometry.padding < kernel or torch.is_autocast_enabled("cpu"):
        return False
    return LIBRARY.supports(x, weight, bias)


def shape_struct(x: Tensor, y: Tensor, weight: Tensor, geometry: Geometry) -> ShapeStruct:
    """Return the struct of a convolution of `x` `[images, H, W, in]` to `y` `[images, H', W', out]`.

    A linear layer is a 1x1 convolution of one image of width 1, whose rows are all positions.

    Args:
        x: Input.
        y: Output.
        weight: `[out, in, kernel, kernel]`.
        geometry: Stride, padding and groups.
    """
    kernel, pointwise = weight.shape[2], weight.shape[2] == geometry.stride == 1 and geometry.padding == 0
    sizes = [[1, x.shape[:3].numel(), 1, x.shape[3]], [y.shape[:3].numel(), 1]] if pointwise else [x.shape, y.shape[1:3]]
    by_out, by_in = weight.stride()[:2]
    return ShapeStruct(*sizes[0], *sizes[1], y.shape[3], kernel, *geometry[:2], by_out, by_in, torch.get_num_threads())


def _with_adjacent_taps(weight: Tensor) -> Tensor:
    """The weight, copied unless the taps of each pair of channels are adjacent in memory, as they are in a slice of a weight."""
    adjacent = weight.stride()[2:] == (weight.shape[3], 1) or weight.shape[2:].numel() == 1
    return weight if adjacent else weight.contiguous()


def _output_shape(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[int, ...]:
    height, width = ((size + 2 * padding - weight.shape[2]) // stride + 1 for size in x.shape[1:3])
    return x.shape[0], height, width, weight.shape[0]


def _sparse_conv_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, _bias_cancels: bool) -> Tensor:
    x, weight, bias = x.contiguous(), _with_adjacent_taps(weight), None if bias is None else bias.contiguous()
    y = x.new_empty(_output_shape(x, weight, stride, padding))
    shape, bias_pointer = shape_struct(x, y, weight, Geometry(stride, padding)), None if bias is None else bias.data_ptr()
    LIBRARY.functions.convolve(x.data_ptr(), shape, weight.data_ptr(), bias_pointer, y.data_ptr())
    return y


def _sparse_conv_fake(x: Tensor, weight: Tensor, _bias: Tensor | None, stride: int, padding: int, _bias_cancels: bool) -> Tensor:
    return x.new_empty(_output_shape(x, weight, stride, padding))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    x, weight, bias, ctx.stride, ctx.padding, ctx.bias_cancels = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    grad = grad.contiguous()
    sparse = needs_weight and ctx.stride == 1  # the kernel has no gradient of strided convolutions
    grad_x, grad_weight = _dense_gradients(ctx, grad, x, weight, needs_x, needs_weight and not sparse)
    if sparse:
        grad_weight = _weight_gradient(x, grad, weight.shape[2], ctx.padding)
    grad_bias = None
    if ctx.has_bias:
        grad_bias = grad.new_zeros(grad.shape[-1]) if ctx.bias_cancels else grad.sum(dim=(0, 1, 2))
    return grad_x, grad_weight, grad_bias, None, None, None


def _dense_gradients(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by torch with respect to the input, `[images, H, W, in]`, and the weight."""
    if not (needs_x or needs_weight):
        return None, None
    stride, padding, needs = [ctx.stride] * 2, [ctx.padding] * 2, [needs_x, needs_weight, False]
    images, grads = x.permute(0, 3, 1, 2), grad.permute(0, 3, 1, 2)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grads, images, weight, None, stride, padding, [1, 1], False, [0, 0], 1, needs
    )
    return grad_x.permute(0, 2, 3, 1).contiguous() if needs_x else None, grad_weight if needs_weight else None


_sparse_conv = Operator(
    "sparse_conv(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, bool bias_cancels) -> Tensor",
    _sparse_conv_cpu,
    _sparse_conv_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)


def _weight_gradient_cpu(x: Tensor, grad: Tensor, kernel: int, padding: int) -> Tensor:
    x, grad = x.contiguous(), grad.contiguous()
    grad_weight = x.new_empty(grad.shape[-1], x.shape[-1], kernel, kernel)
    shape = shape_struct(x, grad, grad_weight, Geometry(1, padding))
    LIBRARY.functions.convolve_backward_weight(x.data_ptr(), grad.data_ptr(), shape, grad_weight.data_ptr())
    return grad_weight


def _weight_gradient_fake(x: Tensor, grad: Tensor, kernel: int, _padding: int) -> Tensor:
    return x.new_empty(grad.shape[-1], x.shape[-1], kernel, kernel)


_weight_gradient = Operator(
    "sparse_conv_weight_gradient(Tensor x, Tensor grad, int kernel, int padding) -> Tensor",
    _weight_gradient_cpu,
    _weight_gradient_fake,
)
