"""One walk of a trie through one batch, depth first, that computes no more than is missing.

Of a node two things may be kept from an earlier walk: what was noted about it, and the stream that leaves it. A node whose note is
kept runs only if something behind it runs and its stream is not kept. What is kept are beginnings: nodes behind which a candidate
goes on, and streams between blocks, where the next generation branches off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Protocol

from torch import Tensor

from autospike.evaluation.packing import Packed
from autospike.evaluation.trie import Node
from autospike.memory.cache import ByteBudgetCache


class NodeRecord(Protocol):
    """What is noted about a node."""

    @property
    def nbytes(self) -> int: ...


# Runs a node on what enters it.
Run = Callable[..., tuple[Tensor, NodeRecord]]
Entering = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class DepthFirstPass:
    """Args:
    part: names the batch, and what is done with it.
    run: runs a node, and says what is to be noted about it.
    finished: told of every node when all behind it is done.
    """

    kept: ByteBudgetCache
    part: tuple[Any, ...]
    run: Run
    finished: Callable[[Node], None]
    noted: dict[str, Any] = field(default_factory=dict)

    def through(self, roots: Iterable[Node], entering: Entering) -> dict[str, Any]:
        """What was noted about every node, by its key. `entering`: what enters the roots; it is asked for only if it is needed."""
        once = cache(entering)
        for root in roots:
            self._visit(root, once)
        return self.noted

    def _visit(self, node: Node, entering: Entering) -> None:
        leaving = cache(partial(self._leaving, node, entering))
        noted = self.kept.get(("note", *self.part, node.key))
        if noted is None:
            leaving()
        else:
            self.noted[node.key] = noted
        for child in node.children.values():
            self._visit(child, leaving)
        self.finished(node)

    def _leaving(self, node: Node, entering: Entering) -> tuple[Tensor]:
        """The stream behind a node, unpacked or computed; a stream without its note is of no use."""
        packed: Packed | None = self.kept.get(("stream", *self.part, node.key)) if node.key in self.noted else None
        if packed is not None:
            return (packed.unpacked(),)
        stream, note = self.run(node, *entering())
        self.noted[node.key] = note
        if node.goes_on:
            self.kept.keep(("note", *self.part, node.key), note, note.nbytes)
            if node.ends_block:
                packed = Packed.of(stream)
                self.kept.keep(("stream", *self.part, node.key), packed, packed.nbytes)
        return (stream,)
