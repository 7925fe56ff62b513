"""A population as a trie of segments.

A network is a chain of segments: embedding, token mixer, channel mixer, token mixer, ..., head. The output of a segment depends
only on its own genes and on those of the segments before it. Candidates whose first genes are equal share a prefix, and a
population is a trie: each distinct prefix is one node, which is computed once. T is not a gene of any segment: a pass runs the
largest T of the space, and since a network is causal in time, its first steps are those of the same network at a smaller T. Nor is
the exit margin: it selects among the outputs of the steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from autospike.space.architecture import Architecture
from autospike.space.block import Block, channel_groups, token_groups

HEAD = "head"

# Fields of a block that concern its channel mixer only. All other fields, including those added later, belong to the token mixer:
# it runs first, so candidates that differ in them share nothing of the block.
CHANNEL_GENES = ("channel_mixer", "mlp_ratio")
NEURON_GENES = ("neuron", "groups")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a network.

    Attributes:
        name: Its path in the network.
        genes: Everything that its output depends on besides its input.
    """

    name: str
    genes: tuple[Any, ...]


def segments(architecture: Architecture) -> Iterator[Segment]:
    """Yield the segments of an architecture, from embedding to head.

    Args:
        architecture: The architecture.
    """
    settings = _fields_except(architecture, "time_steps", "exit_margin", "stages", "decoder")
    for i, stage in enumerate(architecture.stages):
        yield Segment(name=f"stages.{i}.embedding", genes=(*settings, *_fields_except(stage, "blocks")))
        for j, block in enumerate(stage.blocks):
            token = token_groups(block.token_mixer, architecture.shortcut)
            mixing = (*_fields_except(block, *CHANNEL_GENES, *NEURON_GENES), *_neurons(block, token))
            if block.token_mixer != "none":
                yield Segment(name=f"stages.{i}.blocks.{j}.token", genes=mixing)
            if block.channel_mixer != "none":
                groups = channel_groups(block.channel_mixer, architecture.shortcut)
                channel = (block.channel_mixer, stage.hidden_features(block), *_neurons(block, groups))
                yield Segment(name=f"stages.{i}.blocks.{j}.channel", genes=(*mixing, *channel))
    yield Segment(name=HEAD, genes=(architecture.head_neuron if architecture.decoder is None else architecture.decoder,))


def _fields_except(value: Any, *excluded: str) -> tuple[Any, ...]:
    return tuple(getattr(value, f.name) for f in fields(value) if f.name not in excluded)


def _neurons(block: Block, groups: Iterable[str]) -> list[Any]:
    return [block.neuron_of(group) for group in groups]


@dataclass(kw_only=True, eq=False)
class Node:
    """A segment behind one prefix.

    Attributes:
        key: Digest of all genes up to here; equal prefixes have equal keys in every trie.
        parent: Key of the node before; empty for a root.
        name: Path of the segment in the network.
        architecture: One of the architectures whose path contains the node.
        children: The nodes behind it, by segment.
    """

    key: str
    parent: str
    name: str
    architecture: Architecture
    children: dict[Segment, Node] = field(default_factory=dict)

    @property
    def is_inner(self) -> bool:
        """Whether something other than a head follows."""
        return any(child.name != HEAD for child in self.children.values())

    @property
    def ends_block(self) -> bool:
        """Whether its output is the input of a block, a stage or a head."""
        if self.name.endswith(".token"):
            _, stage, _, block, _ = self.name.split(".")
            return self.architecture.stages[int(stage)].blocks[int(block)].channel_mixer == "none"
        return self.name != HEAD

    @property
    def follows_level(self) -> bool:
        """Whether its input is the output of a stage that a decoder reads."""
        decoder = self.architecture.decoder
        if decoder is None or not (self.name == HEAD or self.name.endswith(".embedding")):
            return False
        stages = len(self.architecture.stages)
        return (stages if self.name == HEAD else int(self.name.split(".")[1])) - 1 in decoder.levels

    @property
    def reads_levels(self) -> bool:
        """Whether it is a decoder."""
        return self.name == HEAD and self.architecture.decoder is not None

    @property
    def module_prefix(self) -> str:
        """Prefix of its parameters' names in the network; empty for a head, whose layers are at the top level."""
        return "" if self.name == HEAD else self.name


class Trie:
    """The distinct prefixes of a set of architectures.

    Attributes:
        roots: The first nodes, by segment.
        nodes: All nodes by key, each after its parent.
        paths: Keys of the nodes of each architecture, from embedding to head.
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
