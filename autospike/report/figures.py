"""The figures, from the numbers of `autospike.report.tables`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from autospike import files
from autospike.energy.conventions import UJ_PER_MJ
from autospike.pareto import knee
from autospike.report.retrained import LABELS, Repeated
from autospike.report.tables import Course, front

INK, MUTED, ACCENT, CONTRAST = "#1f2933", "#9aa5b1", "#0b69a3", "#d64545"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "svg.hashsalt": "autospike",
}


def pareto(table: pd.DataFrame, baseline: tuple[float, float], title: str) -> Figure:
    """Every candidate, the front, its knee, and the hand-made architecture: accuracy over energy, energy on a logarithmic axis.

    Args:
        table: as `tables.candidates` gives it.
        baseline: accuracy and energy in mJ of the hand-made architecture, trained alone.
    """
    baseline_accuracy, baseline_mj = baseline
    best = front(table)
    at_knee = best.iloc[knee(list(zip(best["accuracy"], best["energy_mj"], strict=True)))]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.5))
        ax = figure.add_subplot()
        ax.scatter(
            table["energy_mj"] * UJ_PER_MJ, table["accuracy"], s=14, color=MUTED, alpha=0.6, label=f"{len(table)} subnets, measured"
        )
        ax.plot(best["energy_mj"] * UJ_PER_MJ, best["accuracy"], "o-", color=ACCENT, ms=5, lw=1.5, label="Pareto front")
        ax.plot(
            at_knee["energy_mj"] * UJ_PER_MJ,
            at_knee["accuracy"],
            "o",
            ms=11,
            mfc="none",
            mec=ACCENT,
            mew=1.8,
            label=f"knee, {at_knee['id']}",
        )
        ax.plot(baseline_mj * UJ_PER_MJ, baseline_accuracy, "*", color=CONTRAST, ms=14, label="hand-made, trained alone")
        ax.set(
            xscale="log",
            xlabel="energy per image (uJ, counted)",
            ylabel="accuracy on the search split",
        )
        ax.set_title(title, loc="left")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.legend(loc="lower right")
    return figure


def search(courses: Sequence[Course]) -> Figure:
    """Hypervolume and best F_AEB by generation, a line for each search of the archive."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for one in courses:
            left.plot(one.hypervolume, "o-", ms=3, label=one.search_id)
            right.plot(one.best_f_aeb, "o-", ms=3, label=one.search_id)
        left.set(xlabel="generation", ylabel="hypervolume (share of accuracy x energy box)")
        right.set(xlabel="generation", ylabel="best F_AEB (our form)")
        left.legend(loc="lower right")
    return figure


