"""Inference of a linear layer, a batch normalisation and a LIF layer in one operator.

The output of the linear layer is computed in tiles, which the neurons read from cache, and never written to memory: `linear_lif` in
`lif.c` calls the zero-skipping linear layer of `sparse_conv.c`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from autospike.kernels import lif, sparse_conv
from autospike.kernels.batch_norm import Affine, batch_norm_struct
from autospike.kernels.lif import NEURON_SCHEMA, NeuronParameters, NeuronStruct, new_counts
from autospike.kernels.operator import POINTER, Operator
from autospike.kernels.sparse_conv import Geometry, LinearStruct


def supports(x: Tensor, weight: Tensor, bias: Tensor | None, norm: tuple[Tensor | None, ...], stream: Tensor | None) -> bool:
    """Return whether the kernel computes this layer: without gradients, where all of its parts are supported.

    Args:
        x: As in `linear_lif`.
        weight: As in `linear_lif`.
        bias: As in `linear_lif`.
        norm: Parameters and statistics of the normalisation.
        stream: As in `linear_lif`.
    """
    if torch.is_grad_enabled():
        return False
    images, kernel = x.flatten(0, 1), weight[:, :, None, None]
    return sparse_conv.supports(images, kernel, bias, Geometry()) and lif.LIBRARY.supports(stream, *norm)


def linear_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    affine: Affine,
    neuron: NeuronParameters,
    *,
    stream: Tensor | None = None,
    count: bool = False,
    potential: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the spikes of a LIF layer behind a linear layer and a normalisation; bit-identical to one after the other.

    Args:
        x: Spikes, `[T, B, H, W, in]`, of a layer that `supports` returns True for.
        weight: `[out, in]`.
        bias: `[out]`.
        affine: The normalisation, with statistics that do not depend on x.
        neuron: Parameters of the neurons.
        stream: A residual stream to which spikes are added, `[T, B, H, W, out]`.
        count: Whether to count spikes.
        potential: As in `lif.lif`, `[B, H, W, out]`.

    Returns:
        Spikes, or stream plus spikes, `[T, B, H, W, out]`, and counts, as `lif.lif`.
    """
    stream = None if stream is None else stream.contiguous()
    inputs = (x.contiguous(), weight, bias, *affine[:4], stream, *neuron, count)
    return _linear_lif(*inputs) if potential is None else _linear_lif_cpu(*inputs, potential=potential)


def _linear_lif_cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    mean: Tensor,
    inverse: Tensor,
    stream: Tensor | None,
    *rest: Any,
    potential: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    *neuron, count = rest
    x, stream = x.contiguous(), None if stream is None else stream.contiguous()
    bias, kernel = None if bias is None else bias.contiguous(), weight[:, :, None, None]
    out = x.new_empty(*x.shape[:-1], len(weight))
    counts, counting = new_counts(out, count=count)
    structs = (lif.shape_struct(out, len(out)), NeuronStruct(*neuron), batch_norm_struct(norm_weight, norm_bias, mean, inverse))
    linear, functions = LinearStruct(), sparse_conv.LIBRARY.functions
    shape = sparse_conv.shape_struct(x.flatten(0, 1), out.flatten(0, 1), kernel, Geometry())
    functions.begin_linear(x.data_ptr(), shape, weight.data_ptr(), None if bias is None else bias.data_ptr(), linear)
    rows = ctypes.cast(functions.linear_rows, POINTER)
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in (stream, out))
    last = None if potential is None else potential.data_ptr()
    lif.LIBRARY.functions.linear_lif(rows, ctypes.byref(linear), *structs, *pointers, *counting, last)
    return out, counts


def _linear_lif_fake(x: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    spikes = x.new_empty(*x.shape[:-1], len(weight))
    return spikes, spikes.new_empty((len(x), x.shape[2:-1].numel()) if args[-1] else (0,), dtype=torch.float64)


_linear_lif = Operator(
    "linear_lif(Tensor x, Tensor weight, Tensor? bias, Tensor norm_weight, Tensor norm_bias, Tensor mean, Tensor inverse, "
    f"Tensor? stream, {NEURON_SCHEMA}, bool count) -> (Tensor, Tensor)",
    _linear_lif_cpu,
    _linear_lif_fake,
)
