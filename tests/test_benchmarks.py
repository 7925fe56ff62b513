"""The benchmarks' time budget, sampling and extrapolation."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, pstdev
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "experiments" / "benchmarks"


@pytest.fixture(scope="module")
def budget() -> Iterator[ModuleType]:
    """Return `experiments/benchmarks/budget.py`, a module that is in no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import budget

        yield budget
    finally:
        sys.path.remove(str(BENCHMARKS))


class Clock:
    """A clock that only advances with simulated work."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def seconds_of_a_run(budget: ModuleType, *, each: float, population: float, rounds: int = 8) -> tuple[float, int]:
    """Simulate a benchmark whose candidates take `each` seconds; return its duration and its rounds."""
    clock = Clock()
    limit = budget.Budget(780, clock)
    clock.now += 60 + each  # setup and the first candidate
    sample = limit.sample_size(rounds=rounds, fixed=population, each=each)
    done, longest = 0, 0.0
    while done < rounds and (not done or limit.allows(longest)):
        before = clock.now
        clock.now += population + sample * each
        longest, done = max(longest, clock.now - before), done + 1
    return limit.spent(), done


def test_a_fast_machine_times_the_largest_sample_in_all_rounds(budget: ModuleType) -> None:
    clock = Clock()
    limit = budget.Budget(780, clock)
    clock.now += 60
    assert limit.sample_size(rounds=8, fixed=12.0, each=2.0) == budget.MAX_SAMPLE
    assert seconds_of_a_run(budget, each=2.0, population=12.0) == (60 + 2 + 8 * (12 + 12 * 2), 8)


def test_a_slower_machine_times_a_smaller_sample(budget: ModuleType) -> None:
    """(780 - 60) / 8 = 90 seconds a round, 32 of them for the population: 58 / 9.4 = 6 candidates."""
    clock = Clock()
    limit = budget.Budget(780, clock)
    clock.now += 60
    assert limit.sample_size(rounds=8, fixed=32.0, each=9.4) == 6


@pytest.mark.parametrize("each", [5.0, 10.0, 20.0, 40.0])
def test_a_slow_machine_times_fewer_rounds_within_the_budget(budget: ModuleType, each: float) -> None:
    spent, done = seconds_of_a_run(budget, each=each, population=48 * each / 6)
    assert spent <= 780
    assert 1 <= done <= 8


def test_the_sample_has_one_element_of_each_stratum(budget: ModuleType) -> None:
    assert budget.stratified(range(48), 4) == [6, 18, 30, 42]
    assert budget.stratified(range(3), 4) == [0, 1, 2]
    assert budget.stratified(range(48), 48) == list(range(48))


def test_a_total_is_extrapolated_with_its_standard_error(budget: ModuleType) -> None:
    """N = 12, n = 3, mean 11 / 3; squared differences 1 + 9, over 2 (n - 1) = 2.5; 12 sqrt(0.75 * 2.5 / 3) = 9.487."""
    found = budget.extrapolate([2.0, 3.0, 6.0], 12)
    assert found.total == pytest.approx(44.0)
    assert found.error == pytest.approx(9.4868, abs=1e-4)


def test_a_complete_sample_has_no_error(budget: ModuleType) -> None:
    found = budget.extrapolate([1.0, 5.0, 2.0], 3)
    assert (found.total, found.error) == (8.0, 0.0)


def test_the_standard_error_is_similar_to_the_deviation_of_totals(budget: ModuleType) -> None:
    """For populations in random order, of which the estimate uses only a sample."""
    rng, totals, errors = random.Random(0), [], []
    for _ in range(400):
        times = [rng.gauss(10, 2) for _ in range(48)]
        found = budget.extrapolate(budget.stratified(times, 8), 48)
        totals.append(found.total - sum(times))
        errors.append(found.error)
    assert mean(errors) == pytest.approx(pstdev(totals), rel=0.15)
