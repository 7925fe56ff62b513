"""Build an architecture by visiting the genes of a search space.

Sampling, mutation, crossover and the largest and smallest architecture are visitors: functions that choose a value for a gene.
Which genes are visited depends on the values chosen before: the depth comes before the blocks, the token mixer before the genes
that it uses, and the shortcut before the neurons that exist with it. Every architecture that is built this way is therefore valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

from autospike.space.architecture import NEVER, SETTINGS, Architecture, Embedding, Stage
from autospike.space.block import PUBLISHED_NEURON, Block, Neuron, NeuronGroups, has_gene, neuron_groups
from autospike.space.decoder import DECODER_SETTINGS, Decoder
from autospike.space.families import has_embedding_neurons
from autospike.space.genes import UNSET, Choice, Gene, Range, fixed
from autospike.space.subspaces import BlockSpace, DecoderSpace, EmbeddingSpace, StageSpace

GenePath = tuple[str | int, ...]
GeneVisitor = Callable[..., Any]

# Genes that are visited only if they have several values, because a visit draws a random number: spaces that were written before
# these genes existed keep their samples.
VISITED_IF_SEVERAL = ("levels", "kind", "exit_margin")


@dataclass(frozen=True, kw_only=True)
class GeneValue:
    """A gene together with its value in an architecture.

    Attributes:
        path: Path of the field in the architecture, for example `("stages", 0, "blocks", 2, "neuron", "tau")`. The path of a depth
            is `("stages", 0, "depth")`.
        gene: The gene.
        value: The value.
    """

    path: GenePath
    gene: Gene
    value: Any


class Genes(Protocol):
    """The genes of a whole architecture, as `autospike.space.search_space.SearchSpace` holds them, besides its settings."""

    @property
    def family(self) -> str:
        """Name of the family."""

    @property
    def time_steps(self) -> Choice:
        """Numbers of time steps T."""

    @property
    def shortcut(self) -> Choice:
        """Residual connections."""

    @property
    def stages(self) -> tuple[StageSpace, ...]:
        """Genes of the stages."""

    @property
    def decoder(self) -> DecoderSpace | None:
        """Genes of neck and heads of a dense task."""

    @property
    def exit_margin(self) -> Choice:
        """Confidence margins of early exit."""


class _Context(NamedTuple):
    """What determines, besides a stage itself, which genes the stage has."""

    family: str
    shortcut: str


def visit_genes(space: Genes, visitor: GeneVisitor, *parents: Architecture) -> Architecture:
    """Build an architecture of a space by calling `visitor(gene, path, *values)` for each gene that has an effect.

    Genes are visited in a fixed order, so that a visitor that draws random numbers is reproducible.

    Args:
        space: The genes.
        visitor: Returns a value of the gene. `path` is the path of the field (see `GeneValue`). `values` are the values of the
            parents in which the gene exists, without those that the gene cannot have.
        parents: Architectures whose values are passed to the visitor, in the same order.

    Returns:
        The architecture of the chosen values.
    """
    time_steps = _visit(space.time_steps, visitor, [p.time_steps for p in parents], ("time_steps",))
    exit_margin = _visit_exit_margin(space, time_steps, visitor, parents)
    shortcut = _visit(space.shortcut, visitor, [p.shortcut for p in parents], ("shortcut",))
    context = _Context(space.family, shortcut)
    stages = tuple(
        _visit_stage(stage, visitor, [p.stages[i] for p in parents], ("stages", i), context) for i, stage in enumerate(space.stages)
    )
    decoder = _visit_decoder(space.decoder, visitor, [p.decoder for p in parents if p.decoder is not None])
    settings = {name: getattr(space, name) for name in SETTINGS}
    return Architecture(
        **settings, time_steps=time_steps, shortcut=shortcut, stages=stages, decoder=decoder, exit_margin=exit_margin
    )


def exit_margins(space: Genes, time_steps: int) -> Choice:
    """Return the exit margins that have an effect at T = `time_steps`: with a single step no image can stop earlier.

    Args:
        space: The genes.
        time_steps: T.
    """
    return space.exit_margin if time_steps > 1 else fixed(NEVER)


def _visit_exit_margin(space: Genes, time_steps: int, visitor: GeneVisitor, parents: Sequence[Architecture]) -> float:
    gene = exit_margins(space, time_steps)
    if gene.size == 1:
        return float(gene.values[0])
    return float(_visit(gene, visitor, [p.exit_margin for p in parents if p.time_steps > 1], ("exit_margin",)))


def with_values(space: Genes, architecture: Architecture, values: Mapping[GenePath, Any]) -> Architecture:
    """Return an architecture with other values of some genes; genes that it did not have get their smallest or first value.

    Args:
        space: The genes.
        architecture: An architecture of the space.
        values: Values by the path of the gene.
    """

    def visit(gene: Gene, at: GenePath, *parents: Any) -> Any:
        if at in values:
            return values[at]
        if parents:
            return parents[0]
        return gene.low if isinstance(gene, Range) else gene.values[0]

    return visit_genes(space, visit, architecture)


def enumerate_architectures(space: Genes) -> Iterator[Architecture]:
    """Yield every architecture of a space once, in the order of the genes; those that differ in the last genes follow each other.

    Args:
        space: The genes, none of which is continuous.

    Raises:
        ValueError: A gene is continuous.
    """
    indices: list[int] = []  # of the value of each gene, in the order of the visit
    while True:
        sizes: list[int] = []

        def visit(gene: Gene, path: GenePath, sizes: list[int] = sizes) -> Any:
            if isinstance(gene, Range):
                raise ValueError(f"{'.'.join(map(str, path))} is continuous, so the space cannot be enumerated")
            if len(sizes) == len(indices):
                indices.append(0)
            sizes.append(gene.size)
            return gene.values[indices[len(sizes) - 1]]

        yield visit_genes(space, visit)
        del indices[len(sizes) :]
        while indices and indices[-1] + 1 == sizes[len(indices) - 1]:
            indices.pop()
        if not indices:
            return
        indices[-1] += 1


def _visit(gene: Gene, visitor: GeneVisitor, values: list[Any], path: GenePath) -> Any:
    return visitor(gene, path, *(value for value in values if gene.contains(value)))


def _visit_stage(space: StageSpace, visitor: GeneVisitor, parents: list[Stage], path: GenePath, context: _Context) -> Stage:
    embed_dim = _visit(space.embed_dim, visitor, [p.embed_dim for p in parents], (*path, "embed_dim"))
    embedding = _visit_embedding(space.embedding, visitor, [p.embedding for p in parents], (*path, "embedding"), context)
    depth = _visit(space.depth, visitor, [len(p.blocks) for p in parents], (*path, "depth"))
    blocks = []
    for i in range(depth):
        parent_blocks = [p.blocks[i] for p in parents if i < len(p.blocks)]
        blocks.append(_visit_block(space.block_at(i), visitor, parent_blocks, (*path, "blocks", i), context.shortcut))
    return Stage(embed_dim=embed_dim, embedding=embedding, blocks=tuple(blocks))


def _visit_embedding(
    space: EmbeddingSpace, visitor: GeneVisitor, parents: list[Embedding], path: GenePath, context: _Context
) -> Embedding:
    kind = _visit_fields(space, ["kind"], visitor, parents, path)
    names = _embedding_fields(context, int(path[1]), kind["kind"])
    return Embedding(**kind, **_visit_fields(space, names, visitor, parents, path))


def _visit_decoder(space: DecoderSpace | None, visitor: GeneVisitor, parents: list[Decoder]) -> Decoder | None:
    if space is None:
        return None
    settings = {name: getattr(space, name) for name in DECODER_SETTINGS}
    return Decoder(**settings, **_visit_fields(space, space.genes, visitor, parents, ("decoder",)))


def _visit_block(space: BlockSpace, visitor: GeneVisitor, parents: list[Block], path: GenePath, shortcut: str) -> Block:
    token_mixer = _visit(space.token_mixer, visitor, [p.token_mixer for p in parents], (*path, "token_mixer"))
    channel_mixer = _visit(space.channel_mixer, visitor, [p.channel_mixer for p in parents], (*path, "channel_mixer"))
    groups = neuron_groups(token_mixer, channel_mixer, shortcut)
    inherited = _inherited_parameters(space, groups)
    without_effect = {
        name: getattr(space.neuron, name).nearest(value) for name, value in PUBLISHED_NEURON.items() if name not in inherited
    }
    return Block(
        token_mixer=token_mixer,
        channel_mixer=channel_mixer,
        **_visit_fields(space, _block_fields(space, token_mixer, channel_mixer), visitor, parents, path),
        neuron=Neuron(
            **without_effect,
            leak=space.neuron.leak,
            normalised=space.neuron.normalised,
            integrates=space.neuron.integrates,
            **_visit_fields(space.neuron, inherited, visitor, [p.neuron for p in parents], (*path, "neuron")),
        ),
        groups=NeuronGroups(**_visit_fields(space.groups, groups, visitor, [p.groups for p in parents], (*path, "groups"))),
    )


def _embedding_fields(context: _Context, index: int, kind: str) -> list[str]:
    """Return the fields of the embedding of stage `index` that have an effect, besides its kind."""
    return ["stride", "neuron"] if has_embedding_neurons(context.family, index, context.shortcut, kind) else ["stride"]


def _block_fields(space: BlockSpace, token_mixer: str, channel_mixer: str) -> list[str]:
    """Return the fields of a block that have an effect with two mixers, besides the mixers and the neurons."""
    handled = ("token_mixer", "channel_mixer", "neuron", "groups")
    return [f.name for f in fields(space) if f.name not in handled and has_gene(f.name, token_mixer, channel_mixer)]


def _inherited_parameters(space: BlockSpace, groups: Iterable[str]) -> list[str]:
    """Return the parameters of the block's neuron that at least one neuron group inherits."""
    return [name for name in PUBLISHED_NEURON if any(getattr(getattr(space.groups, group), name) == UNSET for group in groups)]


