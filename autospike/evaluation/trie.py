"""A population as a trie of segments.

A network is a chain of segments: embedding, token mixer, channel mixer, token mixer, ..., head. What leaves a segment depends on
its own genes and on those of the segments before it, on nothing else; so networks that begin with the same genes share a beginning,
and a population is a trie: each distinct beginning is one node, whose work is done once. T is no gene of a segment. A walk runs the
largest T, and a network is causal in time: its first steps are those of the same network at a smaller T.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from autospike.space.architecture import Architecture, Block, neuron_groups

HEAD = "head"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a network: where it stands, and everything that it depends on besides what enters."""

    name: str
    genes: tuple[Any, ...]


# What of a block concerns the channel mixer alone. Everything else, a gene that is yet to be invented included, is the token
# mixer's: it comes first, so candidates that differ in it share nothing of the block.
CHANNEL_GENES = ("channel_mixer", "mlp_ratio")
NEURON_GENES = ("neuron", "groups")


def segments(architecture: Architecture) -> Iterator[Segment]:
    """The chain that an architecture is."""
    settings = _fields_but(architecture, "time_steps", "stages")
    for i, stage in enumerate(architecture.stages):
        yield Segment(name=f"stages.{i}.embedding", genes=(*settings, *_fields_but(stage, "blocks")))
        for j, block in enumerate(stage.blocks):
            *token, outer, inner = neuron_groups(block.token_mixer, architecture.shortcut)
            mixing = (*_fields_but(block, *CHANNEL_GENES, *NEURON_GENES), *_neurons(block, token))
            if block.token_mixer != "none":
                yield Segment(name=f"stages.{i}.blocks.{j}.token", genes=mixing)
            channel = (block.channel_mixer, stage.hidden_features(block), *_neurons(block, [outer, inner]))
            yield Segment(name=f"stages.{i}.blocks.{j}.channel", genes=(*mixing, *channel))
    yield Segment(name=HEAD, genes=())


def _fields_but(value: Any, *left_out: str) -> tuple[Any, ...]:
    return tuple(getattr(value, f.name) for f in fields(value) if f.name not in left_out)


def _neurons(block: Block, groups: Iterable[str]) -> list[Any]:
    return [block.neuron_of(group) for group in groups]


@dataclass(kw_only=True, eq=False)
class Node:
    """A segment behind a certain beginning.

    `key`: digest of all genes up to here, the same in every trie. `parent`: the key of the node before, "" of a root.
    `architecture`: one that passes through here.
    """

    key: str
    parent: str
    name: str
    architecture: Architecture
    children: dict[Segment, Node] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        """Whether more than a head follows."""
        return any(child.name != HEAD for child in self.children.values())

    @property
    def ends_block(self) -> bool:
        """Whether the stream behind it is what the next block, or stage, begins with."""
        return not self.name.endswith(".token") and self.name != HEAD

    @property
    def prefix(self) -> str:
        """Under which a network has what is in the segment: a head's layers stand at the top."""
        return "" if self.name == HEAD else self.name


class Trie:
    """The distinct beginnings of some architectures.

    `paths`: the keys of the nodes on each architecture's way, from its embedding to its head.
    """

    def __init__(self, architectures: Iterable[Architecture]) -> None:
        self.roots: dict[Segment, Node] = {}
        self.nodes: dict[str, Node] = {}
        self.paths = {architecture: self._add(architecture) for architecture in architectures}

    def _add(self, architecture: Architecture) -> tuple[str, ...]:
        path: list[str] = []
        siblings = self.roots
        for segment in segments(architecture):
            if segment not in siblings:
                parent = path[-1] if path else ""
                key = hashlib.sha256(f"{parent}{segment}".encode()).hexdigest()[:24]
                node = Node(key=key, parent=parent, name=segment.name, architecture=architecture)
                siblings[segment] = self.nodes[key] = node
            node = siblings[segment]
            path.append(node.key)
            siblings = node.children
        return tuple(path)
