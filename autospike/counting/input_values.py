"""Statistics of the input of a layer: its sum by time step and position, and whether it is spikes, small integers or real values.

Sums are of whole numbers in float64, exact below 2^53, so that the totals of batches are bit-identical in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from autospike.kernels.input_values import INTEGERS, SPIKES, sum_values


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
        """Return the statistics of `x` `[T, B, ..., C]` for each position of the dimensions between B and C.

        Args:
            x: `[T, B, ..., C]`.
        """
        statistics = self._cached(x)
        if statistics is None:
            statistics = input_statistics(x.flatten(2, -2))
            self._store(x, statistics)
        return statistics

    def total(self, x: Tensor) -> InputStatistics:
        """Return the statistics of `x` `[T, ...]` with all positions summed into one.

        If `x` is a view of all values of a cached tensor (split into heads or reshaped), the cached statistics are used.

        Args:
            x: `[T, ...]`.
        """
        order = sorted(range(1, x.dim()), key=x.stride, reverse=True)  # the order in memory, so that nothing is copied
        in_memory, base = x.permute(0, *order), x if x._base is None else x._base
        same_values = (len(x), x.numel(), x.data_ptr()) == (len(base), base.numel(), base.data_ptr())
        cached = self._cached(base) if same_values and in_memory.is_contiguous() and base.is_contiguous() else None
        if cached is not None:
            return InputStatistics(sums=cached.sums.sum(dim=1, keepdim=True), kinds=cached.kinds)
        return input_statistics(in_memory.reshape(len(x), 1, 1, -1))

    def record(self, spikes: Tensor, sums: Tensor, *, integers: bool = False) -> None:
        """Store statistics that a LIF kernel computed while it fired.

        Args:
            spikes: The spikes, `[T, B, ..., C]`.
            sums: Their sum by step and position, `[T, positions]` float64.
            integers: Whether the neurons may emit values above 1.
        """
        kinds = torch.zeros(len(spikes), dtype=torch.int64, device=sums.device)
        if integers:
            kinds = torch.where((spikes.flatten(1) > 1).any(dim=1), INTEGERS, SPIKES).to(kinds)
        self._store(spikes, InputStatistics(sums=sums, kinds=kinds))

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
    sums, kinds = sum_values(x if x.is_floating_point() else x.float())
    return InputStatistics(sums=sums, kinds=kinds)
