"""A search space mirrors an architecture, with a gene at every leaf.

Where an `Architecture` has a value, its `SearchSpace` has a gene: a `Choice` among values (a single value is a choice of one) or,
for neuron parameters, a continuous `Range`. `walk` visits the genes and rebuilds an architecture from what the visitor answers;
sampling, mutation and crossover are all walks, so each is valid by construction for every depth. A gene that the chosen token mixer
or shortcut has no use for is not visited: no two architectures of a space differ in nothing but a dead gene.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from pydantic import AfterValidator, StrictBool, TypeAdapter, ValidationError

from autospike.architecture import (
    RELATIVE_THRESHOLD,
    USUAL_SETTINGS,
    Architecture,
    Block,
    ChannelMixer,
    Embedding,
    Neuron,
    NeuronGroups,
    NeuronOverride,
    Stage,
    Synapse,
    TokenMixer,
    check_block,
    check_scale,
    has_gene,
    neuron_groups,
)
from autospike.errors import first_problem
from autospike.families import Shortcut, check_compact, check_shortcut, check_stage, check_stages, has_embedding_neurons, rules_of
from autospike.files import read_yaml
from autospike.genes import FOLLOW, STRICT, Choice, Continuous, Finite, Gene, Integer, Number, Range, only, words

# Published neuron parameters (Spikformer's code): the reference point of spaces that search neurons.
PUBLISHED = {"v_threshold": 1.0, "tau": 2.0}

# What a block's genes are where a space does not say.
USUAL = {"num_heads": 8, "qkv": "linear", "projection": "linear"}


TokenMixers = Annotated[Choice, words(TokenMixer)]
ChannelMixers = Annotated[Choice, words(ChannelMixer)]
Synapses = Annotated[Choice, words(Synapse)]
Shortcuts = Annotated[Choice, words(Shortcut)]


def _check_neurons(space: NeuronSpace | NeuronOverrideSpace) -> None:
    for name in PUBLISHED:
        for value in getattr(space, name).values:
            NeuronOverride(**{name: value})


@dataclass(frozen=True, kw_only=True)
class NeuronSpace:
    __pydantic_config__ = STRICT
    builds = Neuron
    v_threshold: Continuous = only(1.0)
    tau: Continuous = only(2.0)

    def __post_init__(self) -> None:
        _check_neurons(self)


@dataclass(frozen=True, kw_only=True)
class NeuronOverrideSpace:
    __pydantic_config__ = STRICT
    builds = NeuronOverride
    v_threshold: Continuous = FOLLOW
    tau: Continuous = FOLLOW

    def __post_init__(self) -> None:
        _check_neurons(self)


@dataclass(frozen=True, kw_only=True)
class NeuronGroupsSpace:
    __pydantic_config__ = STRICT
    builds = NeuronGroups
    token_input: NeuronOverrideSpace = NeuronOverrideSpace()
    q: NeuronOverrideSpace = NeuronOverrideSpace()
    k: NeuronOverrideSpace = NeuronOverrideSpace()
    v: NeuronOverrideSpace = NeuronOverrideSpace()
    attention: NeuronOverrideSpace = NeuronOverrideSpace()
    sepconv: NeuronOverrideSpace = NeuronOverrideSpace()
    projection: NeuronOverrideSpace = NeuronOverrideSpace()
    channel_input: NeuronOverrideSpace = NeuronOverrideSpace()
    fc1: NeuronOverrideSpace = NeuronOverrideSpace()
    fc2: NeuronOverrideSpace = NeuronOverrideSpace()


@dataclass(frozen=True, kw_only=True)
class BlockSpace:
    __pydantic_config__ = STRICT
    builds = Block
    token_mixer: TokenMixers = only("sdsa_3")
    channel_mixer: ChannelMixers = only("mlp")
    num_heads: Integer = FOLLOW
    qkv: Synapses = FOLLOW
    projection: Synapses = FOLLOW
    mlp_ratio: Number = only(4.0)
    neuron: NeuronSpace = NeuronSpace()
    groups: NeuronGroupsSpace = NeuronGroupsSpace()

    def __post_init__(self) -> None:
        for name, usual in USUAL.items():
            self._settle(name, usual)
        for num_heads in self.num_heads.values:
            Block(num_heads=num_heads)
        for mlp_ratio in self.mlp_ratio.values:
            Block(mlp_ratio=mlp_ratio)

    def _settle(self, name: str, usual: object) -> None:
        meaningful = any(has_gene(name, mixer) for mixer in self.token_mixer.values)
        if getattr(self, name) == FOLLOW and meaningful:
            object.__setattr__(self, name, only(usual))
        elif getattr(self, name) != FOLLOW and not meaningful:
            raise ValueError(f"{name} has no effect with token_mixer {' or '.join(self.token_mixer.values)}; leave it out")

    def check_neurons(self, where: str, shortcuts: Iterable[str]) -> None:
        """Whether every neuron gene reaches a neuron, under some token mixer and shortcut of the space."""
        existing = {name for s, m in product(shortcuts, self.token_mixer.values) for name in neuron_groups(m, s)}
        for f in fields(self.groups):
            if f.name not in existing and getattr(self.groups, f.name) != NeuronOverrideSpace():
                raise ValueError(
                    f"{where}.groups.{f.name}: no such neurons in this space; its blocks have {', '.join(sorted(existing))}"
                )
        for name in PUBLISHED:
            if getattr(self.neuron, name).size > 1 and all(getattr(getattr(self.groups, g), name) != FOLLOW for g in existing):
                raise ValueError(
                    f"{where}.neuron.{name} has choices but no effect: every neuron group overrides it; fix it to one value"
                )


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpace:
    __pydantic_config__ = STRICT
    builds = Embedding
    stride: Integer = only(1)
    neuron: NeuronSpace = NeuronSpace()


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """A stage whose blocks all choose from `block`, or block i from `blocks[i]` where positions differ."""

    __pydantic_config__ = STRICT
    embed_dim: Integer
    embedding: EmbeddingSpace = EmbeddingSpace()
    depth: Integer
    block: BlockSpace = BlockSpace()
    blocks: tuple[BlockSpace, ...] = ()

    def __post_init__(self) -> None:
        if min(self.depth.values) < 1:
            raise ValueError(f"depth must be at least 1, got {min(self.depth.values)}")
        if self.blocks and len(self.blocks) != max(self.depth.values):
            raise ValueError(f"blocks lists {len(self.blocks)} blocks, but the largest depth is {max(self.depth.values)}")
        for embed_dim, block in product(self.embed_dim.values, (block for _, block in self.written())):
            for num_heads, mlp_ratio in product(block.num_heads.values, block.mlp_ratio.values):
                check_block(embed_dim, num_heads, mlp_ratio)

    def written(self) -> list[tuple[str, BlockSpace]]:
        """The spaces of blocks, by where they stand."""
        return [(f"blocks[{i}]", block) for i, block in enumerate(self.blocks)] or [("block", self.block)]

    def block_at(self, index: int) -> BlockSpace:
        return self.blocks[index] if self.blocks else self.block


def _known(family: str) -> str:
    rules_of(family)
    return family


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a search may choose from. A space with one choice everywhere is a single architecture."""

    __pydantic_config__ = STRICT
    builds = Architecture
    family: Annotated[str, AfterValidator(_known)] = "spikformer"
    time_steps: Integer = only(4)
    shortcut: Shortcuts = only("sew")
    qkv_bias: StrictBool = False
    attention_scale: Finite = 0.125
    compact_embedding: StrictBool = False
    distilled: StrictBool = False
    stages: tuple[StageSpace, ...]

    def __post_init__(self) -> None:
        for time_steps in self.time_steps.values:
            if time_steps < 1:
                raise ValueError(f"time_steps must be at least 1, got {time_steps}")
        check_scale(self.attention_scale)
        for shortcut in self.shortcut.values:
            check_shortcut(self.family, shortcut)
        check_compact(self.family, self.compact_embedding)
        check_stages(self.family, len(self.stages))
        for i, stage in enumerate(self.stages):
            for embed_dim, stride in product(stage.embed_dim.values, stage.embedding.stride.values):
                check_stage(self.family, i, embed_dim, stride)
            if stage.embedding.neuron != NeuronSpace() and not any(
                has_embedding_neurons(self.family, i, shortcut) for shortcut in self.shortcut.values
            ):
                raise ValueError(f"stages[{i}].embedding.neuron: no neurons there under {self.shortcut.values[0]} shortcuts")
            for where, block in stage.written():
                block.check_neurons(f"stages[{i}].{where}", self.shortcut.values)

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """Read a YAML file, strictly.

        Raises:
            UserError: the file is missing or is not YAML, a key is unknown, a type is wrong, a head count does not divide a width.
        """
        return cls.from_dict(read_yaml(path), source=str(path))

    @classmethod
    def from_dict(cls, value: object, *, source: str = "search space") -> SearchSpace:
        try:
            return _adapter.validate_python(value)
        except ValidationError as error:
            raise first_problem(error, source) from None

    @classmethod
    def of(cls, architecture: Architecture) -> SearchSpace:
        """The space that holds this architecture alone: retraining and hand-made baselines use the code of a supernet."""
        space: SearchSpace = _singleton(SearchSpace, architecture)
        return space

    def sample(self, rng: random.Random) -> Architecture:
        return walk(self, lambda gene, _path: gene.sample(rng))

    def largest(self) -> Architecture:
        """Every size at its largest; neurons at the choice nearest to the published one (threshold 1, tau 2)."""
        return walk(self, partial(_extreme, max))

    def smallest(self) -> Architecture:
        """Every size at its smallest; neurons as in `largest`."""
        return walk(self, partial(_extreme, min))

    def genes(self, architecture: Architecture) -> list[GeneValue]:
        """Every gene that one of the space's architectures has, with its value."""
        found: list[GeneValue] = []
        walk(self, partial(_note, found), architecture)
        return found

    def contains(self, architecture: Architecture) -> bool:
        alike = all(getattr(self, name) == getattr(architecture, name) for name in SETTINGS)
        if not alike or len(architecture.stages) != len(self.stages):
            return False
        found: list[GeneValue] = []
        return walk(self, partial(_note, found), architecture) == architecture

    def size(self) -> int | float:
        """How many architectures the space holds; infinite with a continuous gene."""
        contexts = [_Context(self.family, shortcut) for shortcut in self.shortcut.values]
        return self.time_steps.size * sum(
            math.prod(_stage_size(stage, i, around) for i, stage in enumerate(self.stages)) for around in contexts
        )

    def cover(self) -> list[Architecture]:
        """Architectures that between them have every parameter of the space, at its largest; the first is `largest()`.

        Parameters depend on a block's token mixer and on at most one other choice among words, so token mixers are paired with the
        choices of all others at once.
        """
        blocks = [block for stage in self.stages for _, block in stage.written()]
        mixers = max(block.token_mixer.size for block in blocks)
        others = max(gene.size for block in blocks for gene in (block.channel_mixer, block.qkv, block.projection))
        found = (walk(self, partial(_nth, mixer, other)) for mixer, other in product(range(int(mixers)), range(int(others))))
        return list(dict.fromkeys(found))


