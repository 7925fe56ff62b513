"""Tables of a searched run: candidates, Pareto front, history of each search, and how often each value of a gene occurs."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autospike.energy.conventions import UJ_PER_MJ
from autospike.measurement import Evaluation
from autospike.objectives import ACCURACY_AND_ENERGY, OBJECTIVES, Objective, Objectives
from autospike.pareto import hypervolume_in_box, on_front
from autospike.searching.archived_row import scores_without_a_group
from autospike.space.architecture import NEVER, Architecture
from autospike.space.genes import Choice, Range
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath
from autospike.statistics import Floats, jackknife_interval, wilson_intervals

# Column of the scores of a dense task without one group of images each (`autospike.measurement.Score.without`).
WITHOUT = "without"

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

# Columns of candidates with early exit, and whether the energy of a candidate is an estimate.
EXIT_COLUMNS, ESTIMATE = ("exit_margin", "mean_time_steps"), "energy_is_estimate"

# Energies in mJ have this in their column names, energies in uJ the other.
MILLI, MICRO = "energy_mj", "energy_uj"


def candidates(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Return a table of candidates.

    Args:
        evaluations: The candidates, all under one energy convention.

    Returns:
        One row for each candidate, in the given order, with the columns `COLUMNS`. `energy_mj` is in mJ per image, `free` is true
        for a by-product candidate, `images` is the number of images it was measured on, `architecture` is its JSON.
    """
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
            "architecture": e.measurement.architecture.to_json(),
            "exit_margin": e.measurement.architecture.exit_margin if e.measurement.mean_time_steps is not None else NEVER,
            "mean_time_steps": OBJECTIVES["mean_time_steps"].value(e),
        }
        for e in evaluations
    ]
    return candidates_of(pd.DataFrame(rows, columns=[name for name in (*COLUMNS, *EXIT_COLUMNS) if name != "on_front"]))


def candidates_of(archived: pd.DataFrame, objectives: Objectives = ACCURACY_AND_ENERGY) -> pd.DataFrame:
    """Return the table of the candidates of an archive.

    Args:
        archived: As `autospike.searching.archive.Archive.table` returns it, with a column for each objective.
        objectives: What the front is of.

    Returns:
        As `candidates`, with the other columns of objectives at the end. A candidate without a value of an objective is not on the
        front. If there are candidates with early exit, the columns `EXIT_COLUMNS` and `ESTIMATE` are added: exit margin (1 for
        others), mean number of steps, and whether the energy is an estimate.
    """
    exits = archived["exit_margin"] < NEVER
    added = [*(EXIT_COLUMNS if exits.any() else ()), *(name for name in objectives if name not in (*COLUMNS, *EXIT_COLUMNS))]
    added += [name for name in objectives if name in EXIT_COLUMNS and name not in added]
    found = archived.assign(on_front=_on_front(archived, objectives))[[*COLUMNS, *added]].reset_index(drop=True)
    if exits.any():
        found[ESTIMATE] = exits.tolist()
    if "score" in archived and archived["score"].notna().any():
        found[WITHOUT] = [scores_without_a_group(score) for score in archived["score"]]
    return found


def _on_front(archived: pd.DataFrame, objectives: Objectives) -> NDArray[np.bool_]:
    values = archived[list(objectives)].astype(float)
    flags = values.notna().all(axis=1).to_numpy(dtype=bool, copy=True)
    points = list(values[flags].itertuples(index=False, name=None))
    flags[flags] = on_front(points, maximise=[objective.maximise for objective in objectives.values()])
    return flags


def front(table: pd.DataFrame, objectives: Objectives = ACCURACY_AND_ENERGY) -> pd.DataFrame:
    """Return the rows on the Pareto front, in ascending order of the first minimised objective: by default of energy.

    Args:
        table: Candidates, from `candidates_of`.
        objectives: What the front is of.
    """
    return table[table["on_front"]].sort_values(horizontal(objectives)[0])


def vertical(objectives: Objectives) -> str:
    """Return the objective of the vertical axis of figures: the first maximised one, or else the first one.

    Args:
        objectives: The objectives by name; at least one.
    """
    return next((name for name, objective in objectives.items() if objective.maximise), next(iter(objectives)))


def horizontal(objectives: Objectives) -> list[str]:
    """Return the objectives of horizontal axes: the minimised ones, then other maximised ones; of a single objective itself.

    Args:
        objectives: The objectives by name; at least one.
    """
    others = [name for name in objectives if name != vertical(objectives)]
    return sorted(others, key=lambda name: objectives[name].maximise) or list(objectives)


