"""Aggregation of comparisons over seeds, by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

HEADLINE = Path(__file__).parents[1] / "experiments" / "headline"


@pytest.fixture(scope="module")
def aggregate() -> Iterator[ModuleType]:
    """Return `experiments/headline/aggregate.py`, a module that is in no package."""
    sys.path.insert(0, str(HEADLINE))
    try:
        import aggregate

        yield aggregate
    finally:
        sys.path.remove(str(HEADLINE))


def table(accuracy: float, energy: float, ratio: float | None, *, time_steps: int = 2) -> pd.DataFrame:
    """A comparison with the exported subnet and the reference network."""
    return pd.DataFrame(
        {
            "name": ["exported subnet (inherited)", "reference network"],
            "kind": ["exported", "reference"],
            "accuracy": [accuracy, 0.9],
            "energy_uj": [energy, 4.0],
            "time_steps": [time_steps, 4],
            "front_ratio": [math.nan, math.nan if ratio is None else ratio],
        }
    )


def test_mean_and_interval(aggregate: ModuleType) -> None:
    """1, 2, 3: standard deviation 1, and 4.3027 is the 97.5 % quantile of t with 2 degrees of freedom."""
    mean, low, high = aggregate.mean_and_interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)), rel=1e-5)
    assert aggregate.mean_and_interval([0.5]) == (0.5, -math.inf, math.inf)


def test_networks_are_aggregated_over_seeds(aggregate: ModuleType) -> None:
    """The exported subnets are one row whatever their T. Energies and ratios have geometric means."""
    found = aggregate.over_seeds([table(0.8, 1.0, 0.1), table(0.9, 4.0, 0.4, time_steps=1), table(0.85, 2.0, None)])
    exported, reference = found.to_dict("records")
    assert (exported["network"], exported["seeds"], exported["reached"]) == ("exported subnet", 3, 0)
    assert exported["accuracy"] == pytest.approx(0.85)
    assert exported["energy_uj"] == pytest.approx(2.0)
    assert (reference["network"], reference["reached"]) == ("reference network, T = 4", 2)
    assert reference["front_ratio"] == pytest.approx(0.2)
    assert math.isnan(exported["front_ratio"])
