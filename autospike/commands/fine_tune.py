"""The last training of `autospike run`: the finalists, from their inherited weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autospike.console import note
from autospike.energy.conventions import UJ_PER_MJ
from autospike.evaluation.fine_tuning import fine_tune_side_by_side, trainings_at_once
from autospike.evaluation.setup import open_for_measurement, protocol_id
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.events import Callback
from autospike.run_directory import RunDirectory
from autospike.searching.selection import pick_finalists
from autospike.training.retraining import fine_tuned, train_retrained
from autospike.training.setup import threads_of_torch


def fine_tune(run: RunDirectory, callbacks: Sequence[Callback] = (), *, at_once: int = 1) -> None:
    """Fine-tune the finalists of a search, and measure them on the search split.

    `export` then selects among them. `retrain` uses the same training as its first seed.

    Args:
        run: A searched run.
        callbacks: Receive the events of the training.
        at_once: Number of trainings at the same time, where cores and memory allow it; the results do not depend on it. More than
            one run in processes of their own, which import the main module of this one again: a script must expect that (see
            `multiprocessing`). One, and those on a GPU, run in this process.

    Raises:
        UserError: Nothing was searched yet, no candidate is selected, the folder has a training by another recipe, or the process
            of a training was killed.
        Interrupted: By a signal, after a checkpoint.
    """
    threads = run.experiment.threads or torch.get_num_threads()
    setup = open_for_measurement(run)
    protocol = protocol_id(setup, run.supernet)
    picked = pick_finalists(run, protocol, lambda damage: note(f"fine-tune: {damage}"), setup.input_shape)
    finalists = [(evaluation.measurement, fine_tuned(run, evaluation.measurement.architecture, seed=0)) for evaluation in picked]
    for _, network in finalists:
        network.check_recipe()
    waiting = [network.architecture for _, network in finalists if not network.is_trained]
    at_once = min(len(waiting), trainings_at_once(run, setup, cores=at_once * threads, threads=threads))
    if at_once > 1:
        fine_tune_side_by_side(run, waiting, at_once=at_once, threads=threads, callbacks=callbacks)
    for candidate, network in finalists:
        if at_once <= 1 or network.architecture not in waiting:
            with threads_of_torch(threads):
                train_retrained(run, setup, network, callbacks)
        measured = measure_trained_alone(run, setup, candidate.architecture, network.checkpoints)
        note(
            f"fine-tune: {candidate.architecture.id}, T = {candidate.architecture.time_steps}: {candidate.accuracy:.4f} -> "
            f"{measured['search_accuracy']:.4f} on the {candidate.images} images of the search split, "
            f"{measured['energy_mj'] * UJ_PER_MJ:.3g} uJ"
        )
