"""`autospike search`: search subnets of the trained supernet, and store every measurement in the archive."""

from __future__ import annotations

from contextlib import ExitStack

from autospike import files
from autospike.console import note, progress
from autospike.evaluation.setup import create_executor, open_for_measurement, population_evaluator, protocol_id, trie_evaluator
from autospike.execution.executor import Executor, Serial
from autospike.measurement import Evaluation
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
        executor = create_executor(run, setup)
        stack.callback(executor.close)
        archive = Archive(run.archive, protocol_id(setup, run.supernet), config.energy_convention)
        stack.callback(archive.close)
        run.save()
        _measure_reference(run, setup)
        before = len(archive.all())
        run.log("search started", algorithm=config.algorithm, archived=before, executor=run.experiment.execution.executor)
        proposed = _search(run, setup, executor, archive)
        now = len(archive.all()) - before
    run.log("search finished", algorithm=config.algorithm, candidates=proposed, measured_now=now)
    note(f"search: {proposed} candidates proposed; {now} measured now with by-products, {before} in the archive before")


def _search(run: Run, setup: Setup, executor: Executor, archive: Archive) -> int:
    """Run the search; returns the number of proposed candidates."""
    config = run.experiment.search
    evaluated: list[Evaluation] = []
    with progress(f"search {config.algorithm}", total=config.population * config.generations) as bar:

        def show(done: int, of: int) -> None:
            """Update the bar by the finished shards of a generation."""
            best = f", F_AEB {max(e.f_aeb for e in evaluated):.3f}" if evaluated else ""
            bar(len(evaluated) + config.population * done // of, f"gen {len(evaluated) // config.population}{best}")

        Search(
            space=run.experiment.search_space,
            anchors=(run.experiment.baseline_architecture,),
            evaluate=population_evaluator(setup, executor, show),
            archive=archive,
            config=config,
            seed=run.experiment.seed,
            on_evaluation=evaluated.append,
        ).run()
        show(0, 1)  # candidates from the archive have no shards
    return len(evaluated)


def _measure_reference(run: Run, setup: Setup) -> None:
    """Measure the separately trained reference network on the search split, as candidates are."""
    path, protocol = run.baseline / "measurement.json", protocol_id(setup, run.baseline)
    if path.exists() and files.read_json(path).get("protocol_id") == protocol:
        return
    architecture = run.experiment.baseline_architecture
    supernet = load_trained_supernet(setup, SearchSpace.of(architecture), run.baseline)
    (measurement,) = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))([architecture])
    found = record(measurement, run.experiment.search.energy_convention, "search")
    files.write_json(path, {**found, "protocol_id": protocol})
