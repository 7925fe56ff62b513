"""Batch normalisation with the statistics of a batch that is distributed over several ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autospike.nn.norm import Norm, ScaledNorm, Statistics


class SynchronisedNorm(Norm):
    """`Norm` for training, with the statistics of all ranks' inputs together.

    It has no running statistics: those of a supernet are of no use, and an extracted subnet is calibrated. It consists of plain
    operations around one sum over the ranks, for gloo as for nccl (`nn.SyncBatchNorm` supports CUDA only).

    Shape: `[..., C]` to `[..., C]`; the same shape on every rank.
    """

    def forward(self, y: Tensor, statistics: Statistics | None = None) -> Tensor:  # noqa: ARG002
        """Normalise `y` `[..., C]`; statistics are always computed, for gradient passes through them to every rank."""
        mean, var = self.moments(y)
        centred = y.to(mean.dtype) - mean
        x: Tensor = centred * (self.weight * torch.rsqrt(var + self.eps)) + self.bias
        return x.to(y.dtype)

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance over all ranks, `[C]` each.

        They are added in double precision, so that subtracting the square of the mean costs the variance no digits.
        """
        own_mean, own_var = super().moments(y)
        moments = torch.stack([own_mean.double(), own_var + own_mean.double().square()])
        mean, square = SumOverRanks.apply(moments) / dist.get_world_size()
        var = (square - mean.square()).clamp_min(0)
        return mean.to(own_mean.dtype), var.to(own_var.dtype)


class ScaledSynchronisedNorm(ScaledNorm, SynchronisedNorm):
    """`SynchronisedNorm` whose output is multiplied by a learnable factor for each channel."""


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over the ranks. The gradient of every rank's tensor is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        """Sum a tensor over the ranks.

        Args:
            ctx: The context of torch; unused.
            x: The tensor of this rank, of the same shape on every rank.

        Returns:
            The sum.
        """
        return _summed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ARG004
        """Sum the gradient over the ranks.

        Args:
            ctx: The context of torch; unused.
            *grad_outputs: The gradient of the sum.

        Returns:
            The gradient of `x`.
        """
        return _summed(grad_outputs[0])


def synchronise(model: nn.Module) -> None:
    """Replace every `Norm` of a model by a synchronised one with the same parameters under the same names.

    Args:
        model: The model, which is changed in place.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Norm):
                setattr(parent, name, _synchronised(child))


def _synchronised(norm: Norm) -> SynchronisedNorm:
    kind = ScaledSynchronisedNorm if isinstance(norm, ScaledNorm) else SynchronisedNorm
    result = kind(norm.num_features, eps=norm.eps, track_running_stats=False)
    for name, parameter in norm.named_parameters():
        result.register_parameter(name, parameter)
    return result


def _summed(x: Tensor) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result)
    return result
