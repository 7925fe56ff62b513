"""The data of the HTML report: candidates with their operation counts, searches, trainings, retrained networks, provenance.

The page computes energies itself, from totals under each way of counting and, for candidates on a front, from the counts of each
layer. So any convention can be chosen in it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autospike import __version__, files
from autospike.energy.columns import CountColumns, Energies
from autospike.energy.conventions import CONVENTIONS, COSTS, MEMORY, Convention
from autospike.energy.counts import LayerCount
from autospike.errors import UserError
from autospike.measurement import Evaluation
from autospike.objectives import Objective, Objectives, objectives_of
from autospike.pareto import on_front
from autospike.report import tables
from autospike.report.importance import importance
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.objective_columns import with_objectives
from autospike.searching.selection import with_fitness
from autospike.space.search_space import SearchSpace

# Candidates in a page. An archive with more is thinned: the front stays, and every nth of the others.
MAX_CANDIDATES = 3000
# Points of a training curve, and genes of the figure on importance.
CURVE_POINTS, GENES = 200, 12


def page_data(
    run: RunDirectory,
    *,
    table: pd.DataFrame | None = None,
    gene_importance: pd.DataFrame | None = None,
    proposals: Mapping[str, list[list[str]]] | None = None,
    limit: int = MAX_CANDIDATES,
) -> dict[str, Any]:
    """Collect the data of a searched run, which is only read.

    Args:
        run: The run. Its search may be running.
        table: The candidates under the convention of the search, as `tables.candidates_of` returns them, if they were read before.
        gene_importance: The table of `autospike.report.importance`, if it was computed before.
        proposals: The candidates of each search, as `Archive.proposals` returns them, if they were read before.
        limit: Largest number of candidates.

    Returns:
        A value for JSON.

    Raises:
        UserError: Nothing was searched yet.
    """
    search = run.experiment.search
    archive = Archive.newest(run.existing_archive(), search.energy_convention)
    space = run.experiment.archived_space
    try:
        proposals, algorithms = archive.proposals() if proposals is None else proposals, archive.algorithms()
        objectives = objectives_of(search.objectives, run.input_shape, metric=run.experiment.metric)
        if table is None:
            archived = with_fitness(archive, run)
            if archived.empty:
                raise UserError(f"{run.archive}: no candidates yet; run: autospike search {run.folder}")
            table = tables.candidates_of(with_objectives(archive, archived, objectives), objectives)
        kept = _kept((table["on_front"] | (table["id"] == space.largest().id)).tolist(), limit)
        names = table["id"].iloc[kept].tolist()
        evaluations = {} if objectives.keys() <= {*tables.COLUMNS} else archive.get_all_by_id(names)
        counts = {name: e.measurement.counts for name, e in evaluations.items()} or archive.counts(names)
    finally:
        archive.close()
    shown = table.set_index("id").loc[[*counts]]
    columns = CountColumns.of([*counts.values()])
    totals = {name: columns.energies(convention) for name, convention in CONVENTIONS.items()}
    selected = _optional(run.export / "report.json")
    return {
        "title": f"Search on {run.experiment.data.name}",
        "subtitle": f"{run.folder.resolve().name}: {space.family}, {len(table)} measured candidates, autospike {__version__}",
        "measured": len(table),
        "metric": run.experiment.metric,
        "convention": search.energy_convention.name.partition("/")[0],
        "conventions": [_convention(convention) for convention in CONVENTIONS.values()],
        "costs": [_costs(costs) for costs in COSTS.values()],
        "objectives": _objectives(objectives, shown),
        **_candidates(shown, counts, totals),
        "reference": _reference(run),
        "selected": selected.get("architecture_id"),
        "searches": _searches(proposals, algorithms, shown, list(evaluations.values()), totals, space.largest().id, objectives),
        "importance": _most_important(_importance(space, shown) if gene_importance is None else gene_importance),
        "trainings": _trainings(run),
        "early_exit": _early_exit(run),
        "retrained": _optional(run.retrain / "report.json").get("ways", []),
        "provenance": _provenance(run, archive.protocol_id, selected),
    }


def _kept(flags: Sequence[bool], limit: int) -> list[int]:
    """Positions of the candidates of a page: all on the front and the largest subnet (`flags`), and every nth of the others."""
    others = [i for i, flag in enumerate(flags) if not flag]
    room = max(0, limit - (len(flags) - len(others)))
    step = max(1, math.ceil(len(others) / max(1, room)))
    return sorted([i for i, flag in enumerate(flags) if flag] + others[::step])


def _optional(path: Path) -> dict[str, Any]:
    """A JSON object, or nothing where there is no such file or it is damaged."""
    try:
        found = files.read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


# The memory convention counts as exact does, at other costs.
COUNTED_AS = {MEMORY.name: "exact"}


def _convention(convention: Convention) -> dict[str, Any]:
    return {
        **{name: getattr(convention, name) for name in ("name", "source", "fused", "integers", "accumulations", "image", "head")},
        "costs": _costs(convention.costs),
        "counts": COUNTED_AS.get(convention.name, convention.name),
    }


def _costs(costs: Any) -> dict[str, Any]:
    return asdict(costs)


# Objectives whose values the page computes, by the name of the page.
OF_PAGE = {
    "energy_mj": "energy",
    "energy_uj": "energy",
    **{name: name for name in ("accuracy", "params", "time_steps", "acs", "macs")},
}


def _objectives(objectives: Objectives, shown: pd.DataFrame) -> dict[str, Any]:
    """The objectives of the axes at first, and those of the run that the page cannot compute, with the value of each candidate."""
    own = [
        {
            "name": name,
            "label": objective.label or name,
            "best": "max" if objective.maximise else "min",
            "log": objective.log,
            "values": [None if math.isnan(value) else value for value in shown[name].astype(float).tolist()],
        }
        for name, objective in objectives.items()
        if name not in OF_PAGE
    ]
    x, y = tables.horizontal(objectives)[0], tables.vertical(objectives)
    return {"x": OF_PAGE.get(x, x), "y": OF_PAGE.get(y, y), "own": own}


def _rounded(values: Sequence[float], digits: int = 7) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]


def _candidates(
    shown: pd.DataFrame, counts: Mapping[str, tuple[LayerCount, ...]], totals: Mapping[str, Energies]
) -> dict[str, Any]:
    """Columns of the candidates, their architectures without T, and the counts by layer of those on a front."""
    architectures: dict[str, int] = {}
    numbers = []
    for text in shown["architecture"]:
        value = {name: part for name, part in json.loads(text).items() if name != "time_steps"}
        numbers.append(architectures.setdefault(json.dumps(value, sort_keys=True), len(architectures)))
    counted = {name: of for name, of in totals.items() if name not in COUNTED_AS}
    fronts = set[str]()
    for of in counted.values():
        points = list(zip(shown["accuracy"].tolist(), of.energy_mj.tolist(), strict=True))
        fronts |= {name for name, flag in zip(counts, on_front(points), strict=True) if flag}
    return {
        "candidates": {
            "id": [*counts],
            **{name: shown[name].tolist() for name in ("accuracy", "params", "time_steps")},
            "interval": np.column_stack(tables.accuracy_intervals(shown)).tolist(),
            "architecture": numbers,
            **_exits(shown),
            "operations": {name: [_rounded(of.macs.tolist()), _rounded(of.acs.tolist())] for name, of in counted.items()},
        },
        "architectures": [json.loads(text) for text in architectures],
        "layers": {name: _layers(layers) for name, layers in counts.items() if name in fronts},
    }


def _exits(shown: pd.DataFrame) -> dict[str, Any]:
    """Exit margin and mean T of each candidate, null without early exit; nothing if none has it."""
    if tables.ESTIMATE not in shown:
        return {}
    exits = shown[tables.ESTIMATE].tolist()
    return {
        name: [value if flag else None for value, flag in zip(shown[name].tolist(), exits, strict=True)]
        for name in tables.EXIT_COLUMNS
    }


def _layers(counts: Sequence[LayerCount]) -> list[dict[str, Any]]:
    return [
        {
            **{name: getattr(count, name) for name in ("layer", "input", "form", "reads", "time_steps", "macs")},
            "acs": _rounded(count.acs),
            "rate": _rounded(count.rate, 6),
        }
        for count in counts
    ]


def _reference(run: RunDirectory) -> dict[str, Any] | None:
    """Accuracy and counts of the reference network on the search split."""
    found = _optional(run.baseline / "measurement.json") if run.experiment.baseline_architecture else {}
    if "layers" not in found or "search_accuracy" not in found:
        return None
    return {"accuracy": found["search_accuracy"], "layers": found["layers"]}


def _searches(
    proposals: Mapping[str, list[list[str]]],
    algorithms: Mapping[str, str],
    shown: pd.DataFrame,
    evaluations: Sequence[Evaluation],
    totals: Mapping[str, Energies],
    largest: str,
    objectives: Objectives,
) -> list[dict[str, Any]]:
    """Number of proposed candidates and hypervolume after each generation of each search, under each convention.

    In a thinned page the hypervolume is that of the candidates in it. `evaluations` are those of the candidates if an objective is
    no column of every table of candidates.
    """
    by_convention = {}
    for name, of in totals.items() if largest in shown.index else ():
        table = shown.assign(energy_mj=of.energy_mj).reset_index()
        for objective in objectives.keys() - set(tables.COLUMNS):
            counted = (replace(e, energy=e.measurement.energy(CONVENTIONS[name])) for e in evaluations)
            table[objective] = [_value(objectives[objective], e) for e in counted]
        by_convention[name] = table, tables.Box.of(table, objectives, largest)
    found = []
    for search_id, generations in proposals.items():
        volumes = {
            name: _rounded(tables.search_history(search_id, generations, table, box=box, objectives=objectives).hypervolume)
            for name, (table, box) in by_convention.items()
        }
        counts = np.cumsum([len(generation) for generation in generations]).tolist()
        found.append({"id": search_id, "algorithm": algorithms.get(search_id, ""), "evaluations": counts, "hypervolume": volumes})
    return found


def _value(objective: Objective, evaluation: Evaluation) -> float:
    """The value of an objective, NaN if it was not measured."""
    try:
        return objective.value(evaluation)
    except UserError:
        return math.nan


def _importance(space: SearchSpace, shown: pd.DataFrame) -> pd.DataFrame:
    """Importance of the genes for accuracy and for the logarithm of energy; see `autospike.report.importance`."""
    energies = [math.log(max(value, 1e-300)) for value in shown["energy_mj"]]
    return importance(space, shown["architecture"].tolist(), {"accuracy": shown["accuracy"].tolist(), "energy": energies})


def _most_important(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.head(GENES).to_dict("records")]


def _early_exit(run: RunDirectory) -> dict[str, Any] | None:
    """The curve that `autospike early-exit` has written for the exported subnet; None without one, or if a file is damaged."""
    folder = run.export / "early_exit"
    measured = _optional(folder / "early_exit.json")
    try:
        curve = pd.read_csv(folder / "curve.csv")
        columns = {name: curve[name].tolist() for name in ("margin", "accuracy", "mean_time_steps")}
        energy_mj, images = curve["energy_mj_estimate"].tolist(), int(curve["images"].iloc[0])
        return {
            **columns,
            "energy_mj": energy_mj,
            "images": images,
            "split": measured["split"],
            "convention": measured["convention"],
        }
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _trainings(run: RunDirectory) -> list[dict[str, Any]]:
    """Loss by step of every network, from the log."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        lines = files.read_text(run.folder / "log.jsonl").splitlines()
    except UserError:
        return []
    for line in lines:
        if '"event": "train"' in line:
            event = json.loads(line)
            curves[event["network"]][event["step"]] = event["loss"]
    found, names = [], {"hand-made": "reference network"}
    for network, losses in curves.items():
        steps = sorted(losses)[:: max(1, math.ceil(len(losses) / CURVE_POINTS))]
        found.append({"network": names.get(network, network), "steps": steps, "loss": [float(f"{losses[s]:.5g}") for s in steps]})
    return found


def _provenance(run: RunDirectory, protocol_id: str, selected: Mapping[str, Any]) -> str:
    """Everything on which the figures depend, as text."""
    parts = [f"protocol of the measurements: {protocol_id}"]
    if selected:
        low, high = selected["test_accuracy_interval"]
        parts.append(
            f"exported: {selected['architecture_id']}, test {run.experiment.metric} {selected['test_accuracy']:.4f} "
            f"({low:.4f} to {high:.4f})"
        )
    environment = _optional(run.folder / "environment.json")
    parts += [f"\nenvironment.json\n{json.dumps(environment, indent=2)}", f"\nexperiment.yaml\n{run.experiment.to_yaml()}"]
    return "\n".join(parts)
