"""The numbers behind the figures: every candidate as a row, and the course of each search."""

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
    """One row for each candidate, in the order of measurement; columns as `COLUMNS`."""
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
    """The rows on the Pareto front, by rising energy."""
    return table[table["on_front"]].sort_values("energy_mj")


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a search went, generation by generation."""

    search_id: str
    hypervolume: list[float]
    best_f_aeb: list[float]


def course(search_id: str, generations: Sequence[Sequence[str]], table: pd.DataFrame, *, reference_mj: float) -> Course:
    """Hypervolume and best F_AEB of all that a search had measured by the end of each generation."""
    known = table.set_index("id")
    so_far: list[str] = []
    volumes, best = [], []
    for asked in generations:
        so_far += [name for name in asked if name in known.index]
        rows = known.loc[so_far]
        points = list(zip(rows["accuracy"], rows["energy_mj"], strict=True))
        volumes.append(hypervolume(points, energy_reference=reference_mj))
        best.append(float(rows["f_aeb"].max()))
    return Course(search_id=search_id, hypervolume=volumes, best_f_aeb=best)


def gene_shares(space: SearchSpace, *parts: Sequence[Evaluation]) -> list[dict[str, dict[str, float]]]:
    """For each gene with a choice, the share of each value among the architectures of each part.

    Blocks are pooled; a range is cut in five. All parts have the same genes and values, of which some have a share of 0.
    """
    architectures = [[e.measurement.architecture for e in part] for part in parts]
    levels: dict[str, dict[str, None]] = {}
    for architecture in (space.largest(), *chain(*architectures)):  # the first has a block at every position
        for found in space.genes(architecture):
            levels.setdefault(_name(found.path, len(space.stages)), {}).update(dict.fromkeys(_levels(found.gene)))
    taken = [_values(space, part) for part in architectures]
    names = [name for name in levels if any(name in values for values in taken)]
    return [{name: _shares(values.get(name, []), levels[name]) for name in names} for values in taken]


def _values(space: SearchSpace, architectures: Sequence[Architecture]) -> dict[str, list[str]]:
    """Every value that a gene with a choice takes."""
    values: dict[str, list[str]] = {}
    for architecture in architectures:
        for found in space.genes(architecture):
            if found.gene.size > 1:
                values.setdefault(_name(found.path, len(space.stages)), []).append(_level(found.gene, found.value))
    return values


def _shares(taken: list[str], levels: Iterable[str]) -> dict[str, float]:
    return {level: taken.count(level) / max(1, len(taken)) for level in levels}


def _name(path: GenePath, stages: int) -> str:
    """`neuron.tau` of a block, pooled over the blocks; `stage 1 embed_dim` of the second of several stages."""
    words = [str(part) for part in path if not isinstance(part, int) and part not in ("stages", "blocks")]
    prefix = f"stage {path[1]} " if path[0] == "stages" and stages > 1 else ""
    return prefix + ".".join(words)


BINS = 5


def _levels(gene: Choice | Range) -> list[str]:
    if isinstance(gene, Choice):
        return [_text(value) for value in gene.values if value is not None]
    width = (gene.high - gene.low) / BINS
    return [f"{gene.low + i * width:.6g} to {gene.low + (i + 1) * width:.6g}" for i in range(BINS)]


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _level(gene: Choice | Range, value: Any) -> str:
    if isinstance(gene, Choice):
        return _text(value)
    place = int((value - gene.low) / (gene.high - gene.low) * BINS)
    return _levels(gene)[min(place, BINS - 1)]
