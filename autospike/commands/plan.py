"""The plan of `autospike run`: how long the job takes, or how it is fitted into a time budget."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autospike.budget import Clock, Plan, duration, expected, training_overrides, training_within, within
from autospike.config import Experiment
from autospike.console import note, working
from autospike.errors import UserError
from autospike.evaluation.fine_tuning import trainings_at_once
from autospike.evaluation.front import searched_front
from autospike.evaluation.setup import calibration_split, open_for_measurement, protocol_id
from autospike.measurement import Measurement
from autospike.run_directory import RunDirectory
from autospike.searching.selection import pick_finalists
from autospike.space.search_space import SearchSpace
from autospike.speed import (
    SideBySide,
    Speed,
    measure_speed,
    measured_networks,
    measured_seconds,
    measured_slowdown,
    measured_step,
)
from autospike.training.retraining import fine_tuned
from autospike.training.setup import Setup, open_experiment, threads_of_torch, training_batches

# Seconds for which the steps of each training are timed without a budget: for an estimate, and to decide whether finalists train at
# the same time. Our choice.
SHORT_SECONDS = 1.0


def estimate(run: RunDirectory, *, fine_tune: bool, cores: int) -> Plan:
    """Print how long a run will take as the experiment configures it.

    Args:
        run: The run, which has not started. Nothing is written.
        fine_tune: Whether the selected subnet is fine-tuned.
        cores: Number of cores for fine-tuning several finalists at the same time, with `experiment.threads` each.

    Returns:
        The expected plan.

    Raises:
        UserError: The data cannot be opened.
    """
    speed, at_once = _measured(run, cores, SHORT_SECONDS)
    plan = expected(run.experiment, speed, fine_tune=fine_tune, at_once=at_once)
    note(plan.text())
    return plan


def fit(run: RunDirectory, budget_s: float, *, fine_tune: bool, begun: float, cores: int) -> Clock:
    """Plan a run within a budget, and print the plan.

    Args:
        run: The run, which has not started. Nothing is written.
        budget_s: Wall-clock time in seconds.
        fine_tune: Whether the selected subnet is fine-tuned.
        begun: When the budget began, by `time.monotonic`.
        cores: Number of cores for fine-tuning several finalists at the same time, with `experiment.threads` each.

    Returns:
        The clock of the run.

    Raises:
        UserError: The data cannot be opened, or the budget is too small.
    """
    speed, at_once = _measured(run, cores, measured_seconds(budget_s))
    left_s = budget_s - (time.monotonic() - begun)
    plan = within(run.experiment, speed, left_s, fine_tune=fine_tune, at_once=at_once)
    note(plan.text())
    return Clock(path=run.folder / "plan.json", budget_s=budget_s, plan=plan, started=begun)


def fit_fine_tuning(run: RunDirectory, clock: Clock, *, cores: int) -> tuple[RunDirectory, int]:
    """Choose the epochs of the fine-tuning by the time that is left, unless an earlier call has chosen them.

    Args:
        run: The searched run.
        clock: Its clock, to which the number of epochs is written.
        cores: Number of cores for fine-tuning several finalists at the same time, with `experiment.threads` each.

    Returns:
        The run with these epochs, and how many finalists `fine_tune` should train at the same time.
    """
    at_once = None
    if clock.fine_tune_epochs is None:
        threads = run.experiment.threads or torch.get_num_threads()
        setup = open_for_measurement(run)
        protocol = protocol_id(setup, run.supernet)
        finalists = [e.measurement for e in pick_finalists(run, protocol, note, setup.input_shape)]
        spaces, seconds = [SearchSpace.of(f.architecture) for f in finalists], measured_seconds(clock.budget_s)
        possible = trainings_at_once(run, setup, cores=cores, threads=threads)
        trainings = _measured_finalists(setup, spaces, at_once=possible, threads=threads, seconds=seconds)
        measurement_s = measurement_seconds(
            finalists,
            front=len(searched_front(run, protocol)),
            test_images=len(setup.images.splits["test"]),
            calibration_images=len(calibration_split(setup)),
        )
        at_once = clock.choose_fine_tuning(trainings, training_batches(setup).per_epoch, measurement_s=measurement_s)
        clock.write()
    retrain = run.experiment.retrain.model_copy(update={"fine_tune_epochs": clock.fine_tune_epochs})
    chosen = replace(run, experiment=run.experiment.model_copy(update={"retrain": retrain}))
    return chosen, finalists_at_once(chosen, cores=cores) if at_once is None else at_once


def measurement_seconds(finalists: Sequence[Measurement], *, front: int, test_images: int, calibration_images: int) -> float:
    """Estimate the seconds of the measurements after a fine-tuning, from those of the candidates in the search.

    They are on the search split and on the test split.

    Args:
        finalists: Their measurements in the search.
        front: Number of subnets of the front.
        test_images: Number of test images.
        calibration_images: Number of images on which a candidate was calibrated before it was measured.

    Returns:
        The seconds.
    """
    search_images = finalists[0].images
    of_whole_splits = (test_images + search_images) / (calibration_images + search_images)
    candidate_s = sum(finalist.seconds for finalist in finalists) / len(finalists)
    return measured_networks(len(finalists), front) * candidate_s * of_whole_splits


def finalists_at_once(run: RunDirectory, *, cores: int) -> int:
    """Return how many finalists `fine_tune` should train at the same time.

    Args:
        run: The searched run.
        cores: Number of cores for trainings at the same time, with `experiment.threads` each.

    Returns:
        1 if the trainings are so short that starting processes takes longer than it saves, or if at most one is left.
    """
    threads = run.experiment.threads or torch.get_num_threads()
    setup = open_for_measurement(run)
    at_once = trainings_at_once(run, setup, cores=cores, threads=threads)
    if at_once == 1:
        return 1
    picked = pick_finalists(run, protocol_id(setup, run.supernet), lambda _damage: None, setup.input_shape)
    waiting = [found for found in (fine_tuned(run, e.measurement.architecture, seed=0) for e in picked) if not found.is_trained]
    if len(waiting) < 2:
        return 1
    spaces = [network.space for network in waiting]
    trainings = _measured_finalists(setup, spaces, at_once=at_once, threads=threads, seconds=SHORT_SECONDS)
    return trainings.fastest(run.experiment.fine_tuning.epochs * training_batches(setup).per_epoch).at_once


def _measured_finalists(setup: Setup, spaces: Sequence[SearchSpace], *, at_once: int, threads: int, seconds: float) -> SideBySide:
    """Measure the steps of the finalists alone, and how much other trainings slow down the first, which is the slowest of most."""
    training, at_once, slowdown = setup.experiment.fine_tuning, min(at_once, len(spaces)), 1.0
    with working("measure the speed of the finalists"), threads_of_torch(threads):
        step_s = [measured_step(setup, space, training, seconds) for space in spaces]
        if at_once > 1:
            slowdown = measured_slowdown(setup, spaces[0], training, alone_s=step_s[0], at_once=at_once, seconds=seconds)
    return SideBySide(step_s=step_s, at_once=at_once, slowdown=slowdown)


def fit_training(experiment: Experiment, folder: Path, budget_s: float, *, begun: float) -> list[str]:
    """Choose the epochs of supernet and reference network by a budget, and print them.

    Args:
        experiment: The configuration.
        folder: The folder of the run.
        budget_s: Wall-clock time of both trainings in seconds.
        begun: When the budget began, by `time.monotonic`.

    Returns:
        The fields of the experiment that this decides, as `NAME=VALUE`: those of the run, if it has started.

    Raises:
        UserError: The data cannot be opened, the budget is too small for one epoch, or torchrun has started several processes.
    """
    if (folder / "experiment.yaml").exists():
        training = RunDirectory.resume(folder).experiment.training
        return training_overrides(training.epochs, training.images_per_epoch)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--budget: not under torchrun, whose ranks must train for equally many epochs; give training.epochs")
    setup, spaces = open_experiment(experiment), [experiment.search_space]
    if experiment.baseline_architecture is not None:
        spaces.append(SearchSpace.of(experiment.baseline_architecture))
    with working("measure the speed of training on this machine"):
        step_s = sum(measured_step(setup, space, experiment.training) for space in spaces)
    whole = training_batches(setup).per_epoch
    epochs, steps = training_within(budget_s, step_s=step_s, steps_per_epoch=whole, spent_s=time.monotonic() - begun)
    images = experiment.training.images_per_epoch if steps == whole else steps * experiment.training.batch_size
    note(f"plan: {epochs} epochs{'' if images is None else f' of {images:,} images'} ({duration(epochs * steps * step_s)})")
    return training_overrides(epochs, images)


def _measured(run: RunDirectory, cores: int, seconds: float) -> tuple[Speed, int]:
    """The speed, and how many finalists may be fine-tuned at the same time."""
    with working("measure the speed of training and search on this machine"):
        setup = open_experiment(run.experiment, run.datasets)
        speed = measure_speed(setup, seconds)
    return speed, trainings_at_once(run, setup, cores=cores, threads=run.experiment.threads or torch.get_num_threads())
