"""Sums of small integers by time step and position, and whether they are small integers at all: `input_values.c`."""

from __future__ import annotations

import torch
from torch import Tensor

from autospike.kernels.operator import INT64, POINTER, Library, Operator

# A whole number of this size counts as real: no layer sums that many spikes. As in input_values.c, whose sums do not overflow
# below it.
LIMIT = 1 << 19
SPIKES, INTEGERS, REAL = range(3)  # kinds of values
LIBRARY = Library("input_values", {"sum_values": (POINTER, *(INT64,) * 4, POINTER, POINTER)})


def sum_values(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum values over images and channels, and find their kind.

    Args:
        x: `[T, B, positions, C]`, floating-point.

    Returns:
        Sums `[T, positions]` float64, without meaning where values are real, and the widest kind at each step, `[T]` int64:
        `SPIKES` (0 or 1), `INTEGERS` (whole numbers from 0 to below `LIMIT`) or `REAL`.
    """
    if LIBRARY.supports(x):
        return _sum_values(x.contiguous())
    flat = x.flatten(1)
    real = ((flat != flat.trunc()) | (flat < 0) | (flat >= LIMIT)).any(dim=1)  # without a synchronisation with the device
    kinds = torch.where(real, REAL, (flat > 1).any(dim=1).long())
    return x.sum(dim=-1, dtype=torch.float64).sum(dim=1), kinds


def _sum_values_cpu(x: Tensor) -> tuple[Tensor, Tensor]:
    x, (sums, kinds) = x.contiguous(), _sum_values_fake(x)
    LIBRARY.functions.sum_values(x.data_ptr(), *x.shape, sums.data_ptr(), kinds.data_ptr())
    return sums, kinds


def _sum_values_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[2], dtype=torch.float64), x.new_empty(x.shape[0], dtype=torch.int64)


_sum_values = Operator("sum_values(Tensor x) -> (Tensor, Tensor)", _sum_values_cpu, _sum_values_fake)
