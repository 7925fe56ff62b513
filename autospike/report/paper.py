"""The Pareto front for a paper: a table in LaTeX and in Markdown, and numbers that pgfplots reads."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from autospike.energy.conventions import UJ_PER_MJ
from autospike.statistics import wilson_interval

HEAD = ("candidate", "accuracy (%)", "energy (µJ)", "parameters", "T")


def numbers(front: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of a front, without architectures.

    Args:
        front: Candidates, from `tables.front`.

    Returns:
        The columns `id`, `accuracy`, `accuracy_low` and `accuracy_high` (95 % Wilson interval), `energy_uj`, `params` and
        `time_steps`.
    """
    pairs = zip(front["accuracy"].tolist(), front["images"].tolist(), strict=True)
    intervals = [wilson_interval(round(accuracy * images), images) for accuracy, images in pairs]
    return pd.DataFrame(
        {
            "id": front["id"].tolist(),
            "accuracy": front["accuracy"].tolist(),
            "accuracy_low": [low for low, _ in intervals],
            "accuracy_high": [high for _, high in intervals],
            "energy_uj": (front["energy_mj"] * UJ_PER_MJ).tolist(),
            "params": front["params"].tolist(),
            "time_steps": front["time_steps"].tolist(),
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
        rows.append([str(row["id"]), interval.format(*percent), f"{float(row['energy_uj']):.4g}", params, str(row["time_steps"])])
    return rows


def markdown(table: pd.DataFrame, *, convention: str, images: int) -> str:
    """Return a table in Markdown.

    Args:
        table: As `numbers` returns it.
        convention: Name of the energy convention.
        images: Number of images of the search split.
    """
    rows = _cells(table, thousands=",", interval="{:.2f} ({:.2f} to {:.2f})")
    lines = [_line(HEAD), _line(["---", *["---:"] * (len(HEAD) - 1)]), *map(_line, rows)]
    return "\n".join([*lines, "", _caption(convention, images, code="`{}`", percent="%")]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latex(table: pd.DataFrame, *, convention: str, images: int) -> str:
    r"""Return a table in LaTeX, which needs `\usepackage{booktabs}`.

    Args:
        table: As `numbers` returns it.
        convention: Name of the energy convention.
        images: Number of images of the search split.
    """
    rows = _cells(table, thousands=r"\,", interval=r"${:.2f}$ [${:.2f}$, ${:.2f}$]")
    head = ("candidate", r"accuracy (\%)", r"energy ($\mu$J)", "parameters", "$T$")
    caption = _caption(convention, images, code=r"\texttt{{{}}}", percent=r"\%")
    body = [" & ".join([rf"\texttt{{{row[0]}}}", *row[1:]]) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            r"  \begin{tabular}{lrrrr}",
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


def _caption(convention: str, images: int, *, code: str, percent: str) -> str:
    return (
        f"Pareto front on the search split ({images} images), with 95 {percent} Wilson intervals. Energy per image, counted "
        f"under the convention {code.format(convention)}."
    )
