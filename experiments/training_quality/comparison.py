"""The comparison: subnets trained alone, supernets of each way and seed, and the quality of each supernet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from quality import Trained, trained
from rich.console import Console
from rich.table import Table
from ways import WAYS, configured

from autospike.config import Experiment, TrainingConfig
from autospike.files import replacing
from autospike.process import prepare_process
from autospike.randomness import keyed
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.setup import Setup, open_experiment

HERE = Path(__file__).parent
# Harder than the demo: fewer images to train on, more to tell subnets apart by, and a short training.
SETTING = (
    "data.search_share=0.5",
    "data.test_share=0.1",
    "training.batch_size=32",
    "training.epochs=30",
    "training.learning_rate=4e-3",
    "evaluation.calibration_images=256",
)
EPOCHS_ALONE = 12
SEEDS, SEEDS_ALONE = range(5), range(2)
SUBNETS, SUBNETS_ALONE = 48, 16
FIGURES = ("mean_accuracy", "worst_accuracy", "kendall_tau")


def main(folder: Path) -> None:
    """Train what `folder` does not contain yet, measure, write the tables and print a summary."""
    prepare_process()
    setup = open_experiment(Experiment.load(HERE.parent / "digits.yaml", SETTING))
    subnets = sample_subnets(setup.experiment.search_space)
    study = Study(setup=setup, subnets=subnets, folder=folder)
    configs, alone, rows = configured(setup, folder), study.alone(subnets[:SUBNETS_ALONE]), []
    for seed in SEEDS:
        for way in WAYS:
            rows.append({"way": way, "seed": seed, **result_row(study.supernet(way, configs[way], seed), alone)})
            write(pd.DataFrame(rows), "results.csv")
    show(pd.DataFrame(rows))


def sample_subnets(space: SearchSpace) -> list[Architecture]:
    """Distinct subnets, sampled uniformly."""
    found = dict.fromkeys(space.sample(keyed(0, "subnets", number)) for number in range(2 * SUBNETS))
    return list(found)[:SUBNETS]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Trainings of one experiment, stored in a folder.

    Attributes:
        subnets: The subnets that are measured.
        folder: Where trainings are stored.
    """

    setup: Setup
    subnets: Sequence[Architecture]
    folder: Path

    def supernet(self, way: str, config: TrainingConfig, seed: int) -> Trained:
        """Train the supernet of one way and seed."""
        place = self.folder / way.replace(", ", "-") / str(seed)
        return trained(self.setup, config, self.setup.experiment.search_space, self.subnets, seed=seed, folder=place)

    def alone(self, subnets: Sequence[Architecture]) -> pd.Series[float]:
        """Accuracy of each subnet trained from scratch, by its id; mean over the seeds."""
        accuracy = {(subnet.id, f"seed {seed}"): self._one_alone(subnet, seed) for subnet in subnets for seed in SEEDS_ALONE}
        table = pd.Series(accuracy).unstack()
        write(table.rename_axis("subnet").reset_index(), "alone.csv")
        return table.mean(axis=1)

    def _one_alone(self, subnet: Architecture, seed: int) -> float:
        config = self.setup.experiment.training.model_copy(update={"epochs": EPOCHS_ALONE})
        place = self.folder / "alone" / f"{subnet.id}-{seed}"
        found = trained(self.setup, config, SearchSpace.of(subnet), [subnet], seed=seed, folder=place)
        return found.accuracy[subnet.id]


def result_row(found: Trained, alone: pd.Series[float]) -> dict[str, float]:
    """Return a row of `results.csv`.

    Args:
        found: A trained supernet.
        alone: Accuracy of subnets trained alone, by id.
    """
    inherited = pd.Series(found.accuracy)
    return {
        "steps": found.steps,
        "cpu_seconds": round(found.cpu_seconds, 1),
        "mean_accuracy": round(inherited.mean(), 4),
        "worst_accuracy": round(inherited.min(), 4),
        "kendall_tau": round(inherited[alone.index].corr(alone, method="kendall"), 3),
    }


def write(table: pd.DataFrame, name: str) -> None:
    """Write a table next to this file."""
    with replacing(HERE / name) as temporary:
        table.to_csv(temporary, index=False)


def show(results: pd.DataFrame) -> None:
    """Print mean and standard deviation over the seeds."""
    drawn = Table("way", "steps", "CPU s", *FIGURES)
    for way, rows in results.groupby("way", sort=False):
        spread = [f"{rows[name].mean():.3f} ± {rows[name].std():.3f}" for name in FIGURES]
        drawn.add_row(str(way), f"{rows.steps.mean():.0f}", f"{rows.cpu_seconds.mean():.0f}", *spread)
    Console().print(drawn)