# Fields that are the same in a space and in all of its architectures.
SETTINGS = ("family", *USUAL_SETTINGS)

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
            **{name: getattr(space.neuron, name).nearest(usual) for name, usual in PUBLISHED.items() if name not in followed},
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
    return [name for name in PUBLISHED if any(getattr(getattr(space.groups, group), name) == FOLLOW for group in groups)]


def _walk_all(space: Any, visit: Visitor, parents: list[Any], path: GenePath) -> Any:
    return space.builds(**_walk_fields(space, [f.name for f in fields(space)], visit, parents, path))


def _walk_fields(space: Any, names: Iterable[str], visit: Visitor, parents: list[Any], path: GenePath) -> dict[str, Any]:
    built = {}
    for name in names:
        part = getattr(space, name)
        descend = _visit if isinstance(part, Choice | Range) else _walk_all
        built[name] = descend(part, visit, [getattr(p, name) for p in parents], (*path, name))
    return built


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


def _singleton(space: type, value: Any) -> Any:
    """The space of type `space` whose only member is `value`."""
    if space is StageSpace:
        blocks = tuple(_singleton(BlockSpace, block) for block in value.blocks)
        embedding = _singleton(EmbeddingSpace, value.embedding)
        return StageSpace(
            embed_dim=only(value.embed_dim), embedding=embedding, depth=only(len(blocks)), block=blocks[0], blocks=blocks
        )
    hints = get_type_hints(space)
    return space(**{f.name: _singleton_field(f.name, hints[f.name], getattr(value, f.name)) for f in fields(space)})


