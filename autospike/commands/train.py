"""`autospike train`: train the supernet and the reference network by the same recipe. Under torchrun, on all ranks."""

from __future__ import annotations

from contextlib import ExitStack

from autospike.console import working
from autospike.run_directory import Run
from autospike.space.search_space import SearchSpace
from autospike.training.initialisation import read_network
from autospike.training.setup import Setup, open_run
from autospike.training.side_process import TrainingProcess, can_train_side_by_side
from autospike.training.trainer import train_network


def train(run: Run) -> None:
    """Train both networks of a run from their newest checkpoints, unless they are trained.

    Where a second core is idle and the experiment sets the number of threads, they are trained side by side, with the same results.

    Args:
        run: The run.

    Raises:
        UserError: The data or a checkpoint cannot be read, or the batch size cannot be divided among the ranks.
        Interrupted: By a signal, after a checkpoint.
    """
    setup, start_from = open_run(run), run.experiment.training.start_from
    if start_from is not None and not run.has_checkpoint:
        read_network(start_from, "supernet")  # raises before anything is written
    with setup.ranks.joined(setup.device), ExitStack() as stack:
        setup.ranks.first_alone(run.save)
        beside = stack.enter_context(TrainingProcess(train_reference, run)) if can_train_side_by_side(setup) else None
        train_network(run, setup, run.experiment.search_space, run.supernet, name="supernet", source="supernet")
        if beside is None:
            _train_reference(run, setup)
        else:
            with working("train reference network"):
                beside.finish()


def train_reference(run: Run) -> None:
    """Train the reference network of a run in this process.

    Args:
        run: The run.

    Raises:
        UserError: The data or a checkpoint cannot be read.
        Interrupted: By a signal, after a checkpoint.
    """
    _train_reference(run, open_run(run))


def _train_reference(run: Run, setup: Setup) -> None:
    architecture = run.experiment.baseline_architecture
    if architecture is not None:
        train_network(run, setup, SearchSpace.of(architecture), run.baseline, name="hand-made", source="baseline")
