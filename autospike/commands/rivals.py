"""`autospike rivals`: train networks without spikes on the images of a run, for comparison with its subnets."""

from __future__ import annotations

import torch

from autospike.console import note, table
from autospike.evaluation.rivals import measure_on_search_split
from autospike.evaluation.setup import open_for_measurement
from autospike.report.comparison import RIVAL_NAMES
from autospike.report.energy import microjoules
from autospike.run_directory import RunDirectory
from autospike.training.rivals import RivalTraining, train_rival
from autospike.training.setup import threads_of_torch


def rivals(run: RunDirectory) -> None:
    """Train the rivals of a run and measure them on the search split. Finished trainings and measurements are not repeated.

    `export` measures them on the test split; `plot` draws them.

    Args:
        run: A trained run.

    Raises:
        UserError: The data cannot be opened, or a checkpoint cannot be read or written.
        Interrupted: By a signal, after a checkpoint.
    """
    names = run.experiment.rivals.networks
    if run.experiment.task != "classification":
        note(f"rivals: there are none for {run.experiment.task}, only for classification")
        return
    if not names:
        note("rivals: none are configured (rivals.networks is empty)")
        return
    threads = torch.get_num_threads()
    setup = open_for_measurement(run)
    rows = []
    with run.locked("rivals"), threads_of_torch(run.experiment.threads or threads):
        for name in names:
            training = RivalTraining.of(run, setup, name)
            train_rival(run, setup, training)
            found = measure_on_search_split(run, setup, training)
            low, high = found["search_accuracy_interval"]
            accuracy = f"{found['search_accuracy']:.4f} ({low:.3f} to {high:.3f})"
            rows.append([RIVAL_NAMES[name], accuracy, microjoules(found["energy_mj"], digits=3), f"{found['params']:,}"])
    convention = run.experiment.search.convention
    columns = ["", "search accuracy (95 % interval)", "uJ/image", "parameters"]
    table("Networks without spikes", columns, rows, f"dense multiply-accumulates under `{convention}`")
