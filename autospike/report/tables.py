"""Tables of a searched run: candidates, Pareto front, history of each search, and how often each value of a gene occurs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd

from autospike.measurement import Evaluation
from autospike.pareto import hypervolume, on_front
from autospike.search.selection import accuracy_and_energy
from autospike.space.architecture import Architecture
from autospike.space.genes import Choice, Range
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath

COLUMNS = [
    "id",
    "accuracy",
    "energy_mj",
    "params",
    "time_steps",
    "f_aeb",
    "generation",
    "free",
    "images",
    "on_front",
    "architecture",
]


def candidates(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Return a table of candidates.

    Args:
        evaluations: The candidates, all under one energy convention.

    Returns:
        One row for each candidate, in the given order, with the columns `COLUMNS`. `energy_mj` is in mJ per image, `free` is true
        for a by-product candidate, `images` is the number of images it was measured on, `architecture` is its JSON.
    """
    flags = on_front(accuracy_and_energy(evaluations))
    rows = [
        {
            "id": e.measurement.architecture.id,
            "accuracy": e.measurement.accuracy,
            "energy_mj": e.energy.energy_mj,
            "params": e.measurement.params,
            "time_steps": e.measurement.architecture.time_steps,
            "f_aeb": e.f_aeb,
            "generation": e.generation,
            "free": e.by_product,
            "images": e.measurement.images,
            "on_front": flag,
            "architecture": e.measurement.architecture.to_json(),
        }
        for e, flag in zip(evaluations, flags, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def front(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows on the Pareto front, in ascending order of energy.

    Args:
        table: Candidates, from `candidates`.
    """
    return table[table["on_front"]].sort_values("energy_mj")


@dataclass(frozen=True, kw_only=True)
class SearchHistory:
    """Progress of a search by generation.

    Attributes:
        search_id: Id of the search in the archive.
        hypervolume: Hypervolume of all candidates up to a generation, as a share of the box between accuracy 0 and 1 and energy 0
            and the reference energy.
        best_f_aeb: Greatest fitness of all candidates up to a generation.
    """

    search_id: str
    hypervolume: list[float]
    best_f_aeb: list[float]


def search_history(
    search_id: str, generations: Sequence[Sequence[str]], table: pd.DataFrame, *, reference_mj: float
) -> SearchHistory:
    """Compute the progress of a search.

    Args:
        search_id: Id of the search in the archive.
        generations: Ids of the proposed candidates of each generation. A candidate that is not in the table is ignored: a killed
            search proposes candidates that it does not measure.
        table: Candidates, from `candidates`.
        reference_mj: Energy in mJ of the reference point of the hypervolume.

    Returns:
        Hypervolume and greatest F_AEB of the candidates that were proposed up to each generation.
    """
    known = table.set_index("id")
    so_far: list[str] = []
    volumes, best = [], []
    for proposed in generations:
        so_far += [name for name in proposed if name in known.index]
        rows = known.loc[so_far]
        points = list(zip(rows["accuracy"], rows["energy_mj"], strict=True))
        volumes.append(hypervolume(points, energy_reference=reference_mj))
        best.append(float(rows["f_aeb"].max()))
    return SearchHistory(search_id=search_id, hypervolume=volumes, best_f_aeb=best)


def gene_shares(space: SearchSpace, *groups: Sequence[Evaluation]) -> list[dict[str, dict[str, float]]]:
    """Compute how often each value of a gene occurs in groups of candidates.

    The blocks of a stage are pooled. A range is divided into five intervals.

    Args:
        space: The search space of the candidates.
        groups: Groups of candidates.

    Returns:
        For each group, the share of each value among the architectures that have the gene, by gene and value. All groups have the
        same genes and values. Genes with a single value, and genes that no candidate has, are omitted.
    """
    architectures = [[e.measurement.architecture for e in group] for group in groups]
    levels: dict[str, dict[str, None]] = {}
    for architecture in (space.largest(), *chain(*architectures)):  # the largest has a block at every position
        for found in space.genes(architecture):
            levels.setdefault(_name(found.path, len(space.stages)), {}).update(dict.fromkeys(_levels(found.gene)))
    by_group = [_values(space, group) for group in architectures]
    names = [name for name in levels if any(name in values for values in by_group)]
    return [{name: _shares(values.get(name, []), levels[name]) for name in names} for values in by_group]


def _values(space: SearchSpace, architectures: Sequence[Architecture]) -> dict[str, list[str]]:
    """List every occurrence of a value, for each gene that has more than one value."""
    values: dict[str, list[str]] = {}
    for architecture in architectures:
        for found in space.genes(architecture):
            if found.gene.size > 1:
                values.setdefault(_name(found.path, len(space.stages)), []).append(_level(found.gene, found.value))
    return values


def _shares(values: list[str], levels: Iterable[str]) -> dict[str, float]:
    return {level: values.count(level) / max(1, len(values)) for level in levels}


def _name(path: GenePath, stages: int) -> str:
    """Name a gene without its block, for example `neuron.tau`, or `stage 1 embed_dim` if there are several stages."""
    words = [str(part) for part in path if not isinstance(part, int) and part not in ("stages", "blocks")]
    prefix = f"stage {path[1]} " if path[0] == "stages" and stages > 1 else ""
    return prefix + ".".join(words)


# Number of intervals into which a range is divided.
BINS = 5


def _levels(gene: Choice | Range) -> list[str]:
    """Names of the values of a choice, or of the intervals of a range."""
    if isinstance(gene, Choice):
        return [_text(value) for value in gene.values if value is not None]
    width = (gene.high - gene.low) / BINS
    return [f"{gene.low + i * width:.6g} to {gene.low + (i + 1) * width:.6g}" for i in range(BINS)]


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _level(gene: Choice | Range, value: Any) -> str:
    """Name of a value, or of the interval that contains it."""
    if isinstance(gene, Choice):
        return _text(value)
    interval = int((value - gene.low) / (gene.high - gene.low) * BINS)
    return _levels(gene)[min(interval, BINS - 1)]
