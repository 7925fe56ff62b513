"""Early exit of a classifier on a labelled split: estimates for any margin from one pass, and the measurement at one margin.

The estimate of the energy takes the mean operations of each step for every image that still runs. The measurement runs each image
for its own number of steps and counts exactly what it runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from autospike.counting.counter import Counter
from autospike.data.batches import Batch, Batches
from autospike.energy.conventions import Convention, energy, with_int8_costs
from autospike.energy.counts import LayerCount
from autospike.energy.operations import Operations
from autospike.errors import UserError
from autospike.evaluation.calibration import require_calibrated
from autospike.memory.allocator import retain_large_allocations
from autospike.models.contract import SpikingModel
from autospike.models.early_exit import confidence_margins, exited, running_means
from autospike.statistics import pack_mask, wilson_interval

MARGINS = tuple(i / 20 for i in range(21))
"""The margins of a curve."""


@dataclass(frozen=True, kw_only=True)
class StepPredictions:
    """What a pass over a split gives at every T.

    Attributes:
        margins: Confidence margins `[T, N]`.
        correct: Whether the prediction is right, `[T, N]`.
        counts: Operations of the pass, means over the images.
    """

    margins: NDArray[np.float64]
    correct: NDArray[np.bool_]
    counts: tuple[LayerCount, ...]

    def steps(self, margin: float) -> NDArray[np.int64]:
        """Return the number of steps of each image, `[N]`; see `autospike.models.early_exit.exit_steps`.

        Args:
            margin: The exit margin, between 0 and 1.
        """
        passed = self.margins > margin
        passed[-1] = True
        return passed.argmax(axis=0) + 1

    def correct_at(self, margin: float) -> NDArray[np.bool_]:
        """Return whether the prediction of each image at its exit is right, `[N]`.

        Args:
            margin: The exit margin, between 0 and 1.
        """
        return self.correct[self.steps(margin) - 1, np.arange(self.correct.shape[1])]

    def curve(self, convention: Convention, margins: Sequence[float] = MARGINS) -> pd.DataFrame:
        """Return accuracy, mean T and energy against the margin.

        Args:
            convention: The energy convention.
            margins: The margins.

        Returns:
            One row for each margin: `margin`, `accuracy` with the ends of its 95 % Wilson interval, `images`, `mean_time_steps`,
            and `energy_mj_estimate`: the sum over the steps of (share of images that still run) times (mean energy of the step).
        """
        images = self.correct.shape[1]
        up_to = [energy([c.first(t) for c in self.counts], convention).energy_mj for t in range(1, len(self.correct) + 1)]
        of_step = np.diff([0.0, *up_to])
        rows = []
        for margin in margins:
            steps, correct = self.steps(margin), int(self.correct_at(margin).sum())
            running = np.array([(steps > t).mean() for t in range(len(of_step))])
            low, high = wilson_interval(correct, images)
            row = {"margin": margin, "accuracy": correct / images, "accuracy_low": low, "accuracy_high": high, "images": images}
            rows.append({**row, "mean_time_steps": float(steps.mean()), "energy_mj_estimate": float(running @ of_step)})
        return pd.DataFrame(rows)


@torch.no_grad()
def predict_steps(model: SpikingModel, batches: Batches, *, batch_size: int) -> StepPredictions:
    """Run a labelled split through a classifier once, at its largest T.

    Args:
        model: The classifier, calibrated and in eval mode.
        batches: The labelled split.
        batch_size: Images in a forward pass; does not change the result.

    Returns:
        Margins and predictions at every T, and the operations.

    Raises:
        UserError: The model is no classifier.
    """
    _check(model)
    steps, counter = model.architecture.time_steps, Counter()
    margins, correct = [], []
    with retain_large_allocations():
        for batch in batches(batch_size):
            with counter.watch(model, images=len(batch.targets), time_steps=steps):
                logits = model.forward_steps(batch.images, steps)
            outputs = running_means(logits)
            margins.append(confidence_margins(outputs).double().cpu().numpy())
            correct.append((outputs.argmax(dim=-1) == batch.targets).cpu().numpy())
    return StepPredictions(
        margins=np.concatenate(margins, axis=1), correct=np.concatenate(correct, axis=1), counts=counter.operations().counts
    )


@dataclass(frozen=True, kw_only=True)
class ExitMeasurement:
    """Result of running each image of a split for its own number of steps.

    Attributes:
        margin: The margin.
        correct: One byte for each image: 1 if it is classified correctly, else 0.
        images_by_steps: Number of images that exit after 1, 2, ... steps.
        operations: Operations of the images that exit after a number of steps, by that number.
    """

    margin: float
    correct: bytes
    images_by_steps: tuple[int, ...]
    operations: dict[int, Operations]

    @property
    def accuracy(self) -> float:
        """Share of the images that are classified correctly."""
        return self.correct.count(1) / len(self.correct)

    @property
    def mean_time_steps(self) -> float:
        """Mean number of steps."""
        return sum(t * n for t, n in enumerate(self.images_by_steps, 1)) / len(self.correct)

    def energy_mj(self, convention: Convention) -> float:
        """Return the energy of one image in mJ, the mean over the images.

        Args:
            convention: The energy convention.
        """
        total = sum(of.images * energy(of.counts, convention).energy_mj for of in self.operations.values())
        return total / len(self.correct)

    def to_json(self, convention: Convention) -> dict[str, object]:
        """Return the measurement for JSON.

        Args:
            convention: The energy convention.
        """
        int8 = with_int8_costs(convention)
        return {
            "exit_margin": self.margin,
            "accuracy": self.accuracy,
            "accuracy_interval": list(wilson_interval(self.correct.count(1), len(self.correct))),
            "images": len(self.correct),
            "correct_mask": pack_mask(self.correct).hex(),
            "images_by_time_steps": list(self.images_by_steps),
            "mean_time_steps": self.mean_time_steps,
            "energy_mj": self.energy_mj(convention),
            "energy_mj_int8": int8 and self.energy_mj(int8),
            "convention": convention.name,
        }


@torch.no_grad()
def measure_exits(model: SpikingModel, batches: Batches, *, margin: float, batch_size: int) -> ExitMeasurement:
    """Run each image of a labelled split for its own number of steps, and count what it runs.

    The images of a batch that exit at the same step run together, with T set to that step. The exits come from a pass before it,
    which is not counted: a network is causal in time, so a device that runs step by step knows them when they happen.

    Args:
        model: The classifier, calibrated and in eval mode.
        batches: The labelled split.
        margin: The margin; see `autospike.models.early_exit.exit_steps`.
        batch_size: Images in a forward pass; does not change the result.

    Returns:
        The measurement.

    Raises:
        UserError: The model is no classifier.
    """
    _check(model)
    longest = model.architecture.time_steps
    counters: dict[int, Counter] = {}
    correct = bytearray()
    with retain_large_allocations():
        for batch in batches(batch_size):
            _, steps = exited(model.forward_steps(batch.images, longest), margin)
            right = torch.zeros(len(steps), dtype=torch.bool, device=steps.device)
            for t in steps.unique().tolist():
                chosen = (steps == t).nonzero().flatten()
                images = _images_of(batch, chosen)
                with counters.setdefault(t, Counter()).watch(model, images=len(chosen), time_steps=t):
                    logits = model.forward_steps(images, t)
                right[chosen] = logits.mean(dim=0).argmax(dim=1) == batch.targets[chosen]
            correct += right.cpu().numpy().tobytes()
    return ExitMeasurement(
        margin=margin,
        correct=bytes(correct),
        images_by_steps=tuple(counters[t].images if t in counters else 0 for t in range(1, longest + 1)),
        operations={t: counters[t].operations() for t in sorted(counters)},
    )


@dataclass(frozen=True, kw_only=True)
class PassTimes:
    """Measured duration of a forward pass of one batch.

    Attributes:
        images: Number of images.
        all_steps_ms: Median duration of a pass over all steps, in ms.
        early_exit_ms: The same of a pass that stops at the exits.
    """

    images: int
    all_steps_ms: float
    early_exit_ms: float


@torch.no_grad()
def time_passes(model: SpikingModel, batches: Batches, *, margin: float, batch_size: int, rounds: int = 7) -> PassTimes:
    """Measure the duration of a forward pass of the first batch, over all steps and with early exit.

    Args:
        model: The classifier, calibrated and in eval mode.
        batches: Labelled images.
        margin: The margin.
        batch_size: Images in the batch.
        rounds: Number of passes of each kind, in turn, after one that is not counted.

    Returns:
        The median durations in ms.
    """
    images, before = next(iter(batches(batch_size))).images, model.exit_margin
    seconds: dict[bool, list[float]] = {False: [], True: []}
    model.exit_margin = margin
    try:
        for early_exit in (False, True) * (rounds + 1):
            started = time.perf_counter()
            model(images, early_exit=early_exit).sum().item()  # waits for a GPU
            seconds[early_exit].append(time.perf_counter() - started)
    finally:
        model.exit_margin = before
    whole, early = (1000 * median(seconds[early_exit][1:]) for early_exit in (False, True))
    return PassTimes(images=images.shape[-4], all_steps_ms=whole, early_exit_ms=early)


def _images_of(batch: Batch, chosen: torch.Tensor) -> torch.Tensor:
    """Some images `[B, C, H, W]` of a batch, or frames `[T, B, C, H, W]`."""
    return batch.images[chosen] if batch.images.dim() == 4 else batch.images[:, chosen]


def _check(model: SpikingModel) -> None:
    if model.architecture.decoder is not None:
        raise UserError("early exit: for classifiers only; this model predicts a class for each pixel")
    require_calibrated(model)
