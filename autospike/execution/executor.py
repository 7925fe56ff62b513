"""What an executor is: it runs a job on shards of data, wherever its workers are.

Every executor gives the same results to the bit, for shards add up in any order; what differs is how long they take. A worker holds
a state that it builds once. It may be killed: its shard is run again, by another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# The images from one position of a split to before another.
Shard = tuple[int, int]


class Job(Protocol):
    """Something to do with every shard: a value that can be sent to a worker."""

    def __call__(self, state: Any, shard: Shard, /) -> Any: ...


class Executor(Protocol):
    """Runs jobs. `workers`: how many shards it runs at a time."""

    @property
    def workers(self) -> int: ...

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        """The result of each shard with its number, as they come.

        Raises:
            UserError: a worker could not begin, or a shard's workers died again and again.
            Exception: what the job raised.
        """

    def close(self) -> None:
        """Let the workers go. Closing again does nothing."""


@dataclass(frozen=True, kw_only=True)
class Serial:
    """In this process, one shard after another."""

    state: Any

    @property
    def workers(self) -> int:
        return 1

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[tuple[int, Any]]:
        for i, shard in enumerate(shards):
            yield i, job(self.state, shard)

    def close(self) -> None:
        """Nothing to let go."""