def _visit_all_fields(space: Any, visitor: GeneVisitor, parents: list[Any], path: GenePath) -> Any:
    """Build the part of an architecture that a subspace mirrors."""
    return space.builds(**_visit_fields(space, [f.name for f in fields(space)], visitor, parents, path))


def _visit_fields(space: Any, names: Iterable[str], visitor: GeneVisitor, parents: list[Any], path: GenePath) -> dict[str, Any]:
    """Return the chosen value of each of the named fields of a subspace."""
    chosen = {}
    for name in names:
        field = getattr(space, name)
        if isinstance(field, bool) or (name in VISITED_IF_SEVERAL and field.size == 1):
            chosen[name] = field if isinstance(field, bool) else field.values[0]
            continue
        visit = _visit if isinstance(field, Choice | Range) else _visit_all_fields
        chosen[name] = visit(field, visitor, [getattr(p, name) for p in parents], (*path, name))
    return chosen


def count_architectures(space: Genes) -> int | float:
    """Return how many different architectures `visit_genes` can build.

    Args:
        space: The genes.

    Returns:
        The exact number; infinite if a gene is continuous.
    """
    contexts = [_Context(space.family, shortcut) for shortcut in space.shortcut.values]
    per_shortcut = (math.prod(_stage_size(stage, i, context) for i, stage in enumerate(space.stages)) for context in contexts)
    decoders = math.prod(_size(getattr(space.decoder, name)) for name in space.decoder.genes) if space.decoder else 1
    try:
        steps = sum(exit_margins(space, time_steps).size for time_steps in space.time_steps.values)
        return steps * decoders * sum(per_shortcut)
    except OverflowError:  # a whole number of more than 308 digits times infinity
        return math.inf


