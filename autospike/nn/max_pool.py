"""Max-pool of spikes between layers."""

from __future__ import annotations

from torch import Tensor, nn

from autospike.kernels.max_pool import max_pool
from autospike.nn.tracing import recorded_as_one_call


class TimewiseMaxPool(nn.Module):
    """Max-pool 3x3 with stride 2 and padding 1 at every time step. Spikes stay spikes.

    Shape: `[T, B, H, W, C]` to `[T, B, ceil(H / 2), ceil(W / 2), C]`.
    """

    @recorded_as_one_call
    def forward(self, x: Tensor) -> Tensor:
        """Pool `x` `[T, B, H, W, C]`."""
        return max_pool(x)
