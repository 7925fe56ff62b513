"""Early decisions: after some of the images, candidates that another clearly dominates are scored no further.

A candidate is dropped if one that needs no more energy is more accurate by so many standard deviations of the difference that the
rest of the images would have to be exceptional to turn it around. Over n of N images, with accuracies p and q,

    deviation = sqrt((p (1 - p) + q (1 - q)) / n * (1 - n / N))

as if both had been asked about images of their own. They see the same ones, so their answers mostly agree, and the true deviation
is smaller: the rule is careful. What a score rests on is its number of images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from autospike.energy.conventions import Convention
from autospike.measurement import Measurement
from autospike.space.architecture import Architecture

# Shares of the images after which candidates are dropped. A property of the protocol: it may not depend on workers.
ROUNDS = (0.125, 0.25, 0.5, 1.0)

Measurements = Mapping[Architecture, Measurement]


def undominated(measured: Measurements, convention: Convention, deviations: float, *, images: int) -> list[Architecture]:
    """Who goes on.

    Args:
        measured: of all that still race, on the same images.
        deviations: how many standard deviations more accurate another has to be.
        images: N, of the whole split.
    """
    energies = {a: m.energy(convention).energy_mj for a, m in measured.items()}
    by_energy = sorted(measured, key=lambda a: (energies[a], -measured[a].accuracy))
    kept, best = [], None
    for architecture in by_energy:
        candidate = measured[architecture]
        if best is None or not clearly_better(best, candidate, deviations, images=images):
            kept.append(architecture)
        if best is None or candidate.accuracy > best.accuracy:
            best = candidate
    return kept


def clearly_better(one: Measurement, other: Measurement, deviations: float, *, images: int) -> bool:
    """Whether a measurement is more accurate than another by more than chance explains."""
    spread = sum(m.accuracy * (1 - m.accuracy) for m in (one, other)) / one.images
    deviation = math.sqrt(spread * (1 - one.images / images))
    return one.accuracy - other.accuracy > deviations * deviation
