"""An ablation: variants of a network in which one gene is changed, and what that does to accuracy, energy and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from autospike.energy.conventions import UJ_PER_MJ
from autospike.errors import UserError
from autospike.report.figures import ACCENT, CONTRAST, ENERGY_LABEL, STYLE
from autospike.report.importance import gene_at
from autospike.report.tables import gene_name
from autospike.space.architecture import Architecture
from autospike.space.genes import Range
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, with_values
from autospike.statistics import JackknifeComparison, PairedComparison


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A network in which one gene is changed.

    Attributes:
        gene: Name of the gene.
        before: Its value in the original network; several values separated by commas if it is changed in all blocks.
        after: Its value in the variant.
        architecture: The variant.
    """

    gene: str
    before: str
    after: str
    architecture: Architecture


def variants(space: SearchSpace, architecture: Architecture, *, genes: Sequence[str] = (), together: bool = False) -> list[Variant]:
    """List the variants of an architecture, one for each other value of each gene.

    A range is tried at its two ends. Blocks that a larger depth adds have the smallest or first value of each gene.

    Args:
        space: The search space, whose genes and values are tried.
        architecture: An architecture of the space.
        genes: Names of the genes, as the column `gene` has them, or the last part of them (`tau`); all if empty.
        together: Change a gene in all blocks at once, instead of in one place.

    Returns:
        The variants, all different.

    Raises:
        UserError: No gene that has several values is named so.
    """
    paths: dict[str, dict[GenePath, Any]] = {}
    for found in space.genes(architecture):
        if found.gene.size > 1:
            name = gene_name(found.path, len(space.stages)) if together else gene_at(found.path)
            paths.setdefault(name, {})[found.path] = found
    unknown = [name for name in genes if not any(_is_named(gene, name) for gene in paths)]
    if unknown:
        raise UserError(f"--gene {unknown[0]}: no gene with several values; choose from {', '.join(paths)}")
    made = {architecture: None}
    found_variants = []
    for name, of_gene in paths.items():
        if genes and not any(_is_named(name, asked) for asked in genes):
            continue
        before = ", ".join(dict.fromkeys(_text(found.value) for found in of_gene.values()))
        for value in dict.fromkeys(value for found in of_gene.values() for value in _values(found.gene)):
            changed = with_values(space, architecture, {path: value for path, f in of_gene.items() if value in _values(f.gene)})
            if changed not in made:
                made[changed] = None
                found_variants.append(Variant(gene=name, before=before, after=_text(value), architecture=changed))
    return found_variants


def _is_named(gene: str, asked: str) -> bool:
    return gene == asked or gene.replace(" ", ".").endswith(f".{asked}")


def _values(gene: Any) -> tuple[Any, ...]:
    return (gene.low, gene.high) if isinstance(gene, Range) else gene.values


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


Records = Mapping[Architecture, Mapping[str, Any]]
"""Measurements on the search split, as `autospike.report.record.record` returns them."""


def table(architecture: Architecture, found: Sequence[Variant], records: Records) -> pd.DataFrame:
    """Return the table of an ablation.

    Args:
        architecture: The original network.
        found: Its variants.
        records: The measurements of all of them.

    Returns:
        The original network in the first row, then the variants: `gene`, `before`, `after`, `id`, accuracy with its interval,
        `difference` to the accuracy of the original network with its 95 % interval, which is paired, energy in mJ and its ratio
        `energy_ratio`, `params` and `time_steps`.
    """
    original = records[architecture]
    rows = [_row(Variant(gene="(none)", before="", after="", architecture=architecture), original, original)]
    rows += [_row(variant, records[variant.architecture], original) for variant in found]
    return pd.DataFrame(rows)


def _row(variant: Variant, measured: Mapping[str, Any], original: Mapping[str, Any]) -> dict[str, Any]:
    comparison = _comparison(measured, original)
    return {
        "gene": variant.gene,
        "before": variant.before,
        "after": variant.after,
        "id": variant.architecture.id,
        "accuracy": measured["search_accuracy"],
        "accuracy_low": measured["search_accuracy_interval"][0],
        "accuracy_high": measured["search_accuracy_interval"][1],
        "difference": comparison.difference,
        "difference_low": comparison.interval[0],
        "difference_high": comparison.interval[1],
        "energy_mj": measured["energy_mj"],
        "energy_ratio": measured["energy_mj"] / original["energy_mj"] if original["energy_mj"] else np.nan,
        "params": measured["params"],
        "time_steps": measured["time_steps"],
    }


def _comparison(measured: Mapping[str, Any], original: Mapping[str, Any]) -> PairedComparison | JackknifeComparison:
    """The measurement minus the original one, on the same images."""
    if "score" in measured:
        difference = measured["search_accuracy"] - original["search_accuracy"]
        without = zip(measured["score"]["without"], original["score"]["without"], strict=True)
        return JackknifeComparison(difference=difference, without=tuple(a - b for a, b in without))
    masks = [bytes.fromhex(of["correct_mask"]) for of in (measured, original)]
    return PairedComparison.of(masks[0], masks[1], measured["search_images"])


def draw(ablated: pd.DataFrame, *, title: str, convention: str, metric: str) -> Figure:
    """Draw accuracy with its interval, energy and parameters of each variant; dashed lines are the original network.

    Args:
        ablated: As `table` returns it.
        title: Title of the figure.
        convention: Name of the energy convention.
        metric: Name of the metric, which the accuracies are values of.

    Returns:
        The figure.
    """
    names = ["original", *(f"{row.gene}: {row.before} → {row.after}" for row in ablated.iloc[1:].itertuples())]
    positions = np.arange(len(ablated))
    panels = {
        f"{metric} on the search split": ablated["accuracy"],
        ENERGY_LABEL.format(convention=convention): ablated["energy_mj"] * UJ_PER_MJ,
        "parameters": ablated["params"],
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 1.4 + 0.22 * len(ablated)), layout="constrained")
        for ax, (label, values) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
            ax.axvline(values.iloc[0], color=CONTRAST, ls="--", lw=1)
            ax.plot(values, positions, "o", color=ACCENT, ms=4)
            ax.set(xlabel=label)
            ax.grid(axis="y", visible=False)
        accuracy_ax = figure.axes[0]
        low, high = ablated["accuracy"] - ablated["accuracy_low"], ablated["accuracy_high"] - ablated["accuracy"]
        accuracy_ax.errorbar(ablated["accuracy"], positions, xerr=[low, high], fmt="none", ecolor=ACCENT, elinewidth=1, capsize=2)
        accuracy_ax.set_yticks(positions, names, fontsize=8)
        accuracy_ax.invert_yaxis()
        figure.suptitle(title, x=0.01, ha="left")
    return figure
