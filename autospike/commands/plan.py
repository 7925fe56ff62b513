"""The plan of `autospike run`: how long the job takes, or how it is fitted into a time budget."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from autospike.budget import Clock, Plan, duration, epochs_within, expected, within
from autospike.config import Experiment
from autospike.console import note, working
from autospike.errors import UserError
from autospike.evaluation.front import FRONT_POINTS
from autospike.evaluation.setup import open_for_measurement, protocol_id
from autospike.run_directory import RunDirectory
from autospike.searching.selection import pick_finalists
from autospike.space.search_space import SearchSpace
from autospike.speed import MEASURED_SECONDS, Speed, measure_speed, measured_seconds, measured_step
from autospike.training.setup import open_experiment, training_batches

# Time of measuring one network by itself, over that of a candidate in a population on as many images. Our choice, not measured.
ALONE = 6.0


def estimate(run: RunDirectory, *, fine_tune: bool) -> Plan:
    """Print how long a run will take as the experiment configures it.

    Args:
        run: The run, which has not started. Nothing is written.
        fine_tune: Whether the selected subnet is fine-tuned.

    Returns:
        The expected plan.

    Raises:
        UserError: The data cannot be opened.
    """
    speed = _measured(run)
    plan = expected(run.experiment, speed, fine_tune=fine_tune)
    note(plan.text())
    return plan


def fit(run: RunDirectory, budget_s: float, *, fine_tune: bool, begun: float) -> Clock:
    """Plan a run within a budget, and print the plan.

    Args:
        run: The run, which has not started. Nothing is written.
        budget_s: Wall-clock time in seconds.
        fine_tune: Whether the selected subnet is fine-tuned.
        begun: When the budget began, by `time.monotonic`.

    Returns:
        The clock of the run.

    Raises:
        UserError: The data cannot be opened, or the budget is too small.
    """
    speed = _measured(run, measured_seconds(budget_s))
    left_s = budget_s - (time.monotonic() - begun)
    plan = within(run.experiment, speed, left_s, fine_tune=fine_tune)
    note(plan.text())
    return Clock(path=run.folder / "plan.json", budget_s=budget_s, plan=plan, started=begun)


def fit_fine_tuning(run: RunDirectory, clock: Clock) -> RunDirectory:
    """Choose the epochs of the fine-tuning by the time that is left, unless an earlier call has chosen them.

    Args:
        run: The searched run.
        clock: Its clock, to which the number of epochs is written.

    Returns:
        The run with these epochs.
    """
    if clock.fine_tune_epochs is None:
        setup = open_for_measurement(run)
        finalists = [e.measurement for e in pick_finalists(run, protocol_id(setup, run.supernet), note, setup.input_shape)]
        with working("measure the speed of the finalists"):
            fine_tuning = run.experiment.fine_tuning
            seconds = measured_seconds(clock.budget_s)
            step_s = sum(measured_step(setup, SearchSpace.of(f.architecture), fine_tuning, seconds) for f in finalists)
        selected, alone = finalists[0], sum(finalist.seconds for finalist in finalists)
        images = len(setup.images.splits["test"]) + selected.images
        measurement_s = ((2 * ALONE + FRONT_POINTS) * selected.seconds + ALONE * alone) * images / selected.images
        clock.choose_fine_tuning(step_s * training_batches(setup).per_epoch, measurement_s=measurement_s)
        clock.write()
    retrain = run.experiment.retrain.model_copy(update={"fine_tune_epochs": clock.fine_tune_epochs})
    return replace(run, experiment=run.experiment.model_copy(update={"retrain": retrain}))


def fit_training(experiment: Experiment, folder: Path, budget_s: float, *, begun: float) -> int:
    """Choose the epochs of supernet and reference network by a budget, and print them.

    Args:
        experiment: The configuration.
        folder: The folder of the run.
        budget_s: Wall-clock time of both trainings in seconds.
        begun: When the budget began, by `time.monotonic`.

    Returns:
        The number of epochs: that of the run, if it has started.

    Raises:
        UserError: The data cannot be opened, the budget is too small for one epoch, or torchrun has started several processes.
    """
    if (folder / "experiment.yaml").exists():
        return RunDirectory.resume(folder).experiment.training.epochs
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--budget: not under torchrun, whose ranks must train for equally many epochs; give training.epochs")
    setup, spaces = open_experiment(experiment), [experiment.search_space]
    if experiment.baseline_architecture is not None:
        spaces.append(SearchSpace.of(experiment.baseline_architecture))
    with working("measure the speed of training on this machine"):
        epoch_s = training_batches(setup).per_epoch * sum(measured_step(setup, space, experiment.training) for space in spaces)
    epochs = epochs_within(budget_s, epoch_s=epoch_s, spent_s=time.monotonic() - begun)
    note(f"plan: {epochs} epochs ({duration(epochs * epoch_s)})")
    return epochs


def _measured(run: RunDirectory, seconds: float = MEASURED_SECONDS) -> Speed:
    with working("measure the speed of training and search on this machine"):
        return measure_speed(open_experiment(run.experiment, run.datasets), seconds)
