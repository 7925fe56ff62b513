"""Search algorithms with two methods: `ask` proposes candidates and `tell` selects the next population.

A population is a list of `Individual`. Algorithms have no state and draw from the generator of the generation context, so a
generation depends only on the population and on (seed, generation).
"""

from __future__ import annotations

import math
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

    Attributes:
        architecture: The architecture.
        f_aeb: Accuracy-energy-balanced fitness, by which `AEB` selects.
        fitness: DEAP's fitness with the values of the objectives and the violation of limits, by which `NSGA2` selects.
    """

    architecture: Architecture
    f_aeb: float
    fitness: ConstrainedFitness


class ConstrainedFitness(base.Fitness):  # type: ignore[misc]
    """DEAP's fitness with constrained domination (Deb et al., IEEE TEVC 6(2), 2002).

    A feasible individual dominates an infeasible one. Of two infeasible ones, the one with the smaller violation dominates.

    Attributes:
        violation: By how much the limits are violated; 0 for a feasible individual.
    """

    violation: float = 0.0

    def dominates(self, other: ConstrainedFitness, obj: slice = slice(None)) -> bool:
        """Return whether this individual dominates another one.

        Args:
            other: The fitness of the other one.
            obj: The objectives that are compared between feasible individuals.
        """
        if self.violation or other.violation:
            return self.violation < other.violation
        return bool(super().dominates(other, obj))

    def __hash__(self) -> int:
        """Return a hash that is equal for equal objectives."""
        return hash(self.wvalues)

    def __eq__(self, other: object) -> bool:
        """Return whether objectives and violation are equal; DEAP sorts individuals of equal fitness once."""
        return isinstance(other, ConstrainedFitness) and (self.wvalues, self.violation) == (other.wvalues, other.violation)


def fitness_of(values: Sequence[float], maximise: Sequence[bool], *, violation: float = 0.0) -> ConstrainedFitness:
    """Return a DEAP fitness.

    DEAP reads the directions from the class, so a class is created for them.

    Args:
        values: Values of the objectives.
        maximise: For each objective, whether it is maximised.
        violation: By how much limits are violated.

    Returns:
        The fitness, with weight 1 for a maximised objective and -1 for a minimised one.
    """
    fitness = _fitness_class(tuple(1.0 if m else -1.0 for m in maximise))()
    fitness.values, fitness.violation = tuple(values), violation
    return fitness


@cache
def _fitness_class(weights: tuple[float, ...]) -> type[ConstrainedFitness]:
    return type("Fitness", (ConstrainedFitness,), {"weights": weights})


@dataclass(frozen=True, kw_only=True)
class GenerationContext:
    """The inputs of an algorithm for one generation.

    Attributes:
        space: The search space.
        config: The settings of the search.
        rng: Random generator of the generation.
        key: Seed of DEAP's operators, which draw from Python's global generator.
        is_allowed: Whether an architecture is within the limits that need no measurement. The search replaces other proposals.
    """

    space: SearchSpace
    config: SearchConfig
    rng: random.Random
    key: tuple[int, str, int]
    is_allowed: Callable[[Architecture], bool] = lambda _architecture: True


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

    Parents are selected by binary tournament on domination and crowding distance, survivors by non-dominated sorting; both with
    constrained domination (`ConstrainedFitness`).
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


class NSGA3(NSGA2):
    """NSGA-III (Deb and Jain, IEEE TEVC 18(4), 2014) for more than two objectives.

    Survivors of the last front are selected by reference points, at most `population` of them, uniformly on a plane. Parents are
    selected by tournament on constrained domination alone, ties at random, because there is no crowding distance.
    """

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:
        """Yield children of pairs of parents by the configured crossover."""
        cross = CROSSOVERS[context.config.crossover]
        while True:
            mother, father = (_winner(population, context.rng) for _ in range(2))
            yield cross(context.space, mother.architecture, father.architecture, context.rng, context.config)

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:
        """Return `population` individuals by rank and reference points."""
        together, size = population + offspring, context.config.population
        if len(together) <= size:
            return together
        objectives = len(together[0].fitness.wvalues)
        with global_random(*context.key, "niching"):
            points = tools.uniform_reference_points(objectives, _divisions(objectives, size))
            survivors: list[Individual] = tools.selNSGA3(together, size, points, nd="standard")
        return survivors


def _winner(population: list[Individual], rng: random.Random) -> Individual:
    """The dominating one of two random individuals; the first if neither dominates."""
    first, second = rng.choice(population), rng.choice(population)
    return second if second.fitness.dominates(first.fitness) else first


def _divisions(objectives: int, population: int) -> int:
    """Largest number of divisions of an axis that gives at most `population` reference points, at least 1."""
    if objectives == 1:
        return 1
    divisions = 1
    while math.comb(objectives + divisions, divisions + 1) <= population:
        divisions += 1
    return divisions


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
        """Return the `parents` individuals with the highest F_AEB; infeasible ones last, by their violation of the limits."""
        ranked = sorted(population + offspring, key=lambda individual: (individual.fitness.violation, -individual.f_aeb))
        return ranked[: context.config.parents]


ALGORITHMS: dict[str, Callable[[], Algorithm]] = {"nsga2": NSGA2, "nsga3": NSGA3, "aeb": AEB, "random": RandomSearch}

# Algorithms whose libraries are imported only if they are used, by their import path. Those of Optuna need an extra.
IMPORTED_ALGORITHMS = {
    "predictor": "autospike.searching.predictor:PredictorSearch",
    "optuna": "autospike.searching.optuna_search:OptunaSearch",
    "optuna-nsga3": "autospike.searching.optuna_search:OptunaNSGA3",
}


def algorithm_of(name: str) -> Algorithm:
    """Return the algorithm that a name means.

    Args:
        name: A key of `ALGORITHMS` or `IMPORTED_ALGORITHMS`, or the import path of a class without arguments.

    Raises:
        UserError: Nothing can be imported from the path, or it has no `ask` and `tell`.
    """
    create = ALGORITHMS.get(name) or import_path.load(IMPORTED_ALGORITHMS.get(name, name), source="search.algorithm")
    try:
        algorithm: Algorithm = create()
    except TypeError as error:
        raise UserError(f"search.algorithm: {name}: {error}; write a class that is created without arguments") from None
    if not (callable(getattr(algorithm, "ask", None)) and callable(getattr(algorithm, "tell", None))):
        raise UserError(f"search.algorithm: {name}: has no methods ask and tell")
    return algorithm
