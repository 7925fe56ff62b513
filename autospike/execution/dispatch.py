"""Dispatch of shards to workers: every worker is busy until no shard is left, and the shard of a lost worker is run again."""

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

# A shard whose workers died this often is taken to be the cause of their death. One death may be chance (preemption, the kernel's
# out-of-memory killer); the same shard killing three workers is not.
ATTEMPTS = 3
# Interval at which workers without an answer are checked.
POLL_SECONDS = 30.0


class Worker(Protocol):
    """A worker that runs one task at a time."""

    @property
    def lost(self) -> tuple[type[Exception], ...]:
        """Exceptions of a future that mean that the worker died."""

    def ready(self) -> Future[Any]:
        """Return a future that is done when the worker has created its state."""

    def submit(self, job: Any, shard: Shard) -> Future[Any]:
        """Start a job on a shard.

        Args:
            job: Called with the state of the worker and the shard.
            shard: The shard.

        Returns:
            The future of the result.
        """

    def restart(self) -> None:
        """Replace the lost worker by a new one."""


def dispatch(
    job: Any, shards: Sequence[Shard], workers: Sequence[Worker], *, lost_after_seconds: float = math.inf
) -> Iterator[tuple[int, Any]]:
    """Run a job on every shard.

    Worker w first runs the shards i with i mod len(workers) = w, which are the same for every population, so its cache may hold
    intermediate results of them; then shards that no other worker has started.

    Args:
        job: The job, in the form that the workers' `submit` accepts.
        shards: The shards.
        workers: The workers.
        lost_after_seconds: A worker that runs longer on one shard counts as lost. A machine that loses its network is not
            noticed otherwise.

    Yields:
        The index of a shard and its result, in order of completion.

    Raises:
        UserError: Workers died `ATTEMPTS` times on the same shard, or while creating their state.
        Exception: Any exception of the job.
    """
    dispatcher = _Dispatcher(
        job=job, shards=shards, workers=workers, waiting=list(range(len(shards))), lost_after_seconds=lost_after_seconds
    )
    for worker in range(len(workers)):
        dispatcher.prepare(worker)
    for _ in shards:
        yield dispatcher.next()


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a worker is doing: running a shard, or creating its state if `shard` is None."""

    worker: int
    shard: int | None
    started: float = field(default_factory=time.monotonic)


@dataclass(kw_only=True)
class _Dispatcher:
    """The state of one `dispatch`."""

    job: Any
    shards: Sequence[Shard]
    workers: Sequence[Worker]
    waiting: list[int]
    lost_after_seconds: float
    idle: list[int] = field(default_factory=list)
    running: dict[Future[Any], _Task] = field(default_factory=dict)
    deaths: Counter[tuple[str, int]] = field(default_factory=Counter)

    def prepare(self, worker: int) -> None:
        """Wait for a worker to create its state."""
        self.running[self.workers[worker].ready()] = _Task(worker=worker, shard=None)

    def next(self) -> tuple[int, Any]:
        """Return the index and the result of the shard that completes next."""
        while True:
            self._submit_to_idle()
            done = wait(self.running, timeout=min(POLL_SECONDS, self.lost_after_seconds), return_when=FIRST_COMPLETED).done
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
            self._replace_silent()

    def _submit_to_idle(self) -> None:
        while self.waiting and self.idle:
            worker = self.idle.pop(0)
            own = [shard for shard in self.waiting if shard % len(self.workers) == worker]
            shard = own[0] if own else self.waiting[-1]
            self.waiting.remove(shard)
            self.running[self.workers[worker].submit(self.job, self.shards[shard])] = _Task(worker=worker, shard=shard)

    def _replace(self, task: _Task, cause: Exception) -> None:
        """Restart a lost worker, and put its shard back among those that wait."""
        key = ("load", task.worker) if task.shard is None else ("shard", task.shard)
        self.deaths[key] += 1
        if self.deaths[key] == ATTEMPTS:
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[-1]
            when = "while they loaded" if task.shard is None else "on images {} to {}".format(*self.shards[task.shard])
            raise UserError(
                f"{ATTEMPTS} workers died {when}, possibly because memory ran out; use fewer workers, or lower "
                f"evaluation.batch_size or evaluation.kept_mb. The last error: {reason}"
            )
        self.workers[task.worker].restart()
        self.prepare(task.worker)
        if task.shard is not None:
            self.waiting.append(task.shard)

    def _replace_silent(self) -> None:
        """Replace workers that have run on one shard for too long."""
        latest = time.monotonic() - self.lost_after_seconds
        for future, task in list(self.running.items()):
            if task.shard is not None and task.started < latest:
                del self.running[future]
                self._replace(task, TimeoutError(f"no answer for {self.lost_after_seconds:g} s"))
