"""Executor with workers in a Ray cluster, on one machine or many. What they need is sent once, through Ray's object store."""

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
from autospike.execution.executor import CreateState, Job, Shard
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
    raise UserError(
        "execution.executor: ray is not installed; run: pip install 'autospike[ray]', or choose serial or processes"
    ) from None


# Ray itself tries to connect for minutes.
CONNECT_SECONDS = 5.0
# On one shard. Ray does not notice a machine that loses its network; a shard takes seconds to minutes.
LOST_AFTER_SECONDS = 3600.0


@dataclass
class Cluster:
    """Executor with one Ray actor for each worker.

    Attributes:
        create_state: Put into the object store; each worker calls it once.
        config: Number of workers, GPUs of each, and the address of the cluster.
        threads: CPU threads of each worker, which reserves as many cores.
        workers: Number of workers: the configured number, or as many as the cluster has room for.

    Raises:
        UserError: The cluster cannot be reached, or has no room for the workers.
    """

    create_state: CreateState
    config: ExecutionConfig
    threads: int
    workers: int = field(init=False)
    _actors: list[_Actor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _connect(self.config.address)
        room = self._room()
        self.workers = self.config.workers or room
        if self.workers > room:
            ray.shutdown()
            raise UserError(f"execution.workers: {self.workers}, but the cluster has room for {room}; set it to {room} or less")
        stored = ray.put(self.create_state)
        options = {"num_cpus": self.threads, "num_gpus": self.config.gpus_per_worker}
        self._actors = [_Actor(stored, options) for _ in range(self.workers)]

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        """Run as `Executor.run`."""
        try:
            yield from dispatch(ray.put(job), shards, self._actors, lost_after_seconds=LOST_AFTER_SECONDS)
        except RayTaskError as error:  # its message is a traceback of the worker
            raise error.cause from None

    def close(self) -> None:
        """Disconnect from the cluster, which ends the actors."""
        ray.shutdown()

    def _room(self) -> int:
        """Number of workers that the cluster has room for."""
        total, config = ray.cluster_resources(), self.config
        room = int(total.get("CPU", 0) // self.threads)
        if config.gpus_per_worker:
            room = min(room, int(total.get("GPU", 0) / config.gpus_per_worker))
        if not room:
            ray.shutdown()
            raise UserError(
                f"execution: the cluster ({total.get('CPU', 0):g} cores, {total.get('GPU', 0):g} GPUs) has no room for a worker of "
                f"{self.threads} threads and {config.gpus_per_worker:g} GPUs; lower threads or execution.gpus_per_worker"
            )
        return room


def _connect(address: str | None) -> None:
    """Connect to the cluster at an address, or start one on this machine."""
    try:
        if address and ":" in address.removeprefix("ray://"):
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
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
    """A worker: an actor that is replaced when it dies."""

    lost = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)

    def __init__(self, create_state: Any, options: dict[str, Any]) -> None:
        self.create_state, self.options = create_state, options
        self.actor = self._start()

    def ready(self) -> Future[Any]:
        future: Future[Any] = self.actor.load.remote().future()
        return future

    def submit(self, job: Any, shard: Shard) -> Future[Any]:
        future: Future[Any] = self.actor.run.remote(job, shard).future()
        return future

    def restart(self) -> None:
        ray.kill(self.actor)  # one that does not answer may still hold its resources
        self.actor = self._start()

    def _start(self) -> Any:
        return ray.remote(_RemoteWorker).options(**self.options).remote(self.create_state)


class _RemoteWorker:
    """The actor. It creates its state in `load`, not in `__init__`, so that Ray reports an error there as the error of a task."""

    def __init__(self, create_state: CreateState) -> None:
        prepare_process()
        self.create_state = create_state

    def load(self) -> None:
        if not hasattr(self, "state"):
            self.state = self.create_state()

    def run(self, job: Job, shard: Shard) -> Any:
        self.load()
        return job(self.state, shard)
