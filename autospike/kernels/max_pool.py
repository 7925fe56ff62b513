"""Max-pool 3x3 with stride 2 and padding 1 of channels-last images: `max_pool.c`.

Unlike torch's, it stores no 64-bit indices of the maxima for backward.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.kernels.operator import INT32, INT64, POINTER, Library, Operator


class ShapeStruct(ctypes.Structure):
    """`shape` in max_pool.c."""

    _fields_ = (("images", INT64), ("height", INT64), ("width", INT64), ("channels", INT64), ("threads", INT32))


_shape_pointer = ctypes.POINTER(ShapeStruct)
LIBRARY = Library(
    "max_pool",
    {
        "max_pool": (POINTER, _shape_pointer, POINTER),
        "max_pool_backward": (POINTER, POINTER, _shape_pointer, POINTER),
    },
    structs={"shape": ShapeStruct},
    returns={"max_pool": None},
)


def max_pool(x: Tensor) -> Tensor:
    """Compute the maximum of every second 3x3 window; the gradient goes to its first maximum, row by row.

    Args:
        x: `[T, B, H, W, C]`.

    Returns:
        `[T, B, ceil(H / 2), ceil(W / 2), C]`, contiguous.
    """
    if LIBRARY.supports(x):
        return _max_pool(x.contiguous())
    pooled = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), kernel_size=3, stride=2, padding=1)
    return pooled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


def _shape_struct(x: Tensor) -> ShapeStruct:
    return ShapeStruct(x.shape[0] * x.shape[1], *x.shape[2:], torch.get_num_threads())


def _max_pool_cpu(x: Tensor) -> Tensor:
    x, out = x.contiguous(), _max_pool_fake(x)
    LIBRARY.functions.max_pool(x.data_ptr(), _shape_struct(x), out.data_ptr())
    return out


def _max_pool_fake(x: Tensor) -> Tensor:
    steps, batch, height, width, channels = x.shape
    return x.new_empty(steps, batch, (height + 1) // 2, (width + 1) // 2, channels)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return _max_pool_backward(*ctx.saved_tensors, grad)


_max_pool = Operator(
    "max_pool(Tensor x) -> Tensor", _max_pool_cpu, _max_pool_fake, setup_context=_save_for_backward, backward=_backward
)


def _max_pool_backward_cpu(x: Tensor, grad: Tensor) -> Tensor:
    x, grad = x.contiguous(), grad.contiguous()
    grad_x = torch.empty_like(x)
    LIBRARY.functions.max_pool_backward(x.data_ptr(), grad.data_ptr(), _shape_struct(x), grad_x.data_ptr())
    return grad_x


def _max_pool_backward_fake(x: Tensor, _grad: Tensor) -> Tensor:
    return x.new_empty(x.shape)


_max_pool_backward = Operator("max_pool_backward(Tensor x, Tensor grad) -> Tensor", _max_pool_backward_cpu, _max_pool_backward_fake)
