"""The product of spiking attention, `q (k^T v) * scale`, and its gradients: `attention.c`.

It equals `(q k^T) v * scale` bit for bit, because products of spikes are sums of small integers.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from autospike.kernels.operator import FLOAT, INT32, INT64, POINTER, Library, Operator


class ShapeStruct(ctypes.Structure):
    """`shape` in attention.c."""

    _fields_ = (("images", INT64), ("tokens", INT64), ("channels", INT64), ("heads", INT64), ("threads", INT32), ("scale", FLOAT))


_shape_pointer = ctypes.POINTER(ShapeStruct)
LIBRARY = Library(
    "attention",
    {
        "attention": (POINTER, POINTER, POINTER, _shape_pointer, POINTER),
        "attention_backward": (*(POINTER,) * 4, _shape_pointer, *(POINTER,) * 3),
    },
    structs={"shape": ShapeStruct},
)


def attention_product(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Compute `q (k^T v) * scale`.

    Args:
        q: Spikes by head, `[T, B, heads, N, head_dim]`; a transposed view of `[T, B, N, D]` is not copied.
        k: As q.
        v: As q, possibly with another head_dim.
        scale: Factor of the product.

    Returns:
        `[T, B, heads, N, head_dim]`, with the head_dim of v.
    """
    if q.shape == k.shape == v.shape and LIBRARY.supports(q, k, v):
        heads = q.shape[2]
        merged = (merge_heads(x).contiguous() for x in (q, k, v))
        return split_heads(_attention(*merged, heads, scale), heads)
    tokens, of_key, of_value = q.shape[-2], k.shape[-1], v.shape[-1]
    if tokens * (of_key + of_value) < 2 * of_key * of_value:  # the cheaper order of the two
        return (q @ k.transpose(-1, -2)) @ v * scale
    return q @ (k.transpose(-1, -2) @ v) * scale


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Return a view `[T, B, heads, N, D / heads]` of `[T, B, N, D]`.

    Args:
        x: `[T, B, N, D]`.
        num_heads: Number of heads, which divides D.
    """
    return x.unflatten(-1, (num_heads, -1)).transpose(2, 3)


def merge_heads(x: Tensor) -> Tensor:
    """Return `[T, B, N, D]` of `[T, B, heads, N, D / heads]`.

    Args:
        x: `[T, B, heads, N, D / heads]`.
    """
    return x.transpose(2, 3).flatten(3)


def _shape_struct(x: Tensor, heads: int, scale: float) -> ShapeStruct:
    return ShapeStruct(x.shape[0] * x.shape[1], x.shape[2], x.shape[3], heads, torch.get_num_threads(), scale)


def _attention_cpu(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    LIBRARY.functions.attention(*(x.data_ptr() for x in (q, k, v)), _shape_struct(q, heads, scale), out.data_ptr())
    return out


def _attention_fake(q: Tensor, *_rest: Any) -> Tensor:
    return q.new_empty(q.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    q, k, v, ctx.heads, ctx.scale = inputs
    ctx.save_for_backward(q, k, v)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_attention_backward(*ctx.saved_tensors, grad, ctx.heads, ctx.scale), None, None


_attention = Operator(
    "attention(Tensor q, Tensor k, Tensor v, int heads, float scale) -> Tensor",
    _attention_cpu,
    _attention_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)


def _attention_backward_cpu(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    read = [x.contiguous() for x in (q, k, v, grad)]
    grads = torch.empty_like(read[0]), torch.empty_like(read[1]), torch.empty_like(read[2])
    shape = _shape_struct(q, heads, scale)
    LIBRARY.functions.attention_backward(*(x.data_ptr() for x in read), shape, *(x.data_ptr() for x in grads))
    return grads


def _attention_backward_fake(q: Tensor, k: Tensor, v: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


_attention_backward = Operator(
    "attention_backward(Tensor q, Tensor k, Tensor v, Tensor grad, int heads, float scale) -> (Tensor, Tensor, Tensor)",
    _attention_backward_cpu,
    _attention_backward_fake,
)
