"""Figures of activity: firing rates by layer and time step, attention maps beside their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from autospike.report.figures import STYLE


def rates(by_layer: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Draw a heat map of firing rates, layers by time steps.

    Args:
        by_layer: Firing rate at each time step, by the path of the layer.
        title: Title of the figure.

    Returns:
        The figure.
    """
    steps = max(len(values) for values in by_layer.values())
    grid = np.full((len(by_layer), steps), np.nan)
    for i, values in enumerate(by_layer.values()):
        grid[i, : len(values)] = values
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.2 + 0.5 * steps, 1.2 + 0.2 * len(by_layer)), layout="constrained")
        ax = figure.add_subplot()
        drawn = ax.imshow(grid, aspect="auto", cmap="cividis", vmin=0)
        ax.set_yticks(range(len(by_layer)), [name.replace("stages.", "").replace(".mixer", "") for name in by_layer], fontsize=7)
        ax.set_xticks(range(steps), [str(t) for t in range(1, steps + 1)])
        ax.set(xlabel="time step")
        ax.set_title(title, loc="left")
        figure.colorbar(drawn, ax=ax, label="firing rate")
    return figure


def attention(images: NDArray[Any], maps: Mapping[str, NDArray[Any]], *, title: str) -> Figure:
    """Draw images, and below each the attention map of every token mixer.

    Args:
        images: `[B, H, W]`.
        maps: `[B, H', W']`, by the path of the token mixer.
        title: Title of the figure.

    Returns:
        The figure.
    """
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.6 * len(images) + 1.2, 1.6 * (1 + len(maps)) + 0.4), layout="constrained")
        axes = figure.subplots(1 + len(maps), len(images), squeeze=False)
        rows = [("image", images, "gray"), *((name, values, "cividis") for name, values in maps.items())]
        for (name, values, colours), row in zip(rows, axes, strict=True):
            for value, ax in zip(values, row, strict=True):
                ax.imshow(value, cmap=colours)
                ax.set_xticks([])
                ax.set_yticks([])
            row[0].set_ylabel(name.replace("stages.", "").replace(".mixer", ""), fontsize=7)
        figure.suptitle(title, x=0.02, ha="left", fontsize=10)
    return figure
