"""The ways of training that are compared, each with as many epochs as the same CPU time allows.

A step of a sandwich runs four subnets, one of the anytime loss the largest T: they get fewer steps. Products and sums would be a
budget that no machine changes, but small subnets take more time than theirs: by that count the sandwich got a third less time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from autospike import files
from autospike.config import TrainingConfig
from autospike.training.checkpoint import Checkpoints
from autospike.training.setup import Setup, build_supernet, training_batches
from autospike.training.trainer import train

# Changes of the experiment's training configuration.
WAYS: dict[str, dict[str, Any]] = {
    "single-path": {"sampling": "single-path"},
    "small-first": {"sampling": "small-first"},
    "sandwich": {"sampling": "sandwich"},
    "sandwich, in-place": {"sampling": "sandwich", "targets": "in-place"},
    "single-path, anytime": {"sampling": "single-path", "loss": "anytime"},
    "sandwich, in-place, anytime": {"sampling": "sandwich", "targets": "in-place", "loss": "anytime"},
}
REFERENCE = "single-path"
ROUNDS = 3


def configured(setup: Setup, folder: Path) -> dict[str, TrainingConfig]:
    """The training of each way that takes as long as the experiment's does with the reference, to the nearest epoch.

    Times that the folder contains are not measured again.
    """
    path, base = folder / "seconds.json", setup.experiment.training
    if not path.exists():
        files.write_json(path, _epoch_seconds(setup))
    seconds: dict[str, float] = files.read_json(path)
    epochs = {way: max(1, round(base.epochs * seconds[REFERENCE] / seconds[way])) for way in WAYS}
    return {way: base.model_copy(update={**changes, "epochs": epochs[way]}) for way, changes in WAYS.items()}


def _epoch_seconds(setup: Setup) -> dict[str, float]:
    """CPU seconds of a training of one epoch: mean over rounds, each of which times every way with another seed."""
    rounds = [{way: _one_epoch(setup, changes, seed) for way, changes in WAYS.items()} for seed in range(ROUNDS)]
    return {way: mean(of_ways[way] for of_ways in rounds) for way in WAYS}


def _one_epoch(setup: Setup, changes: dict[str, Any], seed: int) -> float:
    experiment = setup.experiment
    training = experiment.training.model_copy(update={**changes, "epochs": 1, "warmup_epochs": 0})
    timed = replace(setup, experiment=experiment.model_copy(update={"training": training, "seed": seed}))
    supernet, batches = build_supernet(timed, experiment.search_space), training_batches(timed)
    with TemporaryDirectory() as scratch:
        started = time.process_time()
        train(supernet, batches, training, Checkpoints(folder=Path(scratch)), lambda _now: None, seed=timed.training_seed)
        return time.process_time() - started
