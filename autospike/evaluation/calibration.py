"""Normalisation statistics of a subnet of its own, before it is scored.

A subnet inherits weights from a supernet in which every subnet normalised by its own batches; stored statistics would be nobody's.
Calibration measures them: training batches run through the subnet at the largest T of the space, each layer normalising by the
batch, and the statistics are averaged over the batches.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.models.contract import SpikingModel
from autospike.supernet import batch_norms


class UncalibratedError(RuntimeError):
    """A subnet was to be scored on statistics that are not its own."""


@torch.no_grad()
def calibrate(model: SpikingModel, batches: Iterable[Tensor], *, time_steps: int) -> None:
    """Measure the statistics of every normalisation, in place; leaves the model in eval mode.

    Args:
        batches: images `[B, C, H, W]`, or frames `[T, B, C, H, W]`.
        time_steps: how many steps to run, so that the same statistics serve every smaller T.
    """
    layers = batch_norms(model)
    momenta = [bn.momentum for bn in layers]
    for bn in layers:
        bn.reset_running_stats()
        bn.momentum = None  # a plain average over the batches
    model.train()
    for images in batches:
        model.forward_steps(images, time_steps)
    for bn, momentum in zip(layers, momenta, strict=True):
        bn.momentum = momentum
    model.eval()


def require_calibrated(model: nn.Module) -> None:
    """Raises:
    UncalibratedError: a normalisation has never seen a batch, or would use the batch that is being scored.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or not module.num_batches_tracked):
            raise UncalibratedError(
                f"{name} has no statistics of its own; run calibrate(model, batches, time_steps=...) before scoring it"
            )
