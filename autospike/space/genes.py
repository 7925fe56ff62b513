"""Genes: what a search can choose for one field of an architecture.

How a gene is written in YAML:

    64                              a fixed value
    [64, 96, 128]                   a choice between numbers
    [sdsa_1, sdsa_3]                a choice between names; the first is the reference
    {low: 0.6, high: 2, sigma: 0.1} a continuous range (neuron parameters only)
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_args

from pydantic import AllowInfNan, BeforeValidator, ConfigDict, StrictFloat, TypeAdapter

from autospike.errors import quoted
from autospike.space.limits import MAX_CHOICES, MAX_NUMBER, check_at_most

STRICT = ConfigDict(extra="forbid")  # the parsers below check types
Finite = Annotated[StrictFloat, AllowInfNan(False)]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A gene with finitely many values.

    Attributes:
        values: Numbers in ascending order, names in the order in which they are written.
    """

    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        """Return a value, uniformly at random.

        Args:
            rng: Source of randomness.

        Returns:
            One of the values.
        """
        return rng.choice(self.values)

    def mutate(self, value: Any, rng: random.Random) -> Any:
        """Return one of the other values, uniformly at random.

        Args:
            value: The current value.
            rng: Source of randomness.

        Returns:
            A different value, or `value` if there is no other.
        """
        others = [v for v in self.values if v != value]
        return rng.choice(others) if others else value

    def contains(self, value: Any) -> bool:
        """Return whether the gene can have a value.

        Args:
            value: Any value.

        Returns:
            True if it is one of the values.
        """
        return value in self.values

    def nearest(self, value: float) -> Any:
        """Return the value nearest to a number; of two equally near ones, the first.

        Args:
            value: Any number.

        Returns:
            One of the values, which must be numbers.
        """
        return min(self.values, key=lambda v: abs(v - value))

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Range:
    """A gene with a continuous range of numbers. Values are rounded to 6 decimals.

    Attributes:
        low: Smallest value.
        high: Largest value.
        sigma: Standard deviation of the Gaussian step of a mutation.
    """

    __pydantic_config__ = STRICT
    low: Finite
    high: Finite
    sigma: Finite

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, got low {self.low:g} and high {self.high:g}")
        if self.sigma <= 0:
            raise ValueError(f"sigma must be greater than 0, got {self.sigma:g}")
        for name in ("low", "high", "sigma"):
            check_at_most(name, abs(getattr(self, name)), MAX_NUMBER)

    def sample(self, rng: random.Random) -> float:
        """Return a value, uniformly at random.

        Args:
            rng: Source of randomness.

        Returns:
            A number between `low` and `high`.
        """
        return self.nearest(round(rng.uniform(self.low, self.high), 6))

    def mutate(self, value: float, rng: random.Random) -> float:
        """Return the value after a Gaussian step, reflected at the bounds.

        Args:
            value: The current value.
            rng: Source of randomness.

        Returns:
            A number between `low` and `high`.
        """
        moved = rng.gauss(value, self.sigma)
        if moved < self.low:  # reflect, because clipping would accumulate values at the bounds
            moved = 2 * self.low - moved
        elif moved > self.high:
            moved = 2 * self.high - moved
        return self.nearest(round(moved, 6))

    def contains(self, value: Any) -> bool:
        """Return whether the gene can have a value.

        Args:
            value: Any value.

        Returns:
            True for a number between `low` and `high`, both included.
        """
        return isinstance(value, int | float) and self.low <= value <= self.high

    def nearest(self, value: float) -> float:
        """Return the value nearest to a number.

        Args:
            value: Any number.

        Returns:
            The number, clipped to the range.
        """
        return min(self.high, max(self.low, value))

    @property
    def values(self) -> tuple[float, float]:
        """The bounds `(low, high)`."""
        return (self.low, self.high)

    @property
    def size(self) -> float:
        """Number of values: infinite."""
        return math.inf


Gene = Choice | Range


# The gene of an optional field that is not written. An override of a neuron group then inherits its block's neuron, and a field of
# a block gets its default.
UNSET = Choice(values=(None,))


def fixed(value: Any) -> Choice:
    """Return the gene with a single value.

    Args:
        value: The value.

    Returns:
        A choice of one.
    """
    return Choice(values=(value,))


def _check_count(values: list[object]) -> None:
    """Raise ValueError if a choice has no values or too many."""
    if not values:
        raise ValueError("a choice needs at least one value, got []")
    check_at_most("the number of values of a choice", len(values), MAX_CHOICES)


def _check_finite(number: Any) -> None:
    """Raise ValueError for NaN, infinity and numbers beyond `MAX_NUMBER`."""
    if not abs(number) <= MAX_NUMBER:  # NaN is not either
        raise ValueError(f"expected a finite number of at most {MAX_NUMBER:g}, got {quoted(number)}")


def _parse_numbers(kind: type, written: object) -> object:
    """Convert a YAML number or list of numbers to a choice in ascending order."""
    if isinstance(written, Choice):
        return written
    expected = "a whole number" if kind is int else "a number"
    values = written if isinstance(written, list) else [written]
    _check_count(values)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"expected {expected} or a list of them, got {quoted(value)}")
        _check_finite(value)
    if len(set(values)) < len(values):
        raise ValueError(f"each value of a choice may occur only once, got {quoted(values)}")
    return Choice(values=tuple(sorted(kind(v) for v in values)))


def _parse_range_or_numbers(written: object) -> object:
    """Convert a YAML mapping {low, high, sigma} to a range, and anything else as `_parse_numbers`."""
    if isinstance(written, Range):
        return written
    return TypeAdapter(Range).validate_python(written) if isinstance(written, dict) else _parse_numbers(float, written)


def _parse_names(allowed: tuple[str, ...], written: object) -> object:
    """Convert a YAML name or list of names to a choice in the same order."""
    if isinstance(written, Choice):
        return written
    names = written if isinstance(written, list) else [written]
    _check_count(names)
    for name in names:
        if name not in allowed:
            raise ValueError(f"choose from {', '.join(allowed)}; got {quoted(name)}")
    if len(set(names)) < len(names):
        raise ValueError(f"each value of a choice may occur only once, got {quoted(names)}")
    return Choice(values=tuple(names))


def names_of(literal: Any) -> BeforeValidator:
    """Return a pydantic validator that reads a choice between names.

    Args:
        literal: A `Literal` of the allowed names.

    Returns:
        A validator for a field of type `Choice`.
    """
    return BeforeValidator(partial(_parse_names, get_args(literal)))


IntegerChoice = Annotated[Choice, BeforeValidator(partial(_parse_numbers, int))]
NumberChoice = Annotated[Choice, BeforeValidator(partial(_parse_numbers, float))]
NumberGene = Annotated[Choice | Range, BeforeValidator(_parse_range_or_numbers)]
