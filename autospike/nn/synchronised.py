"""Normalisation by the statistics of a batch that several ranks share."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autospike.nn.norm import Norm


class SynchronisedNorm(Norm):
    """`Norm` of every rank's `x` together, in training. Shape: `[..., C]` to `[..., C]`; the same shape on every rank.

    It keeps no running statistics: in a supernet they are nobody's, and an extracted subnet is calibrated. Plain operations around
    one sum over the ranks, for gloo as for nccl (`nn.SyncBatchNorm` is CUDA's alone).
    """

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.moments(x)
        centred = x.to(mean.dtype) - mean
        y: Tensor = centred * (self.weight * torch.rsqrt(var + self.eps)) + self.bias
        return y.to(x.dtype)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Norm.moments`. They are added in double precision, in which the mean's square costs the variance no digits."""
        own_mean, own_var = super().moments(x)
        moments = torch.stack([own_mean.double(), own_var + own_mean.double().square()])
        mean, square = SumOverRanks.apply(moments) / dist.get_world_size()
        var = (square - mean.square()).clamp_min(0)
        return mean.to(own_mean.dtype), var.to(own_var.dtype)


class SumOverRanks(torch.autograd.Function):
    """The sum of every rank's tensor. What any rank's loss owes to the sum, it owes to every summand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ARG004
        return _summed(grad_outputs[0])


def synchronise(model: nn.Module) -> None:
    """Put a `SynchronisedNorm` in place of every `Norm`; parameters and their names stay."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Norm):
                setattr(parent, name, _synchronised(child))


def _synchronised(norm: Norm) -> SynchronisedNorm:
    result = SynchronisedNorm(norm.num_features, eps=norm.eps, track_running_stats=False)
    result.weight, result.bias = norm.weight, norm.bias
    return result


def _summed(x: Tensor) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result)
    return result
