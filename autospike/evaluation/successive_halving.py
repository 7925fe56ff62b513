"""Successive halving: after a part of the images, candidates that are clearly dominated are scored no further.

A candidate is dropped if another one needs no more energy and is more accurate by a number of standard deviations of the
difference. Over n of N images, with accuracies p and q,

    deviation = sqrt((p (1 - p) + q (1 - q)) / n * (1 - n / N))

as for two independent samples of images. All candidates see the same images, so their predictions are correlated and the true
deviation is smaller: the rule drops fewer candidates than it could. A measurement states its number of images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from autospike.energy.conventions import Convention
from autospike.measurement import Measurement
from autospike.space.architecture import Architecture

# Fractions of the images after which candidates are dropped, doubling as in successive halving. Part of the protocol id, so they
# do not depend on the number of workers.
ROUNDS = (0.125, 0.25, 0.5, 1.0)


def rounds(images: int) -> list[tuple[int, int]]:
    """Divide the search images into rounds.

    No round consists of a single image: torch convolves one image in another order of summation, so its last bits would differ.

    Args:
        images: Number of images.

    Returns:
        First position, and the position after the last, of each round.
    """
    stops = [0]
    for fraction in ROUNDS[:-1]:
        stop = round(images * fraction)
        if stop - stops[-1] > 1 and images - stop > 1:
            stops.append(stop)
    return list(pairwise([*stops, images]))


def undominated(
    measured: Mapping[Architecture, Measurement], convention: Convention, deviations: float, *, images: int
) -> list[Architecture]:
    """Return the candidates that are not clearly dominated, by rising energy.

    Args:
        measured: Measurements of the remaining candidates on the same images.
        convention: Gives their energies.
        deviations: Number of standard deviations by which a dominating candidate is more accurate.
        images: N, the number of images of the whole split.

    Returns:
        The candidates.
    """
    energies = {a: m.energy(convention).energy_mj for a, m in measured.items()}
    kept, best = [], None
    for architecture in sorted(measured, key=lambda a: (energies[a], -measured[a].accuracy)):
        candidate = measured[architecture]
        if best is None or not clearly_better(best, candidate, deviations, images=images):
            kept.append(architecture)
        if best is None or candidate.accuracy > best.accuracy:
            best = candidate
    return kept


def clearly_better(one: Measurement, other: Measurement, deviations: float, *, images: int) -> bool:
    """Whether a measurement is more accurate than another by more than chance explains.

    Args:
        one: The measurement.
        other: The other one, on the same n images.
        deviations: Number of standard deviations.
        images: N, the number of images of the whole split.

    Returns:
        Whether the difference exceeds that many deviations.
    """
    variance = sum(m.accuracy * (1 - m.accuracy) for m in (one, other)) / one.images
    deviation = math.sqrt(variance * (1 - one.images / images))
    return one.accuracy - other.accuracy > deviations * deviation
