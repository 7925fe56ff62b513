"""Pareto fronts over any objectives; by default of (accuracy, energy), where accuracy is maximised and energy minimised."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np

Points = Sequence[tuple[float, ...]]
"""The values of the objectives of each point."""

ACCURACY_AND_ENERGY = (True, False)
"""Which of accuracy and energy is maximised."""


def on_front(points: Points, *, maximise: Sequence[bool] = ACCURACY_AND_ENERGY) -> list[bool]:
    """Tell for each point whether it is on the Pareto front.

    Args:
        points: The values of the objectives of each point.
        maximise: For each objective, whether it is maximised.

    Returns:
        True where no other point is at least as good in all objectives and better in one. Of equal points only the first may be on
        the front.
    """
    if not points:
        return []
    costs = np.array(points, dtype=float) * np.where(maximise, -1.0, 1.0)
    flags: list[bool] = moocore.is_nondominated(costs, keep_weakly=False).tolist()
    return flags


def hypervolume(points: Points, *, energy_reference: float) -> float:
    """Compute the hypervolume that points of (accuracy, energy) dominate.

    Args:
        points: (accuracy, energy) of each point.
        energy_reference: Energy of the reference point, whose accuracy is 0.

    Returns:
        The dominated fraction of the box [0, 1] x [0, `energy_reference`].
    """
    return hypervolume_in_box(points, best=(1.0, 0.0), worst=(0.0, energy_reference))


def hypervolume_in_box(points: Points, *, best: Sequence[float], worst: Sequence[float]) -> float:
    """Compute the fraction of a box that points dominate.

    Args:
        points: The values of the objectives of each point.
        best: The corner of the box with the best value of each objective.
        worst: The opposite corner, the reference point. An objective is maximised if its value here is smaller.

    Returns:
        The fraction.
    """
    if not points:
        return 0.0
    costs = (np.array(points, dtype=float) - np.array(best)) / (np.array(worst, dtype=float) - np.array(best))
    return float(moocore.hypervolume(costs, ref=np.ones(len(best))))


def knee(points: Points, *, maximise: Sequence[bool] = ACCURACY_AND_ENERGY, log: Sequence[bool] = (False, True)) -> int:
    """Find the knee of the Pareto front: the point farthest above the line between the ends of the front.

    Each axis is scaled to [0, 1] between its ends on the front. With two objectives, the point farthest above the line is the one
    with the largest sum of (scaled value of a maximised objective) - (that of a minimised one); with more, the same sum is used.

    Args:
        points: The values of the objectives of each point; at least one point.
        maximise: For each objective, whether it is maximised.
        log: For each objective, whether its axis is logarithmic; an axis with a value of 0 or less never is.

    Returns:
        Index of the knee in `points`; if the front has fewer than three points, of the best point in the first
        maximised objective, or in the first one if none is maximised.
    """
    front = [i for i, flag in enumerate(on_front(points, maximise=maximise)) if flag]
    along = list(maximise).index(False) if False in maximise else 0
    front.sort(key=lambda i: points[i][along])
    values = np.array([points[i] for i in front], dtype=float)
    signs = np.where(maximise, 1.0, -1.0)
    if len(front) < 3:
        first = list(maximise).index(True) if True in maximise else 0
        return front[int(np.argmax(values[:, first] * signs[first]))]
    score = np.zeros(len(front))
    for column, sign, logarithmic in zip(values.T, signs, log, strict=True):
        axis = np.log(column) if logarithmic and column.min() > 0 else column
        if axis.max() > axis.min():
            score += sign * (axis - axis.min()) / (axis.max() - axis.min())
    return front[int(np.argmax(score))]
