"""Measurement of one plain model: accuracy and operation counts from one forward pass over a labelled split.

This is the second way to measure, beside trie evaluation, because a model need not be a subnet: it may be exported, retrained, or
imported from a published checkpoint, with statistics of its own. It also gives every T, firing rates and operations by reason. Both
ways run the same modules, counter and prediction count; `tests/evaluation/test_trie_evaluator.py` compares them bit for bit.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch

from autospike.counting.counter import Counter
from autospike.counting.firing import FiringRates
from autospike.data.batches import Batches
from autospike.energy.operations import Operations
from autospike.evaluation.accuracy import correct_predictions
from autospike.evaluation.calibration import require_calibrated
from autospike.measurement import Measurement
from autospike.memory.allocator import retain_large_allocations
from autospike.models.contract import SpikingModel
from autospike.space.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class StepwiseMeasurement:
    """Result of one pass over a labelled split, from which the measurement at every T up to the last follows.

    Attributes:
        architecture: The architecture of the model.
        correct: Number of images classified correctly at T = 1, 2, ...
        operations: Operations at the last T.
        params: Number of parameters of the model.
        seconds: Wall-clock time of the pass.
    """

    architecture: Architecture
    correct: tuple[int, ...]
    operations: Operations
    params: int
    seconds: float = field(compare=False)

    def at(self, steps: int) -> Measurement:
        """Return the measurement at T = `steps`.

        A network is causal in time: its first steps do not depend on how many follow.
        """
        return Measurement(
            architecture=replace(self.architecture, time_steps=steps),
            correct=self.correct[steps - 1],
            images=self.operations.images,
            counts=tuple(count.first(steps) for count in self.operations.counts),
            params=self.params,
            seconds=self.seconds,
        )


@torch.no_grad()
def measure_stepwise(
    model: SpikingModel, batches: Batches, *, batch_size: int, time_steps: int | None = None, firing: FiringRates | None = None
) -> StepwiseMeasurement:
    """Run a labelled split through a model once.

    The result does not depend on the batch size, nor on the order of the images.

    Args:
        model: The model, calibrated and in eval mode.
        batches: The labelled split.
        batch_size: Images in a forward pass.
        time_steps: The largest T; that of the architecture by default.
        firing: Collects the firing rate of every neuron layer, if given.

    Returns:
        The measurement at every T up to the largest.

    Raises:
        UncalibratedError: A BatchNorm has no statistics of its own.
        UnknownOperationError: The model runs an operation that has no counting rule.
    """
    require_calibrated(model)
    started = time.perf_counter()
    steps = time_steps or model.architecture.time_steps
    counter, correct = Counter(), torch.zeros(steps, dtype=torch.long)
    with firing.watch(model) if firing else nullcontext(), retain_large_allocations():
        for batch in batches(batch_size):
            with counter.watch(model, images=len(batch.targets), time_steps=steps):
                logits = model.forward_steps(batch.images, steps)
            correct += correct_predictions(logits, batch.targets).cpu()
    return StepwiseMeasurement(
        architecture=model.architecture,
        correct=tuple(correct.tolist()),
        operations=counter.operations(),
        params=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - started,
    )


def measure(model: SpikingModel, batches: Batches, *, batch_size: int) -> Measurement:
    """Measure a model at its own T.

    Args:
        model: The model, calibrated and in eval mode.
        batches: The labelled split.
        batch_size: Images in a forward pass.

    Returns:
        The measurement.

    Raises:
        UncalibratedError: A BatchNorm has no statistics of its own.
        UnknownOperationError: The model runs an operation that has no counting rule.
    """
    return measure_stepwise(model, batches, batch_size=batch_size).at(model.architecture.time_steps)
