"""Time budget of a run: measure the speed of training and search, and plan epochs, generations and fine-tuning within the budget.

The plan is fixed before the first step, because the learning-rate schedule needs the number of epochs. The later phases absorb what
the estimates are wrong by: the search ends at its share of the remaining time, and the fine-tuning takes what is left. The plan is
stored in RUN/plan.json; a resumed run reads it, and continues with the time that is left.
"""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from autospike import files
from autospike.config import Experiment, RivalName, TrainingConfig
from autospike.data.batches import spans
from autospike.errors import UserError
from autospike.evaluation.setup import calibration_split, trie_evaluator
from autospike.evaluation.trie_evaluator import CalibratedStatistics
from autospike.events import Callback, Event, StepEvent
from autospike.randomness import keyed
from autospike.searching.by_products import by_product_candidates
from autospike.searching.selection import RULES
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.rivals import fit_rival, rival_recipe, untrained_rival
from autospike.training.setup import Setup, build_supernet, training_batches
from autospike.training.trainer import train

# Shares of a budget, after the fixed costs. Our choice; other shares were not compared.
TRAINING_SHARE, SEARCH_SHARE = 0.45, 0.12
# Seconds for starting the process, opening the data and drawing figures. Our choice, not measured.
FIXED_SECONDS = 12.0
# Seconds of training, after the first steps, from which the duration of a step is measured.
MEASURED_SECONDS, FIRST_STEPS = 3.0, 2
# Cost of a candidate in a whole generation over that among 8 candidates, which share fewer prefixes (docs/evaluation.md: 0.59).
SHARING = 0.6
SAMPLED_CANDIDATES = 8


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Durations that were measured on this machine.

    Attributes:
        supernet_step: Seconds of a training step of the supernet, the mean over the training.
        fine_tuning_step: Seconds of a fine-tuning step of a subnet of mean size.
        reference_step: Seconds of a training step of the reference network; 0 if there is none.
        rival_step: Seconds of a training step of each network without spikes, together; 0 if there is none.
        generation: Seconds in which a generation of the search is measured.
        steps_per_epoch: Training steps in an epoch.
        memory_bytes: Largest resident memory of this process.
    """

    supernet_step: float
    fine_tuning_step: float
    reference_step: float
    rival_step: float
    generation: float
    steps_per_epoch: int
    memory_bytes: int

    @property
    def epoch(self) -> float:
        """Seconds of one epoch of all networks."""
        return self.steps_per_epoch * (self.supernet_step + self.reference_step + self.rival_step)


def measure_speed(setup: Setup) -> Speed:
    """Train both networks for some seconds, and measure a few candidates on one batch. The results are thrown away.

    Args:
        setup: Configuration, data and device.

    Returns:
        The durations.
    """
    experiment, space = setup.experiment, setup.experiment.search_space
    reference, training = experiment.baseline_architecture, experiment.training
    supernet_step = measured_step(setup, space, training)
    return Speed(
        supernet_step=supernet_step,
        fine_tuning_step=measured_step(setup, space, experiment.fine_tuning) if training.single_step_share else supernet_step,
        reference_step=measured_step(setup, SearchSpace.of(reference), training) if reference else 0.0,
        rival_step=sum(_measured_rival_step(setup, name) for name in _rivals(experiment)),
        generation=_seconds_per_generation(setup),
        steps_per_epoch=training_batches(setup).per_epoch,
        memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


class _Enough(Exception):  # noqa: N818 - not an error
    """Enough steps were timed."""


def epochs_within(budget_s: float, *, epoch_s: float, spent_s: float) -> int:
    """Return how many epochs fit into the rest of a budget of training.

    Args:
        budget_s: The budget in seconds.
        epoch_s: Seconds of an epoch of all networks.
        spent_s: Seconds of the budget that have passed.

    Raises:
        UserError: Not one epoch fits.
    """
    epochs = int((budget_s - spent_s) / epoch_s)
    if epochs < 1:
        raise UserError(f"--budget {duration(budget_s)}: one epoch of both trainings takes {duration(epoch_s)}; give more time")
    return epochs


def measured_step(setup: Setup, space: SearchSpace, training: TrainingConfig) -> float:
    """Train the supernet of a space for some seconds, and measure the mean duration of a step, with loading its batch.

    Args:
        setup: Configuration, data and device.
        space: The space. The parameters are thrown away.
        training: The configuration. The part of the training with T = 1 and the rest are timed separately.

    Returns:
        The duration in seconds.
    """
    supernet, batches, seed = build_supernet(setup, space), training_batches(setup), setup.training_seed

    def timed(single_step_share: float) -> float:
        changes = {"start_from": None, "teacher": None, "single_step_share": single_step_share}
        return _mean_step(partial(train, supernet, batches, training.model_copy(update=changes), seed=seed))

    share = training.single_step_share
    return sum(weight * timed(single) for single, weight in ((1.0, share), (0.0, 1 - share)) if weight > 0)


def _rivals(experiment: Experiment) -> tuple[RivalName, ...]:
    """The networks without spikes that a run trains."""
    return experiment.rivals.networks if experiment.task == "classification" else ()


def _measured_rival_step(setup: Setup, name: RivalName) -> float:
    """Train a network without spikes for some seconds, and measure the mean duration of a step, with loading its batch.

    Args:
        setup: Configuration, data and device.
        name: The network. Its parameters are thrown away.

    Returns:
        The duration in seconds.
    """
    rival, config, batches = untrained_rival(setup, name), rival_recipe(setup, name), training_batches(setup)
    return _mean_step(lambda checkpoints, report: fit_rival(rival, batches, config, checkpoints, report))


def _mean_step(training: Callable[[Checkpoints, Callback], None]) -> float:
    """Run a training until enough steps were timed, and return the mean duration of a step."""
    ends: list[float] = []

    def report(event: Event) -> None:
        if not isinstance(event, StepEvent):
            return
        ends.append(time.perf_counter())
        if len(ends) > FIRST_STEPS + 1 and ends[-1] - ends[FIRST_STEPS - 1] >= MEASURED_SECONDS:
            raise _Enough

    with TemporaryDirectory() as scratch, suppress(_Enough):
        training(Checkpoints(folder=Path(scratch)), report)
    if len(ends) <= FIRST_STEPS:  # the whole training is that short
        return (ends[-1] - ends[0]) / max(1, len(ends) - 1)
    return (ends[-1] - ends[FIRST_STEPS - 1]) / (len(ends) - FIRST_STEPS)


def _seconds_per_generation(setup: Setup) -> float:
    """Duration of a generation, extrapolated from a few candidates on one calibration batch and one batch of the search split."""
    experiment, space = setup.experiment, setup.experiment.search_space
    config = experiment.evaluation
    sampled = [space.sample(keyed(experiment.seed, "budget", i)) for i in range(SAMPLED_CANDIDATES)]
    population = tuple(dict.fromkeys(a for sample in sampled for a in by_product_candidates(space, sample)))
    evaluator = trie_evaluator(setup, build_supernet(setup, space))
    calibration = spans(len(calibration_split(setup)), config.calibration_batch_size)
    search = spans(len(setup.images.splits["search"]), config.batch_size)
    started = time.perf_counter()
    statistics = evaluator.calibrate(population, calibration[0])
    calibrated = time.perf_counter()
    evaluator.score(population, CalibratedStatistics.over([statistics]), search[0])
    scored = time.perf_counter()
    together = (calibrated - started) * len(calibration) + (scored - calibrated) * len(search)
    return together * experiment.search.population / SAMPLED_CANDIDATES * SHARING


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does, and how long it is expected to take.

    Attributes:
        epochs: Of the supernet, and of the reference network.
        rival_epochs: Of the networks without spikes; 0 without them.
        generations: Of the search.
        fine_tune_epochs: Of the selected subnet; 0 without fine-tuning.
        training_s: Seconds of the trainings of supernet and reference network.
        rivals_s: Seconds of the trainings of networks without spikes.
        search_s: Seconds of the search.
        fine_tuning_s: Seconds of the fine-tuning.
        fixed_s: Seconds of everything else.
        memory_bytes: Expected memory of the process.
    """

    epochs: int
    generations: int
    fine_tune_epochs: int
    training_s: float
    search_s: float
    fine_tuning_s: float
    fixed_s: float
    memory_bytes: int
    rival_epochs: int = 0
    rivals_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Seconds of the whole run."""
        return self.training_s + self.rivals_s + self.search_s + self.fine_tuning_s + self.fixed_s

    def text(self) -> str:
        """Return the plan in one line."""
        fine_tuning = (
            f"fine-tuning {self.fine_tune_epochs} epochs ({duration(self.fine_tuning_s)}), " if self.fine_tune_epochs else ""
        )
        rivals = f"networks without spikes ({duration(self.rivals_s)}), " if self.rival_epochs else ""
        return (
            f"plan: training {self.epochs} epochs ({duration(self.training_s)}), {rivals}"
            f"search at most {self.generations} generations ({duration(self.search_s)}), {fine_tuning}"
            f"measurement and figures ({duration(self.fixed_s)}): about {duration(self.total_s)} and "
            f"{self.memory_bytes / 1e9:.1f} GB of memory"
        )


def _largest_number_of_finalists(experiment: Experiment) -> int:
    """Of each T of the space at most one candidate is fine-tuned. One, if `export.pick` is the id of a candidate."""
    choices = len(experiment.searched_space.time_steps.values) if experiment.export.pick in RULES else 1
    return min(experiment.retrain.finalists, choices)


def expected(experiment: Experiment, speed: Speed, *, fine_tune: bool) -> Plan:
    """Estimate a run as the experiment configures it.

    Args:
        experiment: The configuration.
        speed: Measured durations.
        fine_tune: Whether the selected subnet is fine-tuned.

    Returns:
        The plan of the configured epochs and generations.
    """
    fine_tune_epochs = experiment.fine_tuning.epochs if fine_tune else 0
    fine_tuning_epochs = _largest_number_of_finalists(experiment) * fine_tune_epochs
    rival_epochs = (experiment.rivals.epochs or experiment.training.epochs) if speed.rival_step else 0
    return Plan(
        epochs=experiment.training.epochs,
        generations=experiment.search.generations,
        fine_tune_epochs=fine_tune_epochs,
        training_s=experiment.training.epochs * speed.steps_per_epoch * (speed.supernet_step + speed.reference_step),
        search_s=experiment.search.generations * speed.generation,
        fine_tuning_s=fine_tuning_epochs * speed.steps_per_epoch * speed.fine_tuning_step,
        fixed_s=FIXED_SECONDS,
        memory_bytes=speed.memory_bytes,
        rival_epochs=rival_epochs,
        rivals_s=rival_epochs * speed.steps_per_epoch * speed.rival_step,
    )


def within(experiment: Experiment, speed: Speed, budget_s: float, *, fine_tune: bool) -> Plan:
    """Plan a run within a budget.

    Args:
        experiment: The configuration; its number of generations is an upper limit. All networks train for as many epochs.
        speed: Measured durations.
        budget_s: Wall-clock time in seconds.
        fine_tune: Whether the selected subnet is fine-tuned.

    Returns:
        The plan, whose durations add up to at most the budget.

    Raises:
        UserError: The budget is too small for one epoch and one generation.
    """
    available, epoch = budget_s - FIXED_SECONDS, speed.epoch
    fine_tune_epoch = (
        speed.steps_per_epoch * speed.fine_tuning_step * _largest_number_of_finalists(experiment) if fine_tune else 0.0
    )
    generations = max(1, min(experiment.search.generations, int(available * SEARCH_SHARE / speed.generation)))
    # What the search does not take is divided among the trainings.
    share = TRAINING_SHARE / (1 - SEARCH_SHARE) if fine_tune else 1.0
    epochs = int((available - generations * speed.generation) * share / epoch)
    if available < speed.generation + epoch + fine_tune_epoch or epochs < 1:
        smallest = FIXED_SECONDS + speed.generation + max(epoch / share, epoch + fine_tune_epoch)
        raise UserError(
            f"--budget {duration(budget_s)}: too short for one epoch ({duration(epoch)}), one generation of the search "
            f"({duration(speed.generation)}) and fine-tuning; give at least {duration(smallest * 1.05)}, or a smaller space"
        )
    rivals_s, search_s = epochs * speed.steps_per_epoch * speed.rival_step, generations * speed.generation
    rest = available - epochs * epoch - search_s
    return Plan(
        epochs=epochs,
        generations=generations,
        fine_tune_epochs=max(1, int(rest / fine_tune_epoch)) if fine_tune else 0,
        training_s=epochs * epoch - rivals_s,
        search_s=search_s,
        fine_tuning_s=rest if fine_tune else 0.0,
        fixed_s=FIXED_SECONDS,
        memory_bytes=speed.memory_bytes,
        rival_epochs=epochs if speed.rival_step else 0,
        rivals_s=rivals_s,
    )


@dataclass(kw_only=True)
class Clock:
    """The time that a planned run has spent, over all of its calls.

    Attributes:
        path: RUN/plan.json.
        budget_s: The budget in seconds.
        plan: The plan.
        spent_before_s: Seconds of earlier calls.
        finished_generations: Of a finished search, otherwise None.
        fine_tune_epochs: Epochs of the fine-tuning, None until they are chosen.
        started: When this call began, by `time.monotonic`.
    """

    path: Path
    budget_s: float
    plan: Plan
    spent_before_s: float = 0.0
    finished_generations: int | None = None
    fine_tune_epochs: int | None = None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def read(cls, run_folder: Path, budget_s: float | None = None) -> Clock | None:
        """Read the plan of a run.

        Args:
            run_folder: The folder of the run.
            budget_s: The budget that the user gives, which must be that of the plan.

        Returns:
            The clock, or None if the run has no plan.

        Raises:
            UserError: The plan cannot be read, or has another budget.
        """
        path = run_folder / "plan.json"
        if not path.exists():
            return None
        found = files.read_json(path)
        try:
            clock = cls(
                path=path,
                budget_s=float(found["budget_s"]),
                plan=Plan(**found["plan"]),
                spent_before_s=float(found["spent_s"]),
                finished_generations=found["finished_generations"],
                fine_tune_epochs=found["fine_tune_epochs"],
            )
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: not the plan of a run; delete it to continue without a budget") from None
        if budget_s is not None and budget_s != clock.budget_s:
            raise UserError(
                f"--budget {duration(budget_s)}: this run was planned for {duration(clock.budget_s)}; leave --budget out, or use "
                "another folder"
            )
        return clock

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.budget_s - self.spent_before_s - (time.monotonic() - self.started)

    def overrides(self) -> list[str]:
        """Return the fields of the experiment that the plan has decided, as `NAME=VALUE`."""
        found = [f"training.epochs={self.plan.epochs}"]
        if self.plan.rival_epochs:
            found.append(f"rivals.epochs={self.plan.rival_epochs}")
        if self.fine_tune_epochs is not None:
            found.append(f"retrain.fine_tune_epochs={self.fine_tune_epochs}")
        if self.finished_generations is not None:
            found.append(f"search.generations={self.finished_generations}")
        return found

    def search_timeout_s(self) -> float:
        """Return the seconds of the search: its planned share of the time that the training has left."""
        share = self.plan.search_s / (self.plan.search_s + self.plan.fine_tuning_s)
        return max(0.0, self.left_s - FIXED_SECONDS / 2) * share

    def choose_fine_tuning(self, epoch_s: float, *, measurement_s: float) -> None:
        """Choose as many epochs of fine-tuning as fit into the time that is left, at least one.

        Args:
            epoch_s: Seconds of an epoch.
            measurement_s: Seconds of the measurements that follow.
        """
        self.fine_tune_epochs = max(1, int((self.left_s - FIXED_SECONDS / 2 - measurement_s) / epoch_s))

    def write(self) -> None:
        """Write `plan.json`."""
        values = {
            "budget_s": self.budget_s,
            "spent_s": round(self.budget_s - self.left_s, 1),
            "finished_generations": self.finished_generations,
            "fine_tune_epochs": self.fine_tune_epochs,
            "plan": asdict(self.plan),
        }
        files.write_json(self.path, values)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Context manager that writes `plan.json` when the block begins, and with the spent time when it ends."""
        self.write()
        try:
            yield
        finally:
            self.write()


def duration(seconds: float) -> str:
    """Format a duration: 45 s, 12 min, 3.5 h.

    Args:
        seconds: The duration in seconds.

    Returns:
        The duration in seconds, minutes or hours with its unit.
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def parse_duration(text: str, *, option: str = "--budget") -> float:
    """Parse a duration such as 90s, 30m, 1.5h or 1h30m.

    Args:
        text: Numbers, each with the unit s, m or h.
        option: The option of the command line, for the error message.

    Returns:
        Seconds.

    Raises:
        UserError: The text is not a duration of more than 0 seconds.
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    seconds = sum(float(value) * unit for value, unit in zip(parts.groups(), (3600, 60, 1), strict=True) if value) if parts else 0
    if not 0 < seconds < 1e8:
        raise UserError(f"{option} {text[:40]}: not a duration; give for example 90s, 30m or 1h30m")
    return seconds
