"""What a measurement of a candidate holds: counts, from which accuracy and, under a convention, energy follow."""

from __future__ import annotations

from dataclasses import dataclass

from autospike.energy.conventions import Convention, Energy, energy
from autospike.energy.counts import LayerCount
from autospike.space.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of a calibrated model on a labelled split."""

    correct: int
    images: int
    counts: tuple[LayerCount, ...]

    @property
    def accuracy(self) -> float:
        return self.correct / self.images

    def energy(self, convention: Convention) -> Energy:
        return energy(self.counts, convention)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A score, whose it is, and what it took."""

    architecture: Architecture
    score: Score
    params: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A measurement as a search sees it: its energy under one convention, its fitness, the generation that first measured it, and
    whether it was free: nobody asked for it, it came out of a walk for another."""

    measurement: Measurement
    energy: Energy
    f_aeb: float
    generation: int
    free: bool = False
