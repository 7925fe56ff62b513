"""CPU seconds of supernet training to a given quality on the digits, over 5 seeds, 9 supernets each.

`experiments/training_quality/time_to_quality.py` trains; its trainings are stored and not repeated.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import Result

sys.path.insert(0, str(Path(__file__).parents[1] / "training_quality"))
from time_to_quality import SEEDS, measure, paired_ratio, seconds_to

# Quality of the single path in README.md of `experiments/training_quality`, after 660 steps in 41 CPU seconds.
MEAN, WORST = 0.938, 0.856
OLD, NEW = "random, 4e-3", "reference, 8e-3"


def time_to_quality() -> list[Result]:
    """How much of the time the supernet needs that starts from the reference network, and how good its largest subnet is."""
    rows = measure("digits", SEEDS)
    found = [_ratio(name, figure, level, rows) for name, figure, level in (("mean", "mean", MEAN), ("worst", "worst", WORST))]
    longest = rows[(rows.way == NEW) & (rows.epochs == rows[rows.way == NEW].epochs.max())]
    gap = (longest.largest - longest.reference) * 100
    note = f"{len(gap)} seeds, from {gap.min():+.1f} to {gap.max():+.1f}; {longest.cpu_seconds.mean():.0f} CPU s of training"
    return [
        *found,
        Result(
            name="time_to_quality_largest",
            value=float(gap.mean()),
            unit="points of accuracy",
            peer="the largest network trained alone, before",
            goal=">= -0.5",
            threads=1,
            note=note,
        ),
    ]


def _ratio(name: str, figure: str, level: float, rows: pd.DataFrame) -> Result:
    """The ratio of the times. Where the peer does not reach the level, its longest training is a lower bound of its time."""
    by_seed = {way: [trainings for _, trainings in rows[rows.way == way].groupby("seed")] for way in (OLD, NEW)}
    own = [seconds_to(each, figure, level) for each in by_seed[NEW]]
    peer = [seconds_to(each, figure, level, otherwise=each.cpu_seconds.max()) for each in by_seed[OLD]]
    ratio, low, high = paired_ratio(own, peer)
    reached = {way: sum(each[figure].max() >= level for each in found) for way, found in by_seed.items()}
    return Result(
        name=f"time_to_quality_{name}",
        value=ratio,
        unit=f"CPU seconds until the {name} accuracy of 48 draws is {level}",
        peer=OLD,
        goal="<= 0.33",
        threads=1,
        note=f"95 % interval {low:.2f} to {high:.2f}; {np.nanmean(own):.1f} s ({reached[NEW]} of {len(own)} seeds) against "
        f"{np.mean(peer):.1f} s ({reached[OLD]} of {len(peer)} seeds; of the others, the longest training)",
    )
