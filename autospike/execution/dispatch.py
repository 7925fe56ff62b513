"""Hands shards to workers: each one busy until none is left, and what a lost worker had is given to another."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from autospike.errors import UserError
from autospike.execution.executor import Shard

# How often the workers of one shard may die before it is taken to be what kills them.
ATTEMPTS = 3
# How often silent workers are looked for.
LOOK_SECONDS = 30.0


class Worker(Protocol):
    """Does one thing at a time. A future that ends in one of the exceptions `lost` says that the worker died."""

    @property
    def lost(self) -> tuple[type[Exception], ...]: ...

    def ready(self) -> Future[Any]:
        """Done once it can take a shard."""

    def submit(self, job: Any, shard: Shard) -> Future[Any]: ...

    def revive(self) -> None:
        """Begin anew, in place of what was lost."""


def dispatch(
    job: Any, shards: Sequence[Shard], workers: Sequence[Worker], *, lost_after_seconds: float = math.inf
) -> Iterator[tuple[int, Any]]:
    """The result of each shard with its number, as they come. `job`: in the form in which these workers take it.

    A worker takes shards of its own first, the same ones in every walk, for it may have kept what they need; then what is left.

    Args:
        lost_after_seconds: a worker that needs longer for one shard is taken for lost; a machine that went silent without a word is
            not noticed otherwise.

    Raises:
        UserError: workers died `ATTEMPTS` times of the same shard, or while they loaded.
        Exception: what the job raised.
    """
    round_ = _Round(
        job=job, shards=shards, workers=workers, waiting=list(range(len(shards))), lost_after_seconds=lost_after_seconds
    )
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
    shards: Sequence[Shard]
    workers: Sequence[Worker]
    waiting: list[int]
    lost_after_seconds: float
    idle: list[int] = field(default_factory=list)
    running: dict[Future[Any], _Task] = field(default_factory=dict)
    deaths: Counter[tuple[str, int]] = field(default_factory=Counter)

    def prepare(self, worker: int) -> None:
        self.running[self.workers[worker].ready()] = _Task(worker=worker, shard=None)

    def next(self) -> tuple[int, Any]:
        """The next result."""
        while True:
            self._employ()
            done = wait(self.running, timeout=min(LOOK_SECONDS, self.lost_after_seconds), return_when=FIRST_COMPLETED).done
            for future in list(done)[:1]:
                task = self.running.pop(future)
                try:
                    result = future.result()
                except self.workers[task.worker].lost as error:
                    self._replace(task, error)
                    continue
                self.idle.append(task.worker)
                if task.shard is not None:
                    return task.shard, result
            self._give_up_on_silent()

    def _employ(self) -> None:
        while self.waiting and self.idle:
            worker = self.idle.pop(0)
            own = [shard for shard in self.waiting if shard % len(self.workers) == worker]
            shard = own[0] if own else self.waiting[-1]
            self.waiting.remove(shard)
            self.running[self.workers[worker].submit(self.job, self.shards[shard])] = _Task(worker=worker, shard=shard)

    def _replace(self, task: _Task, cause: Exception) -> None:
        """A worker died."""
        what_for = ("load", task.worker) if task.shard is None else ("shard", task.shard)
        self.deaths[what_for] += 1
        if self.deaths[what_for] == ATTEMPTS:
            last_words = (str(cause).strip() or type(cause).__name__).splitlines()[-1]
            what = "while they loaded" if task.shard is None else "of images {} to {}".format(*self.shards[task.shard])
            raise UserError(
                f"{ATTEMPTS} workers died {what}, perhaps for want of memory (use fewer, or lower evaluation.batch_size "
                "or kept_mb); "
                f"the last said: {last_words}"
            )
        self.workers[task.worker].revive()
        self.prepare(task.worker)
        if task.shard is not None:
            self.waiting.append(task.shard)

    def _give_up_on_silent(self) -> None:
        latest = time.monotonic() - self.lost_after_seconds
        for future, task in list(self.running.items()):
            if task.shard is not None and task.started < latest:
                del self.running[future]
                self._replace(task, TimeoutError(f"no answer for {self.lost_after_seconds:g} s"))
