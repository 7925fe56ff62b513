"""Permutation importance of genes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from searches import WIDE
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression

from autospike.report.importance import REPETITIONS, gene_at, importance, permuted_r2
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

SPACE = SearchSpace.from_dict(WIDE)


def drawn(number: int) -> list[Architecture]:
    rng = random.Random(0)
    return [SPACE.sample(rng) for _ in range(number)]


def written(architectures: list[Architecture]) -> list[str]:
    return [architecture.to_json() for architecture in architectures]


def test_only_the_gene_that_decides_is_important() -> None:
    """Shuffling the gene y = T of a perfect prediction gives R^2 = 1 - E (y - y')^2 / Var y = 1 - 2, a decrease of 2."""
    architectures = drawn(400)
    quantities = {
        "steps": [float(a.time_steps) for a in architectures],
        "width": [float(a.stages[0].embed_dim) for a in architectures],
    }
    table = importance(SPACE, written(architectures), quantities).set_index("gene")
    assert table.loc["time_steps", "steps"] == pytest.approx(2, abs=0.3)
    assert table.loc["stage 1 embed_dim", "width"] == pytest.approx(2, abs=0.3)
    assert table["steps"].drop("time_steps").abs().max() < 0.05
    assert table["steps_r2"].iloc[0] > 0.98
    assert set(table.index[:2]) == {"time_steps", "stage 1 embed_dim"}


def test_noise_gives_no_r2() -> None:
    rng = random.Random(1)
    architectures = drawn(200)
    table = importance(SPACE, written(architectures), {"noise": [rng.random() for _ in architectures]})
    assert table["noise_r2"].iloc[0] < 0.1


def test_results_are_repeatable_and_few_candidates_give_none() -> None:
    architectures = drawn(30)
    quantities = {"steps": [float(a.time_steps) for a in architectures]}
    assert importance(SPACE, written(architectures), quantities).equals(importance(SPACE, written(architectures), quantities))
    assert importance(SPACE, written(architectures[:19]), {"steps": quantities["steps"][:19]}).empty


def test_names_of_genes_count_from_one() -> None:
    assert gene_at(("stages", 0, "blocks", 2, "neuron", "tau")) == "stage 1 block 3 neuron.tau"
    assert gene_at(("stages", 1, "embed_dim")) == "stage 2 embed_dim"
    assert gene_at(("time_steps",)) == "time_steps"


def test_genes_are_permuted_as_scikit_learn_does() -> None:
    """A linear model, whose predictions do not depend on the other rows, predicts all repetitions at once."""
    rng = np.random.default_rng(0)
    genes, weights = rng.normal(size=(60, 4)), np.array([0.0, 1.0, 2.0, 4.0])
    values = genes @ weights + rng.normal(size=60)
    model = LinearRegression().fit(genes, values)
    expected = permutation_importance(model, genes, values, scoring="r2", n_repeats=REPETITIONS, random_state=0)
    found = model.score(genes, values) - permuted_r2(model.predict, genes, values)
    assert found == pytest.approx(expected.importances, abs=1e-12)


def test_a_quantity_that_all_candidates_share_depends_on_no_gene() -> None:
    architectures = drawn(40)
    table = importance(SPACE, written(architectures), {"constant": [0.5] * 40})
    assert set(table["constant"]) == {0.0}
    assert set(table["constant_r2"]) == {1.0}
