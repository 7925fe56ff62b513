"""How a benchmark is measured and told: ratios against a named peer in one run, interleaved, medians."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of `bench.json`. `goal` is a bound as text, `<= 0.05`; `threads` those of torch."""

    name: str
    value: float
    unit: str
    peer: str
    goal: str
    threads: int
    note: str


def interleaved(*works: Work, rounds: int) -> list[list[float]]:
    """Seconds of each work in each round, after one round that is not counted; every round starts with another one."""
    found: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for first in range(rounds):
        for i in range(len(works)):
            place = (first + i) % len(works)
            started = time.perf_counter()
            works[place]()
            found[place].append(time.perf_counter() - started)
    return found


def overhead(seconds: list[float], peer: list[float]) -> float:
    """Median over the rounds of the extra time, as a fraction of the peer's."""
    return median(own / plain - 1 for own, plain in zip(seconds, peer, strict=True))
