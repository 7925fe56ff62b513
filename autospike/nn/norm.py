"""Batch normalisation of the last dimension, with statistics over all other dimensions together.

    x = weight * (y - mean) / sqrt(var + eps) + bias

In training mean and var are those of the batch, otherwise the running statistics (of training, or of calibration). On a CPU a
compiled kernel computes it; together with the LIF layer behind it, it is one pass over memory (`neuron.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autospike.kernels.batch_norm import LIBRARY, Affine, batch_statistics, normalise

INITIAL_LAYER_SCALE = 1e-6  # published code of E-SpikeFormer; CaiT's value for deep networks


class Statistics(NamedTuple):
    """Statistics with which a `Norm` normalises.

    Attributes:
        mean: `[C]`.
        inverse: `1 / sqrt(var + eps)`, `[C]`.
        by_batch: Whether they are those of the input, and so depend on it.
    """

    mean: Tensor
    inverse: Tensor
    by_batch: bool


class Norm(nn.BatchNorm1d):
    """Batch normalisation of channels-last tensors. Shape: `[..., C]` to `[..., C]`."""

    def reset_parameters(self) -> None:
        """Initialise as torch does; on the meta device, where there is nothing to write, do nothing."""
        if not self.affine or not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, y: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Normalise `y`.

        Args:
            y: `[..., C]`.
            statistics: What `self.statistics(y)` returned, if it was called before; it is not called again then, so that running
                statistics are updated once.

        Returns:
            `[..., C]`.
        """
        if self.uses_kernel(y):
            return normalise(y, self.coefficients(y, statistics))
        if statistics is not None and statistics.by_batch:
            flat = y.flatten(0, -2)
            return F.batch_norm(flat, None, None, self.weight, self.bias, training=True, eps=self.eps).view(y.shape)
        return super().forward(y.flatten(0, -2)).view(y.shape)

    def uses_kernel(self, y: Tensor) -> bool:
        """Return whether a compiled kernel normalises `y`; torch does otherwise, and reports what is wrong with a shape.

        Args:
            y: `[..., C]`.
        """
        enough = y.numel() > (self.num_features if self._uses_batch() else 0)
        if not (self.affine and y.dim() > 1 and y.shape[-1] == self.num_features and enough):
            return False
        return LIBRARY.supports(y, self.weight, self.bias, self.running_mean, self.running_var)

    def coefficients(self, y: Tensor, statistics: Statistics | None = None) -> Affine:
        """Return the parameters, with given statistics or those of `self.statistics(y)`.

        Args:
            y: `[..., C]`.
            statistics: Mean and inverse standard deviation. Default: `self.statistics(y)`.
        """
        return Affine(self.weight, self.bias, *(statistics or self.statistics(y)))

    @torch.no_grad()
    def statistics(self, y: Tensor) -> Statistics:
        """Return the statistics with which `y` is normalised; in training those of `y`, and the running ones are updated.

        Args:
            y: `[..., C]`.
        """
        if not self._uses_batch():
            return Statistics(self.running_mean, torch.rsqrt(self.running_var + self.eps), False)  # type: ignore[arg-type,operator]
        if self.uses_kernel(y):
            mean, variance = batch_statistics(y)
            self._update_running_statistics(mean, variance, y.numel() // y.shape[-1])
        else:
            super().forward(y.flatten(0, -2))  # updates the running statistics in the same arithmetic as `forward`
            mean, variance = self.moments(y)
        return Statistics(mean, torch.rsqrt(variance + self.eps), True)

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of a batch, `[C]` each, in float32 or wider.

        Args:
            y: `[..., C]`.
        """
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        variance, mean = torch.var_mean(wide.flatten(0, -2), dim=0, correction=0)
        return mean, variance

    @torch.no_grad()
    def of_zero(self, y: Tensor) -> Tensor:
        """Return what 0 is normalised to when `y` is normalised, `[C]`; no gradient passes.

        Args:
            y: `[..., C]`.
        """
        mean, variance = self.moments(y) if self._uses_batch() else (self.running_mean, self.running_var)
        return self.bias - mean * self.weight / torch.sqrt(variance + self.eps)  # type: ignore[arg-type,operator]

    def _uses_batch(self) -> bool:
        return self.training or self.running_mean is None or self.running_var is None

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the exponential averages as `torch.nn.BatchNorm1d` does, with the unbiased variance of `count` values."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            self.running_var.mul_(1 - momentum).add_(variance, alpha=momentum * count / max(1, count - 1))


class ScaledNorm(Norm):
    """`Norm` whose output is multiplied by a learnable factor for each channel: the last one of a branch with a layer scale.

    In inference the factor folds into weight and bias. It is a parameter of its own because training differs: the branch starts
    with an output of almost 0.

    Args:
        num_features: C.

    Shape: `[..., C]` to `[..., C]`.
    """

    def __init__(self, num_features: int, **arguments: Any) -> None:
        super().__init__(num_features, **arguments)
        self.layer_scale = nn.Parameter(torch.full((num_features,), INITIAL_LAYER_SCALE))

    def forward(self, y: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Normalise and scale `y`; see `Norm.forward`."""
        x = super().forward(y, statistics)
        return x * self.layer_scale.to(x.dtype)
