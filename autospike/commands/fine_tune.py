"""The last training of `autospike run`: the selected subnet, from its inherited weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autospike.console import note
from autospike.evaluation.setup import open_for_measurement, protocol_id
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.events import Callback
from autospike.run_directory import RunDirectory
from autospike.searching.selection import pick_archived
from autospike.training.retraining import fine_tuned, train_retrained
from autospike.training.setup import threads_of_torch


def fine_tune(run: RunDirectory, callbacks: Sequence[Callback] = ()) -> None:
    """Fine-tune the subnet that `export.pick` selects, and measure it on the search split.

    `export` then writes the more accurate of the two. `retrain` uses the same training as its first seed.

    Args:
        run: A searched run.
        callbacks: Receive the events of the training.

    Raises:
        UserError: Nothing was searched yet, no candidate is selected, or the folder has a training by another recipe.
        Interrupted: By a signal, after a checkpoint.
    """
    threads = torch.get_num_threads()
    setup = open_for_measurement(run)
    picks = [run.experiment.export.pick]
    (evaluation,) = pick_archived(
        run, protocol_id(setup, run.supernet), picks, lambda damage: note(f"fine-tune: {damage}"), setup.input_shape
    )
    selected = evaluation.measurement
    network = fine_tuned(run, selected.architecture, seed=0)
    network.check_recipe()
    with threads_of_torch(run.experiment.threads or threads):
        train_retrained(run, setup, network, callbacks)
    measured = measure_trained_alone(run, setup, selected.architecture, network.checkpoints)
    note(
        f"fine-tune: {selected.architecture.id} {selected.accuracy:.4f} -> {measured['search_accuracy']:.4f} on the "
        f"{selected.images} images of the search split"
    )
