"""Results of `autospike retrain`: mean and standard deviation over seeds, for each architecture and way of training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from autospike.statistics import Interval

WAY_LABELS = {
    "inherited": "inherited",
    "fine-tuned": "fine-tuned",
    "scratch": "from scratch",
    "hand-made": "reference",
}
"""Short text for tables and figures, by the name that a way of training has in files and folders."""


@dataclass(frozen=True, kw_only=True)
class MeanAndDeviation:
    """Mean and standard deviation of one quantity over seeds.

    Attributes:
        mean: Arithmetic mean.
        deviation: Sample standard deviation (divisor n - 1); None for a single value.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanAndDeviation:
        """Compute both from values.

        Args:
            values: One value for each seed; at least one.

        Returns:
            Mean and deviation.
        """
        return cls(mean=statistics.fmean(values), deviation=statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, kw_only=True)
class RetrainedModel:
    """One written model of the comparison and its result on the test split.

    Attributes:
        architecture_id: Digest of the architecture.
        way: How the parameters were obtained; a key of `WAY_LABELS`.
        seed: Number of the repetition, from 0.
        test_accuracy: Top-1 accuracy, a fraction between 0 and 1.
        energy_mj: Energy of one image in mJ, under the convention of the run.
        params: Number of parameters.
        time_steps: T of the architecture.
        model: Folder of the timm model, relative to the folder of the run.
        test_accuracy_interval: The 95 % Wilson interval of the accuracy; None if an older version has measured the model.
    """

    architecture_id: str
    way: str
    seed: int
    test_accuracy: float
    energy_mj: float
    params: int
    time_steps: int
    model: str
    test_accuracy_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Models of one architecture and one way of training that differ only in the seed.

    Attributes:
        models: At least one model, in the order of the seeds.
    """

    models: tuple[RetrainedModel, ...]

    @property
    def architecture_id(self) -> str:
        """Digest of the architecture."""
        return self.models[0].architecture_id

    @property
    def way(self) -> str:
        """Way of training; a key of `WAY_LABELS`."""
        return self.models[0].way

    @property
    def test_accuracy(self) -> MeanAndDeviation:
        """Test accuracy over the seeds, a fraction between 0 and 1."""
        return MeanAndDeviation.of([model.test_accuracy for model in self.models])

    @property
    def energy_mj(self) -> MeanAndDeviation:
        """Energy of one image over the seeds, in mJ."""
        return MeanAndDeviation.of([model.energy_mj for model in self.models])

    def row(self) -> dict[str, Any]:
        """Return the row of the table: identity, number of seeds, mean and deviation of accuracy and of energy in mJ, and size."""
        accuracy, energy_mj = self.test_accuracy, self.energy_mj
        return {
            "architecture_id": self.architecture_id,
            "way": self.way,
            "seeds": len(self.models),
            "test_accuracy_mean": accuracy.mean,
            "test_accuracy_deviation": accuracy.deviation,
            "energy_mj_mean": energy_mj.mean,
            "energy_mj_deviation": energy_mj.deviation,
            "params": self.models[0].params,
            "time_steps": self.models[0].time_steps,
        }


def group_by_seed(models: Sequence[RetrainedModel]) -> list[SeedGroup]:
    """Group models that differ only in the seed.

    Args:
        models: Models of any architectures and ways of training.

    Returns:
        One group for each pair of architecture and way, in the order of its first model.
    """
    groups: dict[tuple[str, str], list[RetrainedModel]] = {}
    for model in models:
        groups.setdefault((model.architecture_id, model.way), []).append(model)
    return [SeedGroup(models=tuple(group)) for group in groups.values()]


def table(groups: Sequence[SeedGroup]) -> pd.DataFrame:
    """Return a table with one row for each group; its columns are the keys of `SeedGroup.row`.

    Args:
        groups: The groups, in the order of the rows.
    """
    return pd.DataFrame([group.row() for group in groups])
