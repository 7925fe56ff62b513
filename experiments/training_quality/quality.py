"""A supernet training, and the accuracy of subnets that inherit its parameters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autospike import files
from autospike.config import TrainingConfig
from autospike.evaluation.setup import population_evaluator, trie_evaluator
from autospike.execution.executor import Serial
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.setup import Setup, build_supernet, training_batches
from autospike.training.trainer import train


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training, and the accuracies of some subnets on the search split, by their ids."""

    steps: int
    cpu_seconds: float
    accuracy: dict[str, float]


def trained(
    opened: Setup, config: TrainingConfig, space: SearchSpace, subnets: Sequence[Architecture], *, seed: int, folder: Path
) -> Trained:
    """Train a supernet and measure subnets of it, unless the folder contains the result.

    The seed decides the parameters, the batches and the draws; the images of each split are those of `opened`.
    """
    path = folder / "trained.json"
    if not path.exists():
        experiment = opened.experiment.model_copy(update={"training": config, "seed": seed})
        files.write_json(path, asdict(_train(replace(opened, experiment=experiment), space, subnets, folder)))
    return Trained(**files.read_json(path))


def _train(setup: Setup, space: SearchSpace, subnets: Sequence[Architecture], folder: Path) -> Trained:
    supernet, batches, config = build_supernet(setup, space), training_batches(setup), setup.experiment.training
    started = time.process_time()
    train(supernet, batches, config, Checkpoints(folder=folder), lambda _now: None, seed=setup.training_seed)
    seconds = time.process_time() - started
    evaluator = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))
    accuracy = {measured.architecture.id: measured.accuracy for measured in evaluator(subnets)}
    return Trained(steps=config.epochs * batches.per_epoch, cpu_seconds=seconds, accuracy=accuracy)
