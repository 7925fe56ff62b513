"""A walk through the genes of a search space, which builds an architecture.

Sampling, mutation, crossover, the largest and smallest member: all are walks that differ in what they answer at a gene, so each is
valid by construction for every depth. What is visited depends on what was answered: depth comes before blocks, a token mixer before
the genes that it needs, the shortcut before the neurons that it brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from autospike.space.architecture import (
    PUBLISHED_NEURON,
    SETTINGS,
    Architecture,
    Block,
    Embedding,
    Neuron,
    NeuronGroups,
    Stage,
    has_gene,
    neuron_groups,
)
from autospike.space.families import has_embedding_neurons
from autospike.space.genes import FOLLOW, Choice, Gene, Range

if TYPE_CHECKING:
    from autospike.space.search_space import BlockSpace, SearchSpace, StageSpace

GenePath = tuple[str | int, ...]
Visitor = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class GeneValue:
    """A gene, where it stands (`("stages", 0, "blocks", 2, "neuron", "tau")`), and its value in an architecture."""

    path: GenePath
    gene: Gene
    value: Any


def walk(space: SearchSpace, visit: Visitor, *parents: Architecture) -> Architecture:
    """Build an architecture of `space`, asking `visit(gene, path, *values)` at every gene.

    `values` are those of the parents that have such a gene. A block, or a gene, that only some parents have is visited with the
    values of those; one that none has, with no values.
    """
    time_steps = _visit(space.time_steps, visit, [p.time_steps for p in parents], ("time_steps",))
    shortcut = _visit(space.shortcut, visit, [p.shortcut for p in parents], ("shortcut",))
    stages = (
        _walk_stage(stage, visit, [p.stages[i] for p in parents], ("stages", i), _Context(space.family, shortcut))
        for i, stage in enumerate(space.stages)
    )
    settings = {name: getattr(space, name) for name in SETTINGS}
    return Architecture(**settings, time_steps=time_steps, shortcut=shortcut, stages=tuple(stages))


class _Context(NamedTuple):
    """What decides, besides a stage itself, which genes it has."""

    family: str
    shortcut: str


def _visit(gene: Gene, visit: Visitor, values: list[Any], path: GenePath) -> Any:
    return visit(gene, path, *(value for value in values if gene.contains(value)))


def _walk_stage(space: StageSpace, visit: Visitor, parents: list[Stage], path: GenePath, around: _Context) -> Stage:
    embed_dim = _visit(space.embed_dim, visit, [p.embed_dim for p in parents], (*path, "embed_dim"))
    names = _embedding_genes(around, int(path[1]))
    embedding = Embedding(**_walk_fields(space.embedding, names, visit, [p.embedding for p in parents], (*path, "embedding")))
    depth = _visit(space.depth, visit, [len(p.blocks) for p in parents], (*path, "depth"))
    blocks = []
    for i in range(depth):
        owners = [p.blocks[i] for p in parents if i < len(p.blocks)]
        blocks.append(_walk_block(space.block_at(i), visit, owners, (*path, "blocks", i), around.shortcut))
    return Stage(embed_dim=embed_dim, embedding=embedding, blocks=tuple(blocks))


def _walk_block(space: BlockSpace, visit: Visitor, parents: list[Block], path: GenePath, shortcut: str) -> Block:
    token_mixer = _visit(space.token_mixer, visit, [p.token_mixer for p in parents], (*path, "token_mixer"))
    groups = neuron_groups(token_mixer, shortcut)
    followed = _followed(space, groups)
    return Block(
        token_mixer=token_mixer,
        **_walk_fields(space, _others(space, token_mixer), visit, parents, path),
        neuron=Neuron(
            **{
                name: getattr(space.neuron, name).nearest(usual) for name, usual in PUBLISHED_NEURON.items() if name not in followed
            },
            **_walk_fields(space.neuron, followed, visit, [p.neuron for p in parents], (*path, "neuron")),
        ),
        groups=NeuronGroups(**_walk_fields(space.groups, groups, visit, [p.groups for p in parents], (*path, "groups"))),
    )


def _embedding_genes(around: _Context, index: int) -> list[str]:
    return ["stride", "neuron"] if has_embedding_neurons(around.family, index, around.shortcut) else ["stride"]


def _others(space: BlockSpace, token_mixer: str) -> list[str]:
    """The fields of a block, besides these three, that mean something for a token mixer."""
    apart = ("token_mixer", "neuron", "groups")
    return [f.name for f in fields(space) if f.name not in apart and has_gene(f.name, token_mixer)]


def _followed(space: BlockSpace, groups: Iterable[str]) -> list[str]:
    """The parameters of the block's neuron that some neuron group takes over."""
    return [name for name in PUBLISHED_NEURON if any(getattr(getattr(space.groups, group), name) == FOLLOW for group in groups)]


def _walk_all(space: Any, visit: Visitor, parents: list[Any], path: GenePath) -> Any:
    return space.builds(**_walk_fields(space, [f.name for f in fields(space)], visit, parents, path))


def _walk_fields(space: Any, names: Iterable[str], visit: Visitor, parents: list[Any], path: GenePath) -> dict[str, Any]:
    built = {}
    for name in names:
        part = getattr(space, name)
        descend = _visit if isinstance(part, Choice | Range) else _walk_all
        built[name] = descend(part, visit, [getattr(p, name) for p in parents], (*path, name))
    return built


def count(space: SearchSpace) -> int | float:
    """How many different walks there are; infinite with a continuous gene."""
    contexts = [_Context(space.family, shortcut) for shortcut in space.shortcut.values]
    of_stages = (math.prod(_stage_size(stage, i, around) for i, stage in enumerate(space.stages)) for around in contexts)
    return space.time_steps.size * sum(of_stages)


def _stage_size(stage: StageSpace, index: int, around: _Context) -> int | float:
    per_depth = (math.prod(_block_size(stage.block_at(i), around.shortcut) for i in range(depth)) for depth in stage.depth.values)
    embeddings = math.prod(_size(getattr(stage.embedding, name)) for name in _embedding_genes(around, index))
    return stage.embed_dim.size * embeddings * sum(per_depth)


def _block_size(block: BlockSpace, shortcut: str) -> int | float:
    return sum(_size_with(block, mixer, neuron_groups(mixer, shortcut)) for mixer in block.token_mixer.values)


def _size_with(block: BlockSpace, token_mixer: str, groups: tuple[str, ...]) -> int | float:
    parts = (
        *(getattr(block, name) for name in _others(block, token_mixer)),
        *(getattr(block.neuron, name) for name in _followed(block, groups)),
        *(getattr(block.groups, name) for name in groups),
    )
    return math.prod(_size(part) for part in parts)


def _size(space: Any) -> int | float:
    if isinstance(space, Choice | Range):
        return space.size
    return math.prod(_size(getattr(space, f.name)) for f in fields(space))
