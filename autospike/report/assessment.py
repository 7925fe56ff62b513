"""Whether a supernet can be trusted: accuracies with inherited weights against those of the same networks trained alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from autospike.report.figures import ACCENT, MUTED, STYLE
from autospike.statistics import Interval

Floats = NDArray[np.float64]

# Resamples of a bootstrap, and the numbers k of a regret. Our choice.
RESAMPLES, TOP = 1000, (1, 3, 5)
# Rank correlations of fewer networks are not computed: their intervals would span everything.
FEWEST = 4


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % percentile interval over bootstrap resamples of the networks (Efron 1979).

    Attributes:
        value: The number.
        interval: The 2.5 % and the 97.5 % quantile of the resamples in which the number is defined.
    """

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How well inherited accuracies rank networks.

    Attributes:
        networks: Number of networks.
        kendall: Kendall's tau-b; None if there are too few networks, or all are equal.
        spearman: Spearman's rho; None as before.
    """

    networks: int
    kendall: Estimate | None
    spearman: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The result of comparing inherited and stand-alone accuracies.

    Attributes:
        everywhere: The ranking of all networks.
        top_third: The ranking of the third with the highest inherited accuracies, among which a search selects.
        regret: For each k, the best stand-alone accuracy of all networks minus that of the k networks with the highest inherited
            accuracies.
        difference: Mean of inherited minus stand-alone accuracy.
    """

    everywhere: Ranking
    top_third: Ranking
    regret: dict[int, float]
    difference: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return asdict(self)


def assess(inherited: Sequence[float], alone: Sequence[float], rng: np.random.Generator) -> Assessment:
    """Compare the accuracies of networks.

    Args:
        inherited: With inherited weights.
        alone: Of the same networks trained alone, in the same order.
        rng: Random generator of the bootstrap.

    Returns:
        The comparison, with bootstrap intervals.
    """
    x, y = np.array(inherited, dtype=float), np.array(alone, dtype=float)
    order = np.argsort(-x, kind="stable")
    top = order[: -(-len(x) // 3)]
    return Assessment(
        everywhere=_ranking(x, y, rng),
        top_third=_ranking(x[top], y[top], rng),
        regret={k: float(y.max() - y[order[:k]].max()) for k in TOP if k <= len(x)},
        difference=_estimate(lambda a, b: float((a - b).mean()), x, y, rng),
    )


def _ranking(x: Floats, y: Floats, rng: np.random.Generator) -> Ranking:
    return Ranking(networks=len(x), kendall=_estimate(kendall_tau, x, y, rng), spearman=_estimate(spearman_rho, x, y, rng))


def kendall_tau(x: Floats, y: Floats) -> float:
    """Return Kendall's tau-b, as `scipy.stats.kendalltau` does, which is too slow for thousands of resamples.

    With s_ij the sign of x_i - x_j and t_ij that of y_i - y_j it is sum s t / sqrt(sum s^2 sum t^2).

    Args:
        x: Values `[N]`, not all equal.
        y: Values `[N]`, not all equal.
    """
    s, t = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    return float((s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum()))


def spearman_rho(x: Floats, y: Floats) -> float:
    """Return Spearman's rho, the correlation of the ranks, as `scipy.stats.spearmanr` does.

    The row sums of the signs of `kendall_tau` are twice the ranks minus their mean.

    Args:
        x: Values `[N]`, not all equal.
        y: Values `[N]`, not all equal.
    """
    a, b = np.sign(x[:, None] - x).sum(axis=1), np.sign(y[:, None] - y).sum(axis=1)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _estimate(statistic: Callable[[Floats, Floats], float], x: Floats, y: Floats, rng: np.random.Generator) -> Estimate | None:
    """A statistic of pairs with its bootstrap interval; it is undefined where one side is constant."""
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    found = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(x), size=len(x))
        if np.ptp(x[drawn]) and np.ptp(y[drawn]):
            found.append(statistic(x[drawn], y[drawn]))
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return Estimate(value=statistic(x, y), interval=(low, high))


def stratified(energies_mj: Sequence[float], number: int, rng: random.Random, *, chosen: Sequence[int] = ()) -> list[int]:
    """Draw candidates at random, one from each of `number` strata of equal size by energy.

    Args:
        energies_mj: Energy of each candidate.
        number: Number of candidates to draw; of fewer candidates all are drawn.
        rng: Random generator.
        chosen: Positions of candidates that were drawn before. They stay; strata that have one of them get no other one while there
            are strata without.

    Returns:
        Positions: those of `chosen`, then the new ones in random order, so that the first of them are a sample of all energies.
    """
    order = sorted(range(len(energies_mj)), key=lambda i: energies_mj[i])
    strata = [part.tolist() for part in np.array_split(np.array(order), min(number, len(order)))]
    new = [rng.choice(part) for part in strata if not set(part) & set(chosen)]
    rng.shuffle(new)
    rest = [i for i in order if i not in {*chosen, *new}]
    rng.shuffle(rest)
    return [*chosen, *new, *rest][: max(number, len(chosen))]


def draw(table: pd.DataFrame, *, title: str, metric: str) -> Figure:
    """Draw stand-alone over inherited accuracy, with 95 % intervals and the line on which both are equal.

    Args:
        table: Columns `inherited`, `inherited_low`, `inherited_high`, `alone`, `alone_low` and `alone_high`.
        title: Title of the figure.
        metric: Name of the metric, which the accuracies are values of.

    Returns:
        The figure.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 5.2))
        ax = figure.add_subplot()
        ends = [float(table[["inherited", "alone"]].min().min()), float(table[["inherited", "alone"]].max().max())]
        ax.plot(ends, ends, ls="--", lw=1, color=MUTED, label="equal")
        spread = {
            name: [(table[name] - table[f"{name}_low"]).clip(lower=0), (table[f"{name}_high"] - table[name]).clip(lower=0)]
            for name in ("inherited", "alone")
        }
        lines: dict[str, Any] = {"fmt": "none", "ecolor": ACCENT, "elinewidth": 0.6, "alpha": 0.5}
        ax.errorbar(table["inherited"], table["alone"], yerr=spread["alone"], xerr=spread["inherited"], **lines)
        ax.plot(table["inherited"], table["alone"], "o", color=ACCENT, ms=4, label=f"{len(table)} networks, 95 % intervals")
        ax.set(xlabel=f"{metric} with inherited weights", ylabel=f"{metric} trained alone")
        ax.set_title(title, loc="left")
        ax.legend(loc="lower right", fontsize=8)
    return figure
