"""The values of objectives as columns of the table of an archive."""

from __future__ import annotations

import math

import pandas as pd

from autospike.measurement import Evaluation
from autospike.objectives import LATENCIES, Objectives
from autospike.searching.archive import Archive


def with_objectives(archive: Archive, table: pd.DataFrame, objectives: Objectives) -> pd.DataFrame:
    """Add the values of objectives to the table of an archive.

    Args:
        archive: The archive; its convention gives the energies.
        table: Its candidates, as `with_fitness` returns them.
        objectives: The objectives.

    Returns:
        The table with a column for each objective that it had none for. A value that was not measured is NaN: spikes of rows of
        older versions, and latencies that another device has measured than the newest one.
    """
    missing = [name for name in objectives if name not in table]
    if not missing:
        return table
    found = {e.measurement.architecture.id: e for e in archive.all()}
    evaluations = [found.get(name) for name in table["id"].tolist()]
    device = next((e.latency.device for e in reversed(list(found.values())) if e.latency), None)

    def value(name: str, evaluation: Evaluation | None) -> float:
        if evaluation is None or (name == "spikes" and evaluation.measurement.spikes is None):
            return math.nan
        if name in LATENCIES and (evaluation.latency is None or evaluation.latency.device != device):
            return math.nan
        return objectives[name].value(evaluation)

    return table.assign(**{name: [value(name, evaluation) for evaluation in evaluations] for name in missing})
