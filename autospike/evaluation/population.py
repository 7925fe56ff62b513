"""Measurement of a population: one trie evaluation of the calibration images, then one of the search split, in shards.

Data is sharded, not candidates. Every worker evaluates the whole trie on its part of the images, so all are equally busy (while
there are calibration batches for each), and the results add up. Calibration comes first, because a layer is scored with statistics
over all calibration batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any

from autospike.config import EvaluationConfig
from autospike.data.batches import Span, spans
from autospike.energy.conventions import Convention
from autospike.energy.counts import LayerCount
from autospike.evaluation.successive_halving import rounds, undominated
from autospike.evaluation.trie import Trie
from autospike.evaluation.trie_evaluator import CalibratedStatistics, NodeResult, NodeStatistics, Population, TrieEvaluator
from autospike.execution.executor import Executor, Job
from autospike.measurement import Measurement
from autospike.memory.allocator import gc_disabled
from autospike.space.architecture import Architecture
from autospike.statistics import pack_mask
from autospike.tasks.classification import CorrectPredictions, Exits
from autospike.tasks.registry import task_of

# Called with the number of finished shards and the number of all shards of a population.
ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CalibrationJob:
    """Measures the BatchNorm statistics of a population on one batch of the calibration images.

    Attributes:
        population: One architecture for each head of the trie.
    """

    population: Population

    def __call__(self, evaluator: TrieEvaluator, span: Span) -> NodeStatistics:
        """Return the statistics by node key."""
        return evaluator.calibrate(self.population, span)


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """Scores a calibrated population on some images of the search split.

    Attributes:
        population: One architecture for each head of the trie.
        calibrated: Statistics of all its nodes.
        exit_margins: The exit margins of the candidates with early exit.
    """

    population: Population
    calibrated: CalibratedStatistics
    exit_margins: tuple[float, ...] = ()

    def __call__(self, evaluator: TrieEvaluator, span: Span) -> dict[str, NodeResult]:
        """Return the results by node key."""
        return evaluator.score(self.population, self.calibrated, span, self.exit_margins)


@dataclass(frozen=True, kw_only=True)
class PopulationEvaluator:
    """Measures populations of subnets.

    Attributes:
        executor: Runs the shards; the state of its workers is a `TrieEvaluator`.
        calibration_images: Number of images for calibration.
        search_images: Number of images for scoring.
        config: Batch sizes and successive halving.
        convention: Gives the energies for successive halving.
        exempt: An architecture that successive halving never drops: the reference of F_AEB, which is measured on all images.
        progress: Called after each shard.
    """

    executor: Executor
    calibration_images: int
    search_images: int
    config: EvaluationConfig
    convention: Convention
    exempt: Architecture | None = None
    progress: ProgressCallback = lambda _done, _of: None

    def without_racing(self) -> PopulationEvaluator:
        """Return an evaluator that measures every candidate on every image."""
        return replace(self, config=self.config.model_copy(update={"racing": 0.0}))

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        """Measure a population when the first measurement is requested.

        Args:
            architectures: The subnets.

        Yields:
            Their measurements, in the same order.

        Raises:
            UserError: Workers died repeatedly, or could not be created.
            UnknownOperationError: A subnet runs an operation that has no counting rule.
        """
        population = list(architectures)
        if population:
            started = time.perf_counter()
            with gc_disabled():
                measured = self._measure(Trie(population))
            seconds = (time.perf_counter() - started) / len(population)
            for architecture in population:
                yield replace(measured[architecture], seconds=seconds)

    def _measure(self, trie: Trie) -> dict[Architecture, Measurement]:
        """Measure all architectures of a trie; their `seconds` are set by the caller."""
        batches, rounds_of_shards = spans(self.calibration_images, self.config.calibration_batch_size), self._shards()
        total = len(batches) + sum(map(len, rounds_of_shards))
        statistics = dict(self._run(CalibrationJob(population=_one_per_head(trie, trie.paths)), batches, before=0, total=total))
        calibrated = CalibratedStatistics.over([statistics[i] for i in range(len(batches))])
        totals, remaining, done = _Totals(trie=trie), list(trie.paths), len(batches)
        measured: dict[Architecture, Measurement] = {}
        margins = tuple(sorted({a.exit_margin for a in trie.paths if a.exits_early}))
        for shards in rounds_of_shards:
            job = ScoringJob(population=_one_per_head(trie, remaining), calibrated=calibrated, exit_margins=margins)
            for _, results in self._run(job, shards, before=done, total=total):
                totals.add(results)
            done += len(shards)
            measured |= {a: totals.measurement(a, images=shards[-1][1]) for a in remaining}
            remaining = self._survivors(trie, {a: measured[a] for a in remaining})
        return measured

    def _run(self, job: Job, shards: Sequence[Span], *, before: int, total: int) -> Iterator[tuple[int, Any]]:
        """Run a job, and report `before` finished shards more than it has."""
        for done, result in enumerate(self.executor.run(job, shards), start=before + 1):
            self.progress(done, total)
            yield result

    def _shards(self) -> list[list[Span]]:
        """The shards of the search split in each round: batches of about `batch_size`, equally many for each worker."""
        found = []
        for start, stop in rounds(self.search_images) if self.config.racing else [(0, self.search_images)]:
            batches = math.ceil((stop - start) / self.config.batch_size / self.executor.workers) * self.executor.workers
            size = math.ceil((stop - start) / batches)
            found.append([(start + first, start + last) for first, last in spans(stop - start, size)])
        return found

    def _survivors(self, trie: Trie, measured: dict[Architecture, Measurement]) -> list[Architecture]:
        """Candidates for the next round: those that are not clearly dominated, and at no extra cost those with the same head."""
        if not self.config.racing:  # there is only one round
            return []
        kept = undominated(measured, self.convention, self.config.racing, images=self.search_images)
        heads = {trie.paths[a][-1] for a in (*kept, self.exempt) if a in measured}
        return [a for a in measured if trie.paths[a][-1] in heads]


def _one_per_head(trie: Trie, architectures: Iterable[Architecture]) -> Population:
    """One of the architectures for each head: enough to build the trie again in a worker."""
    return tuple({trie.paths[architecture][-1]: architecture for architecture in architectures}.values())


@dataclass(kw_only=True)
class _Totals:
    """Running totals of the node results.

    Attributes:
        trie: The trie of the population.
        results: Sums over the finished shards, by node key.
    """

    trie: Trie
    results: dict[str, NodeResult] = field(default_factory=dict)
    _counts: dict[tuple[str, int, int], tuple[LayerCount, ...]] = field(default_factory=dict)

    def add(self, results: dict[str, NodeResult]) -> None:
        """Add the results of a shard."""
        for key, result in results.items():
            self.results[key] = self.results[key] + result if key in self.results else result

    def measurement(self, architecture: Architecture, *, images: int) -> Measurement:
        """Measurement of an architecture on the first `images` images.

        Raises:
            RuntimeError: One of its nodes was not measured on all of them.
        """
        path, steps = self.trie.paths[architecture], architecture.time_steps
        if any(self.results[key].images != images for key in path):
            raise RuntimeError(f"{architecture.id}: a part of it was not measured on all of {images} images")
        if architecture.exits_early:
            return self._with_exits(architecture, images=images)
        quality = task_of(architecture.decoder).quality(self.results[path[-1]].metric_states[steps])
        return Measurement(
            architecture=architecture,
            correct=quality.correct,
            images=images,
            counts=tuple(chain.from_iterable(self._count(key, steps, images) for key in path)),
            params=sum(self.results[key].params for key in path),
            seconds=0.0,
            correct_mask=quality.correct_mask,
            score=quality.score,
            spikes=sum(self.results[key].spikes_at(steps, images) for key in path),
        )

    def _with_exits(self, architecture: Architecture, *, images: int) -> Measurement:
        """Measurement of an architecture with early exit; its operations are those of `LayerCount.running`."""
        path, steps = self.trie.paths[architecture], architecture.time_steps
        head = self.results[path[-1]]
        metric_states = {t: state for t, state in head.metric_states.items() if isinstance(state, CorrectPredictions)}
        exits = Exits.of(metric_states, head.confident[architecture.exit_margin], steps)
        shares = exits.shares
        spikes = [0.0, *(sum(self.results[key].spikes_at(t, images) for key in path) for t in range(1, steps + 1))]
        return Measurement(
            architecture=architecture,
            correct=exits.correct.count(1),
            images=images,
            counts=tuple(count.running(shares) for key in path for count in self._count(key, steps, images)),
            params=sum(self.results[key].params for key in path),
            seconds=0.0,
            correct_mask=pack_mask(exits.correct),
            spikes=sum(share * (after - before) for share, (before, after) in zip(shares, pairwise(spikes), strict=True)),
            mean_time_steps=exits.mean_time_steps,
        )

    def _count(self, key: str, steps: int, images: int) -> tuple[LayerCount, ...]:
        cached = (key, steps, images)
        if cached not in self._counts:
            self._counts[cached] = self.results[key].counts_at(steps, images)
        return self._counts[cached]
