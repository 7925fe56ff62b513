"""Pareto fronts of (accuracy, energy): accuracy is to be large, energy small."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

Points = Sequence[tuple[float, float]]


def _costs(points: Points) -> NDArray[np.float64]:
    """Both as costs: (error, energy)."""
    accuracy, energy = np.array(points, dtype=float).reshape(-1, 2).T
    return np.column_stack([1 - accuracy, energy])


def on_front(points: Points) -> list[bool]:
    """For each point, whether no other is at least as good in both and better in one. Of equal points the first counts."""
    if not points:
        return []
    flags: list[bool] = moocore.is_nondominated(_costs(points), keep_weakly=False).tolist()
    return flags


def hypervolume(points: Points, *, energy_reference: float) -> float:
    """The share of the box `accuracy 0..1 x energy 0..energy_reference` that the points dominate, between 0 and 1."""
    if not points:
        return 0.0
    return float(moocore.hypervolume(_costs(points) / (1.0, energy_reference), ref=(1.0, 1.0)))


def knee(points: Points) -> int:
    """Index of the point of a front that lies farthest above the line between the front's ends.

    Energies are compared on a logarithmic axis, where equal steps are equal factors. With fewer than three distinct points
    on the front, its most accurate one.
    """
    front = [i for i, flag in enumerate(on_front(points)) if flag]
    front.sort(key=lambda i: points[i][1])
    accuracy = np.array([points[i][0] for i in front])
    if len(front) < 3:
        return front[-1]
    log_energy = np.log([points[i][1] for i in front])
    x = (log_energy - log_energy[0]) / (log_energy[-1] - log_energy[0])
    y = (accuracy - accuracy[0]) / (accuracy[-1] - accuracy[0])
    return front[int(np.argmax(y - x))]
