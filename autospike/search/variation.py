"""Mutation and crossover: new architectures from old ones, inside the space by construction.

Depth comes first, and a token mixer before the genes that it needs. Blocks that a new depth cuts off are forgotten, blocks that it
adds are drawn afresh, and every other block keeps its place; so a child is valid at every depth.
"""

from __future__ import annotations

import random
from typing import Any

from autospike.architecture import Architecture
from autospike.config import SearchConfig
from autospike.genes import Gene
from autospike.space import SearchSpace
from autospike.walk import GenePath, walk


def mutate(space: SearchSpace, parent: Architecture, rng: random.Random, config: SearchConfig) -> Architecture:
    """Genes of blocks change with probability `block_mutation`, the others with `global_mutation` (Auto-Spikformer: 0.2, 0.4)."""

    def visit(gene: Gene, path: GenePath, *value: Any) -> Any:
        if not value:
            return gene.sample(rng)
        probability = config.block_mutation if "blocks" in path else config.global_mutation
        return gene.mutate(value[0], rng) if rng.random() < probability else value[0]

    return walk(space, visit, parent)


def crossover(space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random) -> Architecture:
    """Each gene comes from either parent with equal chance; a block or gene that only one parent has comes from that one."""

    def visit(gene: Gene, _path: GenePath, *values: Any) -> Any:
        return rng.choice(values) if values else gene.sample(rng)  # new where one parent's mixer meets the other's shortcut

    return walk(space, visit, mother, father)
