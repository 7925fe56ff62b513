"""Rank correlations, regret and difference of inherited and stand-alone accuracies, and the choice of candidates."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, spearmanr

from autospike.report.assessment import Estimate, assess, draw, kendall_tau, spearman_rho, stratified


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def value_of(estimate: Estimate | None) -> float:
    assert estimate is not None
    low, high = estimate.interval
    assert low <= estimate.value <= high
    return estimate.value


def test_correlations_by_hand() -> None:
    """Two of 10 pairs are in another order: tau = (8 - 2) / 10. Ranks differ by 1 four times: rho = 1 - 6 * 4 / 120."""
    inherited, alone = [0.1, 0.2, 0.3, 0.4, 0.5], [0.7, 0.6, 0.8, 0.95, 0.9]
    found = assess(inherited, alone, rng())
    assert value_of(found.everywhere.kendall) == pytest.approx(0.6)
    assert value_of(found.everywhere.spearman) == pytest.approx(0.8)
    assert value_of(found.difference) == pytest.approx(0.3 - 0.79)
    assert found.top_third.networks == 2
    assert found.top_third.kendall is None  # too few


def test_correlations_are_those_of_scipy() -> None:
    generator = rng()
    for _ in range(10):
        x, y = generator.integers(0, 6, size=15).astype(float), generator.integers(0, 6, size=15).astype(float)
        assert kendall_tau(x, y) == pytest.approx(kendalltau(x, y).statistic)
        assert spearman_rho(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_regret_by_hand() -> None:
    """The best one alone (0.95) is second by inherited weights, whose best has 0.9."""
    found = assess([0.1, 0.2, 0.3, 0.4, 0.5], [0.7, 0.6, 0.8, 0.95, 0.9], rng())
    assert found.regret == pytest.approx({1: 0.05, 3: 0.0, 5: 0.0})
    assert assess([0.5, 0.1, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4], rng()).regret == pytest.approx({1: 0.3, 3: 0.0})


def test_the_top_third_is_that_of_inherited_accuracy() -> None:
    """The ranking is right among the eight worst and reversed among the four best of twelve."""
    inherited = [i / 12 for i in range(12)]
    alone = [*inherited[:8], *inherited[:7:-1]]
    found = assess(inherited, alone, rng())
    assert value_of(found.top_third.kendall) == pytest.approx(-1)
    assert value_of(found.everywhere.kendall) == pytest.approx((66 - 2 * 6) / 66)


def test_equal_accuracies_have_no_correlation() -> None:
    found = assess([0.5] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], rng())
    assert found.everywhere.kendall is None
    assert found.everywhere.spearman is None


@pytest.mark.slow
def test_the_interval_covers_the_true_correlation() -> None:
    """Of independent normal pairs tau is 0: 95 % intervals miss it rarely."""
    generator = rng()
    missed = 0
    for _ in range(8):
        found = assess(generator.normal(size=12).tolist(), generator.normal(size=12).tolist(), rng())
        assert found.everywhere.spearman
        missed += not found.everywhere.spearman.interval[0] <= 0 <= found.everywhere.spearman.interval[1]
    assert missed <= 2


def test_each_stratum_gives_one_candidate() -> None:
    energies = [float(i) for i in range(40)]
    random.Random(1).shuffle(energies)
    found = stratified(energies, 8, random.Random(0))
    assert sorted(int(energies[i] // 5) for i in found) == list(range(8))
    assert stratified(energies, 8, random.Random(0)) == found
    assert sorted(stratified(energies, 100, random.Random(0))) == list(range(40))


def test_earlier_candidates_stay() -> None:
    energies = [float(i) for i in range(40)]
    first = stratified(energies, 4, random.Random(0))
    more = stratified(energies, 8, random.Random(1), chosen=first)
    assert more[:4] == first
    assert len(set(more)) == 8
    assert len({int(energies[i] // 5) for i in more}) >= 7
    assert stratified(energies, 2, random.Random(2), chosen=first) == first


def test_the_figure_has_a_point_for_each_network() -> None:
    columns = {f"{name}{end}": [0.4, 0.5] for name in ("inherited", "alone") for end in ("", "_low", "_high")}
    figure = draw(pd.DataFrame(columns), title="digits", metric="accuracy")
    assert [len(np.asarray(line.get_xdata())) for line in figure.axes[0].get_lines() if line.get_marker() == "o"] == [2]