def _singleton_field(name: str, hint: Any, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_singleton(StageSpace, stage) for stage in value)
    if is_dataclass(hint) and isinstance(hint, type) and hint is not Choice:
        return _singleton(hint, value)
    return value if name in SETTINGS else only(value)


def _note(found: list[GeneValue], gene: Gene, path: GenePath, *values: Any) -> Any:
    value = values[0] if values else gene.values[0]
    found.append(GeneValue(path=path, gene=gene, value=value))
    return value


def _extreme(pick: Callable[[Any], Any], gene: Gene, path: GenePath) -> Any:
    name = path[-1]
    if gene.values == (None,):
        return None
    if name == "v_threshold":
        return gene.nearest(PUBLISHED[name] * RELATIVE_THRESHOLD.get(str(path[-2]), 1.0))
    if name in PUBLISHED:
        return gene.nearest(PUBLISHED[name])
    if isinstance(gene.values[0], str):
        return gene.values[0]
    if name == "stride":  # the less an embedding shrinks the image, the larger the network's work
        return min(gene.values) if pick is max else max(gene.values)
    return pick(gene.values)


def _nth(mixer: int, other: int, gene: Gene, path: GenePath) -> Any:
    """Sizes at their largest, words at their n-th choice."""
    if not isinstance(gene.values[0], str):
        return _extreme(max, gene, path)
    return gene.values[{"token_mixer": mixer, "shortcut": 0}.get(str(path[-1]), other) % len(gene.values)]


_adapter = TypeAdapter(SearchSpace)
