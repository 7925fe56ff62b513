"""What the subnets of a space cost before anything is trained: three of them, and the distribution over random draws."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autospike.report.tables import gene_name
from autospike.searching.constraints import STATIC_LIMITS, Constraints
from autospike.space.architecture import Architecture
from autospike.space.block import PUBLISHED_NEURON
from autospike.space.costs import Costs
from autospike.space.genes import UNSET, Gene
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes

DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class CostProfile:
    """Distribution of one cost over random draws of a space.

    Attributes:
        name: Field of `search.constraints` that limits the cost.
        label: Name of the cost.
        quantiles: Quantiles at 10, 50 and 90 %.
        limit: The limit, or None.
        share: Share of the draws within the limit, or None.
        gene: The gene that explains most of the variance of the cost, or None if it does not vary.
        explained: Share of the variance that its values explain: the correlation ratio eta squared, summed over the blocks.
    """

    name: str
    label: str
    quantiles: tuple[float, float, float]
    limit: float | None
    share: float | None
    gene: str | None
    explained: float


def centroid(space: SearchSpace) -> Architecture:
    """Return the architecture with the middle value of each size; names and neurons are those of the largest one.

    Args:
        space: The search space.
    """

    def visit(gene: Gene, path: GenePath, *parents: Any) -> Any:
        if gene == UNSET or path[-1] in PUBLISHED_NEURON or isinstance(gene.values[0], str):
            return parents[0]
        return gene.values[(len(gene.values) - 1) // 2]

    return visit_genes(space, visit, space.largest())


def profile_costs(space: SearchSpace, constraints: Constraints, rng: random.Random, *, draws: int = DRAWS) -> list[CostProfile]:
    """Compute the distribution of each cost over random draws.

    Args:
        space: The search space.
        constraints: Limits, and the size of input and output.
        rng: Random generator.
        draws: Number of draws.

    Returns:
        One profile for each static limit.
    """
    drawn = [space.sample(rng) for _ in range(draws)]
    found = [constraints.costs(architecture) for architecture in drawn]
    genes = _gene_columns(space, drawn)
    return [_profile(name, found, genes, constraints.static.get(name)) for name in STATIC_LIMITS]


def _profile(name: str, found: Sequence[Costs], genes: dict[str, dict[GenePath, list[object]]], limit: float | None) -> CostProfile:
    kind = STATIC_LIMITS[name]
    values = np.array([kind.value(costs) for costs in found], dtype=float)
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]).tolist()
    explained = {gene: sum(_eta_squared(column, values) for column in columns.values()) for gene, columns in genes.items()}
    gene = max(explained, key=lambda g: explained[g]) if explained and values.std() > 0 else None
    return CostProfile(
        name=name,
        label=kind.label,
        quantiles=(low, middle, high),
        limit=limit,
        share=None if limit is None else float((values <= limit).mean()),
        gene=gene,
        explained=min(1.0, explained[gene]) if gene else 0.0,
    )


def _gene_columns(space: SearchSpace, drawn: Sequence[Architecture]) -> dict[str, dict[GenePath, list[object]]]:
    """The value of each gene in each draw (None where a draw lacks it), by the name of the gene and its path."""
    columns: dict[str, dict[GenePath, list[object]]] = defaultdict(dict)
    for i, architecture in enumerate(drawn):
        for found in space.genes(architecture):
            if found.gene.size > 1:
                name = gene_name(found.path, len(space.stages))
                columns[name].setdefault(found.path, [None] * len(drawn))[i] = found.value
    return columns


def _eta_squared(groups: Sequence[object], values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Correlation ratio: variance of the means of the groups over the variance of the values."""
    if values.std() == 0:
        return 0.0
    members: dict[object, list[float]] = defaultdict(list)
    for group, value in zip(groups, values.tolist(), strict=True):
        members[group].append(value)
    between = sum(len(m) * (np.mean(m) - values.mean()) ** 2 for m in members.values())
    return float(between / (len(values) * values.var()))
