"""Statistics of the input of a layer: its sum by time step and position, and whether it is spikes, small integers or real values.

Sums are of whole numbers in float64, exact below 2^53, so that the totals of batches are bit-identical in any order.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from autospike.energy.totals import REAL
from autospike.kernels.build import library

SOURCE = "input_values"
# A whole number of this size counts as real: no layer sums that many spikes. The same limit as in input_values.c, whose integer
# sums do not overflow below it.
LIMIT = 1 << 19


@dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """Statistics of one input of an operation over a batch.

    Attributes:
        sums: Sum over images and channels, `[T, positions]` float64; without meaning where values are real.
        kinds: The widest kind of value at each step, an index into `KINDS`, `[T]`.
    """

    sums: Tensor
    kinds: Tensor


@dataclass
class InputStatisticsCache:
    """Computes statistics of tensors, once for a tensor that several layers read (the input of q, k and v, for example).

    A tensor that was modified in place is computed again. Inference tensors do not track modifications and are not cached.
    """

    _statistics: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary, repr=False)

    def per_position(self, x: Tensor) -> InputStatistics:
        """Return the statistics of `x` `[T, B, ..., C]` for each position of the dimensions between B and C."""
        statistics = self._cached(x)
        if statistics is None:
            statistics = input_statistics(x.flatten(2, -2))
            self._store(x, statistics)
        return statistics

    def total(self, x: Tensor) -> InputStatistics:
        """Return the statistics of `x` `[T, ...]` with all positions summed into one.

        If `x` is a view of all values of a cached tensor (split into heads or reshaped), the cached statistics are used.
        """
        order = sorted(range(1, x.dim()), key=x.stride, reverse=True)  # the order in memory, so that nothing is copied
        in_memory, base = x.permute(0, *order), x if x._base is None else x._base
        same_values = (len(x), x.numel(), x.data_ptr()) == (len(base), base.numel(), base.data_ptr())
        cached = self._cached(base) if same_values and in_memory.is_contiguous() and base.is_contiguous() else None
        if cached is not None:
            return InputStatistics(sums=cached.sums.sum(dim=1, keepdim=True), kinds=cached.kinds)
        return input_statistics(in_memory.reshape(len(x), 1, 1, -1))

    def record(self, spikes: Tensor, sums: Tensor) -> None:
        """Store statistics that a LIF kernel computed while it fired.

        Args:
            spikes: The spikes, `[T, B, ..., C]`.
            sums: Their number by step and position, `[T, positions]` float64.
        """
        self._store(spikes, InputStatistics(sums=sums, kinds=torch.zeros(len(spikes), dtype=torch.int64)))

    def _cached(self, x: Tensor) -> InputStatistics | None:
        version, statistics = (None, None) if x.is_inference() else self._statistics.get(x, (None, None))
        return statistics if statistics is not None and version == x._version else None

    def _store(self, x: Tensor, statistics: InputStatistics) -> None:
        if not x.is_inference():
            self._statistics[x] = (x._version, statistics)


def input_statistics(x: Tensor) -> InputStatistics:
    """Compute the statistics of a tensor.

    A compiled kernel reads contiguous float32 on the CPU once; everything else is computed by tensor operations.

    Args:
        x: `[T, B, positions, C]` of any type.

    Returns:
        The statistics for each position.
    """
    x = x if x.is_floating_point() else x.float()
    sum_values = _kernel() if x.device.type == "cpu" and x.dtype == torch.float32 else None
    if sum_values is None:
        return reference_statistics(x)
    x, sums = x.contiguous(), torch.empty(x.shape[0], x.shape[2], dtype=torch.float64)
    kinds, scratch = torch.empty(len(x), dtype=torch.int64), torch.empty(x[0, 0].numel(), dtype=torch.int32)
    sum_values(x.data_ptr(), *x.shape, sums.data_ptr(), kinds.data_ptr(), scratch.data_ptr())
    return InputStatistics(sums=sums, kinds=kinds)


def reference_statistics(x: Tensor) -> InputStatistics:
    """Compute the statistics of a floating-point tensor `[T, B, positions, C]` by tensor operations."""
    return InputStatistics(sums=x.sum(dim=-1, dtype=torch.float64).sum(dim=1), kinds=_kinds(x.flatten(1)))


def _kinds(x: Tensor) -> Tensor:
    """Kinds of `[T, values]`, computed without a synchronisation with the device."""
    real = ((x != x.trunc()) | (x < 0) | (x >= LIMIT)).any(dim=1)
    return torch.where(real, REAL, (x > 1).any(dim=1).long())


@cache
def _kernel() -> Any:
    functions = library(SOURCE)
    if functions is None:
        return None
    sum_values = functions.sum_values
    sum_values.argtypes = (ctypes.c_void_p, *(ctypes.c_int64,) * 4, *(ctypes.c_void_p,) * 3)
    sum_values.restype = None
    return sum_values
