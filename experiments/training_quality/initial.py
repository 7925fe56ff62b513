"""`python experiments/training_quality/initial.py [SEEDS]`: a supernet that starts from the trained reference network.

Prints, for each seed, the quality of a supernet with random initial weights after 30 epochs, and of one that starts from the
reference network after 12 epochs, in the setting of this folder's README.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from comparison import HERE, SETTING, sample_subnets

from autospike.config import Experiment
from autospike.evaluation.setup import population_evaluator, trie_evaluator
from autospike.execution.executor import Serial
from autospike.process import prepare_process
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.setup import Setup, build_supernet, open_experiment, training_batches
from autospike.training.trainer import train

EPOCHS, EPOCHS_FROM_REFERENCE = 30, 12
LEARNING_RATES = (4e-3, 8e-3)


def trained(setup: Setup, space: SearchSpace, *, epochs: int, learning_rate: float, start: Supernet | None = None) -> Supernet:
    """Train a supernet, from the parameters of another one if it is given, and return it."""
    config = setup.experiment.training.model_copy(update={"epochs": epochs, "learning_rate": learning_rate})
    supernet = build_supernet(setup, space)
    if start is not None:
        supernet.copy_from(dict(start.shared.named_parameters()))
    with TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(folder=Path(scratch))
        train(supernet, training_batches(setup), config, checkpoints, lambda _: None, seed=setup.training_seed)
    return supernet


def quality(setup: Setup, supernet: Supernet) -> dict[str, float]:
    """Inherited accuracy of 48 fixed draws and of the largest subnet."""
    space = setup.experiment.search_space
    largest = space.largest()
    evaluator = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))
    accuracy = {measured.architecture: measured.accuracy for measured in evaluator([*sample_subnets(space), largest])}
    draws = pd.Series({a.id: value for a, value in accuracy.items() if a != largest})
    found = {"mean": draws.mean(), "worst": draws.min(), "largest": accuracy[largest]}
    return {name: round(float(value), 4) for name, value in found.items()}


def main(seeds: int) -> None:
    """Train and print a row for each seed, learning rate and kind of initial weights."""
    prepare_process()
    opened = open_experiment(Experiment.load(HERE.parent / "digits.yaml", SETTING))
    space = opened.experiment.search_space
    for seed in range(seeds):
        setup = replace(opened, experiment=opened.experiment.model_copy(update={"seed": seed}))
        for rate in LEARNING_RATES:
            reference = trained(setup, SearchSpace.of(space.largest()), epochs=EPOCHS, learning_rate=rate)
            for initial, epochs, start in (("random", EPOCHS, None), ("reference", EPOCHS_FROM_REFERENCE, reference)):
                started = time.process_time()
                supernet = trained(setup, space, epochs=epochs, learning_rate=rate, start=start)
                seconds = time.process_time() - started
                row = {"seed": seed, "learning_rate": rate, "initial": initial, "epochs": epochs, **quality(setup, supernet)}
                print({**row, "cpu_seconds": round(seconds, 1)}, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
