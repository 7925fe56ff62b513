"""Mean and interval over seeds of what a run reports: accuracies, energies, and energy at equal accuracy."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

CONFIDENCE = 0.95


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of one value for each seed, and the ends of its 95 % interval by Student's t distribution.

    Args:
        values: One or more values. The interval of a single one is from minus to plus infinity.
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return mean, -np.inf, np.inf
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return mean, mean - half, mean + half


def over_seeds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Aggregate the comparisons of runs that differ in the seed.

    Args:
        tables: `report/comparison.csv` of each run.

    Returns:
        One row for each network and T (of the exported subnet, one row whatever its T and weights): number of seeds, mean accuracy
        and geometric mean of the energy in uJ with their 95 % intervals, and geometric mean of the energy of the front at equal
        accuracy divided by that of the network, with its interval and the number of seeds in which the front is as accurate.
    """
    labelled = [table.assign(seed=i, network=[_label(row) for row in table.to_dict("records")]) for i, table in enumerate(tables)]
    rows = []
    for name, group in pd.concat(labelled).groupby("network", sort=False):
        reached = group["front_ratio"].dropna()
        accuracy, energy = mean_and_interval(group["accuracy"].tolist()), mean_and_interval(np.log(group["energy_uj"]).tolist())
        ratio = mean_and_interval(np.log(reached).tolist()) if len(reached) else (np.nan, np.nan, np.nan)
        rows.append(
            {
                "network": name,
                "seeds": len(group),
                **dict(zip(("accuracy", "accuracy_low", "accuracy_high"), accuracy, strict=True)),
                **dict(zip(("energy_uj", "energy_uj_low", "energy_uj_high"), np.exp(energy), strict=True)),
                **dict(zip(("front_ratio", "front_ratio_low", "front_ratio_high"), np.exp(ratio), strict=True)),
                "reached": len(reached),
            }
        )
    return pd.DataFrame(rows)


def _label(row: Mapping[Hashable, Any]) -> str:
    if row["kind"] == "exported":
        return "exported subnet"
    several = row["kind"] == "reference" or str(row["name"]).startswith("finalist")
    return f"{row['name']}, T = {row['time_steps']}" if several else str(row["name"])
