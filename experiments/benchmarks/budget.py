"""A time budget for a benchmark that compares a population with its candidates one by one.

Timing all candidates one by one takes hours on a slow machine. A systematic sample in order of size is timed instead, and its total
is extrapolated to the population, with a standard error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean
from typing import TypeVar

T = TypeVar("T")

MIN_SAMPLE, MAX_SAMPLE = 4, 12


@dataclass
class Budget:
    """A number of seconds, counted from the moment that the budget is created.

    Args:
        seconds: Length of the budget.
        clock: Source of the time in seconds.
    """

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def spent(self) -> float:
        """Seconds since the budget was created."""
        return self.clock() - self._started

    def allows(self, seconds: float) -> bool:
        """Whether work of this duration ends within the budget."""
        return self.spent() + seconds <= self.seconds

    def sample_size(self, *, rounds: int, fixed: float, each: float) -> int:
        """How many candidates may be timed one by one in each round.

        Args:
            rounds: Number of rounds that share the rest of the budget.
            fixed: Expected seconds of a round without any candidate that is timed one by one.
            each: Measured seconds of one candidate.

        Returns:
            A number between `MIN_SAMPLE` and `MAX_SAMPLE`. At `MIN_SAMPLE` the rounds may exceed the budget; check `allows` before
            each of them.
        """
        affordable = ((self.seconds - self.spent()) / rounds - fixed) / each
        return max(MIN_SAMPLE, min(MAX_SAMPLE, math.floor(affordable)))


@dataclass(frozen=True)
class Estimate:
    """A total that was extrapolated from a sample, with its standard error."""

    total: float
    error: float


def stratified(ordered: Sequence[T], count: int) -> list[T]:
    """The middle element of each of `count` strata of equal size; all elements if there are no more than that."""
    count = min(count, len(ordered))
    return [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]


def extrapolate(sample: Sequence[float], population: int) -> Estimate:
    """The total of a population from a systematic sample of it.

    The standard error is that of successive differences (Wolter, Introduction to Variance Estimation, 2nd ed., estimator v2 of
    section 8.2), which fits samples in order of size: `N^2 (1 - n / N) / n * sum((y_i - y_{i-1})^2) / (2 (n - 1))`.

    Args:
        sample: Values of `stratified` elements, in their order; at least two, unless the population has one element.
        population: Number of elements N of the population.
    """
    n = len(sample)
    squares = sum((b - a) ** 2 for a, b in pairwise(sample)) / (2 * (n - 1)) if n > 1 else 0.0
    return Estimate(total=population * mean(sample), error=population * math.sqrt((1 - n / population) * squares / n))
