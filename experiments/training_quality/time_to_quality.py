"""`python experiments/training_quality/time_to_quality.py [SETTING] [SEEDS]`: CPU seconds of supernet training to a given quality.

Trains supernets of one setting (`digits`, `glyphs`) in several ways and for several numbers of epochs. Each training has its own
learning rate schedule. Appends a row for each to `time_to_quality.csv` next to this file, and does not repeat rows of that file.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the benchmarks import this module by its path

from comparison import SETTING as HARD_DIGITS  # noqa: E402
from comparison import sample_subnets  # noqa: E402

from autospike.config import Experiment  # noqa: E402
from autospike.evaluation.setup import population_evaluator, trie_evaluator  # noqa: E402
from autospike.execution.executor import Serial  # noqa: E402
from autospike.files import replacing  # noqa: E402
from autospike.process import prepare_process  # noqa: E402
from autospike.space.architecture import Architecture  # noqa: E402
from autospike.space.genes import Choice, Range  # noqa: E402
from autospike.space.search_space import SearchSpace  # noqa: E402
from autospike.space.visitor import GenePath, visit_genes  # noqa: E402
from autospike.supernet import Supernet  # noqa: E402
from autospike.training.checkpoint import Checkpoints  # noqa: E402
from autospike.training.setup import Setup, build_supernet, open_experiment, training_batches  # noqa: E402
from autospike.training.step import Sampling  # noqa: E402
from autospike.training.trainer import train  # noqa: E402

RESULTS = HERE / "time_to_quality.csv"
FIGURES = ("mean", "worst", "tau", "largest", "reference")
COLUMNS = ("setting", "seed", "way", "epochs", "cpu_seconds", *FIGURES, "reference_cpu_seconds")
SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of training a supernet.

    Attributes:
        epochs: The numbers of epochs that are tried, each in a training of its own.
        from_reference: Whether the parameters start from those of the trained reference network.
        changes: Changes of the experiment's training configuration.
        sample: Chooses the architectures of a step; the function that `training.sampling` names if None.
    """

    epochs: Sequence[int]
    from_reference: bool
    changes: dict[str, Any] = field(default_factory=dict)
    sample: Sampling | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """An experiment, the ways that are compared on it, and the training of its reference network.

    Attributes:
        experiment: Name of the experiment's file in `experiments/`.
        overrides: Changes of the experiment.
        reference_epochs: Epochs of the training of the reference network, which is the largest network of the space.
        learning_rate: Its learning rate.
        ways: By name. The first one is what the others are compared with.
    """

    experiment: str
    overrides: Sequence[str]
    reference_epochs: int
    learning_rate: float
    ways: dict[str, Way]


SETTINGS = {
    "digits": Setting(
        experiment="digits.yaml",
        overrides=HARD_DIGITS,
        reference_epochs=30,
        learning_rate=8e-3,
        ways={
            "random, 4e-3": Way(epochs=(6, 12, 30), from_reference=False, changes={"learning_rate": 4e-3}),
            "random, 8e-3": Way(epochs=(6, 12, 30), from_reference=False, changes={"learning_rate": 8e-3}),
            "reference, 8e-3": Way(epochs=(3, 6, 12), from_reference=True, changes={"learning_rate": 8e-3}),
        },
    ),
    "glyphs": Setting(
        experiment="glyphs.yaml",
        overrides=("data.search_share=0.5", "evaluation.calibration_images=256"),
        reference_epochs=4,
        learning_rate=8e-3,
        ways={
            "random, 4e-3": Way(epochs=(1, 2, 4), from_reference=False, changes={"learning_rate": 4e-3}),
            "reference, 8e-3": Way(epochs=(1, 2), from_reference=True, changes={"learning_rate": 8e-3}),
        },
    ),
}
# Options of `training`, on the digits at 12 epochs, with `python time_to_quality.py variants SEEDS`.
VARIANTS: dict[str, dict[str, Any]] = {
    "reference, small-first": {"sampling": "small-first"},
    "reference, anytime": {"loss": "anytime"},
    "reference, sandwich": {"sampling": "sandwich"},
    "reference, sandwich in-place": {"sampling": "sandwich", "targets": "in-place"},
    "reference, EMA 0.98": {"ema": 0.98},
}


