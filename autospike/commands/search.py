"""`autospike search`: search subnets of the trained supernet, and store every measurement in the archive."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

from autospike.console import note, progress
from autospike.evaluation.setup import (
    create_executor,
    measuring_device_type,
    open_for_measurement,
    population_evaluator,
    protocol_id,
)
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.execution.executor import Executor
from autospike.kernels.build import missing_reason
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.evolution import Search
from autospike.training.setup import Setup


def search(run: RunDirectory, *, timeout_s: float | None = None) -> int:
    """Search up to the configured number of generations. Candidates in the archive are not measured again.

    Args:
        run: A trained run.
        timeout_s: Largest duration in seconds. No generation is started that would probably exceed it, except the first one.

    Returns:
        The number of finished generations.

    Raises:
        UserError: The supernet is not trained, the archive cannot be opened, or the executor cannot be created.
    """
    setup, config = open_for_measurement(run), run.experiment.search
    with ExitStack() as stack:
        stack.enter_context(run.locked("search"))
        _report_missing_kernels(setup)
        executor = create_executor(run, setup)
        stack.callback(executor.close)
        reference = run.experiment.baseline_architecture
        if reference is not None:
            measure_trained_alone(run, setup, reference, run.baseline)
        archive = Archive(run.archive, protocol_id(setup, run.supernet), config.energy_convention)
        stack.callback(archive.close)
        run.save()
        damage = archive.discard_damaged()
        if damage is not None:
            note(f"search: {damage}")
            run.log("archive damaged", what=damage)
        before = archive.count()
        run.log("search started", algorithm=config.algorithm, archived=before, executor=run.experiment.execution.executor)
        proposed, generations = _search(run, setup, executor, archive, _TimeLimit(seconds=timeout_s))
        now = archive.count() - before
    run.log("search finished", algorithm=config.algorithm, candidates=proposed, measured_now=now)
    note(f"search: {proposed} candidates proposed; {now} measured now with by-products, {before} in the archive before")
    return generations


@dataclass(kw_only=True)
class _TimeLimit:
    """Stop criterion of a search: true when another generation as long as the longest one would exceed the limit.

    Attributes:
        seconds: The limit in seconds; None for no limit.
        started: When the search began.
        moments: When each generation ended.
    """

    seconds: float | None
    started: float = field(default_factory=time.monotonic)
    moments: list[float] = field(default_factory=list)

    def __call__(self) -> bool:
        """Record the end of a generation, and return whether to stop."""
        self.moments.append(time.monotonic())
        longest = max(end - begin for begin, end in pairwise((self.started, *self.moments)))
        return self.seconds is not None and self.moments[-1] - self.started + longest > self.seconds


def _report_missing_kernels(setup: Setup) -> None:
    reason = missing_reason() if measuring_device_type(setup) == "cpu" else None
    if reason is not None:
        note(
            f"search: the C kernels are missing ({reason}); candidates are measured by operations of torch, several times slower, "
            "under a protocol of their own"
        )


def _search(
    run: RunDirectory, setup: Setup, executor: Executor, archive: Archive, should_stop: Callable[[], bool]
) -> tuple[int, int]:
    """Run the search; returns the numbers of proposed candidates and of finished generations."""
    config, reference = run.experiment.search, run.experiment.baseline_architecture
    fitness: list[float] = []  # of each proposed candidate, and of finished generations the greatest for all
    with progress(f"search {config.algorithm}", total=config.population * config.generations) as bar:

        def show(done: int, of: int) -> None:
            """Update the bar by the finished shards of a generation."""
            best = f", F_AEB {max(fitness):.3f}" if fitness else ""
            bar(len(fitness) + config.population * done // of, f"gen {len(fitness) // config.population}{best}")

        generations = Search(
            space=run.experiment.search_space,
            anchors=() if reference is None else (reference,),
            evaluate=population_evaluator(setup, executor, show),
            archive=archive,
            config=config,
            seed=run.experiment.seed,
            on_evaluation=lambda evaluation: fitness.append(evaluation.f_aeb),
            should_stop=should_stop,
            on_resume=lambda proposed, best: fitness.extend([best] * proposed),
        ).run()
        show(0, 1)  # candidates from the archive have no shards
    return len(fitness), generations
