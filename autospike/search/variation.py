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

# In a deep network the first blocks must not freeze.
LATE_SPAN = 64


def mutate(
    space: SearchSpace, parent: Architecture, rng: random.Random, config: SearchConfig, *, late: float = 1.0
) -> Architecture:
    """Genes of blocks change with probability `block_mutation`, the others with `global_mutation` (Auto-Spikformer: 0.2, 0.4).

    Args:
        late: how many times as often a block's genes change as those of the block before, as far as the last block's change no more
            than `LATE_SPAN` times as often as the first one's. The mean over the blocks stays, unless a rate would pass 1.
    """
    rates = _rates(parent.depth, late, config.block_mutation)

    def visit(gene: Gene, path: GenePath, *value: Any) -> Any:
        if not value:
            return gene.sample(rng)
        probability = rates[_blocks_before(parent, path)] if "blocks" in path else config.global_mutation
        return gene.mutate(value[0], rng) if rng.random() < probability else value[0]

    return walk(space, visit, parent)


def crossover(space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random) -> Architecture:
    """Uniform: each gene comes from either parent with equal chance; a block or gene that only one has comes from that one."""

    def visit(gene: Gene, _path: GenePath, *values: Any) -> Any:
        return rng.choice(values) if values else gene.sample(rng)  # new where one parent's mixer meets the other's shortcut

    return walk(space, visit, mother, father)


def one_point_crossover(space: SearchSpace, mother: Architecture, father: Architecture, rng: random.Random) -> Architecture:
    """What stands before a random block comes from the mother, what follows from the father; T and depths from either.

    The child shares a beginning with its mother, and with its siblings: what a walk computes once.
    """
    point = rng.randint(0, mother.depth)

    def visit(gene: Gene, path: GenePath, *values: Any) -> Any:
        if not values:
            return gene.sample(rng)
        if path[-1] in ("time_steps", "depth"):
            return rng.choice(values)
        before = path[0] != "stages" or (path[:2] == ("stages", 0) and "blocks" not in path) or _blocks_before(mother, path) < point
        return values[0] if before else values[-1]

    return walk(space, visit, mother, father)


def _blocks_before(architecture: Architecture, path: GenePath) -> int:
    """How many of an architecture's blocks stand before a gene."""
    stage = int(path[1])
    within = int(path[3]) if "blocks" in path else 0
    return sum(len(s.blocks) for s in architecture.stages[:stage]) + within


def _rates(depth: int, late: float, mean: float) -> list[float]:
    """Of mutation, block by block."""
    growth = min(late, LATE_SPAN ** (1 / max(1, depth - 1)))
    weights = [growth**i for i in range(depth)]
    return [min(1.0, mean * weight * depth / sum(weights)) for weight in weights]
