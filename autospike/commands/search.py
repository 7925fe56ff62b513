"""`autospike search`: evolve subnets of the trained supernet, every measurement in the archive."""

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
    """Search to the configured generation; what the archive knows is not measured again.

    Raises:
        UserError: the supernet is not trained, the archive cannot be opened, or there is no such executor.
    """
    setup, config = open_for_measurement(run), run.experiment.search
    with ExitStack() as stack:
        executor = create_executor(run, setup)
        stack.callback(executor.close)
        archive = Archive(run.archive, protocol_id(setup, run.supernet), config.energy_convention)
        stack.callback(archive.close)
        run.record()
        _measure_baseline(run, setup)
        before = len(archive.all())
        run.log("search started", algorithm=config.algorithm, archived=before, executor=run.experiment.execution.executor)
        asked = _search(run, setup, executor, archive)
        now = len(archive.all()) - before
    run.log("search finished", algorithm=config.algorithm, candidates=asked, measured_now=now)
    note(f"search: {asked} candidates and those that came along; {now} measured now, {before} known from the archive")


def _search(run: Run, setup: Setup, executor: Executor, archive: Archive) -> int:
    """Returns how many candidates were asked for."""
    config = run.experiment.search
    seen: list[Evaluation] = []
    with progress(f"search {config.algorithm}", total=config.population * config.generations) as bar:

        def show(done: int, of: int) -> None:
            """How much of a generation's walk is done."""
            best = f", F_AEB {max(e.f_aeb for e in seen):.3f}" if seen else ""
            bar(len(seen) + config.population * done // of, f"gen {len(seen) // config.population}{best}")

        Search(
            space=run.experiment.search_space,
            anchors=(run.experiment.baseline_architecture,),
            evaluate=population_evaluator(setup, executor, show),
            archive=archive,
            config=config,
            seed=run.experiment.seed,
            measured=seen.append,
        ).run()
        show(0, 1)  # what the archive knew was no walk
    return len(seen)


def _measure_baseline(run: Run, setup: Setup) -> None:
    """Score the hand-made architecture, trained alone, on the search split, as candidates are."""
    path, protocol = run.baseline / "measurement.json", protocol_id(setup, run.baseline)
    if path.exists() and files.read_json(path).get("protocol_id") == protocol:
        return
    architecture = run.experiment.baseline_architecture
    supernet = load_trained_supernet(setup, SearchSpace.of(architecture), run.baseline)
    (measurement,) = population_evaluator(setup, Serial(state=trie_evaluator(setup, supernet)))([architecture])
    found = record(measurement, run.experiment.search.energy_convention, "search")
    files.write_json(path, {**found, "protocol_id": protocol})
