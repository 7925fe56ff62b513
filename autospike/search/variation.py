"""Mutation and crossover: new architectures from old ones, inside the space by construction.

Depth comes first, and a token mixer before the genes that it needs. Blocks that a new depth cuts off are forgotten, blocks that it
adds are drawn afresh, and every other block keeps its place; so a child is valid at every depth.
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

# In a deep network the first blocks must not freeze.
LATE_SPAN = 64


def mutate(space: SearchSpace, parent: Architecture, rng: random.Random, config: SearchConfig) -> Architecture:
    """Genes of blocks change with probability `block_mutation`, the others with `global_mutation` (Auto-Spikformer: 0.2, 0.4)."""

    def visit(gene: Gene, path: GenePath, *value: Any) -> Any:
        return _mutated(gene, path, value[0], rng, config) if value else gene.sample(rng)

    return visit_genes(space, visit, parent)


def crossover(space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random) -> Architecture:
    """Uniform: each gene comes from either parent with equal chance; a block or gene that only one has comes from that one."""

    def visit(gene: Gene, _path: GenePath, *values: Any) -> Any:
        return rng.choice(values) if values else gene.sample(rng)  # new where one parent's mixer meets the other's shortcut

    return visit_genes(space, visit, mother, father)


def uniform(
    space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random, config: SearchConfig
) -> Architecture:
    """A child of a uniform crossover that mutates everywhere."""
    return mutate(space, crossover(space, mother, father, rng), rng, config)


def one_point(
    space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random, config: SearchConfig
) -> Architecture:
    """What stands before a random place is the mother's, unchanged; what follows is the father's, and mutates.

    A place is an embedding or a block, `late_point` times as likely as the one before it, as far as the last is no more than
    `LATE_SPAN` times as likely as the first. T is either parent's and mutates wherever that is; so is and does the depth of a stage
    that does not end before it, and a smaller one cuts off. The child shares a beginning with its mother, and with its siblings:
    what a walk computes once.
    """
    places = _places(mother, len(mother.stages))
    growth = min(config.late_point, LATE_SPAN ** (1 / (places - 1)))
    (point,) = rng.choices(range(places), [growth**place for place in range(places)])

    def visit(gene: Gene, path: GenePath, *values: Any) -> Any:
        if not values:
            return gene.sample(rng)
        if _place(mother, path) < point:
            return values[0]
        return _mutated(gene, path, rng.choice(values) if path[-1] in ("time_steps", "depth") else values[-1], rng, config)

    return visit_genes(space, visit, mother, father)


Crossover = Callable[[SearchSpace, Architecture, Architecture, random.Random, SearchConfig], Architecture]

CROSSOVERS: dict[str, Crossover] = {"one-point": one_point, "uniform": uniform}


def _mutated(gene: Gene, path: GenePath, value: Any, rng: random.Random, config: SearchConfig) -> Any:
    probability = config.block_mutation if "blocks" in path else config.global_mutation
    return gene.mutate(value, rng) if rng.random() < probability else value


def _places(architecture: Architecture, stages: int) -> int:
    """How many embeddings and blocks so many stages have."""
    return sum(1 + len(stage.blocks) for stage in architecture.stages[:stages])


def _place(architecture: Architecture, path: GenePath) -> int:
    """Where a gene has its first effect: in which of an architecture's embeddings and blocks."""
    match path:
        case ("time_steps",):
            return _places(architecture, len(architecture.stages))  # none: every T comes out of the same walk
        case ("stages", int(stage), "depth"):
            return _places(architecture, stage + 1) - 1  # the last block, behind which there may be more
        case ("stages", int(stage), "blocks", int(block), *_):
            return _places(architecture, stage) + 1 + block
        case ("stages", int(stage), *_):
            return _places(architecture, stage)
    return 0
