"""The product of spiking attention: `q (k^T v) * scale`.

It equals `(q k^T) v * scale` to the last bit, for the products are sums of small integers. On CPU it is a compiled kernel, which
reads the heads where they lie: torch's batched product of small matrices takes longer, and wants copies.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from autospike.kernels.build import library
from autospike.kernels.lif import count, flag, number, pointer, takes

SOURCE = "attention"


class Heads(NamedTuple):
    """Spikes of the three projections, by head: each `[T, B, heads, N, head_dim]`."""

    q: Tensor
    k: Tensor
    v: Tensor


class AttentionProduct(nn.Module):
    """A module of its own, so that its operations can be counted where they happen. Shape: `[T, B, heads, N, head_dim]`."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, heads: Heads) -> Tensor:
        watched = is_in_torch_dispatch_mode()  # by what counts operations, and would not see a kernel of ours
        alike = heads.q.shape == heads.k.shape == heads.v.shape
        functions = _functions() if alike and all(map(takes, heads)) and not watched else None
        if functions is not None:
            whole = [merge_heads(x).contiguous() for x in heads]
            product: Tensor = CompiledProduct.apply(*whole, heads.q.shape[2], self.scale, functions)
            return split_heads(product, heads.q.shape[2])
        q, k, v = heads
        tokens, head_dim = q.shape[-2:]
        if tokens < head_dim:  # the cheaper order of the two
            return (q @ k.transpose(-1, -2)) @ v * self.scale
        return q @ (k.transpose(-1, -2) @ v) * self.scale


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """`[T, B, N, D]` to `[T, B, heads, N, D / heads]`; nothing is copied."""
    return x.unflatten(-1, (num_heads, -1)).transpose(2, 3)


def merge_heads(x: Tensor) -> Tensor:
    """`[T, B, heads, N, D / heads]` to `[T, B, N, D]`."""
    return x.transpose(2, 3).flatten(3)


class CompiledProduct(torch.autograd.Function):
    """q, k, v: `[T, B, N, D]`, contiguous."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float, functions: Any) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.functions, ctx.shape, out = functions, _shape(q, num_heads, scale), torch.empty_like(q)
        functions.attention(*(x.data_ptr() for x in (q, k, v)), ctx.shape, out.data_ptr())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        read = (*ctx.saved_tensors, grad_outputs[0].contiguous())
        written = [torch.empty_like(x) for x in ctx.saved_tensors]
        ctx.functions.attention_backward(*(x.data_ptr() for x in read), ctx.shape, *(x.data_ptr() for x in written))
        return *written, None, None, None


class _Shape(ctypes.Structure):
    _fields_ = (("images", count), ("tokens", count), ("channels", count), ("heads", count), ("threads", flag), ("scale", number))


def _shape(x: Tensor, num_heads: int, scale: float) -> _Shape:
    return _Shape(x.shape[0] * x.shape[1], x.shape[2], x.shape[3], num_heads, torch.get_num_threads(), scale)


@cache
def _functions() -> Any:
    functions = library(SOURCE, "-ffp-contract=fast")  # whole numbers, to which rounding once or twice is the same
    if functions is not None:
        shape = ctypes.POINTER(_Shape)
        functions.attention.argtypes = (pointer, pointer, pointer, shape, pointer)
        functions.attention_backward.argtypes = (*(pointer,) * 4, shape, *(pointer,) * 3)
        functions.attention.restype = functions.attention_backward.restype = None
    return functions