@dataclass(frozen=True, kw_only=True)
class Box:
    """The box of which a hypervolume is a share: the best and the worst value of each objective.

    Attributes:
        best: 1 for accuracy, 0 for other objectives of this package, the best found value for the user's own.
        worst: 0 for accuracy, the value of the largest subnet for other objectives of this package, and the worst found value for
            the user's own, or where the largest subnet has none.
    """

    best: tuple[float, ...]
    worst: tuple[float, ...]

    @classmethod
    def of(cls, table: pd.DataFrame, objectives: Objectives, largest: str) -> Box:
        """Return the box of a search.

        Args:
            table: Candidates with a column for each objective, from `candidates_of`.
            objectives: The objectives.
            largest: Id of the largest subnet.
        """
        corners = [cls._ends(table.set_index("id")[name].astype(float), of, largest) for name, of in objectives.items()]
        best, worst = zip(*corners, strict=True)
        return cls(best=best, worst=worst)

    @staticmethod
    def _ends(column: pd.Series[float], objective: Objective, largest: str) -> tuple[float, float]:
        if objective.worst == "zero":
            return 1.0, 0.0
        reference = float(column.get(largest, math.nan))
        low, high = float(column.min()), float(column.max())
        if objective.worst == "largest":
            return 0.0, high if math.isnan(reference) else reference
        if low == high:  # an objective that all share divides nothing
            high = low + 1
        return (high, low) if objective.maximise else (low, high)


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, with the columns that `for_readers` adds.

    Args:
        table: Any table of this package.
    """
    return "".join(csv_chunks(table))


# Rows that `csv_chunks` formats together: the text of all rows of a large table is several times as large as the table.
CSV_CHUNK = 1000


def csv_chunks(table: pd.DataFrame) -> Iterator[str]:
    """Yield the text that `to_csv` returns in parts.

    Args:
        table: Any table of this package.
    """
    shown = for_readers(table)
    yield ",".join(map(str, shown)) + "\n"
    for start in range(0, len(shown), CSV_CHUNK):
        rows = shown.iloc[start : start + CSV_CHUNK]
        yield "".join(f"{','.join(row)}\n" for row in zip(*(_csv_fields(rows[name]) for name in shown), strict=True))


# Characters to which CSV gives a meaning.
CSV_MARKS = re.compile(r'[",\r\n]')


def _csv_fields(column: pd.Series[Any]) -> list[str]:
    """The fields that `DataFrame.to_csv` writes, which takes twice as long where texts contain quotation marks, as JSON does."""
    values = column.tolist()
    if column.dtype.kind == "f":
        return ["" if text == "nan" else text for text in map(repr, values)]
    if column.dtype.kind in "biu":
        return list(map(str, values))
    texts = ["" if value is None or value != value else str(value) for value in values]
    if not CSV_MARKS.search("".join(texts)):
        return texts
    return ['"' + text.replace('"', '""') + '"' if CSV_MARKS.search(text) else text for text in texts]


def for_readers(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the energies in uJ beside those in mJ, and with the intervals of accuracies.

    Args:
        table: Any table of this package.

    Returns:
        The table, with a column `energy_uj...` after each column `energy_mj...`. If it has the columns `accuracy` and `images`, the
        columns `accuracy_low` and `accuracy_high` follow `accuracy`: the ends of its 95 % interval.
    """
    columns: dict[str, Any] = {}
    for name in map(str, table.columns.drop(WITHOUT, errors="ignore")):
        columns[name] = table[name]
        if name.startswith(MILLI):
            columns[name.replace(MILLI, MICRO)] = table[name] * UJ_PER_MJ
        if name == "accuracy" and "images" in table:
            columns["accuracy_low"], columns["accuracy_high"] = accuracy_intervals(table)
    return pd.DataFrame(columns)


