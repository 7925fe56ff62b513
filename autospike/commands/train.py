"""`autospike train`: train the supernet, then the reference network by the same recipe. Under torchrun, on all ranks."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from autospike.run_directory import Run
from autospike.space.search_space import SearchSpace
from autospike.training.distillation import load_teacher
from autospike.training.initialisation import initialise_from
from autospike.training.setup import Setup, build_supernet, open_run, training_batches
from autospike.training.trainer import train_network


def train(run: Run) -> None:
    """Train both networks of a run from their newest checkpoints, unless they are trained.

    Args:
        run: The run.

    Raises:
        UserError: The data or a checkpoint cannot be read, or the batch size cannot be divided among the ranks.
        Interrupted: By a signal, after a checkpoint.
    """
    setup = open_run(run)
    _check(run, setup)
    reference = SearchSpace.of(run.experiment.baseline_architecture)
    with run.locked("train") if setup.ranks.first else nullcontext(), setup.ranks.joined(setup.device):
        setup.ranks.first_alone(partial(_save, run, setup))
        train_network(run, setup, run.experiment.search_space, run.supernet, name="supernet", source="supernet")
        train_network(run, setup, reference, run.baseline, name="hand-made", source="baseline")


def _check(run: Run, setup: Setup) -> None:
    """Raise what would stop the first step of a new training, before anything is written."""
    config, experiment = run.experiment.training, run.experiment
    training_batches(setup)
    if run.has_checkpoint:
        return
    if config.teacher is not None:
        size, classes = experiment.data.image_size, len(setup.images.classes)
        load_teacher(config.teacher, num_classes=classes, image_size=size, device=setup.device)
    if config.start_from is not None:
        initialise_from(build_supernet(setup, experiment.search_space), config.start_from, "supernet")
        initialise_from(build_supernet(setup, SearchSpace.of(experiment.baseline_architecture)), config.start_from, "baseline")


def _save(run: Run, setup: Setup) -> None:
    run.save_data(setup.images.fingerprint)
    run.save()
