"""What a population is worth: one walk of its trie over the calibration images, one over the search split, in shards.

Data is sharded, not candidates: every worker walks the whole trie through its share of the images, so all are busy equally (while
there are batches to calibrate on for each), and what they return adds up. Calibration is a walk of its own before, for a layer is
scored by statistics over all batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from typing import Any

from autospike.config import EvaluationConfig
from autospike.data.batches import Span, spans
from autospike.energy.conventions import Convention
from autospike.energy.counts import LayerCount
from autospike.evaluation.successive_halving import ROUNDS, undominated
from autospike.evaluation.trie import Trie
from autospike.evaluation.trie_evaluator import CalibratedStatistics, NodeResult, NodeStatistics, Population, TrieEvaluator
from autospike.execution.executor import Executor, Job
from autospike.measurement import Measurement
from autospike.memory.allocator import gc_disabled
from autospike.space.architecture import Architecture

# Told of how many of a walk's shards are done, and of how many there are.
Watch = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Job: measure the BatchNorm statistics of a population on one batch of the calibration images."""

    population: Population

    def __call__(self, evaluator: TrieEvaluator, span: Span) -> NodeStatistics:
        """Return the statistics by node."""
        return evaluator.calibrate(self.population, span)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Job: score a calibrated population on some images of the search split."""

    population: Population
    calibrated: CalibratedStatistics

    def __call__(self, evaluator: TrieEvaluator, span: Span) -> dict[str, NodeResult]:
        """Return the results by node."""
        return evaluator.score(self.population, self.calibrated, span)


@dataclass(frozen=True, kw_only=True)
class PopulationEvaluator:
    """Architectures in, their measurements out, in the same order.

    Args:
        calibration_images: how many there are to calibrate on.
        search_images: how many there are to score on.
        convention: what racing takes for energy.
        spared: who goes on in any race; the reference of F_AEB is to be exact.
    """

    executor: Executor
    calibration_images: int
    search_images: int
    config: EvaluationConfig
    convention: Convention
    spared: Architecture | None = None
    watch: Watch = lambda _done, _of: None

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        asked = list(architectures)
        if asked:
            started, trie = time.perf_counter(), Trie(asked)
            with gc_disabled():
                measured = self._walk(trie)
            seconds = (time.perf_counter() - started) / len(asked)
            for architecture in asked:
                yield replace(measured[architecture], seconds=seconds)

    def _walk(self, trie: Trie) -> dict[Architecture, Measurement]:
        calibrating, scoring = spans(self.calibration_images, self.config.calibration_batch_size), self._rounds()
        run = _Runner(self, total=len(calibrating) + sum(map(len, scoring)))
        of_batches = dict(run(Calibration(population=heads(trie, trie.paths)), calibrating))
        calibrated = CalibratedStatistics.over([of_batches[i] for i in range(len(of_batches))])
        ledger, racing = _Ledger(trie=trie), list(trie.paths)
        measured: dict[Architecture, Measurement] = {}
        for shards in scoring:
            for _, done in run(Scoring(population=heads(trie, racing), calibrated=calibrated), shards):
                ledger.add(done)
            measured |= {a: ledger.of(a, images=shards[-1][1]) for a in racing}
            racing = self._still_racing(trie, {a: measured[a] for a in racing})
        return measured

    def _rounds(self) -> list[list[Span]]:
        """The shards of the search split: all at once, or in rounds after each of which candidates may be dropped."""
        if not self.config.racing:
            return [self._shards(0, self.search_images)]
        stops = [0]
        for share in ROUNDS[:-1]:  # no round is of a single image, nor leaves one
            stop = round(self.search_images * share)
            if stop - stops[-1] > 1 and self.search_images - stop > 1:
                stops.append(stop)
        stops.append(self.search_images)
        return [self._shards(start, stop) for start, stop in pairwise(stops)]

    def _shards(self, start: int, stop: int) -> list[Span]:
        """Batches of about `batch_size`, as many for each worker."""
        workers = self.executor.workers
        batches = math.ceil((stop - start) / self.config.batch_size / workers) * workers
        size = math.ceil((stop - start) / batches)
        return [(start + first, start + last) for first, last in spans(stop - start, size)]

    def _still_racing(self, trie: Trie, measured: dict[Architecture, Measurement]) -> list[Architecture]:
        """Who is not clearly dominated, and who shares a head with one that is not: it costs nothing."""
        if not self.config.racing:  # there was one round
            return []
        kept = undominated(measured, self.convention, self.config.racing, images=self.search_images)
        going_on = {trie.paths[a][-1] for a in (*kept, self.spared) if a in measured}
        return [a for a in measured if trie.paths[a][-1] in going_on]


def heads(trie: Trie, architectures: Iterable[Architecture]) -> Population:
    """One of the architectures for each head: what a walk needs to know of them."""
    return tuple({trie.paths[architecture][-1]: architecture for architecture in architectures}.values())


class _Runner:
    """Runs jobs, and tells of every shard that is done."""

    def __init__(self, evaluator: PopulationEvaluator, *, total: int) -> None:
        self.evaluator, self.total, self.done = evaluator, total, 0

    def __call__(self, job: Job, shards: list[Span]) -> Iterator[tuple[int, dict[str, Any]]]:
        for found in self.evaluator.executor.run(job, shards):
            self.done += 1
            self.evaluator.watch(self.done, self.total)
            yield found


@dataclass(kw_only=True)
class _Ledger:
    """What every node did so far."""

    trie: Trie
    done: dict[str, NodeResult] = field(default_factory=dict)
    _counts: dict[tuple[str, int, int], tuple[LayerCount, ...]] = field(default_factory=dict)

    def add(self, of_shard: dict[str, NodeResult]) -> None:
        for key, done in of_shard.items():
            self.done[key] = self.done[key] + done if key in self.done else done

    def of(self, architecture: Architecture, *, images: int) -> Measurement:
        """Return the measurement of an architecture; the caller sets its time. All its nodes have seen this number of images."""
        path, steps = self.trie.paths[architecture], architecture.time_steps
        if any(self.done[key].images != images for key in path):
            raise RuntimeError(f"{architecture.id}: a part of it was not measured on all of {images} images")
        counts = tuple(chain.from_iterable(self._count(key, steps, images) for key in path))
        correct = self.done[path[-1]].correct[steps - 1]
        params = sum(self.done[key].params for key in path)
        return Measurement(architecture=architecture, correct=correct, images=images, counts=counts, params=params, seconds=0.0)

    def _count(self, key: str, steps: int, images: int) -> tuple[LayerCount, ...]:
        cached = (key, steps, images)
        if cached not in self._counts:
            self._counts[cached] = tuple(layer.count(images).first(steps) for layer in self.done[key].layers)
        return self._counts[cached]
