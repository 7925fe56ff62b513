"""Genes: what a search may change, at one leaf of an architecture.

64                              one value
[64, 96, 128]                   a choice
[sdsa_1, sdsa_3]                a choice among words, whose first is the reference
{low: 0.6, high: 2, sigma: 0.1} a continuous range, for neuron parameters
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_args

from pydantic import AllowInfNan, BeforeValidator, ConfigDict, StrictFloat, TypeAdapter

STRICT = ConfigDict(extra="forbid")  # the genes check the types of what is written themselves
Finite = Annotated[StrictFloat, AllowInfNan(False)]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A gene with finitely many values."""

    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        return rng.choice(self.values)

    def mutate(self, value: Any, rng: random.Random) -> Any:
        """Another of the values, where there is one."""
        others = [v for v in self.values if v != value]
        return rng.choice(others) if others else value

    def contains(self, value: Any) -> bool:
        return value in self.values

    def nearest(self, value: float) -> Any:
        return min(self.values, key=lambda v: abs(v - value))

    @property
    def size(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Range:
    """A gene with a continuous range; it mutates by a Gaussian step of standard deviation `sigma`, kept inside the range."""

    __pydantic_config__ = STRICT
    low: Finite
    high: Finite
    sigma: Finite

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, got low {self.low:g} and high {self.high:g}")
        if self.sigma <= 0:
            raise ValueError(f"sigma must be greater than 0, got {self.sigma:g}")

    def sample(self, rng: random.Random) -> float:
        return self.nearest(round(rng.uniform(self.low, self.high), 6))

    def mutate(self, value: float, rng: random.Random) -> float:
        moved = rng.gauss(value, self.sigma)
        if moved < self.low:  # reflect, so that a value at a bound moves as often as any other
            moved = 2 * self.low - moved
        elif moved > self.high:
            moved = 2 * self.high - moved
        return self.nearest(round(moved, 6))

    def contains(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def nearest(self, value: float) -> float:
        return min(self.high, max(self.low, value))

    @property
    def values(self) -> tuple[float, float]:
        return (self.low, self.high)

    @property
    def size(self) -> float:
        return math.inf


Gene = Choice | Range


def _choice(kind: type, written: object) -> object:
    """A YAML list is a choice, a scalar is a choice of one."""
    if isinstance(written, Choice):
        return written
    values = written if isinstance(written, list) else [written]
    if not values:
        raise ValueError("a choice needs at least one value, got []")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"expected {_noun(kind)} or a list of them, got {value!r}")
    if len(set(values)) < len(values):
        raise ValueError(f"each value of a choice may stand once, got {values}")
    return Choice(values=tuple(sorted(kind(v) for v in values)))


def _gene(written: object) -> object:
    """As `_choice`, and a mapping {low, high, sigma} is a range."""
    if isinstance(written, Range):
        return written
    return TypeAdapter(Range).validate_python(written) if isinstance(written, dict) else _choice(float, written)


def _noun(kind: type) -> str:
    return {int: "a whole number", float: "a number"}[kind]


def _words(allowed: tuple[str, ...], written: object) -> object:
    """A choice among words; their order is kept."""
    if isinstance(written, Choice):
        return written
    words = written if isinstance(written, list) else [written]
    if not words:
        raise ValueError("a choice needs at least one value, got []")
    for word in words:
        if word not in allowed:
            raise ValueError(f"choose from {', '.join(allowed)}; got {word!r}")
    if len(set(words)) < len(words):
        raise ValueError(f"each value of a choice may stand once, got {words}")
    return Choice(values=tuple(words))


def words(kind: Any) -> BeforeValidator:
    """Reads a choice among the words of a `Literal`."""
    return BeforeValidator(partial(_words, get_args(kind)))


Integer = Annotated[Choice, BeforeValidator(partial(_choice, int))]
Number = Annotated[Choice, BeforeValidator(partial(_choice, float))]
Continuous = Annotated[Choice | Range, BeforeValidator(_gene)]
FOLLOW = Choice(values=(None,))


def only(value: Any) -> Choice:
    """The gene with one value."""
    return Choice(values=(value,))
