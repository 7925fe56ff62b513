"""`autospike ablate`: change one gene of a subnet at a time, with inherited weights or trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autospike import files
from autospike.console import note, progress, table
from autospike.energy.conventions import UJ_PER_MJ
from autospike.errors import UserError
from autospike.evaluation.setup import create_executor, open_for_measurement, population_evaluator, protocol_id
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.measurement import Evaluation
from autospike.report import ablation, figures
from autospike.report.ablation import Variant
from autospike.report.record import record
from autospike.report.tables import to_csv
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.selection import pick_archived
from autospike.space.architecture import NEVER, Architecture
from autospike.training.retraining import from_scratch, train_retrained
from autospike.training.setup import Setup, threads_of_torch


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """What is ablated.

    Attributes:
        architecture: Selection rule, id of a candidate, or a file with an architecture (YAML or JSON).
        genes: Names of the genes that are changed; all that have several values if empty.
        together: Change a gene in all blocks at once.
        retrain: Train each network alone, instead of measuring it with inherited weights.
    """

    architecture: str
    genes: Sequence[str] = ()
    together: bool = False
    retrain: bool = False


def ablate(run: RunDirectory, request: AblationRequest) -> None:
    """Measure an architecture and its variants on the search split, and write a table and a figure to `RUN/ablation`.

    Finished measurements and trainings are not repeated.

    Args:
        run: A searched run.
        request: What is ablated.

    Raises:
        UserError: Nothing was searched yet, the architecture is not in the space of the supernet, or no gene is named so.
    """
    threads = torch.get_num_threads()
    setup = open_for_measurement(run)
    architecture = _architecture(run, setup, request.architecture)
    found = ablation.variants(run.experiment.search_space, architecture, genes=request.genes, together=request.together)
    every = [architecture, *(variant.architecture for variant in found)]
    with run.locked("ablate"):
        if request.retrain:
            with threads_of_torch(run.experiment.threads or threads):
                records = _retrained(run, setup, every)
        else:
            records = _inherited(run, setup, every)
    _report(run, request, architecture, found, records)


def _architecture(run: RunDirectory, setup: Setup, chosen: str) -> Architecture:
    """The architecture of a file, or the one that a selection rule or an id selects, without early exit."""
    path = Path(chosen)
    if path.suffix not in (".yaml", ".yml", ".json"):
        (selected,) = pick_archived(
            run, protocol_id(setup, run.supernet), [chosen], lambda damage: note(f"ablate: {damage}"), setup.input_shape
        )
        return replace(selected.measurement.architecture, exit_margin=NEVER)
    architecture = Architecture.from_dict(files.read_yaml(path), source=str(path))
    if not run.experiment.search_space.contains(architecture):
        raise UserError(f"{path}: not an architecture of the space of {run.folder}; its supernet has no weights for it")
    return architecture


def _inherited(run: RunDirectory, setup: Setup, architectures: Sequence[Architecture]) -> dict[Architecture, dict[str, Any]]:
    """Measure with inherited weights what neither the archive of the run nor that of earlier ablations has."""
    convention, protocol = run.experiment.search.energy_convention, protocol_id(setup, run.supernet)
    run.ablation.mkdir(exist_ok=True)
    archives = [
        Archive(run.existing_archive(), protocol, convention, read_only=True),
        Archive(run.ablation / "measurements.sqlite", protocol, convention),
    ]
    executor = create_executor(run, setup)
    try:
        known = {a: e for a in architectures for archive in archives if (e := archive.get(a)) is not None}
        images = len(setup.images.splits["search"])  # successive halving measures some candidates on fewer
        complete = {a: e.measurement for a, e in known.items() if e.measurement.images == images}
        missing, size = [a for a in architectures if a not in complete], run.experiment.search.population
        evaluate = population_evaluator(setup, executor).without_racing()
        with progress("ablate", total=len(missing)) as bar:
            for start in range(0, len(missing), size):
                bar(start, "")
                measured = list(evaluate(missing[start : start + size]))
                archives[1].add(Evaluation(measurement=m, energy=m.energy(convention), f_aeb=0.0, generation=0) for m in measured)
                complete |= {m.architecture: m for m in measured}
            bar(len(missing), "")
    finally:
        executor.close()
        for archive in archives:
            archive.close()
    return {a: record(complete[a], convention, "search") for a in architectures}


def _retrained(run: RunDirectory, setup: Setup, architectures: Sequence[Architecture]) -> dict[Architecture, dict[str, Any]]:
    """Train each architecture alone from scratch, as the first seed of `autospike retrain`, and measure it."""
    networks = [from_scratch(run, architecture, seed=0) for architecture in architectures]
    for network in networks:
        network.check_recipe()
    records = {}
    for network in networks:
        train_retrained(run, setup, network)
        records[network.architecture] = measure_trained_alone(run, setup, network.architecture, network.checkpoints)
    return records


def _report(
    run: RunDirectory,
    request: AblationRequest,
    architecture: Architecture,
    found: Sequence[Variant],
    records: dict[Architecture, dict[str, Any]],
) -> None:
    """Write the table and the figure, and print the table."""
    ablated, weights = ablation.table(architecture, found, records), "retrained" if request.retrain else "inherited"
    name = f"{architecture.id}-{weights}{'-together' if request.together else ''}"
    files.write_text(run.ablation / f"{name}.csv", to_csv(ablated))
    title = f"{run.experiment.data.title}: one gene changed, {weights} weights"
    convention, metric = run.experiment.search.energy_convention.name, run.experiment.metric
    figure = ablation.draw(ablated, title=title, convention=convention, metric=metric)
    figures.save(figure, run.ablation / f"{name}.png")
    rows = [
        [
            row["gene"],
            f"{row['before']} -> {row['after']}" if row["after"] else "",
            f"{row['accuracy']:.4f}",
            f"{100 * row['difference']:+.1f} ({100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f})"
            if row["after"]
            else "",
            f"{row['energy_mj'] * UJ_PER_MJ:.4g}",
            f"{row['energy_ratio']:.2f}",
            f"{row['params']:,}",
            str(row["time_steps"]),
        ]
        for row in ablated.to_dict("records")
    ]
    columns = ["gene", "changed", metric, "points (95 %)", "uJ", "ratio", "parameters", "T"]
    images = records[architecture]["search_images"]
    table(f"{run.folder}: {architecture.id}, {weights} weights", columns, rows, f"{images} images of the search split")
    note(f"ablate: see {run.ablation / name}.csv and .png")
