"""Importance of genes for accuracy and energy, by permutation (Breiman, "Random forests", Machine Learning 45, 2001).

A forest of random trees (scikit-learn) predicts a quantity from the genes of a candidate. The importance of a gene is the decrease
of R^2 on candidates that the forest has not seen, when the values of that gene are shuffled among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.inspection import permutation_importance
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from autospike.randomness import keyed
from autospike.space.architecture import Architecture
from autospike.space.encoding import encode
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath

# Trees of a forest, repetitions of a permutation, share of the candidates that are held out, largest number of candidates.
# Our choice.
TREES, REPETITIONS, HELD_OUT, MOST = 50, 10, 0.3, 1000
# With fewer candidates there is nothing to learn from.
FEWEST = 20


def importance(space: SearchSpace, architectures: Sequence[str], quantities: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Compute the importance of each gene for each quantity.

    Args:
        space: The search space of the candidates.
        architectures: The candidates as JSON (`Architecture.to_json`). Of more than 1,000, that many are drawn at random, and only
            these are read.
        quantities: The values of each quantity, by name, in the same order. Energies should be given as logarithms.

    Returns:
        For each gene with several values in these candidates, the most important first: its name (`gene`), and for each quantity
        the mean decrease of R^2 (`NAME`), its standard deviation over the repetitions (`NAME_deviation`) and the R^2 of the forest
        (`NAME_r2`), at which a forest that predicts nothing is 0 or below. Without rows if there are fewer than 20 candidates.
    """
    chosen = sorted(keyed(0, "importance").sample(range(len(architectures)), min(MOST, len(architectures))))
    names, genes = _features(space, [Architecture.from_json(architectures[i]) for i in chosen])
    if len(chosen) < FEWEST or not names:
        return pd.DataFrame(columns=["gene"])
    columns: dict[str, Any] = {"gene": names}
    for name, values in quantities.items():
        columns |= _of_quantity(name, genes, np.array([values[i] for i in chosen], dtype=float))
    table = pd.DataFrame(columns)
    return table.iloc[np.argsort(-table[list(quantities)].sum(axis=1).to_numpy(), kind="stable")].reset_index(drop=True)


def _of_quantity(name: str, genes: NDArray[np.float64], values: NDArray[np.float64]) -> dict[str, Any]:
    fit_genes, test_genes, fit_values, test_values = train_test_split(genes, values, test_size=HELD_OUT, random_state=0)
    forest = ExtraTreesRegressor(n_estimators=TREES, random_state=0).fit(fit_genes, fit_values)
    found = permutation_importance(forest, test_genes, test_values, scoring=_r2, n_repeats=REPETITIONS, random_state=0)
    return {
        name: found.importances_mean,
        f"{name}_deviation": found.importances_std,
        f"{name}_r2": _r2(forest, test_genes, test_values),
    }


def _r2(forest: ExtraTreesRegressor, genes: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """R^2 of the mean of the trees. `forest.score` checks its input again for each tree, and takes three times as long."""
    read = np.ascontiguousarray(genes, dtype=np.float32)
    predicted = sum(tree.predict(read, check_input=False) for tree in forest.estimators_) / len(forest.estimators_)
    return float(r2_score(values, predicted))


def _features(space: SearchSpace, architectures: Sequence[Architecture]) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the genes that differ between candidates, and their values `[N, genes]`; a gene that a candidate lacks is -1."""
    encoding = encode(space, architectures)
    values = np.nan_to_num(encoding.values, nan=-1.0)
    varying = [i for i in range(values.shape[1]) if len(np.unique(values[:, i])) > 1]
    return [gene_at(encoding.paths[i]) for i in varying], values[:, varying]


def gene_at(path: GenePath) -> str:
    """Return the name of a gene with its position, such as `stage 1 block 2 neuron.tau`, counted from 1.

    Args:
        path: Path of the gene.
    """
    words, names = [], {"stages": "stage", "blocks": "block"}
    for part, after in zip(path, (*path[1:], None), strict=True):
        if isinstance(after, int):
            words.append(f"{names.get(str(part), part)} {after + 1}")
    field = ".".join(str(part) for part in path if not isinstance(part, int) and part not in names)
    return " ".join(filter(None, (*words, field)))
