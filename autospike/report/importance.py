"""Importance of genes for accuracy and energy, by permutation (Breiman, "Random forests", Machine Learning 45, 2001).

A forest of random trees (scikit-learn) predicts a quantity from the genes of a candidate. The importance of a gene is the decrease
of R^2 on candidates that the forest has not seen, when the values of that gene are shuffled among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autospike.randomness import keyed
from autospike.space.architecture import Architecture
from autospike.space.encoding import encode
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath

Floats = NDArray[np.float64]

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
    architectures, quantities = sample(architectures, quantities)
    names, genes = _features(space, [Architecture.from_json(text) for text in architectures])
    if len(architectures) < FEWEST or not names:
        return pd.DataFrame(columns=["gene"])
    columns: dict[str, Any] = {"gene": names}
    for name, values in quantities.items():
        columns |= _of_quantity(name, genes, np.array(values, dtype=float))
    table = pd.DataFrame(columns)
    return table.iloc[np.argsort(-table[list(quantities)].sum(axis=1).to_numpy(), kind="stable")].reset_index(drop=True)


def sample(
    architectures: Sequence[str], quantities: Mapping[str, Sequence[float]]
) -> tuple[Sequence[str], Mapping[str, Sequence[float]]]:
    """Draw the candidates that `importance` reads: all of at most 1,000.

    Args:
        architectures: The candidates.
        quantities: The values of each quantity, by name, in the same order.

    Returns:
        The architectures and the quantities of the drawn candidates, in the given order.
    """
    if len(architectures) <= MOST:
        return architectures, quantities
    chosen = sorted(keyed(0, "importance").sample(range(len(architectures)), MOST))
    return [architectures[i] for i in chosen], {name: [values[i] for i in chosen] for name, values in quantities.items()}


def _of_quantity(name: str, genes: Floats, values: Floats) -> dict[str, Any]:
    # Loaded here because it takes as long as a forest: other modules need only the names of this one.
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import train_test_split

    fit_genes, test_genes, fit_values, test_values = train_test_split(genes, values, test_size=HELD_OUT, random_state=0)
    forest = ExtraTreesRegressor(n_estimators=TREES, random_state=0).fit(fit_genes, fit_values)

    def predict(rows: Floats) -> Floats:
        """Predict as the forest, which checks its input again for each tree, and takes three times as long."""
        read = np.ascontiguousarray(rows, dtype=np.float32)
        return sum(tree.predict(read, check_input=False) for tree in forest.estimators_) / TREES

    (r2,) = _r2(test_values, predict(test_genes)[None])
    decreases = r2 - permuted_r2(predict, test_genes, test_values)
    return {name: decreases.mean(axis=1), f"{name}_deviation": decreases.std(axis=1), f"{name}_r2": float(r2)}


def permuted_r2(predict: Callable[[Floats], Floats], genes: Floats, values: Floats) -> Floats:
    """Compute R^2 with the values of one gene shuffled, for each gene and repetition.

    The permutations are those of `sklearn.inspection.permutation_importance`, which predicts each repetition on its own.

    Args:
        predict: Predicts values from the genes of candidates, `[M, G]`.
        genes: The genes of N candidates, `[N, G]`.
        values: The true values, `[N]`.

    Returns:
        R^2, `[G, REPETITIONS]`.
    """
    rng, order = np.random.RandomState(np.random.RandomState(0).randint(2**31)), np.arange(len(values))
    shuffled, orders = order.copy(), []
    for _ in range(REPETITIONS):
        rng.shuffle(shuffled)
        order = order[shuffled]  # each repetition permutes the result of the one before it
        orders.append(order)
    found = np.empty((genes.shape[1], REPETITIONS))
    for gene in range(genes.shape[1]):
        rows = np.tile(genes, (REPETITIONS, 1))
        rows[:, gene] = genes[np.concatenate(orders), gene]
        found[gene] = _r2(values, predict(rows).reshape(REPETITIONS, -1))
    return found


def _r2(values: Floats, predicted: Floats) -> Floats:
    """R^2 of each of R predictions of the same values, `[R, N]` of `[N]`."""
    from sklearn.metrics import r2_score

    return r2_score(np.broadcast_to(values, predicted.shape).T, predicted.T, multioutput="raw_values")


def _features(space: SearchSpace, architectures: Sequence[Architecture]) -> tuple[list[str], Floats]:
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
