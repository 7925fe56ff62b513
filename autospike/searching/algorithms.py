"""Search algorithms with two methods: `ask` proposes candidates and `tell` selects the next population.

A population is a list of `Individual`. Algorithms have no state and draw from the generator of the generation context, so a
generation depends only on the population and on (seed, generation).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from deap import base, tools

from autospike import import_path
from autospike.config import SearchConfig
from autospike.errors import UserError
from autospike.randomness import global_random
from autospike.searching.variation import CROSSOVERS, crossover, mutate
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace


@dataclass(kw_only=True, eq=False)
class Individual:
    """An evaluated architecture in a population.

    Args:
        architecture: The architecture.
        f_aeb: Accuracy-energy-balanced fitness, by which `AEB` selects.
        fitness: DEAP's fitness with the values of the objectives, by which `NSGA2` selects.
    """

    architecture: Architecture
    f_aeb: float
    fitness: base.Fitness


def fitness_of(values: Sequence[float], maximise: Sequence[bool]) -> base.Fitness:
    """Return a DEAP fitness.

    DEAP reads the directions from the class, so a class is created for them.

    Args:
        values: Values of the objectives.
        maximise: For each objective, whether it is maximised.

    Returns:
        The fitness, with weight 1 for a maximised objective and -1 for a minimised one.
    """
    fitness = _fitness_class(tuple(1.0 if m else -1.0 for m in maximise))()
    fitness.values = tuple(values)
    return fitness


@cache
def _fitness_class(weights: tuple[float, ...]) -> type[base.Fitness]:
    return type("Fitness", (base.Fitness,), {"weights": weights})


@dataclass(frozen=True, kw_only=True)
class GenerationContext:
    """The inputs of an algorithm for one generation.

    Args:
        space: The search space.
        config: The settings of the search.
        rng: Random generator of the generation.
        key: Seed of DEAP's operators, which draw from Python's global generator.
    """

    space: SearchSpace
    config: SearchConfig
    rng: random.Random
    key: tuple[int, str, int]


class Algorithm(Protocol):
    """Interface of a search algorithm."""

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:
        """Yield candidates without end.

        Args:
            population: The population that the last `tell` returned.
            context: The generation context.

        Yields:
            Members of the space, possibly repeated.
        """
        ...

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:
        """Select the next population.

        Args:
            population: The population that the last `tell` returned.
            offspring: All candidates of the generation, by-product candidates included.
            context: The generation context.

        Returns:
            The individuals that are selected from both.
        """
        ...


class RandomSearch:
    """Random search: uniform samples of the space, without selection."""

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:  # noqa: ARG002
        """Yield uniform samples of the space."""
        while True:
            yield context.space.sample(context.rng)

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:  # noqa: ARG002
        """Return the offspring; `ask` does not use them."""
        return offspring


class NSGA2:
    """NSGA-II (Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEVC 6(2), 2002).

    Parents are selected by binary tournament on rank and crowding distance, survivors by non-dominated sorting.
    """

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:
        """Yield children of pairs of parents by the configured crossover."""
        cross = CROSSOVERS[context.config.crossover]
        while True:
            for mother, father in _pairs(population, context):
                yield cross(context.space, mother.architecture, father.architecture, context.rng, context.config)

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:
        """Return the first `population` individuals by rank and crowding distance."""
        survivors: list[Individual] = tools.selNSGA2(population + offspring, context.config.population)
        return survivors


def _pairs(population: list[Individual], context: GenerationContext) -> list[tuple[Individual, Individual]]:
    """Select pairs of parents by tournament, or at random from fewer than the four individuals that DEAP's tournament needs."""
    if len(population) < 4:
        return [(context.rng.choice(population), context.rng.choice(population))]
    with global_random(*context.key, str(context.rng.random())):
        parents = tools.selTournamentDCD(population, len(population) // 4 * 4)
    return list(zip(parents[::2], parents[1::2], strict=True))


class AEB:
    """Evolutionary search on F_AEB as in Auto-Spikformer.

    The parents are the best `parents` individuals so far. Mutation and crossover produce half of the candidates each.
    """

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:
        """Yield a mutant and a crossover child of random parents in turn."""
        while True:
            yield mutate(context.space, context.rng.choice(population).architecture, context.rng, context.config)
            mother, father = context.rng.choice(population), context.rng.choice(population)
            yield crossover(context.space, mother.architecture, father.architecture, context.rng)

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:
        """Return the `parents` individuals with the highest F_AEB."""
        ranked = sorted(population + offspring, key=lambda individual: -individual.f_aeb)
        return ranked[: context.config.parents]


ALGORITHMS: dict[str, Callable[[], Algorithm]] = {"nsga2": NSGA2, "aeb": AEB, "random": RandomSearch}


def algorithm_of(name: str) -> Algorithm:
    """Return the algorithm that a name means.

    Args:
        name: A key of `ALGORITHMS`, or the import path of a class without arguments.

    Raises:
        UserError: Nothing can be imported from the path, or it has no `ask` and `tell`.
    """
    create = ALGORITHMS.get(name) or import_path.load(name, source="search.algorithm")
    try:
        algorithm: Algorithm = create()
    except TypeError as error:
        raise UserError(f"search.algorithm: {name}: {error}; write a class that is created without arguments") from None
    if not (callable(getattr(algorithm, "ask", None)) and callable(getattr(algorithm, "tell", None))):
        raise UserError(f"search.algorithm: {name}: has no methods ask and tell")
    return algorithm
