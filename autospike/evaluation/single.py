"""Measurement of one plain model: accuracy and operation counts from one forward pass over a labelled split.

This is the second way to measure, beside trie evaluation, because a model need not be a subnet: it may be exported, retrained, or
imported from a published checkpoint, with statistics of its own. It also gives every T, firing rates and operations by reason. Both
ways run the same modules, counter and prediction count; `tests/evaluation/test_trie_evaluator.py` compares them bit for bit.
"""

from __future__ import annotations

import time
from collections import Counter as Frequencies
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain

import torch

from autospike.counting.counter import Counter, SegmentContext
from autospike.counting.firing import FiringRates
from autospike.data.batches import Batch, Batches
from autospike.energy.operations import Operations
from autospike.evaluation.calibration import require_calibrated
from autospike.measurement import Measurement
from autospike.memory.allocator import retain_large_allocations
from autospike.models.contract import SpikingModel
from autospike.models.decoders import DecoderModel
from autospike.space.architecture import Architecture
from autospike.tasks.classification import CorrectPredictions, classified_at_every_step
from autospike.tasks.contract import MetricState
from autospike.tasks.registry import task_of


@dataclass(frozen=True, kw_only=True)
class StepwiseMeasurement:
    """Result of one pass over a labelled split, from which the measurement at every T up to the last follows.

    Attributes:
        architecture: The architecture of the model.
        metric_states: Predictions at T = 1, 2, ..., compared with the targets.
        shared: Operations at the last T, without those of a decoder.
        decoder: Operations of a decoder at T = 1, 2, ...; empty for a model without one.
        params: Number of parameters of the model.
        seconds: Wall-clock time of the pass.
    """

    architecture: Architecture
    metric_states: tuple[MetricState, ...]
    shared: Operations
    decoder: tuple[Operations, ...] = ()
    params: int
    seconds: float = field(compare=False)

    @property
    def time_steps(self) -> int:
        """The last T."""
        return len(self.metric_states)

    @property
    def correct(self) -> tuple[bytes, ...]:
        """Of a classifier, at T = 1, 2, ..., one byte for each image in order: 1 if it is classified correctly, else 0."""
        return tuple(state.mask for state in self.metric_states if isinstance(state, CorrectPredictions))

    @property
    def operations(self) -> Operations:
        """Operations at the last T."""
        parts = (self.shared, *self.decoder[-1:])
        return replace(
            self.shared,
            counts=tuple(chain.from_iterable(part.counts for part in parts)),
            free=dict(sum((Frequencies(part.free) for part in parts), Frequencies())),
            unknown=dict(sum((Frequencies(part.unknown) for part in parts), Frequencies())),
        )

    def at(self, steps: int) -> Measurement:
        """Return the measurement at T = `steps`.

        A network is causal in time: its first steps do not depend on how many follow.

        Args:
            steps: A number of time steps, from 1 to that of the model.
        """
        quality = task_of(self.architecture.decoder).quality(self.metric_states[steps - 1])
        counts = tuple(count.first(steps) for count in self.shared.counts)
        return Measurement(
            architecture=replace(self.architecture, time_steps=steps),
            correct=quality.correct,
            images=self.shared.images,
            counts=counts + (self.decoder[steps - 1].counts if self.decoder else ()),
            params=self.params,
            seconds=self.seconds,
            correct_mask=quality.correct_mask,
            score=quality.score,
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
        firing: Collects the firing rate of every neuron layer, if given; those of a decoder at the largest T.

    Returns:
        The measurement at every T up to the largest.

    Raises:
        UncalibratedError: A BatchNorm has no statistics of its own.
        UnknownOperationError: The model runs an operation that has no counting rule.
    """
    require_calibrated(model)
    started = time.perf_counter()
    steps = time_steps or model.architecture.time_steps
    measured = _Pass(model=model, steps=steps, firing=firing)
    with retain_large_allocations():
        for batch in batches(batch_size):
            measured.add(batch)
    return StepwiseMeasurement(
        architecture=model.architecture,
        metric_states=tuple(measured.metric_states[t] for t in range(1, steps + 1)),
        shared=measured.shared.operations(),
        decoder=tuple(counter.operations() for counter in measured.decoder.values()),
        params=sum(parameter.numel() for parameter in model.parameters()),
        seconds=time.perf_counter() - started,
    )


@dataclass(kw_only=True)
class _Pass:
    """Running totals of a pass over a split.

    Attributes:
        model: The model.
        steps: The largest T.
        firing: Collects firing rates, if given.
        shared: Counts the operations of a classifier, or those before a decoder.
        decoder: Counts those of the decoder, by T.
        metric_states: By T.
        images: Number of images so far.
    """

    model: SpikingModel
    steps: int
    firing: FiringRates | None
    shared: Counter = field(default_factory=Counter)
    decoder: dict[int, Counter] = field(default_factory=dict)
    metric_states: dict[int, MetricState] = field(default_factory=dict)
    images: int = 0

    def add(self, batch: Batch) -> None:
        """Run a batch."""
        if isinstance(self.model, DecoderModel):
            found = self._decode(self.model, batch)
        else:
            with self._watched(), self.shared.watch(self.model, images=len(batch.targets), time_steps=self.steps):
                logits = self.model.forward_steps(batch.images, self.steps)
            found = classified_at_every_step(logits, batch.targets, self.images)
        self.metric_states = {t: self.metric_states[t] + state if t in self.metric_states else state for t, state in found.items()}
        self.images += len(batch.targets)

    def _decode(self, model: DecoderModel, batch: Batch) -> Mapping[int, MetricState]:
        """Run the backbone once, then the decoder for each T."""
        images, outputs = len(batch.targets), {}
        with self._watched(), self.shared.watch(model, images=images, time_steps=self.steps):
            levels = model.levels(batch.images, self.steps)
        for steps in range(1, self.steps + 1):
            counter = self.decoder.setdefault(steps, Counter())
            segment = SegmentContext(name="decoder", after_neurons=True)
            watched = self._watched() if steps == self.steps else nullcontext()
            with watched, counter.watch(model.decoder, images=images, time_steps=steps, segment=segment):
                outputs[steps] = model.decoder(levels, steps, batch.images.shape[-2:])
        metric_states = task_of(model.architecture.decoder).compare(list(outputs.values()), batch.targets, self.images)
        return dict(zip(outputs, metric_states, strict=True))

    def _watched(self) -> AbstractContextManager[None]:
        return self.firing.watch(self.model) if self.firing else nullcontext()


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
