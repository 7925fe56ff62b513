"""The compiled neuron and normalisation: the functions of `neuron.c`, on CPU tensors of float32."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from autospike.kernels.build import library

SOURCE = "lif"

pointer, count, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int32


class NeuronStruct(ctypes.Structure):
    """As in `neuron.c`."""

    _fields_ = (
        ("tau", number),
        ("v_threshold", number),
        ("slope", number),
        ("soft_reset", flag),
        ("decays_input", flag),
        ("detaches_reset", flag),
        ("arctan", flag),
    )


class _Shape(ctypes.Structure):
    _fields_ = (("steps", count), ("stride", count), ("size", count), ("channels", count), ("threads", flag))


class _Normalisation(ctypes.Structure):
    _fields_ = (("weight", pointer), ("bias", pointer), ("mean", pointer), ("inverse", pointer))


class Affine(NamedTuple):
    """What a normalisation does to each channel: `weight * (y - mean) * inverse + bias`, all `[C]`, contiguous."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    inverse: Tensor

    def struct(self) -> _Normalisation:
        return _Normalisation(*(x.data_ptr() for x in self))


class Gradients(NamedTuple):
    """With respect to the input, and to weight and bias of the normalisation."""

    y: Tensor
    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Currents that a linear map is yet to give, a few rows at a time (`fire_mapped` in `neuron.c`). It holds until another map
    runs.

    Args:
        function, map: what gives them.
        out: memory for what comes of them, `[T, B, ..., C]`.
        read: what `map` reads.
    """

    function: Any
    map: ctypes.Structure
    out: Tensor
    read: Tensor


@dataclass(frozen=True)
class Kernel:
    """The functions, for tensors that are contiguous; `y` of one step may be seen at several, as a still image is."""

    functions: Any

    def fire(
        self,
        y: Tensor,
        steps: int,
        neuron: NeuronStruct,
        affine: Affine | None,
        *,
        onto: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Spikes `[steps, ...]` of `y` `[steps or 1, B, ..., C]`.

        Args:
            onto: what they are added to, `[steps, B, ..., C]`.
            counts: to which spikes are added by step and position between B and C, `[steps, positions]` float64.
        """
        spikes = y.new_empty(steps, *y.shape[1:])
        shape, norm = _shape(y, steps), affine and affine.struct()
        counted = (0, None) if counts is None else (counts.shape[1], counts.data_ptr())
        below = None if onto is None else onto.data_ptr()
        self.functions.fire(y.data_ptr(), shape, neuron, norm, below, spikes.data_ptr(), *counted)
        return spikes

    def fire_rows(
        self, rows: Rows, neuron: NeuronStruct, affine: Affine, *, onto: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        """As `fire`, of what a map gives."""
        counted = (0, None) if counts is None else (counts.shape[1], counts.data_ptr())
        pointers = (affine.struct(), None if onto is None else onto.data_ptr(), rows.out.data_ptr())
        shape = _shape(rows.out, len(rows.out))
        self.functions.fire_mapped(rows.function, ctypes.byref(rows.map), shape, neuron, *pointers, *counted)
        return rows.out

    def fire_backward(
        self, y: Tensor, steps: int, neuron: NeuronStruct, affine: Affine | None, grad_spikes: Tensor, *, by_batch: bool
    ) -> Gradients:
        """`by_batch`: whether the statistics are those of `y`, and pass gradient."""
        grad, weight, bias = torch.empty_like(y), None, None
        if affine is not None:
            weight, bias = torch.empty_like(affine.weight), torch.empty_like(affine.bias)
        of_parameters = (weight.data_ptr(), bias.data_ptr()) if weight is not None and bias is not None else (None, None)
        norm, shape = affine and affine.struct(), _shape(y, steps)
        pointers = (grad_spikes.data_ptr(), grad.data_ptr(), *of_parameters)
        self.functions.fire_backward(y.data_ptr(), shape, neuron, norm, by_batch, *pointers)
        return Gradients(grad, weight, bias)

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance over all but the last dimension, `[C]` each."""
        channels = y.shape[-1]
        mean, variance = y.new_empty(channels), y.new_empty(channels)
        size = (y.numel() // channels, channels, torch.get_num_threads())
        self.functions.channel_moments(y.data_ptr(), *size, mean.data_ptr(), variance.data_ptr())
        return mean, variance

    def normalise(self, y: Tensor, affine: Affine) -> Tensor:
        """`y` `[..., C]`, normalised."""
        x = torch.empty_like(y)
        self.functions.normalise(y.data_ptr(), *_size(y), affine.struct(), x.data_ptr())
        return x

    def normalise_backward(self, y: Tensor, affine: Affine, grad_x: Tensor, *, by_batch: bool) -> Gradients:
        """As `fire_backward`."""
        grad, weight, bias = grad_x.clone(), torch.empty_like(affine.weight), torch.empty_like(affine.bias)
        pointers = (grad.data_ptr(), weight.data_ptr(), bias.data_ptr())
        self.functions.normalise_backward(y.data_ptr(), *_size(y), affine.struct(), by_batch, *pointers)
        return Gradients(grad, weight, bias)


def takes(x: Tensor) -> bool:
    """Whether kernels read such tensors; those of a tracer have no memory."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and type(x) in (Tensor, nn.Parameter) and not x.is_neg()


def observed() -> bool:
    """Whether somebody counts torch's operations, and would not see a kernel; who reads whole layers says `reads_layers`."""
    return any(not getattr(mode, "reads_layers", False) for mode in _get_current_dispatch_mode_stack())


@cache
def kernel() -> Kernel | None:
    """The kernel of this machine; None where it cannot be built."""
    functions: Any = library(SOURCE)
    if functions is None:
        return None
    shape, neuron, norm = (ctypes.POINTER(struct) for struct in (_Shape, NeuronStruct, _Normalisation))
    functions.fire.argtypes = (pointer, shape, neuron, norm, pointer, pointer, count, pointer)
    functions.fire_mapped.argtypes = (pointer, pointer, shape, neuron, norm, pointer, pointer, count, pointer)
    functions.fire_backward.argtypes = (pointer, shape, neuron, norm, flag, *(pointer,) * 4)
    functions.channel_moments.argtypes = (pointer, count, count, flag, pointer, pointer)
    functions.normalise.argtypes = (pointer, count, count, flag, norm, pointer)
    functions.normalise_backward.argtypes = (pointer, count, count, flag, norm, flag, *(pointer,) * 3)
    for name in ("fire", "fire_mapped", "fire_backward", "channel_moments", "normalise", "normalise_backward"):
        getattr(functions, name).restype = None
    return Kernel(functions)


def _shape(y: Tensor, steps: int) -> _Shape:
    size = y[0].numel()
    return _Shape(steps, size if len(y) == steps else 0, size, y.shape[-1], torch.get_num_threads())


def _size(y: Tensor) -> tuple[int, int, int]:
    return y.numel() // y.shape[-1], y.shape[-1], torch.get_num_threads()