def strictly_fair(space: SearchSpace, rng: random.Random, _progress: float) -> tuple[Architecture, ...]:
    """Sample as many architectures as the gene with the most values has, so that each value of a gene occurs equally often.

    Source: strict fairness of FairNAS (ICCV 2021). Genes with fewer values repeat them; ranges are sampled uniformly.
    """
    number = max(found.gene.size for found in space.genes(space.largest()) if isinstance(found.gene, Choice))
    orders: dict[GenePath, list[Any]] = {}

    def value(at: int, gene: Choice | Range, path: GenePath) -> Any:
        if not isinstance(gene, Choice):
            return gene.sample(rng)
        order = orders.setdefault(path, rng.sample(gene.values, len(gene.values)))
        return order[at % len(order)]

    return tuple(dict.fromkeys(visit_genes(space, partial(value, i)) for i in range(number)))


def with_common_prefix(space: SearchSpace, rng: random.Random, _progress: float) -> tuple[Architecture, ...]:
    """Sample an architecture and another one that equals it before a random block or has at least the same embedding.

    A training could compute the common prefix once. Here it is computed twice.
    """
    first, second = space.sample(rng), space.sample(rng)
    point = rng.randrange(len(first.stages[0].blocks))
    stage = replace(first.stages[0], blocks=first.stages[0].blocks[:point] + second.stages[0].blocks[point:])
    pair = first, replace(first, stages=(stage, *second.stages[1:]))
    return tuple(dict.fromkeys(pair))


SAMPLED: dict[str, tuple[int, Sampling]] = {
    "reference, strict fairness": (4, strictly_fair),
    "reference, pairs with a common prefix": (6, with_common_prefix),
    "the same, if sharing were free": (12, with_common_prefix),
}
SETTINGS["variants"] = replace(
    SETTINGS["digits"],
    ways={
        "reference, 8e-3": Way(epochs=(12,), from_reference=True, changes={"learning_rate": 8e-3}),
        **{
            name: Way(
                epochs=(3,) if changes.get("sampling") == "sandwich" else (12,),  # a sandwich step costs four single paths
                from_reference=True,
                changes={"learning_rate": 8e-3, **changes},
            )
            for name, changes in VARIANTS.items()
        },
    },
)


# Several architectures a step, with `python time_to_quality.py sampling SEEDS`.
SETTINGS["sampling"] = replace(
    SETTINGS["digits"],
    ways={
        "reference, 8e-3": Way(epochs=(12,), from_reference=True, changes={"learning_rate": 8e-3}),
        **{
            name: Way(epochs=(epochs,), from_reference=True, changes={"learning_rate": 8e-3}, sample=sample)
            for name, (epochs, sample) in SAMPLED.items()
        },
    },
)


def trained(
    setup: Setup, space: SearchSpace, changes: dict[str, Any], start: Supernet | None = None, sample: Sampling | None = None
) -> tuple[Supernet, float]:
    """Train a supernet, from the parameters of another one if it is given; see `train` for `sample`.

    Returns:
        The supernet, and the CPU seconds of its training.
    """
    config = setup.experiment.training.model_copy(update=changes)
    supernet = build_supernet(setup, space)
    if start is not None:
        supernet.copy_from(dict(start.shared.named_parameters()))
    with TemporaryDirectory() as scratch:
        checkpoints = Checkpoints(folder=Path(scratch))
        started = time.process_time()
        train(supernet, training_batches(setup), config, checkpoints, lambda _: None, seed=setup.training_seed, sample=sample)
        return supernet, time.process_time() - started


def accuracies(setup: Setup, supernet: Supernet, architectures: Sequence[Architecture]) -> list[float]:
    """Inherited accuracy of each architecture, on the search split."""
    evaluator = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))
    by_architecture = {measured.architecture: measured.accuracy for measured in evaluator(architectures)}
    return [by_architecture[architecture] for architecture in architectures]