def accuracy_intervals(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return the ends of the 95 % intervals of the accuracies of a table: Wilson's, or for scores of a dense task the jackknife's.

    Args:
        table: Rows with `accuracy` and `images`; in a dense task also with the column `WITHOUT`.
    """
    if WITHOUT in table:
        pairs = zip(table["accuracy"].tolist(), table[WITHOUT].tolist(), strict=True)
        low, high = zip(*(jackknife_interval(value, without) for value, without in pairs), strict=True)
        return np.array(low), np.array(high)
    images = table["images"].to_numpy(dtype=float)
    return wilson_intervals((table["accuracy"].to_numpy(dtype=float) * images).round(), images)


@dataclass(frozen=True, kw_only=True)
class SearchHistory:
    """Progress of a search by generation.

    Attributes:
        search_id: Id of the search in the archive.
        hypervolume: Hypervolume of all candidates up to a generation, as a share of its box.
        best_f_aeb: Greatest fitness of all candidates up to a generation.
    """

    search_id: str
    hypervolume: list[float]
    best_f_aeb: list[float]


def search_history(
    search_id: str,
    generations: Sequence[Sequence[str]],
    table: pd.DataFrame,
    *,
    box: Box,
    objectives: Objectives = ACCURACY_AND_ENERGY,
) -> SearchHistory:
    """Compute the progress of a search.

    Args:
        search_id: Id of the search in the archive.
        generations: Ids of the proposed candidates of each generation. A candidate that is not in the table is ignored: a killed
            search proposes candidates that it does not measure.
        table: Candidates with a column for each objective, from `candidates_of`.
        box: The box of which the hypervolume is a share.
        objectives: Objectives of the hypervolume.

    Returns:
        Hypervolume and greatest F_AEB of the candidates that were proposed up to each generation.
    """
    columns = [table[name].tolist() for name in (*objectives, "f_aeb")]
    known = dict(zip(table["id"].tolist(), zip(*columns, strict=True), strict=True))
    maximise = [objective.maximise for objective in objectives.values()]
    points: list[tuple[float, ...]] = []  # non-dominated ones: the others add nothing to a hypervolume
    volumes, best, greatest = [], [], math.nan
    for proposed in generations:
        rows = [known[name] for name in proposed if name in known]
        points += [tuple(values) for *values, _ in rows if not any(map(math.isnan, values))]
        points = [point for point, flag in zip(points, on_front(points, maximise=maximise), strict=True) if flag]
        fitness = [f_aeb for *_, f_aeb in rows]
        greatest = max(fitness if math.isnan(greatest) else [greatest, *fitness], default=math.nan)
        volumes.append(hypervolume_in_box(points, best=box.best, worst=box.worst))
        best.append(greatest)
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
    return gene_shares_of(space, *([e.measurement.architecture.to_json() for e in group] for group in groups))


def gene_shares_of(space: SearchSpace, *groups: Sequence[str]) -> list[dict[str, dict[str, float]]]:
    """Compute the same as `gene_shares` from architectures in JSON.

    The genes of a part of an architecture, such as a block, are visited once for all architectures that have the part.

    Args:
        space: The search space of the candidates.
        groups: Canonical JSON of the architectures of each group.

    Returns:
        As `gene_shares` returns it.
    """
    levels: dict[str, dict[str, None]] = {}
    for found in space.genes(space.largest()):  # it has a block at every position
        levels.setdefault(gene_name(found.path, len(space.stages)), {}).update(dict.fromkeys(_levels(found.gene)))
    values_of: dict[Part, list[tuple[str, str]]] = {}
    counted = [_counted(space, group, levels, values_of) for group in groups]
    names = [name for name in levels if any(name in counts for counts in counted)]
    return [{name: _shares(counts.get(name, Counter()), levels[name]) for name in names} for counts in counted]


# Where a part of an architecture is: the stage and index of a block, "time_steps", or "" for all the rest.
Position = tuple[int, int] | str
# All that determines the genes of a part: its position, which is that of the first block if all blocks of the stage have the same
# space, the fields of the architecture before its stages (T and the exit margin depend on each other), and its content, as JSON.
Part = tuple[Position, str, str]

# In canonical JSON, keys are sorted: T is the last field, so architectures that differ in T have a prefix in common, and the
# blocks are the first field of a stage, before its width.
TIME_STEPS, BLOCKS, END_OF_BLOCKS, BETWEEN_BLOCKS = ',"time_steps":', '"blocks":[', '],"embed_dim":', "},{"


def _parts(space: SearchSpace, prefix: str) -> tuple[str, dict[Position, Part]]:
    """Divide an architecture into its blocks and the rest, without parsing it, which takes seconds for 100,000 architectures.

    Args:
        space: The search space.
        prefix: Canonical JSON of the architecture, before `TIME_STEPS`.

    Returns:
        The fields before the stages, and the parts except T.
    """
    head, *stages = prefix.split(BLOCKS)
    parts: dict[Position, Part] = {}
    rest = []
    for i, stage in enumerate(stages):
        blocks, _, width = stage.partition(END_OF_BLOCKS)
        found = blocks.split(BETWEEN_BLOCKS) if blocks else []
        for j, block in enumerate(found):
            parts[i, j] = ((i, j if space.stages[i].blocks else 0), head, block.strip("{}"))
        rest.append(f"{len(found)}{width}")
    return head, {"": ("", head, "".join(rest)), **parts}


def _counted(
    space: SearchSpace, group: Sequence[str], levels: dict[str, dict[str, None]], values_of: dict[Part, list[tuple[str, str]]]
) -> dict[str, Counter[str]]:
    """Count the occurrences of each value of each gene that has more than one value.

    Args:
        space: The search space.
        group: The architectures.
        levels: Receives all values of a gene, by the name of the gene.
        values_of: Gene and value of each gene of a part; extended by the parts that are new.
    """
    steps_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text in group:
        prefix, _, time_steps = text.rpartition(TIME_STEPS)
        steps_of[prefix][time_steps] += 1
    occurrences: Counter[Part] = Counter()
    for prefix, steps in steps_of.items():
        head, parts = _parts(space, prefix)
        for time_steps, number in steps.items():
            of_steps = ("time_steps", head, time_steps)
            if of_steps not in values_of or not values_of.keys() >= set(parts.values()):
                architecture = Architecture.from_json(f"{prefix}{TIME_STEPS}{time_steps}")
                values_of |= _values(space, architecture, {"time_steps": of_steps, **parts}, levels)
            occurrences[of_steps] += number
        for part in parts.values():
            occurrences[part] += steps.total()
    counts: dict[str, Counter[str]] = {}
    for part, number in occurrences.items():
        for name, level in values_of[part]:
            counts.setdefault(name, Counter())[level] += number
    return counts


def _values(
    space: SearchSpace, architecture: Architecture, parts: Mapping[Position, Part], levels: dict[str, dict[str, None]]
) -> dict[Part, list[tuple[str, str]]]:
    """Gene and value of each gene of each part that has more than one value."""
    by_position: dict[Any, list[tuple[str, str]]] = {position: [] for position in parts}
    for found in space.genes(architecture):
        name, path = gene_name(found.path, len(space.stages)), found.path
        levels.setdefault(name, {}).update(dict.fromkeys(_levels(found.gene)))
        if found.gene.size > 1:
            of_steps = path in (("time_steps",), ("exit_margin",))
            position = path[1:4:2] if path[2:3] == ("blocks",) else "time_steps" if of_steps else ""
            by_position[position].append((name, level(found.gene, found.value)))
    return {part: by_position[position] for position, part in parts.items()}


def _shares(counts: Counter[str], levels: Iterable[str]) -> dict[str, float]:
    return {level: counts[level] / max(1, counts.total()) for level in levels}


@cache
def gene_name(path: GenePath, stages: int) -> str:
    """Return the name of a gene without its block, for example `neuron.tau`, or `stage 1 embed_dim` if there are several stages.

    Stages are counted from 1, as in `autospike.report.importance.gene_at`.

    Args:
        path: Path of the gene.
        stages: Number of stages of the space.
    """
    words = [str(part) for part in path if not isinstance(part, int) and part not in ("stages", "blocks")]
    prefix = f"stage {int(path[1]) + 1} " if path[0] == "stages" and stages > 1 else ""
    return prefix + ".".join(words)


# Number of intervals into which a range is divided.
BINS = 5


@cache
def _levels(gene: Choice | Range) -> tuple[str, ...]:
    """Names of the values of a choice, or of the intervals of a range."""
    if isinstance(gene, Choice):
        return tuple(_text(value) for value in gene.values if value is not None)
    width = (gene.high - gene.low) / BINS
    return tuple(f"{gene.low + i * width:.6g} to {gene.low + (i + 1) * width:.6g}" for i in range(BINS))


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def level(gene: Choice | Range, value: Any) -> str:
    """Return the name of a value, or of the interval that contains it.

    Args:
        gene: The gene.
        value: One of its values.
    """
    if isinstance(gene, Choice):
        return _text(value)
    interval = int((value - gene.low) / (gene.high - gene.low) * BINS)
    return _levels(gene)[min(interval, BINS - 1)]
