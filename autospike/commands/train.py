"""`autospike train`: train the reference network, then the supernet by the same recipe. Under torchrun, on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from autospike.config import NormalisationConfig, with_normalisation
from autospike.console import note
from autospike.data import overview
from autospike.events import Callback
from autospike.run_directory import RunDirectory
from autospike.space.search_space import SearchSpace
from autospike.training.distillation import load_teacher
from autospike.training.distributed import ALONE
from autospike.training.initialisation import NetworkOfRun, SourceNetwork, initialise_from, read_network
from autospike.training.memory import check_memory, memory_of
from autospike.training.setup import Setup, build_supernet, open_run, training_batches
from autospike.training.trainer import train_network


def train(run: RunDirectory, callbacks: Sequence[Callback] = ()) -> RunDirectory:
    """Train both networks of a run from their newest checkpoints, unless they are trained.

    Args:
        run: The run.
        callbacks: Receive the events of both trainings, in addition to the progress bar and the logs.

    Returns:
        The run with its resolved experiment: a new training uses the normalisation of the network that it starts from.

    Raises:
        UserError: The data or a checkpoint cannot be read, or the batch size cannot be divided among the ranks.
        Interrupted: By a signal, after a checkpoint.
    """
    start_from = run.experiment.training.start_from
    if start_from is not None and not run.has_checkpoint:
        source = read_network(start_from, "supernet")  # raises before anything is written
    setup = open_run(run)
    if start_from is not None and not run.has_checkpoint:
        run = replace(run, experiment=with_normalisation(run.experiment, _normalisation(setup, source)))
        setup = replace(setup, experiment=run.experiment)
        if setup.ranks.first:
            _report(setup, source, start_from)
    _check(run, setup)
    with run.locked("train") if setup.ranks.first else nullcontext(), setup.ranks.joined(setup.device):
        setup.ranks.first_alone(partial(_save, run, setup))
        reference = run.experiment.baseline_architecture
        if reference is not None:
            space = SearchSpace.of(reference)
            train_network(run, setup, space, run.baseline, name="hand-made", source="baseline", callbacks=callbacks)
        initial: NetworkOfRun | None = (
            "baseline" if reference is not None and run.experiment.training.initial == "reference" else None
        )
        train_network(
            run,
            setup,
            run.experiment.search_space,
            run.supernet,
            name="supernet",
            source="supernet",
            initial=initial,
            callbacks=callbacks,
        )
    return run


def _normalisation(setup: Setup, source: SourceNetwork) -> NormalisationConfig | None:
    """The normalisation of a training that starts from a network: that of the experiment, or else that of the network.

    The first convolution is not copied to a network for another number of channels, nor is its normalisation.
    """
    configured = setup.experiment.data.normalisation
    adopted = setup.images.time_steps is None and source.channels == setup.images.channels
    return source.normalisation if configured is None and adopted else configured


def _report(setup: Setup, source: SourceNetwork, start_from: Path) -> None:
    """Print which weights of a checkpoint are used, and how pixels are normalised."""
    if source.choice is not None:
        note(f"{start_from}: {source.choice}")
    if setup.images.time_steps is not None:
        return
    used, preparation = setup.experiment.data.normalisation, setup.preparation
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preparation.mean, preparation.std))
    if used == source.normalisation:
        origin = f"as in {start_from}"
    elif used is None:
        origin = f"the default, because {start_from} reads {source.channels} channels and the images have {setup.images.channels}"
    else:
        origin = f"as data.normalisation says, not as in {start_from}"
    note(f"normalisation: mean {mean}, std {std}, {origin}")


def _check(run: RunDirectory, setup: Setup) -> None:
    """Raise what would stop the first step of a new training, before anything is written."""
    config, experiment = run.experiment.training, run.experiment
    training_batches(setup)
    if run.has_checkpoint:
        return
    check_memory(setup, memory_of(setup.device))
    if config.teacher is not None:
        size, classes = experiment.data.image_size, len(setup.images.classes)
        load_teacher(config.teacher, num_classes=classes, image_size=size, device=setup.device)
    if config.start_from is not None:
        initialise_from(build_supernet(setup, experiment.search_space), config.start_from, "supernet")
        if experiment.baseline_architecture is not None:
            reference = SearchSpace.of(experiment.baseline_architecture)
            initialise_from(build_supernet(setup, reference), config.start_from, "baseline")


def _save(run: RunDirectory, setup: Setup) -> None:
    """Print the data, and write the experiment, the list of the samples and a picture of a batch into the folder of the run."""
    run.save_data(setup.images.fingerprint)
    run.save()
    overview.record(setup.images, training_batches(replace(setup, ranks=ALONE)), run.folder / "data")
