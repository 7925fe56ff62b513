"""`autospike ablate`: change one gene of an architecture at a time, with inherited weights or trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autospike import catalogue, files
from autospike.config import Experiment
from autospike.console import note, progress, table
from autospike.energy.conventions import UJ_PER_MJ
from autospike.errors import UserError, quoted
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
from autospike.space.membership import why_outside
from autospike.space.published import PUBLISHED
from autospike.training.checkpoint import Checkpoints
from autospike.training.retraining import from_scratch, train_retrained
from autospike.training.setup import Setup, threads_of_torch


@dataclass(frozen=True, kw_only=True)
class AblationRequest:
    """What is ablated.

    Attributes:
        architecture: An architecture, the file of one (YAML or JSON), the folder of an exported or imported model, the name of a
            published network, or a selection rule or the id of a candidate of the search.
        genes: Names of the genes that are changed; all that have several values if empty.
        together: Change a gene in all blocks at once.
        retrain: Train each network alone, instead of measuring it with inherited weights.
    """

    architecture: str | Architecture
    genes: Sequence[str] = ()
    together: bool = False
    retrain: bool = False


def ablate(run: RunDirectory, request: AblationRequest) -> None:
    """Measure an architecture and its variants on the search split, and write a table and a figure to `RUN/ablation`.

    Finished measurements and trainings are not repeated.

    Args:
        run: A run. Networks that are trained alone need no supernet, and a named architecture no search.
        request: What is ablated.

    Raises:
        UserError: There is no supernet to inherit from, no search to select from, the architecture is not in the space, or no gene
            is named so.
    """
    threads = torch.get_num_threads()
    _check(run, request)
    setup = open_for_measurement(run)
    architecture = _architecture(run, setup, request.architecture)
    found = ablation.variants(run.experiment.search_space, architecture, genes=request.genes, together=request.together)
    every = [architecture, *(variant.architecture for variant in found)]
    with run.locked("ablate"):
        if request.retrain:
            _save(run, setup)
            with threads_of_torch(run.experiment.threads or threads):
                records = _retrained(run, setup, every)
        else:
            records = _inherited(run, setup, every)
    _report(run, request, architecture, found, records)


def open_run_or_experiment(path: Path, folder: Path | None, overrides: Sequence[str]) -> RunDirectory:
    """Open the run of an ablation.

    Args:
        path: The folder of a run; an experiment (YAML or the name of one) if a folder is given.
        folder: The folder of the run of an experiment, which may be new.
        overrides: Fields of the experiment to change, as `NAME=VALUE`.

    Returns:
        The run. Nothing is written.

    Raises:
        UserError: There is no run or no experiment of this name, or the folder has a run of another experiment.
    """
    if folder is not None:
        return RunDirectory.start(Experiment.load(path, overrides), folder)
    if path.is_file() or (not path.exists() and str(path) in catalogue.files_of("experiments")):
        raise UserError(f"{path}: an experiment, not the folder of a run; give the folder of its trainings with --run FOLDER")
    return RunDirectory.resume(path, overrides)


def _check(run: RunDirectory, request: AblationRequest) -> None:
    """Raise what the run lacks, before its data are opened."""
    if not request.retrain:
        record = Checkpoints(folder=run.supernet).record
        if record is None or not record.finished:
            raise UserError(
                f"{run.folder}: no trained supernet to inherit weights from; train each network alone with --retrain, or the "
                f"supernet with: autospike train EXPERIMENT --run {run.folder}"
            )
    elif run.experiment.training.start_from is not None and not run.has_checkpoint:
        raise UserError(
            "training.start_from: the networks of an ablation start from fresh weights; leave it out, or train the supernet first"
        )


def _architecture(run: RunDirectory, setup: Setup, chosen: str | Architecture) -> Architecture:
    """The given architecture, or the one that a selection rule or an id selects, without early exit."""
    found = (chosen, f"architecture {chosen.id}") if isinstance(chosen, Architecture) else _read(chosen)
    if found is None:
        if not run.archive.exists():
            raise UserError(
                f"{run.folder}: nothing was searched, so {quoted(chosen)} selects no subnet; give --architecture a file (YAML, "
                "JSON), the folder of an export or the name of a published network"
            )
        (selected,) = pick_archived(
            run, protocol_id(setup, run.supernet), [str(chosen)], lambda damage: note(f"ablate: {damage}"), setup.input_shape
        )
        return replace(selected.measurement.architecture, exit_margin=NEVER)
    architecture, source = replace(found[0], exit_margin=NEVER), found[1]
    problem = why_outside(run.experiment.search_space, architecture)
    if problem is not None:
        raise UserError(
            f"{source}: not an architecture of the space of {run.folder}, whose genes are changed: {problem}; give one of the space"
        )
    return architecture


def _read(chosen: str) -> tuple[Architecture, str] | None:
    """The architecture of a file, an export or a published network, and where it is from; None for a rule or an id."""
    path = Path(chosen)
    if path.is_dir():
        path = path / "architecture.json"
        if not path.exists():
            raise UserError(f"{path}: no such file; give the folder of an exported or imported model, or a file (YAML, JSON)")
    elif path.suffix not in (".yaml", ".yml", ".json"):
        published = PUBLISHED.get(chosen)
        return None if published is None else (published.architecture, chosen)
    return Architecture.from_dict(files.read_yaml(path), source=str(path)), str(path)


def _save(run: RunDirectory, setup: Setup) -> None:
    """Store experiment and data before the first training; later they may not change."""
    if not run.has_training:
        run.save_data(setup.images.fingerprint)
        run.save()


def _inherited(run: RunDirectory, setup: Setup, architectures: Sequence[Architecture]) -> dict[Architecture, dict[str, Any]]:
    """Measure with inherited weights what neither the archive of the run nor that of earlier ablations has."""
    convention, protocol = run.experiment.search.energy_convention, protocol_id(setup, run.supernet)
    run.ablation.mkdir(exist_ok=True)
    own = Archive(run.ablation / "measurements.sqlite", protocol, convention)
    archives = [own, *([Archive(run.archive, protocol, convention, read_only=True)] if run.archive.exists() else [])]
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
                own.add(Evaluation(measurement=m, energy=m.energy(convention), f_aeb=0.0, generation=0) for m in measured)
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
    title = f"{run.experiment.data.title}: one gene changed, {weights} weights"
    convention, metric = run.experiment.search.energy_convention.name, run.experiment.metric
    figure = ablation.draw(ablated, title=title, convention=convention, metric=metric)
    with files.replacing_all(run.ablation) as folder:
        files.write_text(folder / f"{name}.csv", to_csv(ablated))
        figures.save(figure, folder / f"{name}.png")
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
