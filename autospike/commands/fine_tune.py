"""The last training of `autospike run`: the finalists, from their inherited weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autospike.console import note
from autospike.energy.conventions import UJ_PER_MJ
from autospike.evaluation.setup import open_for_measurement, protocol_id
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.events import Callback
from autospike.run_directory import RunDirectory
from autospike.searching.selection import pick_finalists
from autospike.training.retraining import fine_tuned, train_retrained
from autospike.training.setup import threads_of_torch


def fine_tune(run: RunDirectory, callbacks: Sequence[Callback] = ()) -> None:
    """Fine-tune the finalists of a search, and measure them on the search split.

    `export` then selects among them. `retrain` uses the same training as its first seed.

    Args:
        run: A searched run.
        callbacks: Receive the events of the training.

    Raises:
        UserError: Nothing was searched yet, no candidate is selected, or the folder has a training by another recipe.
        Interrupted: By a signal, after a checkpoint.
    """
    threads = torch.get_num_threads()
    setup = open_for_measurement(run)
    protocol = protocol_id(setup, run.supernet)
    for evaluation in pick_finalists(run, protocol, lambda damage: note(f"fine-tune: {damage}"), setup.input_shape):
        candidate = evaluation.measurement
        network = fine_tuned(run, candidate.architecture, seed=0)
        network.check_recipe()
        with threads_of_torch(run.experiment.threads or threads):
            train_retrained(run, setup, network, callbacks)
        measured = measure_trained_alone(run, setup, candidate.architecture, network.checkpoints)
        note(
            f"fine-tune: {candidate.architecture.id}, T = {candidate.architecture.time_steps}: {candidate.accuracy:.4f} -> "
            f"{measured['search_accuracy']:.4f} on the {candidate.images} images of the search split, "
            f"{measured['energy_mj'] * UJ_PER_MJ:.3g} uJ"
        )