def trainings(setup: Setup, setting: Setting, done: set[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Train and measure, for one seed, every way and number of epochs that is not `done`; yield a row for each."""
    space, draws = setup.experiment.search_space, sample_subnets(setup.experiment.search_space)
    todo = [(name, way, epochs) for name, way in setting.ways.items() for epochs in way.epochs if (name, epochs) not in done]
    if not todo:
        return
    changes = {"epochs": setting.reference_epochs, "learning_rate": setting.learning_rate}
    reference, reference_seconds = trained(setup, SearchSpace.of(space.largest()), changes)
    (reference_accuracy,) = accuracies(setup, reference, [space.largest()])
    for name, way, epochs in todo:
        start = reference if way.from_reference else None
        supernet, seconds = trained(setup, space, {**way.changes, "epochs": epochs}, start, way.sample)
        others = [architecture for architecture in draws if architecture != space.largest()]
        largest, *drawn = accuracies(setup, supernet, [space.largest(), *others])
        yield {
            "way": name,
            "epochs": epochs,
            "cpu_seconds": round(seconds, 1),
            "mean": round(mean(drawn), 4),
            "worst": round(min(drawn), 4),
            "tau": _tau(dict(zip((architecture.id for architecture in others), drawn, strict=True))),
            "largest": round(largest, 4),
            "reference": round(reference_accuracy, 4),
            "reference_cpu_seconds": round(reference_seconds, 1),
        }


def _tau(inherited: dict[str, float]) -> float:
    """Kendall's tau between inherited accuracies and those of `alone.csv`, the mean of its seeds; NaN for other spaces."""
    alone = pd.read_csv(HERE / "alone.csv", index_col="subnet").mean(axis=1)
    known = [name for name in alone.index if name in inherited]
    return round(pd.Series(inherited)[known].corr(alone[known], method="kendall"), 3) if known else math.nan


def measure(name: str, seeds: int) -> pd.DataFrame:
    """Train what the results do not contain, and return the rows of one setting."""
    setting, results = SETTINGS[name], read_results()
    opened = open_experiment(Experiment.load(HERE.parent / setting.experiment, setting.overrides))
    for seed in range(seeds):
        known = results[(results.setting == name) & (results.seed == seed)]
        done = set(zip(known.way, known.epochs, strict=True))
        setup = replace(opened, experiment=opened.experiment.model_copy(update={"seed": seed}))
        for row in trainings(setup, setting, done):
            print({"setting": name, "seed": seed, **row}, flush=True)
            results = pd.concat([results, pd.DataFrame([{"setting": name, "seed": seed, **row}])], ignore_index=True)
            with replacing(RESULTS) as temporary:
                results.to_csv(temporary, index=False)
    return results[(results.setting == name) & (results.seed < seeds)]


def read_results() -> pd.DataFrame:
    """Read the rows of all trainings so far."""
    return pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=list(COLUMNS))


def seconds_to(rows: pd.DataFrame, figure: str, level: float, *, otherwise: float = math.nan) -> float:
    """CPU seconds until a figure reaches a level, interpolated linearly between trainings of different length.

    Args:
        rows: The trainings of one way and seed.
        figure: Name of a column, for example `mean`.
        level: The value to reach.
        otherwise: The result if no training reaches the level.

    Returns:
        Seconds. The shortest training's seconds, if that one reaches the level: an upper bound.
    """
    ordered = rows.sort_values("cpu_seconds")
    reached = np.maximum.accumulate(ordered[figure].to_numpy(dtype=float))  # np.interp needs increasing values
    if reached[-1] < level:
        return otherwise
    return float(np.interp(level, reached, ordered.cpu_seconds.to_numpy(dtype=float)))


def paired_ratio(seconds: Sequence[float], peer: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean of paired ratios `seconds / peer`, with its 95 % t interval; seeds without a value are left out."""
    logs = np.log(np.asarray(seconds) / np.asarray(peer))
    logs = logs[np.isfinite(logs)]
    if len(logs) < 2:
        return (math.exp(logs[0]) if len(logs) else math.nan, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    center = float(logs.mean())
    return math.exp(center), math.exp(center - half), math.exp(center + half)


def show(rows: pd.DataFrame) -> None:
    """Print mean and sample standard deviation over the seeds of each way and number of epochs."""
    figures = ("cpu_seconds", *FIGURES)
    drawn = Table("way", "epochs", *figures)
    for (way, epochs), group in rows.groupby(["way", "epochs"], sort=False):
        drawn.add_row(str(way), str(epochs), *(f"{group[name].mean():.3f} ± {group[name].std():.3f}" for name in figures))
    Console().print(drawn)


if __name__ == "__main__":
    prepare_process()
    show(measure(sys.argv[1] if len(sys.argv) > 1 else "digits", int(sys.argv[2]) if len(sys.argv) > 2 else SEEDS))
