"""The individuals of evaluated candidates: their objectives, their violation of limits, and who competes."""

from __future__ import annotations

from collections.abc import Sequence

from autospike.measurement import Evaluation
from autospike.objectives import Objective
from autospike.pareto import on_front
from autospike.searching.algorithms import Individual, fitness_of
from autospike.searching.constraints import Constraints


def individual_of(evaluation: Evaluation, objectives: Sequence[Objective], constraints: Constraints) -> Individual:
    """Return the individual of an evaluation.

    Args:
        evaluation: The evaluation.
        objectives: The objectives, in the order of its values.
        constraints: The limits that it may violate.
    """
    values, directions = [o.value(evaluation) for o in objectives], [o.maximise for o in objectives]
    fitness = fitness_of(values, directions, violation=constraints.violation(evaluation))
    return Individual(architecture=evaluation.measurement.architecture, f_aeb=evaluation.f_aeb, fitness=fitness)


def offspring_of(evaluations: Sequence[Evaluation], objectives: Sequence[Objective], constraints: Constraints) -> list[Individual]:
    """Return the individuals of a generation, without those with early exit that another feasible one dominates.

    There are several of them for each network, so that sorting them all would take longer than measuring them.

    Args:
        evaluations: All evaluations of the generation.
        objectives: The objectives.
        constraints: The limits.
    """
    individuals = [individual_of(evaluation, objectives, constraints) for evaluation in evaluations]
    if not any(individual.architecture.exits_early for individual in individuals):
        return individuals
    feasible = [individual for individual in individuals if not individual.fitness.violation]
    flags = on_front([i.fitness.values for i in feasible], maximise=[objective.maximise for objective in objectives])
    best = {individual.architecture for individual, flag in zip(feasible, flags, strict=True) if flag}
    return [i for i in individuals if not i.architecture.exits_early or i.architecture in best]
