"""Workers in processes of this machine. Each is a pool of its own, so that a killed one takes no other with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from typing import Any

from autospike.execution.dispatch import dispatch
from autospike.execution.executor import Job, Shard
from autospike.process import prepare_process

BuildState = Callable[[], Any]  # called once in each worker; the result is the state that jobs are called with


@dataclass
class Processes:
    """An executor of so many processes, which begin to load at once.

    Args:
        start: builds the state of a worker; it is sent to every worker.
    """

    start: BuildState
    workers: int
    _hired: list[_Process] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._hired = [_Process(self.start) for _ in range(self.workers)]

    @property
    def pids(self) -> list[int]:
        return [pid for process in self._hired for pid in process.pool._processes or ()]

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        return dispatch(job, shards, self._hired)

    def close(self) -> None:
        for process in self._hired:
            process.close()


class _Process:
    """A worker: a pool of one."""

    lost = (BrokenProcessPool,)

    def __init__(self, start: BuildState) -> None:
        self.start = start
        self.revive()

    def ready(self) -> Future[Any]:
        return self._submit(_load)

    def submit(self, job: Job, shard: Shard) -> Future[Any]:
        return self._submit(_work, job, shard)

    def revive(self) -> None:
        if hasattr(self, "pool"):
            self.close()
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=(self.start,))
        self.pool.submit(_load)

    def close(self) -> None:
        """At once: what it is doing is of no use any more."""
        for process in list((self.pool._processes or {}).values()):
            process.kill()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, *work: Any) -> Future[Any]:
        try:
            return self.pool.submit(*work)
        except BrokenProcessPool:  # killed while it had nothing to do
            self.revive()
            return self.pool.submit(*work)


# In the worker: how to make its state, and the state.
_start: BuildState
_state: Any = None


def _begin(start: BuildState) -> None:
    global _start
    _start = start
    prepare_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes its workers
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """A killed parent takes its workers with it."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _load() -> None:
    global _state
    if _state is None:
        _state = _start()


def _work(job: Job, shard: Shard) -> Any:
    _load()
    assert _state is not None
    return job(_state, shard)
