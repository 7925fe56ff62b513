"""Calibration: measure the BatchNorm statistics of a subnet before it is scored.

A subnet inherits parameters from a supernet, in which each subnet normalises by the statistics of its own batches. The supernet has
no stored statistics that would fit a subnet. Calibration runs training batches through the subnet at the largest T of the space,
with each BatchNorm normalising by the batch, and averages the statistics over the batches. A batch's statistics do not depend on
other batches, so batches may be calibrated by different workers; the average is taken in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.models.contract import SpikingModel
from autospike.models.decoders import SegmentationModel
from autospike.supernet import batch_norms

# Part of the protocol id: increase it when the statistics of the same batches change.
VERSION = 4
# torch's default momentum, which calibration restores.
MOMENTUM = nn.BatchNorm1d(1).momentum


class UncalibratedError(RuntimeError):
    """A model was to be measured without BatchNorm statistics of its own."""


@torch.no_grad()
def calibrate(model: SpikingModel, batches: Iterable[Tensor], *, time_steps: int) -> None:
    """Measure the statistics of every BatchNorm, in place. Leaves the model in eval mode.

    Args:
        model: The model.
        batches: Images `[B, C, H, W]`, or event frames `[T, B, C, H, W]`.
        time_steps: T of the passes; its statistics serve every smaller T.
    """
    record_batch_statistics(model)
    found = []
    for images in batches:
        if isinstance(model, SegmentationModel):  # its decoder has normalisations too
            model(images, at=[time_steps])
        else:
            model.forward_features(images, time_steps)
        found.append(read_statistics(model))
    write_statistics(model, average(found), batches=len(found))


def record_batch_statistics(module: nn.Module) -> None:
    """Set training mode, and make the running statistics of each BatchNorm those of the last batch alone.

    Args:
        module: The module.
    """
    module.train()
    for bn in batch_norms(module):
        bn.momentum = 1.0


def read_statistics(module: nn.Module) -> Tensor:
    """Concatenate the running mean and variance of every BatchNorm, in the order of the modules.

    Args:
        module: The module.

    Returns:
        `[2 * channels of all BatchNorms]`; empty if there are none.
    """
    parts = [x for bn in batch_norms(module) for x in (bn.running_mean, bn.running_var)]
    return torch.cat(parts) if parts else torch.empty(0)  # type: ignore[arg-type]


def average(statistics: Sequence[Tensor]) -> Tensor:
    """Return the mean over batches, summed in float64 so that it does not depend on rounding in between.

    Args:
        statistics: Tensors of one shape, one for each batch.
    """
    return torch.stack(list(statistics)).double().mean(dim=0).float()


@torch.no_grad()
def write_statistics(module: nn.Module, statistics: Tensor, *, batches: int) -> None:
    """Set the running statistics of every BatchNorm. Leaves the module in eval mode.

    Args:
        module: The module.
        statistics: As `read_statistics` returns them.
        batches: Number of batches that were averaged.
    """
    layers = batch_norms(module)
    parts = iter(statistics.split([bn.num_features for bn in layers for _ in range(2)]))
    for bn in layers:
        assert bn.running_mean is not None and bn.running_var is not None and bn.num_batches_tracked is not None
        bn.running_mean.copy_(next(parts))
        bn.running_var.copy_(next(parts))
        bn.num_batches_tracked.fill_(batches)
        bn.momentum = MOMENTUM
    module.eval()


def require_calibrated(model: nn.Module) -> None:
    """Check that a model can be measured.

    Args:
        model: The model.

    Raises:
        UncalibratedError: A BatchNorm has no statistics, or is in training mode and would use those of the measured batch.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.num_batches_tracked):
            raise UncalibratedError(
                f"{name} has no statistics of its own; run calibrate(model, batches, time_steps=...) before measuring the model"
            )
