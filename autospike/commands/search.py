"""`autospike search`: search subnets of the trained supernet, and store every measurement in the archive."""

from __future__ import annotations

from contextlib import ExitStack

from autospike.console import note, progress
from autospike.evaluation.setup import create_executor, open_for_measurement, population_evaluator, protocol_id
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.execution.executor import Executor
from autospike.measurement import Evaluation
from autospike.run_directory import Run
from autospike.search.archive import Archive
from autospike.search.evolution import Search
from autospike.training.setup import Setup


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
        measure_trained_alone(run, setup, run.experiment.baseline_architecture, run.baseline)
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
