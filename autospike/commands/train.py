"""`autospike train`: train the supernet, then the reference network by the same recipe. Under torchrun, on all ranks."""

from __future__ import annotations

from autospike.run_directory import Run
from autospike.space.search_space import SearchSpace
from autospike.training.initialisation import read_network
from autospike.training.setup import open_run
from autospike.training.trainer import train_network


def train(run: Run) -> None:
    """Train both networks of a run from their newest checkpoints, unless they are trained.

    Args:
        run: The run.

    Raises:
        UserError: The data or a checkpoint cannot be read, or the batch size cannot be divided among the ranks.
        Interrupted: By a signal, after a checkpoint.
    """
    start_from = run.experiment.training.start_from
    if start_from is not None and not run.has_checkpoint:
        read_network(start_from, "supernet")  # raises before anything is written
    setup = open_run(run)
    reference = SearchSpace.of(run.experiment.baseline_architecture)
    with setup.ranks.joined(setup.device):
        setup.ranks.first_alone(run.save)
        train_network(run, setup, run.experiment.search_space, run.supernet, name="supernet", source="supernet")
        train_network(run, setup, reference, run.baseline, name="hand-made", source="baseline")
