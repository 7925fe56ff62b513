"""The numbers of a retraining: each network by each way, mean and deviation over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

LABELS = {"inherited": "inherited", "fine-tuned": "fine-tuned", "scratch": "from scratch", "hand-made": "hand-made"}
"""How a way to come by weights is called."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over seeds."""

    mean: float
    deviation: float | None
    """Of a sample (n - 1); of a single seed there is none."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(mean=statistics.fmean(values), deviation=statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One network on the test split, as its `report.json` has it."""

    architecture_id: str
    way: str
    """One of `LABELS`."""
    seed: int
    test_accuracy: float
    energy_mj: float
    params: int
    time_steps: int
    model: str
    """Its folder, from the run's."""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """The networks of one architecture and one way, which differ in their seeds."""

    seeds: tuple[Measured, ...]

    @property
    def architecture_id(self) -> str:
        return self.seeds[0].architecture_id

    @property
    def way(self) -> str:
        return self.seeds[0].way

    @property
    def test_accuracy(self) -> Spread:
        return Spread.of([one.test_accuracy for one in self.seeds])

    @property
    def energy_mj(self) -> Spread:
        return Spread.of([one.energy_mj for one in self.seeds])

    def record(self) -> dict[str, Any]:
        """One row of the table."""
        accuracy, energy_mj = self.test_accuracy, self.energy_mj
        return {
            "architecture_id": self.architecture_id,
            "way": self.way,
            "seeds": len(self.seeds),
            "test_accuracy_mean": accuracy.mean,
            "test_accuracy_deviation": accuracy.deviation,
            "energy_mj_mean": energy_mj.mean,
            "energy_mj_deviation": energy_mj.deviation,
            "params": self.seeds[0].params,
            "time_steps": self.seeds[0].time_steps,
        }


def repeated(measured: Sequence[Measured]) -> list[Repeated]:
    """By architecture and way, in the order in which these first come."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.architecture_id, one.way), []).append(one)
    return [Repeated(seeds=tuple(group)) for group in groups.values()]


def table(compared: Sequence[Repeated]) -> pd.DataFrame:
    """A row for each architecture and way."""
    return pd.DataFrame([one.record() for one in compared])
