"""`autospike search`: search subnets of the trained supernet, and store every measurement in the archive."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from autospike import files
from autospike.console import note, progress
from autospike.energy.conventions import energy
from autospike.energy.counts import from_rows
from autospike.errors import UserError
from autospike.evaluation.setup import (
    create_executor,
    measuring_device_type,
    open_for_measurement,
    population_evaluator,
    protocol_id,
    trie_evaluator,
)
from autospike.execution.executor import Executor, Serial
from autospike.kernels.build import missing_reason
from autospike.report.record import record
from autospike.run_directory import Run
from autospike.search.archive import Archive
from autospike.search.evolution import Search
from autospike.space.search_space import SearchSpace
from autospike.training.setup import Setup, load_trained_supernet


def search(run: Run) -> None:
    """Search up to the configured number of generations. Candidates in the archive are not measured again.

    Args:
        run: A trained run.

    Raises:
        UserError: The supernet is not trained, the archive cannot be opened, or the executor cannot be created.
    """
    setup, config = open_for_measurement(run), run.experiment.search
    with ExitStack() as stack:
        stack.enter_context(run.locked("search"))
        _report_missing_kernels(setup)
        executor = create_executor(run, setup)
        stack.callback(executor.close)
        _measure_reference(run, setup)
        archive = Archive(run.archive, protocol_id(setup, run.supernet), config.energy_convention)
        stack.callback(archive.close)
        run.save()
        damage = archive.discard_damaged()
        if damage is not None:
            note(f"search: {damage}")
            run.log("archive damaged", what=damage)
        before = archive.count()
        run.log("search started", algorithm=config.algorithm, archived=before, executor=run.experiment.execution.executor)
        proposed = _search(run, setup, executor, archive)
        now = archive.count() - before
    run.log("search finished", algorithm=config.algorithm, candidates=proposed, measured_now=now)
    note(f"search: {proposed} candidates proposed; {now} measured now with by-products, {before} in the archive before")


def _report_missing_kernels(setup: Setup) -> None:
    reason = missing_reason() if measuring_device_type(setup) == "cpu" else None
    if reason is not None:
        note(
            f"search: the C kernels are missing ({reason}); candidates are measured by operations of torch, several times slower, "
            "under a protocol of their own"
        )


def _search(run: Run, setup: Setup, executor: Executor, archive: Archive) -> int:
    """Run the search; returns the number of proposed candidates."""
    config = run.experiment.search
    fitness: list[float] = []  # of each proposed candidate, and of finished generations the greatest for all
    with progress(f"search {config.algorithm}", total=config.population * config.generations) as bar:

        def show(done: int, of: int) -> None:
            """Update the bar by the finished shards of a generation."""
            best = f", F_AEB {max(fitness):.3f}" if fitness else ""
            bar(len(fitness) + config.population * done // of, f"gen {len(fitness) // config.population}{best}")

        Search(
            space=run.experiment.search_space,
            anchors=(run.experiment.baseline_architecture,),
            evaluate=population_evaluator(setup, executor, show),
            archive=archive,
            config=config,
            seed=run.experiment.seed,
            on_evaluation=lambda evaluation: fitness.append(evaluation.f_aeb),
            on_resume=lambda proposed, best: fitness.extend([best] * proposed),
        ).run()
        show(0, 1)  # candidates from the archive have no shards
    return len(fitness)


def _measure_reference(run: Run, setup: Setup) -> None:
    """Measure the separately trained reference network on the search split, as candidates are."""
    path, protocol = run.baseline / "measurement.json", protocol_id(setup, run.baseline)
    if _is_measured(path, protocol):
        return
    architecture = run.experiment.baseline_architecture
    supernet = load_trained_supernet(setup, SearchSpace.of(architecture), run.baseline)
    (measurement,) = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))([architecture])
    found = record(measurement, run.experiment.search.energy_convention, "search")
    files.write_json(path, {**found, "protocol_id": protocol})


def _is_measured(path: Path, protocol: str) -> bool:
    """Whether a file has a measurement under a protocol. A damaged file has none."""
    try:
        written = files.read_json(path)
        energy(from_rows(written["layers"]))
        return bool(written["protocol_id"] == protocol and isinstance(written["search_accuracy"], float))
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return False
