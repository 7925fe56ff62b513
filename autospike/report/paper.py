"""The Pareto front for a paper: a table in LaTeX and in Markdown, and numbers that pgfplots reads."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from autospike.energy.conventions import UJ_PER_MJ
from autospike.measurement import METRICS
from autospike.objectives import ACCURACY_AND_ENERGY, OBJECTIVES, Objectives
from autospike.report.tables import accuracy_intervals

COLUMNS = ("id", "accuracy", "accuracy_low", "accuracy_high", "energy_uj", "params", "time_steps")


def numbers(front: pd.DataFrame, objectives: Objectives = ACCURACY_AND_ENERGY) -> pd.DataFrame:
    """Return the numbers of a front, without architectures.

    Args:
        front: Candidates, from `tables.front`.
        objectives: What the front is of.

    Returns:
        The columns `id`, `accuracy`, `accuracy_low` and `accuracy_high` (95 % interval), `energy_uj`, `params` and
        `time_steps`, then those of other objectives, and `mean_time_steps` if there are candidates with early exit.
    """
    added = dict.fromkeys([*objectives, *(["mean_time_steps"] if "mean_time_steps" in front else [])])
    low, high = accuracy_intervals(front)
    return pd.DataFrame(
        {
            "id": front["id"].tolist(),
            "accuracy": front["accuracy"].tolist(),
            "accuracy_low": low.tolist(),
            "accuracy_high": high.tolist(),
            "energy_uj": (front["energy_mj"] * UJ_PER_MJ).tolist(),
            "params": front["params"].tolist(),
            "time_steps": front["time_steps"].tolist(),
            **{name: front[name].tolist() for name in added if name not in (*COLUMNS, "energy_mj")},
        }
    )


def plot_data(table: pd.DataFrame) -> str:
    """Return numbers as CSV without quotes, for pgfplots (`table [col sep=comma]`).

    Args:
        table: As `numbers` returns it.
    """
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.9g")
    return text.getvalue()


def _cells(table: pd.DataFrame, *, thousands: str, interval: str) -> list[list[str]]:
    """The cells of the table, as text."""
    rows = []
    for row in table.to_dict("records"):
        percent = [100 * float(row[name]) for name in ("accuracy", "accuracy_low", "accuracy_high")]
        params = f"{int(row['params']):,}".replace(",", thousands)
        added = [f"{float(row[name]):.4g}" for name in _added(table)]
        rows.append(
            [str(row["id"]), interval.format(*percent), f"{float(row['energy_uj']):.4g}", params, str(row["time_steps"]), *added]
        )
    return rows


def _added(table: pd.DataFrame) -> list[str]:
    """The columns of other objectives than accuracy, energy, parameters and T."""
    return [name for name in map(str, table.columns) if name not in COLUMNS]


def _label(name: str) -> str:
    return OBJECTIVES[name].label if name in OBJECTIVES else name


def markdown(table: pd.DataFrame, *, convention: str, images: int, metric: str) -> str:
    """Return a table in Markdown.

    Args:
        table: As `numbers` returns it.
        convention: Name of the energy convention.
        images: Number of images of the search split.
        metric: Name of the metric, which the accuracies are values of.
    """
    rows = _cells(table, thousands=",", interval="{:.2f} ({:.2f} to {:.2f})")
    head = ["candidate", f"{metric} (%)", "energy (µJ)", "parameters", "T", *map(_label, _added(table))]
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)]
    return "\n".join([*lines, "", _caption(convention, images, metric, code="`{}`", percent="%")]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latex(table: pd.DataFrame, *, convention: str, images: int, metric: str) -> str:
    r"""Return a table in LaTeX, which needs `\usepackage{booktabs}`.

    Args:
        table: As `numbers` returns it.
        convention: Name of the energy convention.
        images: Number of images of the search split.
        metric: Name of the metric, which the accuracies are values of.
    """
    rows = _cells(table, thousands=r"\,", interval=r"${:.2f}$ [${:.2f}$, ${:.2f}$]")
    added = [_label(name).replace("_", r"\_") for name in _added(table)]
    head = ("candidate", rf"{metric} (\%)", r"energy ($\mu$J)", "parameters", "$T$", *added)
    caption = _caption(convention, images, metric, code=r"\texttt{{{}}}", percent=r"\%")
    body = [" & ".join([rf"\texttt{{{row[0]}}}", *row[1:]]) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(head)} " + r"\\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            rf"  \caption{{{caption}}}",
            r"\end{table}",
            "",
        ]
    )


def _caption(convention: str, images: int, metric: str, *, code: str, percent: str) -> str:
    intervals = "Wilson intervals" if metric == METRICS["classification"] else "jackknife intervals"
    return (
        f"Pareto front on the search split ({images} images), with 95 {percent} {intervals}. Energy per image, counted "
        f"under the convention {code.format(convention)}."
    )
