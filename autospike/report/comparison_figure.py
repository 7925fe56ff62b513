"""The figure of the closing comparison: networks on the test split, with 32-bit and with 8-bit costs."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autospike.report.comparison import Compared, front, metric, networks
from autospike.report.figures import STYLE, Curve, Point, draw_curve, draw_front, finish


def draw(report: dict[str, Any], *, title: str) -> Figure:
    """Draw accuracy over energy of the networks of a report, and the front of the search, with 95 % Wilson intervals.

    Args:
        report: The content of `report.json`.
        title: Title of the figure.

    Returns:
        The figure. A second panel has the same with the costs of 8-bit integers, unless the convention has costs of its own.
    """
    compared, subnets, convention = networks(report), front(report), report["convention"]
    panels = 1 if compared[0].int8_mj is None else 2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4 * panels, 4.5), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
        for panel, ax in enumerate(axes):
            _draw(ax, compared, subnets, panel)
            finish(ax, title if panel == 0 else "8-bit costs", convention if panel == 0 else f"{convention}, 8-bit costs")
        axes[0].set(ylabel=f"{metric(report)} on the test split (95 % intervals)")
    return figure


def _draw(ax: Axes, compared: list[Compared], subnets: list[Compared], panel: int) -> None:
    """Draw one panel; `panel` is the position of its energy in `Compared.energies_mj`."""
    if subnets:
        rows = [(subnet.accuracy, subnet.images, subnet.energies_mj[panel]) for subnet in subnets]
        draw_front(ax, pd.DataFrame(rows, columns=["accuracy", "images", "energy_mj"]).sort_values("energy_mj"))
    for name in dict.fromkeys(network.name for network in compared):
        group = [network for network in compared if network.name == name]
        points = [
            Point(
                accuracy=network.accuracy,
                interval=network.interval,
                energy_mj=network.energies_mj[panel] or 0.0,
                note=f"T = {network.time_steps}" if network.kind == "reference" else "",
            )
            for network in group
        ]
        draw_curve(ax, Curve(label=name, kind=group[0].kind, points=tuple(points)))
