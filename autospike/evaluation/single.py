"""What one model is worth: accuracy, operations and energy from one forward pass over a labelled split."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from autospike.counting.counter import Counter
from autospike.counting.firing import FiringRates
from autospike.data.batches import Batches
from autospike.energy.operations import Operations
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
def evaluate(
    model: SpikingModel, batches: Batches, *, batch_size: int, time_steps: int | None = None, firing: FiringRates | None = None
) -> StepwiseMeasurement:
    """Run a labelled split through a model once. The result does not depend on the batch size, nor on the order of the images.

    Args:
        time_steps: the largest T; the architecture's unless given.
        firing: collects the firing rate of every neuron layer, if given.

    Raises:
        UncalibratedError: the model's normalisation statistics are not its own.
        UnknownOperationError: the model does something of which no rule says what it costs.
    """
    require_calibrated(model)
    started = time.perf_counter()
    steps = time_steps or model.architecture.time_steps
    counter, correct = Counter(), torch.zeros(steps, dtype=torch.long)
    with firing.watch(model) if firing else nullcontext(), retain_large_allocations():
        for batch in batches(batch_size):
            with counter.watch(model, images=len(batch.targets), time_steps=steps):
                logits = model.forward_steps(batch.images, steps)
            correct += right_answers(logits, batch.targets).cpu()
    return StepwiseMeasurement(
        architecture=model.architecture,
        correct=tuple(correct.tolist()),
        operations=counter.operations(),
        params=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - started,
    )


def measure(model: SpikingModel, batches: Batches, *, batch_size: int) -> Measurement:
    """Measure a model at its own T; raises as `evaluate`."""
    return evaluate(model, batches, batch_size=batch_size).at(model.architecture.time_steps)


def right_answers(logits: Tensor, targets: Tensor) -> Tensor:
    """How many images are answered rightly at T = 1, 2, ...: at T = t by the mean over the first t steps.

    Args:
        logits: of every single step, `[T, B, num_classes]`.
        targets: labels `[B]`.
    """
    steps = range(1, len(logits) + 1)
    return torch.stack([(logits[:t].mean(dim=0).argmax(dim=1) == targets).sum() for t in steps])
