"""Max-pool 3x3, stride 2, at every step. On CPU a compiled kernel: torch's keeps 64-bit indices of what was largest."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autospike.kernels.build import library
from autospike.kernels.lif import count, flag, pointer, takes

SOURCE = "max_pool"


class TimewiseMaxPool(nn.Module):
    """Spikes stay spikes. Shape: `[T, B, H, W, C]` to `[T, B, ceil(H / 2), ceil(W / 2), C]`."""

    def forward(self, x: Tensor) -> Tensor:
        functions = _functions() if takes(x) else None
        if functions is not None:
            out: Tensor = CompiledPool.apply(x.contiguous(), functions)
            return out
        pooled = F.max_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), kernel_size=3, stride=2, padding=1)
        return pooled.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


class CompiledPool(torch.autograd.Function):
    """The gradient goes to the first maximum of each window, row by row, as torch's does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, functions: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.functions = functions
        steps, batch, height, width, channels = x.shape
        out = x.new_empty(steps, batch, -(-height // 2), -(-width // 2), channels)
        functions.pool(x.data_ptr(), _shape(x), out.data_ptr())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        grad_out, grad_x = grad_outputs[0].contiguous(), torch.empty_like(x)
        ctx.functions.pool_backward(x.data_ptr(), grad_out.data_ptr(), _shape(x), grad_x.data_ptr())
        return grad_x, None


class _Shape(ctypes.Structure):
    _fields_ = (("images", count), ("height", count), ("width", count), ("channels", count), ("threads", flag))


def _shape(x: Tensor) -> _Shape:
    return _Shape(x.shape[0] * x.shape[1], *x.shape[2:], torch.get_num_threads())


@cache
def _functions() -> Any:
    functions = library(SOURCE)
    if functions is not None:
        functions.pool.argtypes = (pointer, ctypes.POINTER(_Shape), pointer)
        functions.pool_backward.argtypes = (pointer, pointer, ctypes.POINTER(_Shape), pointer)
        functions.pool.restype = functions.pool_backward.restype = None
    return functions
