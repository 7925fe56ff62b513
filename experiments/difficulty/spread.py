"""The accuracies that random subnets inherit from a trained supernet, without retraining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autospike.evaluation.setup import open_for_measurement, population_evaluator, trie_evaluator
from autospike.execution.executor import Serial
from autospike.measurement import Measurement
from autospike.randomness import keyed
from autospike.run_directory import RunDirectory
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.setup import load_trained_supernet

SUBNETS = 48


def random_subnets(space: SearchSpace) -> list[Architecture]:
    """Distinct subnets, sampled uniformly."""
    found = dict.fromkeys(space.sample(keyed(0, "subnets", number)) for number in range(2 * SUBNETS))
    return list(found)[:SUBNETS]


def measure(folder: Path, subnets: Sequence[Architecture]) -> list[Measurement]:
    """Measure subnets of the trained supernet of a run on its search split."""
    run = RunDirectory.resume(folder)
    setup = open_for_measurement(run)
    supernet = load_trained_supernet(setup, run.experiment.search_space, run.supernet)
    by_architecture = {
        m.architecture: m for m in population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))(subnets)
    }
    return [by_architecture[subnet] for subnet in subnets]


def by_time_steps(measured: Sequence[Measurement]) -> dict[int, list[float]]:
    """Accuracies of the subnets with each T, sorted."""
    found: dict[int, list[float]] = {}
    for m in measured:
        found.setdefault(m.architecture.time_steps, []).append(m.accuracy)
    return {steps: sorted(values) for steps, values in sorted(found.items())}


def summary(accuracies: Sequence[float]) -> str:
    """Quantiles in one line."""
    names = ("worst", "10 %", "median", "90 %", "best")
    values = np.quantile(np.asarray(accuracies), (0, 0.1, 0.5, 0.9, 1))
    return ", ".join(f"{name} {value:.3f}" for name, value in zip(names, values, strict=True))
