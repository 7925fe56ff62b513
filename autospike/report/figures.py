"""Figures of the report, drawn with matplotlib from the tables of this package.

Energies are passed in mJ and drawn in µJ. Every figure is drawn in the same style (`STYLE`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from autospike import files
from autospike.energy.conventions import UJ_PER_MJ
from autospike.objectives import ACCURACY_AND_ENERGY, Objectives, titles
from autospike.pareto import knee
from autospike.report.retrained import WAY_LABELS, SeedGroup
from autospike.report.tables import ESTIMATE, SearchHistory, accuracy_intervals, front, horizontal, vertical
from autospike.statistics import Interval

# More points than this are one image in an SVG file, which would otherwise have tens of megabytes.
MANY_POINTS = 10_000
# Above this ratio of the ends of a logarithmic axis, only powers of ten have a label.
WIDE = 200

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
    "svg.hashsalt": "autospike",
}


ENERGY_LABEL = "energy per image (µJ, counted, `{convention}`)"

Kind = Literal["exported", "fine-tuned", "early-exit", "reference", "cnn", "vit"]

# Colour, marker and size of each kind of network. The exported subnet is the one that stands out.
KINDS: dict[Kind, tuple[str, str, float]] = {
    "exported": (CONTRAST, "D", 7),
    "fine-tuned": (CONTRAST, "s", 7),
    "early-exit": (CONTRAST, "P", 8),
    "reference": (INK, "*", 12),
    "cnn": ("#c47f00", "^", 8),
    "vit": ("#7a3e9d", "v", 8),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A measured network in a figure of accuracy over energy.

    Attributes:
        accuracy: A fraction between 0 and 1.
        interval: The 95 % Wilson interval of the accuracy.
        energy_mj: Energy of one image in mJ.
        note: Text beside the point, such as T; none if empty.
    """

    accuracy: float
    interval: Interval
    energy_mj: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Networks that a figure connects by a line, such as the reference network at every T; or a single one.

    Attributes:
        label: Text of the legend.
        kind: What the networks are, which decides colour and marker.
        points: At least one, in the order of the line.
    """

    label: str
    kind: Kind
    points: tuple[Point, ...]


def pareto(
    table: pd.DataFrame,
    curves: Sequence[Curve],
    *,
    title: str,
    convention: str,
    objectives: Objectives = ACCURACY_AND_ENERGY,
) -> Figure:
    """Draw the objectives of every candidate, the Pareto front with its knee, and other networks; by default accuracy over energy.

    Args:
        table: Candidates, from `tables.candidates_of`; at least one.
        curves: The exported subnet, the reference network, and others; drawn where accuracy is over energy.
        title: Title of the figure.
        convention: Name of the energy convention.
        objectives: What the front is of.

    Returns:
        The figure, with one panel for each objective but the first maximised one, which is on all vertical axes. Energy is in µJ.
        The front of two objectives is a staircase: at that energy, no more accurate subnet was found. The front of more is drawn as
        points. Accuracies of the front and of the other networks have 95 % Wilson intervals.
    """
    best, y = front(table, objectives), vertical(objectives)
    values = [tuple(row) for row in best[list(objectives)].astype(float).itertuples(index=False)]
    maximise, log = [o.maximise for o in objectives.values()], [o.log for o in objectives.values()]
    at_knee = best.iloc[[knee(values, maximise=maximise, log=log)]] if values else best
    columns = horizontal(objectives)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2 * len(columns), 4.5))
        for i, x in enumerate(columns):
            ax = figure.add_subplot(1, len(columns), i + 1)
            ax.scatter(
                _on_axis(table, x),
                _on_axis(table, y),
                s=14,
                color=MUTED,
                alpha=0.6,
                label=f"{len(table):,} subnets, measured",
                rasterized=len(table) > MANY_POINTS,
            )
            draw_front(ax, best, x=x, y=y, line="steps-post" if len(objectives) < 3 else None)
            ax.plot(_on_axis(at_knee, x), _on_axis(at_knee, y), "o", ms=11, mfc="none", mec=ACCENT, mew=1.2, label="knee")
            _mark_exits(ax, best, x=x, y=y)
            for curve in curves if (x, y) in WITH_CURVES else ():
                draw_curve(ax, curve)
            ax.set(ylabel=_label(y, objectives, convention))
            logarithmic = objectives[x].log and bool((_on_axis(table, x).dropna() > 0).all())
            finish(ax, title if i == 0 else "", convention, label=_label(x, objectives, convention), logarithmic=logarithmic)
    return figure


def _mark_exits(ax: Axes, best: pd.DataFrame, *, x: str, y: str) -> None:
    """Mark the candidates with early exit on a front, if there are any."""
    exits = best[best[ESTIMATE]] if ESTIMATE in best else best.iloc[:0]
    if len(exits):
        label = "early exit (energy is an estimate)"
        ax.plot(_on_axis(exits, x), _on_axis(exits, y), "s", ms=8, mfc="none", mec=INK, mew=0.9, label=label)


# Axes of a panel in which other networks are drawn, horizontal and vertical.
WITH_CURVES = (("energy_mj", "accuracy"), ("energy_uj", "accuracy"))


def _on_axis(table: pd.DataFrame, name: str) -> pd.Series[float]:
    """The values of an objective in the unit of its axis."""
    return table[name] * UJ_PER_MJ if name == "energy_mj" else table[name]


def _label(name: str, objectives: Objectives, convention: str) -> str:
    """The text of an axis."""
    energy = name in ("energy_mj", "energy_uj")
    return ENERGY_LABEL.format(convention=convention) if energy else objectives[name].label or name


def draw_front(
    ax: Axes, best: pd.DataFrame, *, x: str = "energy_mj", y: str = "accuracy", line: Literal["steps-post"] | None = "steps-post"
) -> None:
    """Draw a front as a staircase, with an interval at each point if accuracy is on the vertical axis.

    Args:
        ax: Where to draw.
        best: The front, by ascending `x`; with the number of images for the intervals of accuracies.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        line: How the points are connected; not at all if None.
    """
    across, up = _on_axis(best, x).to_numpy(), _on_axis(best, y).to_numpy()
    if y == "accuracy" and len(best):
        low, high = accuracy_intervals(best)
        spread = np.maximum(0, [up - low, high - up])
        ax.errorbar(across, up, spread, fmt="none", ecolor=ACCENT, elinewidth=0.8, alpha=0.5)
    label = "Pareto front (95 % intervals)" if y == "accuracy" else "Pareto front"
    connected: dict[str, Any] = {"drawstyle": line, "ls": "-", "lw": 1.5} if line else {"ls": "none"}
    ax.plot(across, up, "o", color=ACCENT, ms=4, label=label, **connected)


def draw_curve(ax: Axes, curve: Curve) -> None:
    """Draw networks with their intervals and notes, connected by a line.

    Args:
        ax: Where to draw.
        curve: The networks.
    """
    colour, marker, size = KINDS[curve.kind]
    energies = [point.energy_mj * UJ_PER_MJ for point in curve.points]
    accuracies = [point.accuracy for point in curve.points]
    ends = [(max(0.0, p.accuracy - p.interval[0]), max(0.0, p.interval[1] - p.accuracy)) for p in curve.points]
    ax.errorbar(energies, accuracies, np.array(ends).T, fmt="none", ecolor=colour, elinewidth=1, capsize=2)
    ax.plot(energies, accuracies, marker, ls="--", lw=1, color=colour, ms=size, mec="white", label=curve.label)
    for point, energy_uj in zip(curve.points, energies, strict=True):
        place = {"textcoords": "offset points", "xytext": (7, -11), "fontsize": 8}
        ax.annotate(point.note, (energy_uj, point.accuracy), color=colour, **place)  # type: ignore[arg-type]


def finish(ax: Axes, title: str, convention: str, *, label: str | None = None, logarithmic: bool = True) -> None:
    """Give a figure its title, legend and horizontal axis, which is energy unless a label is given.

    Args:
        ax: The axes with everything drawn.
        title: Title of the figure.
        convention: Name of the energy convention.
        label: Text of the horizontal axis.
        logarithmic: Whether the horizontal axis is logarithmic.
    """
    ax.set(xlabel=ENERGY_LABEL.format(convention=convention) if label is None else label)
    ax.set_title(title, loc="left")
    if not logarithmic:
        ax.legend(loc="lower right", fontsize=8)
        return
    ax.set(xscale="log")
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < WIDE else (1,)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.legend(loc="lower right", fontsize=8)


# Names of the search algorithms in legends.
ALGORITHMS = {
    "nsga2": "NSGA-II",
    "aeb": "evolution on F_AEB",
    "random": "random search",
    "predictor": "Bayesian optimisation",
    "optuna": "TPE (Optuna)",
    "optuna-nsga3": "NSGA-III (Optuna)",
}


def search_names(search_ids: Sequence[str]) -> list[str]:
    """Return readable names of searches: the algorithm, with a number if it was run with several settings.

    Args:
        search_ids: Ids of the searches, an algorithm and a digest.
    """
    algorithms = [ALGORITHMS.get(name.rpartition("-")[0], name) for name in search_ids]
    numbered = [f"{name} ({algorithms[: i + 1].count(name)})" for i, name in enumerate(algorithms)]
    return [name if algorithms.count(name) == 1 else number for name, number in zip(algorithms, numbered, strict=True)]


def search(histories: Sequence[SearchHistory], *, title: str, objectives: Objectives = ACCURACY_AND_ENERGY) -> Figure:
    """Draw hypervolume and best F_AEB over the generations, with one line for each search of the archive.

    Args:
        histories: The searches, from `tables.search_history`.
        title: Title of the figure.
        objectives: Objectives of the hypervolume.

    Returns:
        The figure, with one panel for each of the two quantities.
    """
    names = " x ".join(titles(objectives))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, history in zip(search_names([history.search_id for history in histories]), histories, strict=True):
            left.plot(history.hypervolume, "o-", ms=3, label=name)
            right.plot(history.best_f_aeb, "o-", ms=3, label=name)
        left.set(xlabel="generation", ylabel=f"hypervolume (share of {names} box)")
        right.set(xlabel="generation", ylabel="best F_AEB (our form)")
        left.legend(loc="lower right")
        figure.suptitle(title, x=0.01, ha="left")
    return figure


Shares = Mapping[str, Mapping[str, float]]


def genes(proposed_shares: Shares, front_shares: Shares, *, title: str) -> Figure:
    """Draw how often each value of a gene occurs on the front and among the candidates that the searches proposed.

    Args:
        proposed_shares: Share of each value among the proposed candidates, by the name of the gene, from `tables.gene_shares`.
        front_shares: The same on the front; it has the same genes and values.
        title: Title of the figure.

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
            ax.bar([p - 0.2 for p in positions], list(proposed_shares[name].values()), width=0.4, color=MUTED, label="proposed")
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
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def energy_by_layer(energies: pd.Series[float], *, title: str, convention: str) -> Figure:
    """Draw a bar for the energy of each layer.

    Args:
        energies: Energy in mJ, indexed by layer, from `autospike.report.energy.bar_energies`.
        title: Title of the figure.
        convention: Name of the energy convention.

    Returns:
        The figure, in µJ.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.2 + 0.2 * len(energies)))
        ax = figure.add_subplot()
        ax.barh(list(energies.index), list(energies * UJ_PER_MJ), color=ACCENT, height=0.7)
        ax.set(xlabel=ENERGY_LABEL.format(convention=convention))
        ax.set_title(title, loc="left")
        ax.tick_params(axis="y", labelsize=7)
        ax.grid(axis="y", visible=False)
        ax.margins(y=0.01)
        ax.invert_yaxis()
    return figure


def energy_curve(table: pd.DataFrame, *, title: str, convention: str, metric: str) -> Figure:
    """Draw accuracy over energy, with one point for each T.

    Args:
        table: Accuracy, number of images and energy by T, from `autospike.report.energy.by_time_steps`.
        title: Title of the figure.
        convention: Name of the energy convention.
        metric: Name of the metric, which the accuracies are values of.

    Returns:
        The figure, in µJ, with 95 % Wilson intervals.
    """
    low, high = accuracy_intervals(table)
    spread = np.maximum(0, [table["accuracy"] - low, high - table["accuracy"]])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.8))
        ax = figure.add_subplot()
        energies_uj = table["energy_mj"] * UJ_PER_MJ
        ax.errorbar(energies_uj, table["accuracy"], spread, fmt="none", ecolor=ACCENT, elinewidth=1, capsize=2)
        ax.plot(energies_uj, table["accuracy"], "o-", color=ACCENT, ms=5, lw=1.5)
        for steps, energy_uj, accuracy in zip(table["time_steps"], energies_uj, table["accuracy"], strict=True):
            ax.annotate(f"T = {steps}", (energy_uj, accuracy), textcoords="offset points", xytext=(8, 6), ha="left")
        ax.set(xlabel=ENERGY_LABEL.format(convention=convention), ylabel=f"{metric} (95 % interval)")
        ax.set_title(title, loc="left")
        ax.margins(0.15)
    return figure


# Color and marker of each way of training.
MARKERS = {"inherited": (MUTED, "o"), "fine-tuned": (ACCENT, "s"), "scratch": (INK, "^"), "hand-made": (CONTRAST, "*")}


def retrained(groups: Sequence[SeedGroup], *, title: str, convention: str, names: Mapping[str, str], metric: str) -> Figure:
    """Draw accuracy over energy on the test split for each architecture and way of training.

    Args:
        groups: The retrained models, grouped by seed; at least one group.
        title: Title of the figure.
        convention: Name of the energy convention.
        names: Readable name of each subnet, by its id.
        metric: Name of the metric.

    Returns:
        The figure, in µJ. It has the mean of each group with its standard deviation over the seeds, or with the 95 % Wilson
        interval of a single model, a dot for each seed, and a line that connects the groups of one subnet.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.5))
        ax = figure.add_subplot()
        for group in groups:
            _draw_group(ax, group)
        subnets = [group for group in groups if group.way != "hand-made"]
        for name in dict.fromkeys(group.architecture_id for group in subnets):
            ways = [group for group in subnets if group.architecture_id == name]
            energies, accuracies = (
                [group.energy_mj.mean * UJ_PER_MJ for group in ways],
                [group.test_accuracy.mean for group in ways],
            )
            ax.plot(energies, accuracies, color=MUTED, lw=0.8, zorder=0)
            place = {"textcoords": "offset points", "xytext": (8, -12), "fontsize": 8}
            ax.annotate(names.get(name, name), (energies[0], accuracies[0]), **place)  # type: ignore[arg-type]
        for way, (color, marker) in MARKERS.items():
            ax.plot([], [], marker, color=color, label=WAY_LABELS[way])
        ax.set(xlabel=ENERGY_LABEL.format(convention=convention), ylabel=f"{metric} on the test split")
        ax.set_title(title, loc="left")
        ax.margins(0.1)
        ax.legend()
    return figure


