"""The executor interface: run a job on every shard of the data, in this process or on workers.

A worker holds a state that it creates once, and calls the job with it. Results are sums over shards, so they do not depend on the
executor, bit for bit. A worker may be killed at any time: its shard is run again by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# The images from one position of a split up to, but not including, another.
Shard = tuple[int, int]
# Computes the result of a shard from a worker's state. Must be picklable.
Job = Callable[[Any, Shard], Any]
# Creates the state of a worker, in the worker. Must be picklable.
CreateState = Callable[[], Any]


class Executor(Protocol):
    """Runs jobs on shards."""

    @property
    def workers(self) -> int:
        """Number of shards that run at the same time."""

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        """Run a job on every shard.

        Args:
            job: Called with the state of the worker and the shard.
            shards: The shards.

        Yields:
            The index of a shard and its result, in order of completion.

        Raises:
            UserError: A worker could not create its state, or workers died repeatedly on the same shard.
            Exception: Any exception of the job.
        """

    def close(self) -> None:
        """Stop the workers. Closing a closed executor has no effect."""


@dataclass(frozen=True, kw_only=True)
class Serial:
    """Executor that runs the shards in this process, one after another.

    Attributes:
        state: The state that jobs are called with.
    """

    state: Any

    @property
    def workers(self) -> int:
        """1: this process."""
        return 1

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        """Run as `Executor.run`."""
        for i, shard in enumerate(shards):
            yield i, job(self.state, shard)

    def close(self) -> None:
        """Do nothing: there are no workers."""
