"""What a measurement of a candidate holds: counts, from which accuracy and energy follow."""

from __future__ import annotations

from dataclasses import dataclass

from autospike.architecture import Architecture
from autospike.energy import Energy, LayerCount, energy


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of a calibrated model on a labelled split."""

    correct: int
    images: int
    counts: tuple[LayerCount, ...]

    @property
    def accuracy(self) -> float:
        return self.correct / self.images

    @property
    def energy(self) -> Energy:
        return energy(self.counts)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A score, whose it is, and what it took."""

    architecture: Architecture
    score: Score
    params: int
    seconds: float
