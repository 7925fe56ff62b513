"""Batch normalisation of the last dimension; statistics run over all others together.

    x = weight (y - mean) / sqrt(var + eps) + bias

In training mean and var are those of the batch, otherwise those that were measured (by training, or calibration). On CPU it is a
compiled kernel; together with the neurons that follow it is one pass over memory (`neuron.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autospike.kernels.lif import Affine, Kernel, kernel, takes


class Statistics(NamedTuple):
    """Mean and inverse deviation, `[C]`, and whether they are those of the batch, and so depend on it."""

    mean: Tensor
    inverse: Tensor
    by_batch: bool

    def affine(self, weight: Tensor, bias: Tensor) -> Affine:
        return Affine(weight.contiguous(), bias.contiguous(), self.mean, self.inverse)


class Norm(nn.BatchNorm1d):
    """Shape: `[..., C]` to `[..., C]`."""

    def reset_parameters(self) -> None:
        if not self.affine or not self.weight.is_meta:  # without memory there is nothing to write, slowly
            super().reset_parameters()

    def forward(self, y: Tensor, statistics: Statistics | None = None) -> Tensor:
        """Normalise `y`.

        Args:
            y: `[..., C]`.
            statistics: what `self.statistics(y)` returned, if it was computed before; it then is not computed again, and
                running statistics are not updated again.

        Returns:
            `[..., C]`.
        """
        compiled = self.compiled(y)
        if compiled is None:
            if statistics is not None and statistics.by_batch:
                flat = y.flatten(0, -2)
                return F.batch_norm(flat, None, None, self.weight, self.bias, training=True, eps=self.eps).view(y.shape)
            return super().forward(y.flatten(0, -2)).view(y.shape)
        x: Tensor = CompiledNorm.apply(y.contiguous(), self.weight, self.bias, statistics or self.statistics(y), compiled)
        return x

    def compiled(self, y: Tensor) -> Kernel | None:
        """What normalises `y` on a CPU in single precision, if it can; what is wrong with others torch says."""
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        by_batch = self.training or self.running_mean is None
        enough = y.numel() > self.num_features if by_batch else y.numel() > 0
        fits = self.affine and y.dim() > 1 and y.shape[-1] == self.num_features and enough
        return kernel() if fits and all(x is None or takes(x) for x in (y, *own)) else None

    @torch.no_grad()
    def statistics(self, y: Tensor) -> Statistics:
        """Statistics with which `y` is normalised; in training those of `y`, and the running statistics are updated."""
        if self.running_mean is not None and self.running_var is not None and not self.training:
            return Statistics(self.running_mean.contiguous(), torch.rsqrt(self.running_var + self.eps).contiguous(), False)
        compiled = self.compiled(y)
        if compiled is None:
            super().forward(y.flatten(0, -2))  # updates the running statistics in the same arithmetic as `forward`
            mean, variance = self.moments(y)
        else:
            mean, variance = compiled.moments(y.contiguous())
            self._update_running_statistics(mean, variance, y.numel() // y.shape[-1])
        return Statistics(mean, torch.rsqrt(variance + self.eps), True)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the exponential averages as `torch.nn.BatchNorm1d` does, with the unbiased variance."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
            self.running_var.mul_(1 - momentum).add_(variance, alpha=momentum * count / max(1, count - 1))

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of a batch, `[C]` each, never in half precision."""
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        var, mean = torch.var_mean(wide.flatten(0, -2), dim=0, correction=0)
        return mean, var

    @torch.no_grad()
    def of_zero(self, y: Tensor) -> Tensor:
        """What it makes of 0 in every channel, `[C]`, given that it normalises `y`; no gradient passes."""
        mean, var = self.running_mean, self.running_var
        if self.training or mean is None or var is None:
            mean, var = self.moments(y)
        return self.bias - mean * self.weight / torch.sqrt(var + self.eps)


class CompiledNorm(torch.autograd.Function):
    """The normalisation by the compiled kernel; backward keeps its input."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, compiled: Kernel) -> Tensor:
        affine = statistics.affine(weight, bias)
        ctx.save_for_backward(y, *affine)
        ctx.by_batch, ctx.compiled = statistics.by_batch, compiled
        return compiled.normalise(y, affine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        y, *affine = ctx.saved_tensors
        grad_x = grad_outputs[0].contiguous()
        return *ctx.compiled.normalise_backward(y, Affine(*affine), grad_x, by_batch=ctx.by_batch), None, None