def _stage_size(stage: StageSpace, index: int, context: _Context) -> int | float:
    if stage.blocks:
        sizes = [_block_size(block, context.shortcut) for block in stage.blocks]
        per_depth = [math.prod(sizes[:depth]) for depth in stage.depth.values]
    else:
        size = _block_size(stage.block, context.shortcut)
        per_depth = [size**depth for depth in stage.depth.values]
    embeddings = sum(
        math.prod(_size(getattr(stage.embedding, name)) for name in _embedding_fields(context, index, kind))
        for kind in stage.embedding.kind.values
    )
    return stage.embed_dim.size * embeddings * sum(per_depth)


def _block_size(block: BlockSpace, shortcut: str) -> int | float:
    return sum(_block_size_with(block, pair, neuron_groups(*pair, shortcut)) for pair in block.mixers())


def _block_size_with(block: BlockSpace, mixers: tuple[str, str], groups: tuple[str, ...]) -> int | float:
    parts = (
        *(getattr(block, name) for name in _block_fields(block, *mixers)),
        *(getattr(block.neuron, name) for name in _inherited_parameters(block, groups)),
        *(getattr(block.groups, name) for name in groups),
    )
    return math.prod(_size(part) for part in parts)


def _size(space: Any) -> int | float:
    """Return the number of values of a gene, or of combinations of values of a subspace."""
    if isinstance(space, Choice | Range):
        return space.size
    if isinstance(space, bool):  # the same for all architectures
        return 1
    return math.prod(_size(getattr(space, f.name)) for f in fields(space))