def _draw_group(ax: Axes, group: SeedGroup) -> None:
    """Draw mean and deviation of a group, and a dot for each of its models."""
    (color, marker), accuracy, energy_mj = MARKERS[group.way], group.test_accuracy, group.energy_mj
    energy_deviation = None if energy_mj.deviation is None else energy_mj.deviation * UJ_PER_MJ
    spread: Any = accuracy.deviation
    if spread is None and group.models[0].test_accuracy_interval is not None:
        low, high = group.models[0].test_accuracy_interval
        spread = [[max(0.0, accuracy.mean - low)], [max(0.0, high - accuracy.mean)]]
    ax.errorbar(energy_mj.mean * UJ_PER_MJ, accuracy.mean, spread, energy_deviation, fmt=marker, color=color, ms=8, capsize=3)
    energies, accuracies = [model.energy_mj * UJ_PER_MJ for model in group.models], [model.test_accuracy for model in group.models]
    ax.plot(energies, accuracies, ".", color=color, alpha=0.5)


# Formats in which each figure is written, with what keeps equal figures identical.
FORMATS: dict[str, dict[str, None] | None] = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG and PDF.

    The files of equal figures are identical: they contain no date, and the ids of SVG elements use a fixed salt.

    Args:
        figure: The figure.
        path: The PNG file; the other two are beside it. Existing files are replaced.

    Raises:
        UserError: A file cannot be written.
    """
    with mpl.rc_context(STYLE):
        box = _laid_out(figure)
        for name, metadata in FORMATS.items():
            with files.replacing(path.with_suffix(f".{name}")) as temporary:
                figure.savefig(temporary, format=name, dpi=150, metadata=metadata, bbox_inches=box)


def _laid_out(figure: Figure) -> Bbox:
    """Lay a figure out once for all formats, and return the box in inches that contains what is drawn.

    Drawing the figure to find this box takes as long as writing it, and `savefig` would do both for each format.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])


def paths(path: Path) -> list[Path]:
    """Return the files that `save` writes.

    Args:
        path: The PNG file.
    """
    return [path.with_suffix(f".{name}") for name in FORMATS]
