"""What a candidate is worth: accuracy, operations and energy from one forward pass over the search split."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from autospike.architecture import Architecture
from autospike.config import EvaluationConfig
from autospike.counting import Counter, FiringRates
from autospike.data.batches import FixedBatches
from autospike.evaluation.calibration import calibrate, require_calibrated
from autospike.measurement import Measurement, Score
from autospike.models.contract import SpikingModel
from autospike.supernet import Supernet


@torch.no_grad()
def score(model: SpikingModel, batches: FixedBatches, *, batch_size: int, firing: FiringRates | None = None) -> Score:
    """One pass over a labelled split. The result does not depend on the batch size, nor on the order of the images.

    Args:
        firing: collects the firing rate of every neuron layer, if given.

    Raises:
        UncalibratedError: the model's normalisation statistics are not its own.
    """
    require_calibrated(model)
    counter, correct, images = Counter(), 0, 0
    with counter.watch(model), firing.watch(model) if firing else nullcontext():
        for batch in batches(batch_size):
            correct += int((model(batch.images).argmax(dim=1) == batch.targets).sum())
            images += len(batch.targets)
    return Score(correct=correct, images=images, counts=counter.counts(images=images))


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Measures subnets of a supernet, one after another.

    This is the contract of an executor: architectures in, their measurements out in the same order, each as soon as it is known.
    """

    supernet: Supernet
    calibration: FixedBatches
    search: FixedBatches
    config: EvaluationConfig

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        for architecture in architectures:
            started = time.perf_counter()
            model = self.calibrated(architecture)
            yield Measurement(
                architecture=architecture,
                score=score(model, self.search, batch_size=self.config.batch_size),
                params=sum(p.numel() for p in model.parameters()),
                seconds=time.perf_counter() - started,
            )

    def calibrated(self, architecture: Architecture) -> SpikingModel:
        """The subnet as a plain model with statistics of its own: what is scored, and what is exported."""
        model = self.supernet.extract(architecture)
        batches = (batch.images for batch in self.calibration(self.config.calibration_batch_size))
        calibrate(model, batches, time_steps=max(self.supernet.space.time_steps.values))
        return model
