"""Time budget of a run: plan epochs, generations and fine-tuning within the budget by the measured speed (`autospike.speed`).

The plan is fixed before the first step, because the learning-rate schedule needs the number of epochs. The later phases absorb what
the estimates are wrong by: the search ends at its share of the remaining time, and the fine-tuning takes what is left. The plan is
stored in RUN/plan.json; a resumed run reads it, and continues with the time that is left.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from autospike import files
from autospike.config import Experiment
from autospike.errors import UserError
from autospike.searching.selection import RULES
from autospike.speed import SideBySide, Speed

# With fewer epochs there is no warm-up, and with fewer generations little evolution: rather than less, a plan has fewer images in
# an epoch and in the search split, but at least this many steps in an epoch, and search images. Our choice, not compared.
LEAST_EPOCHS, LEAST_GENERATIONS, LEAST_STEPS, LEAST_SEARCH_IMAGES = 5, 3, 10, 1000
# Shares of a budget, after the fixed costs. Our choice; other shares were not compared.
TRAINING_SHARE, SEARCH_SHARE = 0.45, 0.12
# Seconds for starting the process, opening the data and drawing figures. Our choice, not measured.
FIXED_SECONDS = 12.0


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
        memory_bytes: Expected memory of this process, and of each that fine-tunes a network.
        trainings_at_once: Number of selected subnets that are fine-tuned at the same time.
        images_per_epoch: Of all trainings; None for all images.
        search_share: `data.search_share`, where it is less than that of the experiment; otherwise None.
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
    trainings_at_once: int = 1
    images_per_epoch: int | None = None
    search_share: float | None = None

    @property
    def total_s(self) -> float:
        """Seconds of the whole run."""
        return self.training_s + self.rivals_s + self.search_s + self.fine_tuning_s + self.fixed_s

    def text(self) -> str:
        """Return the plan in one line."""
        together, memory_bytes = "", self.memory_bytes
        if self.fine_tune_epochs and self.trainings_at_once > 1:
            together = f" of {self.trainings_at_once} networks at a time"
            memory_bytes *= 1 + self.trainings_at_once  # this process waits meanwhile
        fine_tuning = (
            f"fine-tuning {self.fine_tune_epochs} epochs{together} ({duration(self.fine_tuning_s)}), "
            if self.fine_tune_epochs
            else ""
        )
        rivals = f"networks without spikes ({duration(self.rivals_s)}), " if self.rival_epochs else ""
        images = "" if self.images_per_epoch is None else f" of {self.images_per_epoch:,} images"
        search = "" if self.search_share is None else f" with data.search_share={self.search_share:g}"
        return (
            f"plan: training {self.epochs} epochs{images} ({duration(self.training_s)}), {rivals}"
            f"search at most {self.generations} generations{search} ({duration(self.search_s)}), {fine_tuning}"
            f"measurement and figures ({duration(self.fixed_s)}): about {duration(self.total_s)} and "
            f"{memory_bytes / 1e9:.1f} GB of memory"
        )


def _largest_number_of_finalists(experiment: Experiment) -> int:
    """At most one candidate of each T of the space, and the cheaper ones; one, if `export.pick` is the id of a candidate."""
    if experiment.export.pick not in RULES:
        return 1
    retrain = experiment.retrain
    return min(retrain.finalists, len(experiment.searched_space.time_steps.values)) + retrain.cheaper_finalists


def _finalists(experiment: Experiment, speed: Speed, at_once: int) -> SideBySide:
    """The trainings of as many finalists as there may be, of mean size."""
    count = _largest_number_of_finalists(experiment)
    return SideBySide(step_s=[speed.fine_tuning_step] * count, at_once=min(count, at_once))


def expected(experiment: Experiment, speed: Speed, *, fine_tune: bool, at_once: int = 1) -> Plan:
    """Estimate a run as the experiment configures it.

    Args:
        experiment: The configuration.
        speed: Measured durations.
        fine_tune: Whether the selected subnet is fine-tuned.
        at_once: Largest number of finalists that are fine-tuned at the same time.

    Returns:
        The plan of the configured epochs and generations.
    """
    fine_tune_epochs = experiment.fine_tuning.epochs if fine_tune else 0
    steps = fine_tune_epochs * speed.steps_per_epoch
    trainings = _finalists(experiment, speed, at_once).fastest(steps)
    rival_epochs = (experiment.rivals.epochs or experiment.training.epochs) if speed.rival_step else 0
    return Plan(
        epochs=experiment.training.epochs,
        generations=experiment.search.generations,
        fine_tune_epochs=fine_tune_epochs,
        training_s=experiment.training.epochs * speed.steps_per_epoch * (speed.supernet_step + speed.reference_step),
        search_s=experiment.search.generations * speed.generation,
        fine_tuning_s=trainings.seconds(steps),
        fixed_s=FIXED_SECONDS + speed.seconds_of_measurements(_largest_number_of_finalists(experiment)),
        memory_bytes=speed.memory_bytes,
        rival_epochs=rival_epochs,
        rivals_s=rival_epochs * speed.steps_per_epoch * speed.rival_step,
        trainings_at_once=trainings.at_once,
    )


def within(experiment: Experiment, speed: Speed, budget_s: float, *, fine_tune: bool, at_once: int = 1) -> Plan:
    """Plan a run within a budget.

    Args:
        experiment: The configuration; its number of generations is an upper limit. All networks train for as many epochs.
        speed: Measured durations.
        budget_s: Wall-clock time in seconds.
        fine_tune: Whether the selected subnet is fine-tuned.
        at_once: Largest number of finalists that are fine-tuned at the same time.

    Returns:
        The plan, whose durations add up to at most the budget. Where less than `LEAST_EPOCHS` fit, an epoch has fewer images; where
        less than `LEAST_GENERATIONS` fit into the share of the search, the search split has fewer.

    Raises:
        UserError: The budget is too small for one epoch and one generation.
    """
    fixed_s = FIXED_SECONDS + speed.seconds_of_measurements(_largest_number_of_finalists(experiment))
    available = budget_s - fixed_s
    trainings = _finalists(experiment, speed, at_once)
    search_images = _search_images(speed, available * SEARCH_SHARE / LEAST_GENERATIONS)
    generation = speed.generation * search_images / speed.search_images
    generations = max(1, min(experiment.search.generations, int(available * SEARCH_SHARE / generation)))
    # What the search does not take is divided among the trainings.
    share = TRAINING_SHARE / (1 - SEARCH_SHARE) if fine_tune else 1.0
    epochs, steps_per_epoch = _epochs((available - generations * generation) * share, speed.step, speed.steps_per_epoch)
    epoch = steps_per_epoch * speed.step
    fine_tune_epoch = trainings.fastest(steps_per_epoch).seconds(steps_per_epoch) if fine_tune else 0.0
    if available < generation + epoch + fine_tune_epoch or epochs < 1:
        smallest = fixed_s + generation + max(epoch / share, epoch + fine_tune_epoch)
        raise UserError(
            f"--budget {duration(budget_s)}: too short for one epoch ({duration(epoch)}), one generation of the search "
            f"({duration(generation)}), fine-tuning and measurement ({duration(fixed_s)}); give at least "
            f"{duration(smallest * 1.05)}, or a smaller space"
        )
    rivals_s, search_s = epochs * steps_per_epoch * speed.rival_step, generations * generation
    rest = available - epochs * epoch - search_s
    trainings = trainings.longest(rest)
    fewer_searched = search_images < speed.search_images
    return Plan(
        epochs=epochs,
        generations=generations,
        fine_tune_epochs=trainings.epochs_within(rest, steps_per_epoch) if fine_tune else 0,
        training_s=epochs * epoch - rivals_s,
        search_s=search_s,
        fine_tuning_s=rest if fine_tune else 0.0,
        fixed_s=fixed_s,
        memory_bytes=speed.memory_bytes,
        rival_epochs=epochs if speed.rival_step else 0,
        rivals_s=rivals_s,
        trainings_at_once=trainings.at_once,
        images_per_epoch=steps_per_epoch * experiment.training.batch_size if steps_per_epoch < speed.steps_per_epoch else None,
        search_share=round(experiment.data.search_share * search_images / speed.search_images, 6) if fewer_searched else None,
    )


def _search_images(speed: Speed, generation_s: float) -> int:
    """As many search images as a generation of this duration can score, but at least `LEAST_SEARCH_IMAGES`, and at most all."""
    possible = int(speed.search_images * generation_s / speed.generation)
    return min(speed.search_images, max(LEAST_SEARCH_IMAGES, possible))


def _epochs(training_s: float, step_s: float, steps_per_epoch: int) -> tuple[int, int]:
    """Numbers of epochs, and of steps in an epoch, of trainings that together take at most this time.

    Epochs are whole if at least `LEAST_EPOCHS` of them fit, or if smaller ones would have less than `LEAST_STEPS`.
    """
    epochs, fewer_steps = int(training_s / (step_s * steps_per_epoch)), int(training_s / (step_s * LEAST_EPOCHS))
    if epochs < LEAST_EPOCHS and fewer_steps >= LEAST_STEPS:
        return LEAST_EPOCHS, fewer_steps
    return epochs, steps_per_epoch


def training_within(budget_s: float, *, step_s: float, steps_per_epoch: int, spent_s: float) -> tuple[int, int]:
    """Return how much training fits into the rest of a budget.

    Args:
        budget_s: The budget in seconds.
        step_s: Seconds of a step of all networks.
        steps_per_epoch: Steps of a whole epoch.
        spent_s: Seconds of the budget that have passed.

    Returns:
        Numbers of epochs, and of steps in an epoch: `steps_per_epoch`, or fewer where less than `LEAST_EPOCHS` fit.

    Raises:
        UserError: Not one epoch fits.
    """
    epochs, steps = _epochs(budget_s - spent_s, step_s, steps_per_epoch)
    if epochs < 1:
        epoch_s = step_s * steps_per_epoch
        raise UserError(f"--budget {duration(budget_s)}: one epoch of both trainings takes {duration(epoch_s)}; give more time")
    return epochs, steps


def training_overrides(epochs: int, images_per_epoch: int | None) -> list[str]:
    """Return the fields of an experiment that a plan of the training decides, as `NAME=VALUE`.

    Args:
        epochs: `training.epochs`.
        images_per_epoch: `training.images_per_epoch`; None for all images.
    """
    return [f"training.epochs={epochs}", *([] if images_per_epoch is None else [f"training.images_per_epoch={images_per_epoch}"])]


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
        found = training_overrides(self.plan.epochs, self.plan.images_per_epoch)
        if self.plan.search_share is not None:
            found.append(f"data.search_share={self.plan.search_share}")
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
        return max(0.0, self.left_s - (self.plan.fixed_s - FIXED_SECONDS / 2)) * share

    def choose_fine_tuning(self, trainings: SideBySide, steps_per_epoch: int, *, measurement_s: float) -> int:
        """Choose as many epochs of fine-tuning as fit into the time that is left, at least one.

        Args:
            trainings: Those of the finalists.
            steps_per_epoch: Training steps in an epoch.
            measurement_s: Seconds of the measurements that follow.

        Returns:
            How many of the trainings run at the same time.
        """
        left_s = self.left_s - FIXED_SECONDS / 2 - measurement_s
        chosen = trainings.longest(left_s)
        self.fine_tune_epochs = chosen.epochs_within(left_s, steps_per_epoch)
        return chosen.at_once

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
