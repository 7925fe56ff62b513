"""Mutation and crossover. The children are members of the space by construction.

The gene visitor visits the depth of a stage before its blocks, and a token mixer before its genes. A smaller depth removes the last
blocks, a larger depth adds sampled blocks, and all other blocks keep their index.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from autospike.config import SearchConfig
from autospike.space.architecture import Architecture
from autospike.space.genes import Gene
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes

# Limits how rarely one-point crossover changes the first blocks of a deep network. Our choice.
LATE_SPAN = 64


def mutate(space: SearchSpace, parent: Architecture, rng: random.Random, config: SearchConfig) -> Architecture:
    """Mutate each gene independently.

    Args:
        space: The search space.
        parent: A member of the space.
        rng: Random generator.
        config: `block_mutation` for genes of blocks, `global_mutation` for the others (Auto-Spikformer: 0.2 and 0.4).

    Returns:
        The mutant. Genes that the parent lacks are sampled.
    """

    def visit(gene: Gene, path: GenePath, *value: Any) -> Any:
        return _mutated(gene, path, value[0], rng, config) if value else gene.sample(rng)

    return visit_genes(space, visit, parent)


def crossover(space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random) -> Architecture:
    """Cross two parents uniformly: each gene is from either parent with equal probability.

    Args:
        space: The search space.
        mother: The first parent.
        father: The second parent.
        rng: Random generator.

    Returns:
        The child. Genes that one parent has are from that parent; genes that neither has are sampled.
    """

    def visit(gene: Gene, _path: GenePath, *values: Any) -> Any:
        return rng.choice(values) if values else gene.sample(rng)  # neither has it: the mixer of one, the shortcut of the other

    return visit_genes(space, visit, mother, father)


def uniform(
    space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random, config: SearchConfig
) -> Architecture:
    """Cross two parents uniformly and mutate the child.

    Args:
        space: The search space.
        mother: The first parent.
        father: The second parent.
        rng: Random generator.
        config: Mutation probabilities.

    Returns:
        The child.
    """
    return mutate(space, crossover(space, mother, father, rng), rng, config)


def one_point(
    space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random, config: SearchConfig
) -> Architecture:
    """Cross two parents at one point: the mother's genes before it, the father's mutated genes from it on.

    The point is an embedding or a block of the mother. Each is `late_point` times as likely as the one before it, limited so that
    the last is at most `LATE_SPAN` times as likely as the first. T, and the depth of each stage that does not end before the point,
    are from either parent and mutate. The child shares a prefix with its mother and its siblings, which the trie evaluation
    computes once.

    Args:
        space: The search space.
        mother: The first parent.
        father: The second parent.
        rng: Random generator.
        config: Mutation probabilities and `late_point`.

    Returns:
        The child.
    """
    positions = _count_positions(mother, len(mother.stages))
    growth = min(config.late_point, LATE_SPAN ** (1 / (positions - 1)))
    (point,) = rng.choices(range(positions), [growth**position for position in range(positions)])

    def visit(gene: Gene, path: GenePath, *values: Any) -> Any:
        if not values:
            return gene.sample(rng)
        if _position(mother, path) < point:
            return values[0]
        return _mutated(gene, path, rng.choice(values) if path[-1] in ("time_steps", "depth") else values[-1], rng, config)

    return visit_genes(space, visit, mother, father)


Crossover = Callable[[SearchSpace, Architecture, Architecture, random.Random, SearchConfig], Architecture]

CROSSOVERS: dict[str, Crossover] = {"one-point": one_point, "uniform": uniform}


def _mutated(gene: Gene, path: GenePath, value: Any, rng: random.Random, config: SearchConfig) -> Any:
    """Mutate a value with the probability of its gene."""
    probability = config.block_mutation if "blocks" in path else config.global_mutation
    return gene.mutate(value, rng) if rng.random() < probability else value


def _count_positions(architecture: Architecture, stages: int) -> int:
    """Count the embeddings and blocks of the first stages."""
    return sum(1 + len(stage.blocks) for stage in architecture.stages[:stages])


def _position(architecture: Architecture, path: GenePath) -> int:
    """Return the index of the first embedding or block that a gene affects."""
    match path:
        case ("time_steps",) | ("exit_margin",):
            return _count_positions(architecture, len(architecture.stages))  # none: one trie evaluation gives every T
        case ("decoder", *_):
            return _count_positions(architecture, len(architecture.stages))  # after the last block
        case ("stages", int(stage), "depth"):
            return _count_positions(architecture, stage + 1) - 1  # the last block: a larger depth adds blocks after it
        case ("stages", int(stage), "blocks", int(block), *_):
            return _count_positions(architecture, stage) + 1 + block
        case ("stages", int(stage), *_):
            return _count_positions(architecture, stage)
    return 0
