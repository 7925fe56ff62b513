"""Search algorithms, each two plain functions: `ask` for the next generation's candidates, `tell` who survives of it.

Populations are lists of `Individual`; an algorithm keeps no state besides. All draw from the generator that they are given, so a
generation depends on the one before it and on (seed, generation) alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from deap import base, tools

from autospike.config import SearchConfig
from autospike.randomness import global_random
from autospike.search.variation import CROSSOVERS, crossover, mutate
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace


@dataclass(kw_only=True, eq=False)
class Individual:
    """A measured architecture with DEAP's fitness: NSGA-II ranks by the objectives, `aeb` by F_AEB alone."""

    architecture: Architecture
    f_aeb: float
    fitness: base.Fitness


def fitness_of(values: Sequence[float], maximise: Sequence[bool]) -> base.Fitness:
    """DEAP takes the directions from the class, so each set of directions has one of its own."""
    weights = tuple(1.0 if m else -1.0 for m in maximise)
    fitness = type("Fitness", (base.Fitness,), {"weights": weights})()
    fitness.values = tuple(values)
    return fitness


@dataclass(frozen=True, kw_only=True)
class GenerationContext:
    """What an algorithm may use to make a generation."""

    space: SearchSpace
    config: SearchConfig
    rng: random.Random
    key: tuple[int, str, int]


class Algorithm(Protocol):
    """The contract. `ask` yields candidates for as long as it is asked; `tell` returns the population after a generation."""

    def ask(self, population: list[Individual], turn: GenerationContext) -> Iterator[Architecture]: ...

    def tell(self, population: list[Individual], offspring: list[Individual], turn: GenerationContext) -> list[Individual]: ...


class RandomSearch:
    """Uniform draws; the baseline that any search must beat."""

    def ask(self, population: list[Individual], turn: GenerationContext) -> Iterator[Architecture]:  # noqa: ARG002
        while True:
            yield turn.space.sample(turn.rng)

    def tell(self, population: list[Individual], offspring: list[Individual], turn: GenerationContext) -> list[Individual]:  # noqa: ARG002
        return population + offspring


class NSGA2:
    """NSGA-II (Deb et al. 2002): parents by binary tournament on rank and crowding, survivors by non-dominated sorting."""

    def ask(self, population: list[Individual], turn: GenerationContext) -> Iterator[Architecture]:
        cross = CROSSOVERS[turn.config.crossover]
        while True:
            for mother, father in _pairs(population, turn):
                yield cross(turn.space, mother.architecture, father.architecture, turn.rng, turn.config)

    def tell(self, population: list[Individual], offspring: list[Individual], turn: GenerationContext) -> list[Individual]:
        survivors: list[Individual] = tools.selNSGA2(population + offspring, turn.config.population)
        return survivors


def _pairs(population: list[Individual], turn: GenerationContext) -> list[tuple[Individual, Individual]]:
    """Parents by tournament; DEAP's needs four individuals, so a space of fewer architectures mates at random."""
    if len(population) < 4:
        return [(turn.rng.choice(population), turn.rng.choice(population))]
    with global_random(*turn.key, str(turn.rng.random())):
        parents = tools.selTournamentDCD(population, len(population) // 4 * 4)
    return list(zip(parents[::2], parents[1::2], strict=True))


class AEB:
    """The paper's evolution on F_AEB: the best `parents` so far breed, half of a generation by mutation, half by crossover."""

    def ask(self, population: list[Individual], turn: GenerationContext) -> Iterator[Architecture]:
        while True:
            yield mutate(turn.space, turn.rng.choice(population).architecture, turn.rng, turn.config)
            mother, father = turn.rng.choice(population), turn.rng.choice(population)
            yield crossover(turn.space, mother.architecture, father.architecture, turn.rng)

    def tell(self, population: list[Individual], offspring: list[Individual], turn: GenerationContext) -> list[Individual]:
        ranked = sorted(population + offspring, key=lambda individual: -individual.f_aeb)
        return ranked[: turn.config.parents]


ALGORITHMS: dict[str, Callable[[], Algorithm]] = {"nsga2": NSGA2, "aeb": AEB, "random": RandomSearch}
