"""Figures of the report, drawn with matplotlib from the tables of this package.

Energies are passed in mJ and drawn in mJ or uJ. Every figure is drawn in the same style (`STYLE`).
"""

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
from autospike.report.retrained import WAY_LABELS, SeedGroup
from autospike.report.tables import SearchHistory, front

# More points than this are one image in an SVG file, which would otherwise have tens of megabytes.
MANY_POINTS = 10_000

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


def pareto(table: pd.DataFrame, reference: tuple[float, float], title: str) -> Figure:
    """Draw accuracy over energy of every candidate, the Pareto front with its knee, and the reference network.

    Args:
        table: Candidates, from `tables.candidates`; at least one.
        reference: Accuracy and energy in mJ of the reference network, trained alone.
        title: Title of the figure.

    Returns:
        The figure. Energy is in uJ on a logarithmic axis.
    """
    reference_accuracy, reference_mj = reference
    best = front(table)
    at_knee = best.iloc[knee(list(zip(best["accuracy"], best["energy_mj"], strict=True)))]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.5))
        ax = figure.add_subplot()
        ax.scatter(
            table["energy_mj"] * UJ_PER_MJ,
            table["accuracy"],
            s=14,
            color=MUTED,
            alpha=0.6,
            label=f"{len(table)} subnets, measured",
            rasterized=len(table) > MANY_POINTS,
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
        ax.plot(reference_mj * UJ_PER_MJ, reference_accuracy, "*", color=CONTRAST, ms=14, label="reference network, trained alone")
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


def search(histories: Sequence[SearchHistory]) -> Figure:
    """Draw hypervolume and best F_AEB over the generations, with one line for each search of the archive.

    Args:
        histories: The searches, from `tables.search_history`.

    Returns:
        The figure, with one panel for each of the two quantities.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for history in histories:
            left.plot(history.hypervolume, "o-", ms=3, label=history.search_id)
            right.plot(history.best_f_aeb, "o-", ms=3, label=history.search_id)
        left.set(xlabel="generation", ylabel="hypervolume (share of accuracy x energy box)")
        right.set(xlabel="generation", ylabel="best F_AEB (our form)")
        left.legend(loc="lower right")
    return figure


def genes(all_shares: Mapping[str, Mapping[str, float]], front_shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how often each value of a gene occurs on the front and among all candidates.

    Args:
        all_shares: Share of each value among all candidates, by the name of the gene, from `tables.gene_shares`.
        front_shares: The same on the front; it has the same genes and values.

    Returns:
        The figure, with one panel for each gene.
    """
    with mpl.rc_context(STYLE):
        columns = 3
        rows = max(1, -(-len(front_shares) // columns))
        figure = Figure(figsize=(3.4 * columns, 2.5 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for ax, name in zip(axes, front_shares, strict=False):
            positions = range(len(front_shares[name]))
            ax.bar([p - 0.2 for p in positions], list(all_shares[name].values()), width=0.4, color=MUTED, label="all measured")
            ax.bar([p + 0.2 for p in positions], list(front_shares[name].values()), width=0.4, color=ACCENT, label="on the front")
            has_words = any(level[0].isalpha() for level in front_shares[name])
            ax.set_xticks(list(positions), list(front_shares[name]), rotation=30 if has_words else 0)
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
    """Draw a bar for the energy of each layer.

    Args:
        energies: Energy in mJ, indexed by layer, from `autospike.report.energy.bar_energies`.
        title: Title of the figure.

    Returns:
        The figure. Its unit is uJ if the energies sum to less than 1 mJ, otherwise mJ.
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
    """Draw accuracy over energy, with one point for each T.

    Args:
        table: Accuracy and energy by T, from `autospike.report.energy.by_time_steps`.
        title: Title of the figure.

    Returns:
        The figure. Its unit is uJ if all energies are less than 1 mJ, otherwise mJ.
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


# Color and marker of each way of training.
MARKERS = {"inherited": (MUTED, "o"), "fine-tuned": (ACCENT, "s"), "scratch": (INK, "^"), "hand-made": (CONTRAST, "*")}


def retrained(groups: Sequence[SeedGroup], title: str) -> Figure:
    """Draw accuracy over energy on the test split for each architecture and way of training.

    Args:
        groups: The retrained models, grouped by seed; at least one group.
        title: Title of the figure.

    Returns:
        The figure. It has the mean of each group with its standard deviation, a dot for each seed, and a line that connects the
        groups of one subnet.
    """
    scale, unit = _unit(max(group.energy_mj.mean for group in groups))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.5))
        ax = figure.add_subplot()
        for group in groups:
            _draw_group(ax, group, scale)
        subnets = [group for group in groups if group.way != "hand-made"]
        for name in dict.fromkeys(group.architecture_id for group in subnets):
            ways = [group for group in subnets if group.architecture_id == name]
            energies, accuracies = [group.energy_mj.mean * scale for group in ways], [group.test_accuracy.mean for group in ways]
            ax.plot(energies, accuracies, color=MUTED, lw=0.8, zorder=0)
            ax.annotate(name, (energies[0], accuracies[0]), textcoords="offset points", xytext=(8, -12), fontsize=8)
        for way, (color, marker) in MARKERS.items():
            ax.plot([], [], marker, color=color, label=WAY_LABELS[way])
        ax.set(xlabel=f"energy per image ({unit}, counted)", ylabel="accuracy on the test split")
        ax.set_title(title, loc="left")
        ax.margins(0.1)
        ax.legend()
    return figure


def _draw_group(ax: Axes, group: SeedGroup, scale: float) -> None:
    """Draw mean and deviation of a group, and a dot for each of its models."""
    (color, marker), accuracy, energy_mj = MARKERS[group.way], group.test_accuracy, group.energy_mj
    energy_deviation = None if energy_mj.deviation is None else energy_mj.deviation * scale
    ax.errorbar(
        energy_mj.mean * scale, accuracy.mean, accuracy.deviation, energy_deviation, fmt=marker, color=color, ms=8, capsize=3
    )
    energies, accuracies = [model.energy_mj * scale for model in group.models], [model.test_accuracy for model in group.models]
    ax.plot(energies, accuracies, ".", color=color, alpha=0.5)


def _unit(energy_mj: float) -> tuple[float, str]:
    """Factor from mJ to the unit in which an energy is shown, and the name of that unit."""
    return (1.0, "mJ") if energy_mj >= 1 else (UJ_PER_MJ, "uJ")


def save(figure: Figure, *paths: Path) -> None:
    """Write a figure to each path, in the format of its file name extension.

    The files of equal figures are identical: SVG files contain no date, and their element ids use a fixed salt.

    Args:
        figure: The figure.
        paths: Files ending in `.png` or `.svg`. Existing files are replaced.

    Raises:
        UserError: A file cannot be written.
    """
    for path in paths:
        with files.replacing(path) as temporary, mpl.rc_context(STYLE):
            figure.savefig(
                temporary, format=path.suffix.removeprefix("."), dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None
            )
