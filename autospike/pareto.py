"""Pareto fronts of (accuracy, energy); accuracy is maximised and energy minimised."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

Points = Sequence[tuple[float, float]]


def _costs(points: Points) -> NDArray[np.float64]:
    """Return (error, energy) of each point; both are minimised. Shape [N, 2]."""
    accuracy, energy = np.array(points, dtype=float).reshape(-1, 2).T
    return np.column_stack([1 - accuracy, energy])


def on_front(points: Points) -> list[bool]:
    """Tell for each point whether it is on the Pareto front.

    Args:
        points: (accuracy, energy) of each point.

    Returns:
        True where no other point is at least as good in both and better in one. Of equal points only the first may be on the front.
    """
    if not points:
        return []
    flags: list[bool] = moocore.is_nondominated(_costs(points), keep_weakly=False).tolist()
    return flags


def hypervolume(points: Points, *, energy_reference: float) -> float:
    """Compute the hypervolume that the points dominate.

    Args:
        points: (accuracy, energy) of each point.
        energy_reference: Energy of the reference point, whose accuracy is 0.

    Returns:
        The dominated fraction of the box [0, 1] x [0, `energy_reference`].
    """
    if not points:
        return 0.0
    return float(moocore.hypervolume(_costs(points) / (1.0, energy_reference), ref=(1.0, 1.0)))


def knee(points: Points) -> int:
    """Find the knee of the Pareto front: the point farthest above the line between the ends of the front.

    The energy axis is logarithmic. Both axes are scaled to [0, 1] between the ends.

    Args:
        points: (accuracy, energy) of each point, at least one.

    Returns:
        Index of the knee in `points`; of the most accurate point if the front has fewer than three points.
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
