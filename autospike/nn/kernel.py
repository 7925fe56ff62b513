"""The compiled neuron: the two functions of `lif.c`, on CPU tensors of float32."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autospike.native import library

SOURCE = Path(__file__).with_name("lif.c")
BLOCK = 128  # as in lif.c


class LIFKernel:
    """Forward and backward of the neuron."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        pointer, count, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        self._forward: Any = functions.lif_forward
        self._forward.argtypes = (pointer, count, count, count, number, number, pointer)
        self._backward: Any = functions.lif_backward
        self._backward.argtypes = (pointer, count, pointer, count, count, number, number, number, pointer, pointer)

    def forward(self, x: Tensor, tau: float, v_threshold: float) -> Tensor:
        """Spikes of `x` `[T, ...]`, as a contiguous tensor."""
        spikes = torch.empty(x.shape, dtype=torch.float32)
        self._forward(x.data_ptr(), x.stride(0), len(x), x[0].numel(), tau, v_threshold, spikes.data_ptr())
        return spikes

    def backward(self, x: Tensor, grad_spikes: Tensor, tau: float, v_threshold: float, slope: float) -> Tensor:
        """Gradient with respect to `x`, by the sigmoid surrogate of a slope; both `[T, ...]`."""
        grad_spikes, grad_x = grad_spikes.contiguous(), torch.empty(x.shape, dtype=torch.float32)
        scratch = torch.empty(len(x), BLOCK)
        shape = (len(x), x[0].numel())
        pointers = (x.data_ptr(), x.stride(0), grad_spikes.data_ptr(), *shape, tau, v_threshold, slope, scratch.data_ptr())
        self._backward(*pointers, grad_x.data_ptr())
        return grad_x


def takes(x: Tensor) -> bool:
    """Whether the kernel can read a tensor as it lies in memory: float32 on CPU, each step contiguous."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and x[0].is_contiguous()


@cache
def lif_kernel() -> LIFKernel | None:
    """The kernel of this machine; None where it cannot be built."""
    functions = library(SOURCE)
    return LIFKernel(functions) if functions else None
