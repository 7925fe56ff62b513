"""Executor with worker processes on this machine. Each is a pool of its own, so a killed one affects no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from autospike.execution.dispatch import dispatch
from autospike.execution.executor import CreateState, Job, Shard
from autospike.execution.worker_process import WorkerProcess


@dataclass
class Processes:
    """Executor with worker processes. They start, and create their states, when the executor is created.

    Attributes:
        create_state: Sent to each worker, which calls it once.
        workers: Number of worker processes.
    """

    create_state: CreateState
    workers: int
    _processes: list[_Process] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._processes = []
        try:
            for _ in range(self.workers):
                self._processes.append(_Process(self.create_state))
        except BaseException:  # a signal
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return [pid for process in self._processes for pid in process.pool._processes or ()]

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        """Run as `Executor.run`."""
        return dispatch(job, shards, self._processes)

    def close(self) -> None:
        """Kill the workers."""
        for process in self._processes:
            process.close()


class _Process:
    """A worker."""

    lost = (BrokenProcessPool,)

    def __init__(self, create_state: CreateState) -> None:
        self.create_state = create_state
        self.pool = self._start()

    def ready(self) -> Future[Any]:
        return self._submit(_load)

    def submit(self, job: Job, shard: Shard) -> Future[Any]:
        return self._submit(_run, job, shard)

    def restart(self) -> None:
        self.close()
        self.pool = self._start()

    def close(self) -> None:
        """Kill the process; the result of its task is discarded."""
        self.pool.shutdown()

    def _start(self) -> WorkerProcess:
        pool = WorkerProcess(_remember, self.create_state)
        pool.submit(_load)
        return pool

    def _submit(self, function: Any, *args: Any) -> Future[Any]:
        try:
            return self.pool.submit(function, *args)
        except BrokenProcessPool:  # the process was killed while it was idle
            self.restart()
            return self.pool.submit(function, *args)


# In the worker process: how to create the state, and the state.
_create_state: CreateState
_state: Any = None


def _remember(create_state: CreateState) -> None:
    """Store in the worker process how it creates its state."""
    global _create_state
    _create_state = create_state


def _load() -> None:
    """Create the state, unless it exists."""
    global _state
    if _state is None:
        _state = _create_state()


def _run(job: Job, shard: Shard) -> Any:
    _load()
    return job(_state, shard)
