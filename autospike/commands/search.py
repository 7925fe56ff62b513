"""`autospike search`: search subnets of the trained supernet, and store every measurement in the archive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

from autospike.config.loading import SQLITE
from autospike.console import Bar, note, progress
from autospike.errors import UserError
from autospike.evaluation.latency import LatencyMeter
from autospike.evaluation.setup import (
    create_executor,
    measuring_device_type,
    open_for_measurement,
    population_evaluator,
    protocol_id,
)
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.events import Callback, CandidateEvent, Event, GenerationEvent
from autospike.execution.executor import Executor
from autospike.kernels.build import missing_reason
from autospike.objectives import LATENCIES
from autospike.run_directory import RunDirectory
from autospike.searching.algorithms import Algorithm, algorithm_of
from autospike.searching.archive import Archive
from autospike.searching.constraints import Constraints
from autospike.searching.evolution import Search
from autospike.searching.optuna_search import OptunaSearch
from autospike.searching.optuna_study import STORAGE, Storage, StudyWriter, open_storage
from autospike.searching.selection import nothing_within_limits, within_limits
from autospike.training.setup import Setup


def search(
    run: RunDirectory, *, timeout_s: float | None = None, algorithm: Algorithm | None = None, callbacks: Sequence[Callback] = ()
) -> int:
    """Search up to the configured number of generations. Candidates in the archive are not measured again.

    Args:
        run: A trained run.
        timeout_s: Largest duration in seconds. No generation is started that would probably exceed it, except the first one.
        algorithm: The search algorithm; None for the one that `search.algorithm` names.
        callbacks: Receive the events of the search, in addition to the progress bar and the log.

    Returns:
        The number of finished generations.

    Raises:
        UserError: The supernet is not trained, no architecture is within the static limits, the archive cannot be opened, or the
            executor cannot be created.
    """
    setup, config = open_for_measurement(run), run.experiment.search
    constraints = Constraints.of(config, setup.input_shape)
    if constraints.static:
        constraints.check_reachable(run.experiment.searched_space)
    with ExitStack() as stack:
        stack.enter_context(run.locked("search"))
        _report_missing_kernels(setup)
        executor = create_executor(run, setup)
        stack.callback(executor.close)
        storage = _storage_of_trials(run, algorithm)
        reference = run.experiment.baseline_architecture
        if reference is not None:
            measure_trained_alone(run, setup, reference, run.baseline)
        archive = Archive(run.archive, protocol_id(setup, run.supernet), config.energy_convention)
        stack.callback(archive.close)
        run.save()
        run.save_input_shape(setup.input_shape)
        damage = archive.discard_damaged()
        if damage is not None:
            note(f"search: {damage}")
            run.log("archive damaged", what=damage)
        before = archive.count()
        run.log("search started", algorithm=config.algorithm, archived=before, executor=run.experiment.execution.executor)
        should_stop = _TimeLimit(seconds=timeout_s)
        proposed, generations = _search(run, setup, executor, archive, constraints, should_stop, algorithm, callbacks, storage)
        now = archive.count() - before
        if constraints.limits and not within_limits(archive.table(), constraints, run.experiment).any():
            note(f"search: {nothing_within_limits(archive.table(), constraints)}")
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


def _storage_of_trials(run: RunDirectory, algorithm: Algorithm | None) -> Storage | None:
    """Open the storage of Optuna that the experiment names; a sampler of Optuna has one in the folder of the run."""
    config = run.experiment.search
    name = config.optuna_storage
    if name is None:
        by_optuna = isinstance(algorithm or algorithm_of(config.algorithm), OptunaSearch)
        return open_storage(str(run.folder / STORAGE)) if by_optuna else None
    if Path(name.removeprefix(SQLITE)).resolve() == run.archive.resolve():
        raise UserError(f"search.optuna_storage: {name} is the archive of the run; give another file")
    return open_storage(name)


def _search(
    run: RunDirectory,
    setup: Setup,
    executor: Executor,
    archive: Archive,
    constraints: Constraints,
    should_stop: Callable[[], bool],
    algorithm: Algorithm | None,
    callbacks: Sequence[Callback],
    storage: Storage | None,
) -> tuple[int, int]:
    """Run the search; returns the numbers of proposed candidates and of finished generations."""
    config, reference = run.experiment.search, run.experiment.baseline_architecture
    with progress(f"search {config.algorithm}", total=config.population * config.generations) as bar:
        shown = _SearchProgress(bar=bar, population=config.population)
        every: list[Callback] = [shown, partial(_log_generation, run), *callbacks]

        def report(event: Event) -> None:
            for callback in every:
                callback(event)

        search = Search(
            space=run.experiment.searched_space,
            reference=run.experiment.search_space.largest(),
            constraints=constraints,
            anchors=() if reference is None else (reference,),
            evaluate=population_evaluator(setup, executor, shown.shards),
            archive=archive,
            config=config,
            seed=run.experiment.seed,
            on_event=report,
            algorithm=algorithm,
            should_stop=should_stop,
            latency=LatencyMeter.of(run, setup) if set(LATENCIES) & set(config.objectives) else None,
            on_resume=shown.resumed,
        )
        if storage is not None:
            every.append(StudyWriter.of(search, storage, lambda line: note(f"search: {line}")))
        generations = search.run()
    return shown.proposed, generations


@dataclass(kw_only=True)
class _SearchProgress:
    """Callback that shows finished shards and candidates, and the greatest F_AEB, in a progress bar.

    Attributes:
        bar: The function that updates the bar.
        population: Candidates of a generation.
        proposed: Number of proposed candidates that are evaluated.
        best: Greatest F_AEB of a candidate; None before the first one.
    """

    bar: Bar
    population: int
    proposed: int = 0
    best: float | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, CandidateEvent):
            self.proposed += 1
            self.best = event.evaluation.f_aeb if self.best is None else max(self.best, event.evaluation.f_aeb)
        if isinstance(event, GenerationEvent):
            self.shards(0, 1)

    def resumed(self, proposed: int, best: float) -> None:
        """Count the candidates of generations that were finished before."""
        self.proposed, self.best = proposed, best

    def shards(self, done: int, of: int) -> None:
        """Show the finished shards of a generation."""
        best = "" if self.best is None else f", F_AEB {self.best:.3f}"
        self.bar(self.proposed + self.population * done // of, f"gen {self.proposed // self.population}{best}")


def _log_generation(run: RunDirectory, event: Event) -> None:
    """Callback that writes each generation to `log.jsonl`."""
    if isinstance(event, GenerationEvent):
        best = max(evaluation.f_aeb for evaluation in event.evaluations)
        run.log("search", generation=event.generation, candidates=len(event.evaluations), measured=event.measured, best_f_aeb=best)
