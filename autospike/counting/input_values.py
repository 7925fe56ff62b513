"""What enters a layer, read in one pass: its sum by time step and position, and whether it is spikes, small integers or real.

Sums are of whole numbers in float64, exact below 2^53, so batches add up to the same bits in any order.
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
LIMIT = 1 << 19  # as in values.c; a whole number of that size is no sum of spikes


@dataclass(frozen=True, kw_only=True)
class Values:
    """Of everything that entered on one path.

    `sums`: `[T, positions]` float64, of no meaning where values are real. `kinds`: index into `KINDS`, the widest seen, `[T]`.
    """

    sums: Tensor
    kinds: Tensor


@dataclass
class InputReader:
    """Reads tensors; one that several layers read (the input of q, k and v, of every block that may follow) is read once."""

    _values: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary, repr=False)

    def by_position(self, x: Tensor) -> Values:
        """`[T, B, ..., C]`, by all that stands between B and C."""
        values = self._known(x)
        if values is None:
            values = _read(x.flatten(2, -2))
            self._remember(x, values)
        return values

    def spikes(self, x: Tensor, sums: Tensor) -> None:
        """Spikes that neurons have counted as they fired; see `LIF.counted`."""
        self._remember(x, Values(sums=sums, kinds=torch.zeros(len(x), dtype=torch.int64)))

    def total(self, x: Tensor) -> Values:
        """`[T, ...]`, in one position; the whole of what was read before, by heads or in another shape, is not read again."""
        order = sorted(range(1, x.dim()), key=x.stride, reverse=True)  # as it lies in memory, so that nothing is copied
        lying, whole = x.permute(0, *order), x if x._base is None else x._base
        same = (len(x), x.numel(), x.data_ptr()) == (len(whole), whole.numel(), whole.data_ptr())
        known = self._known(whole) if same and lying.is_contiguous() and whole.is_contiguous() else None
        if known is not None:
            return Values(sums=known.sums.sum(dim=1, keepdim=True), kinds=known.kinds)
        return _read(lying.reshape(len(x), 1, 1, -1))

    def _known(self, x: Tensor) -> Values | None:
        """What was read of a tensor, unless it may have been written over since; of one of inference nothing tells."""
        version, values = (None, None) if x.is_inference() else self._values.get(x, (None, None))
        return values if values is not None and version == x._version else None

    def _remember(self, x: Tensor, values: Values) -> None:
        if not x.is_inference():
            self._values[x] = (x._version, values)


def _read(x: Tensor) -> Values:
    """`[T, B, positions, C]`."""
    x = x if x.is_floating_point() else x.float()
    sum_values = _kernel() if x.device.type == "cpu" and x.dtype == torch.float32 else None
    if sum_values is None:
        return Values(sums=x.sum(dim=-1, dtype=torch.float64).sum(dim=1), kinds=_kinds(x.flatten(1)))
    x, sums = x.contiguous(), torch.empty(x.shape[0], x.shape[2], dtype=torch.float64)
    kinds, scratch = torch.empty(len(x), dtype=torch.int64), torch.empty(x[0, 0].numel(), dtype=torch.int32)
    sum_values(x.data_ptr(), *x.shape, sums.data_ptr(), kinds.data_ptr(), scratch.data_ptr())
    return Values(sums=sums, kinds=kinds)


def _kinds(x: Tensor) -> Tensor:
    """Of `[T, values]`, without waiting for the device."""
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
