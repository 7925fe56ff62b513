"""Measurement of a benchmark: ratios against a named peer in one run, interleaved, medians."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One of the results in `bench.json`.

    Args:
        name: Unique name.
        value: The measured value.
        unit: Unit of the value.
        peer: What the value is relative to.
        goal: A bound as text, such as `<= 0.05`; empty if there is none.
        threads: Number of torch's threads.
        note: Setting and absolute times.
    """

    name: str
    value: float
    unit: str
    peer: str
    goal: str
    threads: int
    note: str


def interleaved(*works: Work, rounds: int) -> list[list[float]]:
    """Time works in turn, after one warm-up round. Each round starts with the next work, so that none has a fixed place.

    Returns:
        For each work its seconds in every round.
    """
    found: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for first in range(rounds):
        for i in range(len(works)):
            current = (first + i) % len(works)
            started = time.perf_counter()
            works[current]()
            found[current].append(time.perf_counter() - started)
    return found


def overhead(seconds: list[float], peer: list[float]) -> float:
    """Median over the rounds of the extra time, as a fraction of the peer's time."""
    return median(own / plain - 1 for own, plain in zip(seconds, peer, strict=True))
