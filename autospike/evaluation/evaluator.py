"""What a candidate is worth: accuracy, operations and energy from one forward pass over the search split."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from autospike.architecture import Architecture
from autospike.config import EvaluationConfig
from autospike.counting.counter import Counter
from autospike.counting.firing import FiringRates
from autospike.data.batches import Batches, FixedBatches
from autospike.energy.operations import Operations
from autospike.evaluation.calibration import calibrate, require_calibrated
from autospike.measurement import Measurement, Score
from autospike.models.contract import SpikingModel
from autospike.supernet import Supernet


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass over a labelled split gave: right answers at T = 1, 2, ..., and everything that was done at the last T."""

    correct: tuple[int, ...]
    operations: Operations

    def score(self, steps: int) -> Score:
        """At T = `steps`. A network is causal in time: its first steps do not depend on how many follow."""
        counts = tuple(count.first(steps) for count in self.operations.counts)
        return Score(correct=self.correct[steps - 1], images=self.operations.images, counts=counts)


@torch.no_grad()
def evaluate(
    model: SpikingModel, batches: Batches, *, batch_size: int, time_steps: int | None = None, firing: FiringRates | None = None
) -> Pass:
    """Run a labelled split through a model once. The result does not depend on the batch size, nor on the order of the images.

    Args:
        time_steps: the largest T; the architecture's unless given.
        firing: collects the firing rate of every neuron layer, if given.

    Raises:
        UncalibratedError: the model's normalisation statistics are not its own.
        UnknownOperationError: the model does something of which no rule says what it costs.
    """
    require_calibrated(model)
    steps = time_steps or model.architecture.time_steps
    counter, correct = Counter(), [0] * steps
    with firing.watch(model) if firing else nullcontext():
        for batch in batches(batch_size):
            with counter.watch(model, images=len(batch.targets), time_steps=steps):
                logits = model.forward_steps(batch.images, steps)
            for t in range(steps):
                correct[t] += int((logits[: t + 1].mean(dim=0).argmax(dim=1) == batch.targets).sum())
    return Pass(correct=tuple(correct), operations=counter.operations())


def score(model: SpikingModel, batches: Batches, *, batch_size: int) -> Score:
    """Of a model at its own T; raises as `evaluate`."""
    return evaluate(model, batches, batch_size=batch_size).score(model.architecture.time_steps)


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
