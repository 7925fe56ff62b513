"""Energy at equal accuracy: how much energy the searched front needs where it is as accurate as another network.

The front is a curve: accuracy, linearly interpolated against the logarithm of the energy. Its subnets were selected on the search
split and are measured on the test split, where chance no longer favours them. A more expensive subnet may be less accurate there;
isotonic regression makes the curve monotone (equal weights, R. E. Barlow et al., 1972). Intervals are percentiles of a bootstrap
over the test images, the same draws for all networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autospike.statistics import Floats

# Bootstrap draws. A 2.5 % quantile is then the 25th value; its own error is a few percent of the width of the interval.
DRAWS = 1000

Masks = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class EqualAccuracy:
    """Energy of the front at the accuracy of another network.

    Attributes:
        energy_mj: Energy of the front in mJ; None if no subnet of the front is as accurate.
        ratio: That energy divided by the energy of the other network.
        low: Lower end of the 95 % interval of the ratio; None if the front is not as accurate in 97.5 % of the draws.
        high: Upper end; None if the front is not as accurate in more than 2.5 % of the draws.
        highest: Largest accuracy of the front's curve. It may be below that of a single subnet, because the curve is monotone.
        is_bound: Whether the cheapest subnet of the front is as accurate already, so that the ratio is an upper bound.
    """

    energy_mj: float | None
    ratio: float | None
    low: float | None
    high: float | None
    highest: float
    is_bound: bool


def _monotone(accuracies: Floats) -> Floats:
    from scipy.optimize import isotonic_regression  # scipy.optimize takes long to load, and few reports need it

    return isotonic_regression(accuracies).x


def front_energy(accuracies: Floats, energies_mj: Floats, accuracy: float) -> float:
    """Return the energy at which a front reaches an accuracy.

    Args:
        accuracies: Of the subnets of the front, `[K]`.
        energies_mj: Their energies, ascending, `[K]`.
        accuracy: The accuracy to reach.

    Returns:
        The energy in mJ on the interpolated curve: that of the first subnet if it is as accurate, infinity if none is.
    """
    curve = _monotone(accuracies)
    above = int(np.searchsorted(curve, accuracy - 1e-12))
    if above == len(curve):
        return math.inf
    if above == 0:
        return float(energies_mj[0])
    share = (accuracy - curve[above - 1]) / (curve[above] - curve[above - 1])
    low, high = math.log(energies_mj[above - 1]), math.log(energies_mj[above])
    return math.exp(low + share * (high - low))


def energy_at_equal_accuracy(
    front: Masks, energies_mj: Sequence[float], other: NDArray[np.bool_], other_mj: float, *, seed: int = 0
) -> EqualAccuracy:
    """Compare the front with another network on the same images.

    Args:
        front: Correct predictions of the subnets of the front, `[K, images]`.
        energies_mj: Their energies in mJ, positive, `[K]`.
        other: Correct predictions of the other network, `[images]`.
        other_mj: Its energy in mJ, positive.
        seed: Of the bootstrap.

    Returns:
        The energy of the front and its ratio to that of the other network, with a 95 % interval.
    """
    order = np.argsort(energies_mj, kind="stable")
    energies = np.asarray(energies_mj, dtype=float)[order]
    correct = np.vstack([front[order], other]).astype(np.float32)
    images, random = correct.shape[1], np.random.default_rng(seed)

    def ratio(weights: NDArray[Any]) -> float:
        accuracies = (correct @ weights.astype(np.float32)).astype(float) / images
        return front_energy(accuracies[:-1], energies, float(accuracies[-1])) / other_mj

    draws = (np.bincount(random.integers(images, size=images), minlength=images) for _ in range(DRAWS))
    ratios = np.sort([ratio(weights) for weights in draws])
    found = ratio(np.ones(images))
    curve = _monotone(correct[:-1].mean(axis=1))
    return EqualAccuracy(
        energy_mj=_finite(found * other_mj),
        ratio=_finite(found),
        low=_finite(float(ratios[int(0.025 * DRAWS)])),
        high=_finite(float(ratios[math.ceil(0.975 * DRAWS) - 1])),
        highest=float(curve[-1]),
        is_bound=bool(curve[0] >= other.mean() - 1e-12),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
