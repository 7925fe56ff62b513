"""Normalisation statistics of a subnet of its own, before it is scored.

A subnet inherits weights from a supernet in which every subnet normalised by its own batches; stored statistics would be nobody's.
Calibration measures them: training batches run through the subnet at the largest T of the space, each layer normalising by the
batch, and the statistics are averaged over the batches. What a batch gives does not depend on the others, so batches may be
calibrated on anywhere; the average is taken in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.models.contract import SpikingModel
from autospike.supernet import batch_norms

# Of the statistics' arithmetic; scores are compared within one.
VERSION = 4


class UncalibratedError(RuntimeError):
    """A subnet was to be scored on statistics that are not its own."""


@torch.no_grad()
def calibrate(model: SpikingModel, batches: Iterable[Tensor], *, time_steps: int) -> None:
    """Measure the statistics of every normalisation, in place; leaves the model in eval mode.

    Args:
        batches: images `[B, C, H, W]`, or frames `[T, B, C, H, W]`.
        time_steps: how many steps to run, so that the same statistics serve every smaller T.
    """
    measuring(model)
    found = []
    for images in batches:
        model.forward_features(images, time_steps)
        found.append(statistics(model))
    install(model, mean(found), batches=len(found))


def measuring(module: nn.Module) -> None:
    """Training mode; each normalisation keeps the statistics of the last batch alone."""
    module.train()
    for bn in batch_norms(module):
        bn.momentum = 1.0


def statistics(module: nn.Module) -> Tensor:
    """Mean and variance of every normalisation, one after another, as one vector."""
    parts = [x for bn in batch_norms(module) for x in (bn.running_mean, bn.running_var)]
    return torch.cat(parts) if parts else torch.empty(0)  # type: ignore[arg-type]


def mean(of_batches: Sequence[Tensor]) -> Tensor:
    """The plain average over the batches."""
    return torch.stack(list(of_batches)).double().mean(dim=0).float()


@torch.no_grad()
def install(module: nn.Module, values: Tensor, *, batches: int) -> None:
    """Give every normalisation its part of `statistics`, averaged over so many batches, and leave the module in eval mode."""
    layers = batch_norms(module)
    parts = iter(values.split([bn.num_features for bn in layers for _ in range(2)]))
    for bn in layers:
        assert bn.running_mean is not None and bn.running_var is not None and bn.num_batches_tracked is not None
        bn.running_mean.copy_(next(parts))
        bn.running_var.copy_(next(parts))
        bn.num_batches_tracked.fill_(batches)
        bn.momentum = MOMENTUM
    module.eval()


# torch's own, which a calibrated model goes back to.
MOMENTUM = nn.BatchNorm1d(1).momentum


def require_calibrated(model: nn.Module) -> None:
    """Raises:
    UncalibratedError: a normalisation has never seen a batch, or would use the batch that is being scored.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.num_batches_tracked):
            raise UncalibratedError(
                f"{name} has no statistics of its own; run calibrate(model, batches, time_steps=...) before scoring it"
            )
