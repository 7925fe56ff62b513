"""Genes of architectures as a matrix of numbers, for models that predict a quantity from the genes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autospike.space.architecture import Architecture
from autospike.space.genes import Gene
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """The genes of some architectures that have several values in the space.

    Attributes:
        paths: The path of each gene, in the order in which the architectures have them.
        genes: The genes.
        values: `[N, genes]`, the number of a gene, or the position of its name in the space; NaN if an architecture lacks the gene.
    """

    paths: tuple[GenePath, ...]
    genes: tuple[Gene, ...]
    values: Matrix

    def features(self) -> Matrix:
        """Return features on one scale, `[N, features]`.

        A number is scaled from the bounds of its gene to [0, 1] and 0.5 if it is lacking; a name has one column for each name of
        its gene, which is 1 for that name and 0 otherwise.
        """
        columns: list[NDArray[np.float64]] = []
        for gene, column in zip(self.genes, self.values.T, strict=True):
            if isinstance(gene.values[0], str):
                columns += [(column == i).astype(float) for i in range(len(gene.values))]
            else:
                low, high = gene.values[0], gene.values[-1]
                columns.append(np.where(np.isnan(column), 0.5, (column - low) / (high - low)))
        return np.column_stack(columns) if columns else np.zeros((len(self.values), 1))


def encode(space: SearchSpace, architectures: Sequence[Architecture]) -> Encoding:
    """Encode the genes of architectures.

    Args:
        space: Their search space.
        architectures: The architectures.

    Returns:
        The genes and their values.
    """
    genes: dict[GenePath, Gene] = {}
    columns: dict[GenePath, NDArray[np.float64]] = {}
    for i, architecture in enumerate(architectures):
        for found in space.genes(architecture):
            if found.gene.size > 1:
                genes[found.path] = found.gene
                column = columns.setdefault(found.path, np.full(len(architectures), np.nan))
                column[i] = found.gene.values.index(found.value) if isinstance(found.value, str) else found.value
    values = np.column_stack([*columns.values()]) if columns else np.empty((len(architectures), 0))
    return Encoding(paths=tuple(genes), genes=tuple(genes.values()), values=values)