def genes(all_shares: Mapping[str, Mapping[str, float]], front_shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """How the values of each gene spread over the front, beside how they spread over all candidates."""
    with mpl.rc_context(STYLE):
        columns = 3
        rows = max(1, -(-len(front_shares) // columns))
        figure = Figure(figsize=(3.4 * columns, 2.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for ax, name in zip(axes, front_shares, strict=False):
            places = range(len(front_shares[name]))
            ax.bar([p - 0.2 for p in places], list(all_shares[name].values()), width=0.4, color=MUTED, label="all measured")
            ax.bar([p + 0.2 for p in places], list(front_shares[name].values()), width=0.4, color=ACCENT, label="on the front")
            worded = any(level[0].isalpha() for level in front_shares[name])
            ax.set_xticks(list(places), list(front_shares[name]), rotation=30 if worded else 0)
            ax.set_title(name, loc="left", fontsize=10)
            ax.set_ylim(0, 1)
            ax.grid(axis="x", visible=False)
        for ax in list(figure.axes)[len(front_shares) :]:
            ax.set_axis_off()
        if front_shares:
            figure.axes[0].set_ylabel("share")
            figure.axes[0].legend(fontsize=8)
    return figure


def energy_by_layer(energies: pd.Series[float], title: str) -> Figure:
    """A bar for each layer, in mJ or, where all are small, in uJ.

    Args:
        energies: in mJ, by layer, as `autospike.report.energy.bars` gives them.
    """
    scale, unit = _unit(float(energies.sum()))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.2 + 0.2 * len(energies)))
        ax = figure.add_subplot()
        ax.barh(list(energies.index), list(energies * scale), color=ACCENT, height=0.7)
        ax.set(xlabel=f"energy per image ({unit}, counted)")
        ax.set_title(title, loc="left")
        ax.tick_params(axis="y", labelsize=7)
        ax.grid(axis="y", visible=False)
        ax.margins(y=0.01)
        ax.invert_yaxis()
    return figure


def energy_curve(table: pd.DataFrame, title: str) -> Figure:
    """Accuracy over energy, a point for each T.

    Args:
        table: as `autospike.report.energy.by_time_steps` gives it.
    """
    scale, unit = _unit(float(table["energy_mj"].max()))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.8))
        ax = figure.add_subplot()
        ax.plot(table["energy_mj"] * scale, table["accuracy"], "o-", color=ACCENT, ms=5, lw=1.5)
        for steps, energy_mj, accuracy in zip(table["time_steps"], table["energy_mj"], table["accuracy"], strict=True):
            ax.annotate(f"T = {steps}", (energy_mj * scale, accuracy), textcoords="offset points", xytext=(0, 8), ha="center")
        ax.set(xlabel=f"energy per image ({unit}, counted)", ylabel="accuracy")
        ax.set_title(title, loc="left")
        ax.margins(0.15)
    return figure


MARKS = {"inherited": (MUTED, "o"), "fine-tuned": (ACCENT, "s"), "scratch": (INK, "^"), "hand-made": (CONTRAST, "*")}


def retrained(compared: Sequence[Repeated], title: str) -> Figure:
    """Accuracy over energy on the test split: the mean of each way with its deviation, each seed, and a line between the ways of a
    subnet."""
    scale, unit = _unit(max(one.energy_mj.mean for one in compared))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.5))
        ax = figure.add_subplot()
        for one in compared:
            _mark_way(ax, one, scale)
        for name in dict.fromkeys(one.architecture_id for one in compared if one.way != "hand-made"):
            ways = [one for one in compared if one.architecture_id == name and one.way != "hand-made"]
            energies, accuracies = [one.energy_mj.mean * scale for one in ways], [one.test_accuracy.mean for one in ways]
            ax.plot(energies, accuracies, color=MUTED, lw=0.8, zorder=0)
            ax.annotate(name, (energies[0], accuracies[0]), textcoords="offset points", xytext=(8, -12), fontsize=8)
        for way, (color, marker) in MARKS.items():
            ax.plot([], [], marker, color=color, label=LABELS[way])
        ax.set(xlabel=f"energy per image ({unit}, counted)", ylabel="accuracy on the test split")
        ax.set_title(title, loc="left")
        ax.margins(0.1)
        ax.legend()
    return figure


def _mark_way(ax: Axes, one: Repeated, scale: float) -> None:
    (color, marker), accuracy, energy_mj = MARKS[one.way], one.test_accuracy, one.energy_mj
    across = None if energy_mj.deviation is None else energy_mj.deviation * scale
    ax.errorbar(energy_mj.mean * scale, accuracy.mean, accuracy.deviation, across, fmt=marker, color=color, ms=8, capsize=3)
    energies, accuracies = [seed.energy_mj * scale for seed in one.seeds], [seed.test_accuracy for seed in one.seeds]
    ax.plot(energies, accuracies, ".", color=color, alpha=0.5)


def _unit(energy_mj: float) -> tuple[float, str]:
    return (1.0, "mJ") if energy_mj >= 1 else (UJ_PER_MJ, "uJ")


def save(figure: Figure, *paths: Path) -> None:
    """Write a figure to each path, in the format of its ending."""
    for path in paths:
        with files.replacing(path) as temporary, mpl.rc_context(STYLE):
            figure.savefig(
                temporary, format=path.suffix.removeprefix("."), dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
            )
