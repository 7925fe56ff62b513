"""A search space mirrors an architecture, with a gene at every leaf.

Where an `Architecture` has a value, its `SearchSpace` has a gene: a `Choice` among values (a single value is a choice of one) or,
for neuron parameters, a continuous `Range`. A walk (`autospike.space.visitor`) visits the genes and builds an architecture from
what the visitor answers. A gene that the chosen token mixer or shortcut has no use for is not visited: no two architectures of a
space differ in nothing but a dead gene.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, StrictBool, TypeAdapter, ValidationError

from autospike.errors import first_problem
from autospike.files import read_yaml
from autospike.space.architecture import (
    PUBLISHED_NEURON,
    RELATIVE_THRESHOLD,
    SETTINGS,
    USUAL_GENES,
    Architecture,
    Block,
    ChannelMixer,
    Embedding,
    Neuron,
    NeuronGroups,
    NeuronOverride,
    Synapse,
    TokenMixer,
    check_block,
    check_scale,
    has_gene,
    neuron_groups,
)
from autospike.space.families import (
    Shortcut,
    check_compact,
    check_shortcut,
    check_stage,
    check_stages,
    has_embedding_neurons,
    rules_of,
)
from autospike.space.genes import FOLLOW, STRICT, Choice, Continuous, Finite, Gene, Integer, Number, only, words
from autospike.space.visitor import GenePath, GeneValue, count, walk

TokenMixers = Annotated[Choice, words(TokenMixer)]
ChannelMixers = Annotated[Choice, words(ChannelMixer)]
Synapses = Annotated[Choice, words(Synapse)]
Shortcuts = Annotated[Choice, words(Shortcut)]


def _check_neurons(space: NeuronSpace | NeuronOverrideSpace) -> None:
    for name in PUBLISHED_NEURON:
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
        for name, usual in USUAL_GENES.items():
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
        for name in PUBLISHED_NEURON:
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

    def sample(self, rng: random.Random, *, sizes_share: float = 1.0) -> Architecture:
        """A uniform draw at every gene; of a size among the smallest of its values alone, this share of them and at least one."""
        return walk(self, partial(_draw, rng, sizes_share))

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
        return count(self)

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


def _draw(rng: random.Random, sizes_share: float, gene: Gene, path: GenePath) -> Any:
    if path[-1] in PUBLISHED_NEURON or gene.values == (None,) or isinstance(gene.values[0], str):  # no size
        return gene.sample(rng)
    few = max(1, math.ceil(len(gene.values) * sizes_share))
    return rng.choice(gene.values[-few:] if path[-1] == "stride" else gene.values[:few])  # a large stride makes a small network


def _extreme(pick: Callable[[Any], Any], gene: Gene, path: GenePath) -> Any:
    name = path[-1]
    if gene.values == (None,):
        return None
    if name == "v_threshold":
        return gene.nearest(PUBLISHED_NEURON[name] * RELATIVE_THRESHOLD.get(str(path[-2]), 1.0))
    if name in PUBLISHED_NEURON:
        return gene.nearest(PUBLISHED_NEURON[name])
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
