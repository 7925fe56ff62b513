"""Speed of training and search on this machine, measured in some seconds of each."""

from __future__ import annotations

import heapq
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from autospike.config import Experiment, RivalName, TrainingConfig
from autospike.config.fields import MAX_EPOCHS
from autospike.data.batches import FixedBatches, Span, TrainingBatches, spans
from autospike.evaluation.setup import calibration_split, trie_evaluator
from autospike.evaluation.trie_evaluator import CalibratedStatistics, NodeStatistics
from autospike.events import Callback, Event, StepEvent
from autospike.process import peak_memory_bytes
from autospike.randomness import keyed
from autospike.searching.by_products import by_product_candidates
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.rivals import fit_rival, rival_recipe, untrained_rival
from autospike.training.setup import Setup, build_supernet, training_batches
from autospike.training.trainer import train

# Seconds of training, after the first steps, from which the duration of a step is measured, and their largest share of a budget.
# Our choice.
MEASURED_SECONDS, FIRST_STEPS, MEASURED_SHARE = 3.0, 2, 0.004
# Changes of a training that is stopped after these seconds: its short epochs must not end it, nor write checkpoints.
ENDLESS = {"epochs": MAX_EPOCHS, "checkpoint_epochs": MAX_EPOCHS}
# Cost of a candidate in a whole generation over that among 8 candidates, which share fewer prefixes (docs/evaluation.md: 0.59).
SHARING = 0.6
SAMPLED_CANDIDATES = 8
# Duration of a training step beside that of another network on the other core, over the duration alone: they share caches and
# memory bandwidth. The largest of eight ratios of CPU times of a step (0.94 to 1.20; docs/training.md), measured on two cores of an
# AMD EPYC with other work on them. Not measured on an idle machine, nor with more than two networks.
SIDE_BY_SIDE = 1.2
# Time of measuring one network by itself, over that of a candidate in a population on as many images. Our choice, rounded up: with
# 10,000 test images, five networks took 6.4 s each by themselves, and the nine of a front 2.4 s each.
ALONE = 4.0
# Number of subnets of the front that a plan expects: the fronts of three runs of 5 minutes had 9, 10 and 16.
EXPECTED_FRONT = 10
# Seconds until a process makes its first step, nearly all for imports: 7.7 and 7.0 s of CPU time on the same machine, rounded up.
PROCESS_START_SECONDS = 8.0


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Durations that were measured on this machine.

    Attributes:
        supernet_step: Seconds of a training step of the supernet, the mean over the training.
        fine_tuning_step: Seconds of a fine-tuning step of a subnet of mean size.
        reference_step: Seconds of a training step of the reference network; 0 if there is none.
        rival_step: Seconds of a training step of each network without spikes, together; 0 if there is none.
        generation: Seconds in which a generation of the search is measured.
        scoring: Seconds of scoring a candidate of a generation on one image.
        steps_per_epoch: Training steps in an epoch.
        search_images: Number of images on which a candidate is scored.
        test_images: Number of test images.
        memory_bytes: Largest resident memory of this process.
    """

    supernet_step: float
    fine_tuning_step: float
    reference_step: float
    rival_step: float
    generation: float
    scoring: float
    steps_per_epoch: int
    search_images: int
    test_images: int
    memory_bytes: int

    @property
    def step(self) -> float:
        """Seconds of one training step of each network."""
        return self.supernet_step + self.reference_step + self.rival_step

    def seconds_of_measurements(self, finalists: int) -> float:
        """Return the expected seconds of the measurements on the test split after a fine-tuning.

        Args:
            finalists: Number of selected subnets.
        """
        return measured_networks(finalists, EXPECTED_FRONT) * self.scoring * self.test_images


def measured_networks(finalists: int, front: int) -> float:
    """Return the cost of the measurements after a fine-tuning, in candidates of a generation of the search.

    Each finalist is measured by itself, with inherited and with fine-tuned weights, and so is the reference network. The front is
    measured as a population.

    Args:
        finalists: Number of selected subnets.
        front: Number of subnets of the front.
    """
    return (2 * finalists + 1) * ALONE + front


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Trainings of finalists, of which some run at the same time.

    Attributes:
        step_s: Seconds of a step of each, alone, in the order in which they start.
        at_once: Number of trainings at the same time.
        slowdown: Duration of a step beside the other trainings, over that alone.
    """

    step_s: Sequence[float]
    at_once: int
    slowdown: float = SIDE_BY_SIDE

    @property
    def wall_s(self) -> float:
        """Seconds until each has made a step. The next one starts when another has ended, as `run_side_by_side` does."""
        ends = [0.0] * max(1, self.at_once)
        for seconds in self.step_s:
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends) * (self.slowdown if self._in_processes else 1.0)

    @property
    def start_s(self) -> float:
        """Seconds of starting the processes, of which each round has some."""
        rounds = -(-len(self.step_s) // max(1, self.at_once))
        return PROCESS_START_SECONDS * rounds if self._in_processes else 0.0

    def seconds(self, steps: int) -> float:
        """Return the seconds of all trainings, of as many steps each.

        Args:
            steps: Steps of a training.
        """
        return self.start_s + steps * self.wall_s

    def fastest(self, steps: int) -> SideBySide:
        """Return these trainings, or the same ones one after the other, whichever takes less time.

        Args:
            steps: Steps of a training.
        """
        return min(replace(self, at_once=1), self, key=lambda trainings: trainings.seconds(steps))

    def longest(self, seconds: float) -> SideBySide:
        """Return these trainings, or the same ones one after the other, whichever make more steps within a time.

        Args:
            seconds: The time.
        """
        return max(replace(self, at_once=1), self, key=lambda trainings: (seconds - trainings.start_s) / trainings.wall_s)

    def epochs_within(self, seconds: float, steps_per_epoch: int) -> int:
        """Return how many epochs fit into a time, at least one.

        Args:
            seconds: The time.
            steps_per_epoch: Training steps in an epoch.
        """
        return max(1, int((seconds - self.start_s) / (steps_per_epoch * self.wall_s)))

    @property
    def _in_processes(self) -> bool:
        return min(self.at_once, len(self.step_s)) > 1


def measured_seconds(budget_s: float) -> float:
    """Return for how many seconds the steps of a training are timed, if a run has a budget.

    Args:
        budget_s: The budget in seconds.
    """
    return min(MEASURED_SECONDS, MEASURED_SHARE * budget_s)


def measure_speed(setup: Setup, seconds: float) -> Speed:
    """Train both networks for some seconds, and measure a few candidates on two batches. The results are thrown away.

    Args:
        setup: Configuration, data and device.
        seconds: For how long the steps of each training are timed.

    Returns:
        The durations.
    """
    experiment, space = setup.experiment, setup.experiment.search_space
    reference, training = experiment.baseline_architecture, experiment.training
    supernet_step = measured_step(setup, space, training, seconds)
    fine_tuning_step = supernet_step
    if training.single_step_share:
        fine_tuning_step = measured_step(setup, space, experiment.fine_tuning, seconds)
    generation, scoring = _seconds_of_search(setup)
    return Speed(
        supernet_step=supernet_step,
        fine_tuning_step=fine_tuning_step,
        reference_step=measured_step(setup, SearchSpace.of(reference), training, seconds) if reference else 0.0,
        rival_step=sum(_measured_rival_step(setup, name, seconds) for name in _rivals(experiment)),
        generation=generation,
        scoring=scoring,
        steps_per_epoch=training_batches(setup).per_epoch,
        search_images=len(setup.images.splits["search"]),
        test_images=len(setup.images.splits["test"]),
        memory_bytes=peak_memory_bytes(),
    )


class _Enough(Exception):  # noqa: N818 - not an error
    """Enough steps were timed."""


def measured_step(setup: Setup, space: SearchSpace, training: TrainingConfig, seconds: float = MEASURED_SECONDS) -> float:
    """Train the supernet of a space for some seconds, and measure the mean duration of a step, with loading its batch.

    Args:
        setup: Configuration, data and device.
        space: The space. The parameters are thrown away.
        training: The configuration. The part of the training with T = 1 and the rest are timed separately.
        seconds: For how long each of them is timed.

    Returns:
        The duration in seconds.
    """
    supernet, batches, seed = build_supernet(setup, space), _timed_batches(setup), setup.training_seed

    def timed(single_step_share: float) -> float:
        changes = {"start_from": None, "teacher": None, "single_step_share": single_step_share, **ENDLESS}
        return _mean_step(partial(train, supernet, batches, training.model_copy(update=changes), seed=seed), seconds)

    share = training.single_step_share
    return sum(weight * timed(single) for single, weight in ((1.0, share), (0.0, 1 - share)) if weight > 0)


# A process that is busy until its parent ends.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep as many processes busy for the length of a block, in place of other trainings, which would take seconds to start.

    Args:
        count: Number of processes.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(subprocess.Popen([sys.executable, "-I", "-S", "-c", BUSY], stdin=subprocess.DEVNULL) for _ in range(count))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measured_slowdown(
    setup: Setup, space: SearchSpace, training: TrainingConfig, *, alone_s: float, at_once: int, seconds: float
) -> float:
    """Measure how much longer a step takes while other trainings run, as far as they need cores that are busy already.

    Args:
        setup: Configuration, data and device.
        space: The space of the network that is trained.
        training: The configuration of the training.
        alone_s: The duration of a step without other trainings, as `measured_step` returns it.
        at_once: Number of trainings at the same time.
        seconds: For how long steps are timed.

    Returns:
        The factor, with `SIDE_BY_SIDE` for what processes share beside the cores.
    """
    with busy_processes(at_once - 1):
        beside_s = measured_step(setup, space, training, seconds)
    return SIDE_BY_SIDE * max(1.0, beside_s / alone_s)


def _rivals(experiment: Experiment) -> tuple[RivalName, ...]:
    """The networks without spikes that a run trains."""
    return experiment.rivals.networks if experiment.task == "classification" else ()


def _measured_rival_step(setup: Setup, name: RivalName, seconds: float) -> float:
    """Train a network without spikes for some seconds, and measure the mean duration of a step, with loading its batch.

    Args:
        setup: Configuration, data and device.
        name: The network. Its parameters are thrown away.
        seconds: For how long its steps are timed.

    Returns:
        The duration in seconds.
    """
    rival, config, batches = untrained_rival(setup, name), rival_recipe(setup, name), _timed_batches(setup)
    endless = config.model_copy(update=ENDLESS)
    return _mean_step(lambda checkpoints, report: fit_rival(rival, batches, endless, checkpoints, report), seconds)


def _timed_batches(setup: Setup) -> TrainingBatches:
    """The batches of the training, of which the first steps decode all images if the training decodes each image once."""
    batches = training_batches(setup)
    if batches.images_per_epoch is not None:
        return batches  # most images of an epoch are new
    return replace(batches, split=batches.split.sample(FIRST_STEPS * batches.batch_size, keyed(setup.experiment.seed, "timed")))


def _mean_step(training: Callable[[Checkpoints, Callback], None], seconds: float) -> float:
    """Run a training until enough steps were timed, and return the mean duration of a step."""
    ends: list[float] = []

    def report(event: Event) -> None:
        if not isinstance(event, StepEvent):
            return
        ends.append(time.perf_counter())
        if len(ends) > FIRST_STEPS + 1 and ends[-1] - ends[FIRST_STEPS - 1] >= seconds:
            raise _Enough

    with TemporaryDirectory() as scratch, suppress(_Enough):
        training(Checkpoints(folder=Path(scratch)), report)
    if len(ends) <= FIRST_STEPS:  # the whole training is that short
        return (ends[-1] - ends[0]) / max(1, len(ends) - 1)
    return (ends[-1] - ends[FIRST_STEPS - 1]) / (len(ends) - FIRST_STEPS)


def _seconds_of_search(setup: Setup) -> tuple[float, float]:
    """Durations of a generation, and of scoring one of its candidates on one image.

    Both are extrapolated from a few candidates on the first two batches of each split. The first one takes longer, because the
    modules of the candidates are built.
    """
    experiment, space = setup.experiment, setup.experiment.search_space
    config = experiment.evaluation
    sampled = [space.sample(keyed(experiment.seed, "budget", i)) for i in range(SAMPLED_CANDIDATES)]
    population = tuple(dict.fromkeys(a for sample in sampled for a in by_product_candidates(space, sample)))
    evaluator = trie_evaluator(setup, build_supernet(setup, space))
    statistics: list[NodeStatistics] = []
    calibration = _timed(
        spans(len(calibration_split(setup)), config.calibration_batch_size),
        evaluator.calibration,
        lambda span: statistics.append(evaluator.calibrate(population, span)),
    )
    calibrated = CalibratedStatistics.over(statistics[:1])
    search = spans(len(setup.images.splits["search"]), config.batch_size)
    scoring = _timed(search, evaluator.search, lambda span: evaluator.score(population, calibrated, span))
    per_candidate = SHARING / SAMPLED_CANDIDATES
    generation = (calibration.whole + scoring.whole) * experiment.search.population * per_candidate
    return generation, scoring.of_an_image * per_candidate


@dataclass(frozen=True, kw_only=True)
class TimedSpans:
    """Durations on the first batches of a split, from which that on the whole split is extrapolated.

    Attributes:
        spans: All batches of the split.
        seconds: Durations on the first one or two.
    """

    spans: Sequence[Span]
    seconds: Sequence[float]

    @property
    def of_an_image(self) -> float:
        """Seconds of an image of the last timed batch."""
        start, stop = self.spans[len(self.seconds) - 1]
        return self.seconds[-1] / (stop - start)

    @property
    def whole(self) -> float:
        """Seconds of the split: of its first batch, and of the other images."""
        return self.seconds[0] + self.of_an_image * (self.spans[-1][1] - self.spans[0][1])


def _timed(parts: Sequence[Span], batches: FixedBatches, function: Callable[[Span], object]) -> TimedSpans:
    """Time a function on the first two batches of a split, whose images are decoded before."""
    seconds = []
    for span in parts[:2]:
        batches.batch(span)
        started = time.perf_counter()
        function(span)
        seconds.append(time.perf_counter() - started)
    return TimedSpans(spans=parts, seconds=seconds)
