"""Workers in a Ray cluster: on this machine, or on many. The supernet is sent once, through the object store."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from autospike.config import ExecutionConfig
from autospike.errors import UserError
from autospike.execution.dispatch import dispatch
from autospike.execution.executor import Job, Shard
from autospike.execution.processes import BuildState
from autospike.process import prepare_process

try:
    import ray
    from ray.exceptions import (
        NodeDiedError,
        ObjectLostError,
        OutOfMemoryError,
        RayActorError,
        RayError,
        RayTaskError,
        WorkerCrashedError,
    )
except ModuleNotFoundError:
    raise UserError("execution.executor: ray is not installed; pip install 'autospike[ray]', or take serial or processes") from None


CONNECT_SECONDS = 5.0
LOST_AFTER_SECONDS = 3600.0  # for one shard: Ray does not notice a network that is cut without a word


@dataclass
class Cluster:
    """An executor of actors.

    Args:
        start: builds the state of a worker; it is put into the object store.
        threads: CPU threads of each worker, which reserves as many cores.

    Raises:
        UserError: there is no such cluster, or it has no room for a single worker.
    """

    start: BuildState
    config: ExecutionConfig
    threads: int
    workers: int = field(init=False)
    _hired: list[_Actor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _connect(self.config.address)
        room = self._room()
        self.workers = self.config.workers or room
        if self.workers > room:
            ray.shutdown()
            raise UserError(f"execution.workers: {self.workers}, but the cluster has room for {room}; take at most so many")
        started = ray.put(self.start)
        options = {"num_cpus": self.threads, "num_gpus": self.config.gpus_per_worker}
        self._hired = [_Actor(started, options) for _ in range(self.workers)]

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        try:
            yield from dispatch(ray.put(job), shards, self._hired, lost_after_seconds=LOST_AFTER_SECONDS)
        except RayTaskError as error:  # which would tell where in the worker it was raised
            raise error.cause from None

    def close(self) -> None:
        ray.shutdown()

    def _room(self) -> int:
        """How many workers the cluster has room for."""
        whole, config = ray.cluster_resources(), self.config
        room = int(whole.get("CPU", 0) // self.threads)
        if config.gpus_per_worker:
            room = min(room, int(whole.get("GPU", 0) / config.gpus_per_worker))
        if not room:
            ray.shutdown()
            raise UserError(
                f"execution: the cluster ({whole.get('CPU', 0):g} cores, {whole.get('GPU', 0):g} GPUs) has no room for a worker of "
                f"{self.threads} threads and {config.gpus_per_worker:g} GPUs; lower threads or execution.gpus_per_worker"
            )
        return room


def _connect(address: str | None) -> None:
    try:
        if address and ":" in address.removeprefix("ray://"):
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()  # Ray itself tries for minutes
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"execution.address: no Ray cluster at {address or 'this machine'} ({reason})") from None


class _Actor:
    """A worker."""

    lost = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
    actor: Any = None

    def __init__(self, start: Any, options: dict[str, Any]) -> None:
        self.start, self.options = start, options
        self.revive()

    def ready(self) -> Future[Any]:
        future: Future[Any] = self.actor.load.remote().future()
        return future

    def submit(self, job: Any, shard: Shard) -> Future[Any]:
        future: Future[Any] = self.actor.work.remote(job, shard).future()
        return future

    def revive(self) -> None:
        if self.actor is not None:  # one that went silent may still hold its place
            ray.kill(self.actor)
        self.actor = ray.remote(_Hand).options(**self.options).remote(self.start)


class _Hand:
    """In the worker. It loads when it is first asked to, so that an error there is told as one."""

    def __init__(self, start: BuildState) -> None:
        prepare_process()
        self.start = start

    def load(self) -> None:
        if not hasattr(self, "state"):
            self.state = self.start()

    def work(self, job: Job, shard: Shard) -> Any:
        self.load()
        return job(self.state, shard)
