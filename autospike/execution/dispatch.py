"""Hands shards to workers: each one busy until none is left, and what a lost worker had is given to another."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from autospike.data.batches import Span
from autospike.errors import UserError

# How often the workers of one shard may die before it is taken to be what kills them.
ATTEMPTS = 3
# A worker that needs so many times as long as any did before, and so many seconds more, is taken for lost: a machine that went
# silent without a word is not noticed otherwise.
PATIENCE = 10
GRACE_SECONDS = 60.0


class Worker(Protocol):
    """Does one thing at a time. A future that ends in one of the exceptions `lost` says that the worker died."""

    @property
    def lost(self) -> tuple[type[Exception], ...]: ...

    def ready(self) -> Future[Any]:
        """Done once it can take a shard."""

    def submit(self, job: Any, span: Span) -> Future[Any]: ...

    def revive(self) -> None:
        """Begin anew, in place of what was lost."""


def dispatch(job: Any, shards: Sequence[Span], workers: Sequence[Worker]) -> Iterator[tuple[int, Any]]:
    """The result of each shard with its number, as they come. `job`: in the form in which these workers take it.

    A worker takes shards of its own first, the same ones in every walk, for it may have kept what they need; then what is left.

    Raises:
        UserError: workers died `ATTEMPTS` times of the same shard, or while they loaded.
        Exception: what the job raised.
    """
    round_ = _Round(job=job, shards=shards, workers=workers, waiting=list(range(len(shards))))
    for number in range(len(workers)):
        round_.prepare(number)
    for _ in shards:
        yield round_.next()


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a worker was given; to get ready, if no shard."""

    worker: int
    shard: int | None
    started: float = field(default_factory=time.monotonic)


@dataclass(kw_only=True)
class _Round:
    """One job on all shards."""

    job: Any
    shards: Sequence[Span]
    workers: Sequence[Worker]
    waiting: list[int]
    idle: list[int] = field(default_factory=list)
    running: dict[Future[Any], _Task] = field(default_factory=dict)
    deaths: Counter[int | None] = field(default_factory=Counter)
    longest_seconds: float | None = None

    def prepare(self, worker: int) -> None:
        self.running[self.workers[worker].ready()] = _Task(worker=worker, shard=None)

    def next(self) -> tuple[int, Any]:
        """The next result."""
        while True:
            self._employ()
            done = wait(self.running, timeout=GRACE_SECONDS / 2, return_when=FIRST_COMPLETED).done
            for future in list(done)[:1]:
                task = self.running.pop(future)
                try:
                    result = future.result()
                except self.workers[task.worker].lost:
                    self._replace(task)
                    continue
                self.idle.append(task.worker)
                if task.shard is not None:
                    self.longest_seconds = max(self.longest_seconds or 0, time.monotonic() - task.started)
                    return task.shard, result
            self._give_up_on_silent()

    def _employ(self) -> None:
        while self.waiting and self.idle:
            worker = self.idle.pop(0)
            own = [shard for shard in self.waiting if shard % len(self.workers) == worker]
            shard = own[0] if own else self.waiting[-1]
            self.waiting.remove(shard)
            self.running[self.workers[worker].submit(self.job, self.shards[shard])] = _Task(worker=worker, shard=shard)

    def _replace(self, task: _Task) -> None:
        """A worker died."""
        self.deaths[task.shard] += 1
        if self.deaths[task.shard] == ATTEMPTS:
            what = "while they loaded" if task.shard is None else "of images {} to {}".format(*self.shards[task.shard])
            raise UserError(
                f"{ATTEMPTS} workers died {what}, perhaps for want of memory; use fewer, or lower evaluation.batch_size or kept_mb"
            )
        self.workers[task.worker].revive()
        self.prepare(task.worker)
        if task.shard is not None:
            self.waiting.append(task.shard)

    def _give_up_on_silent(self) -> None:
        if self.longest_seconds is None:
            return
        latest = time.monotonic() - PATIENCE * self.longest_seconds - GRACE_SECONDS
        for future, task in list(self.running.items()):
            if task.shard is not None and task.started < latest:
                del self.running[future]
                self._replace(task)
