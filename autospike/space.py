"""A search space mirrors an architecture, with a gene at every leaf.

Where an `Architecture` has a value, its `SearchSpace` has a gene: a `Choice` among values (a single value is a choice of one) or,
for neuron parameters, a continuous `Range`. `walk` visits the genes and rebuilds an architecture from what the visitor answers;
sampling, mutation and crossover are all walks, so each is valid by construction for every depth.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from autospike.architecture import (
    RELATIVE_THRESHOLD,
    Architecture,
    Block,
    Family,
    Neuron,
    NeuronGroups,
    NeuronOverride,
    Stage,
    Stem,
    check_divides,
)
from autospike.errors import first_problem
from autospike.files import read_yaml
from autospike.genes import FOLLOW, STRICT, Choice, Continuous, Gene, Integer, Number, Range, only

# Published neuron parameters (Spikformer's code): the reference point of spaces that search neurons.
PUBLISHED = {"v_threshold": 1.0, "tau": 2.0}


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
    q: NeuronOverrideSpace = NeuronOverrideSpace()
    k: NeuronOverrideSpace = NeuronOverrideSpace()
    v: NeuronOverrideSpace = NeuronOverrideSpace()
    attention: NeuronOverrideSpace = NeuronOverrideSpace()
    projection: NeuronOverrideSpace = NeuronOverrideSpace()
    fc1: NeuronOverrideSpace = NeuronOverrideSpace()
    fc2: NeuronOverrideSpace = NeuronOverrideSpace()


@dataclass(frozen=True, kw_only=True)
class BlockSpace:
    __pydantic_config__ = STRICT
    builds = Block
    num_heads: Integer = only(8)
    mlp_ratio: Number = only(4.0)
    neuron: NeuronSpace = NeuronSpace()
    groups: NeuronGroupsSpace = NeuronGroupsSpace()

    def __post_init__(self) -> None:
        for num_heads in self.num_heads.values:
            Block(num_heads=num_heads)
        for mlp_ratio in self.mlp_ratio.values:
            Block(mlp_ratio=mlp_ratio)
        overrides = [getattr(self.groups, f.name) for f in fields(self.groups)]
        for name in PUBLISHED:
            if getattr(self.neuron, name).size > 1 and all(getattr(override, name) != FOLLOW for override in overrides):
                raise ValueError(f"neuron.{name} has choices but no effect: every neuron group overrides it; fix it to one value")


@dataclass(frozen=True, kw_only=True)
class StemSpace:
    __pydantic_config__ = STRICT
    builds = Stem
    pools: Integer = only(2)
    neuron: NeuronSpace = NeuronSpace()

    def __post_init__(self) -> None:
        for pools in self.pools.values:
            Stem(pools=pools)


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """A stage whose blocks all choose from `block`, or block i from `blocks[i]` where positions differ."""

    __pydantic_config__ = STRICT
    embed_dim: Integer
    depth: Integer
    block: BlockSpace = BlockSpace()
    blocks: tuple[BlockSpace, ...] = ()

    def __post_init__(self) -> None:
        if min(self.depth.values) < 1:
            raise ValueError(f"depth must be at least 1, got {min(self.depth.values)}")
        if self.blocks and len(self.blocks) != max(self.depth.values):
            raise ValueError(f"blocks lists {len(self.blocks)} blocks, but the largest depth is {max(self.depth.values)}")
        for embed_dim in self.embed_dim.values:
            for block in self.blocks or (self.block,):
                Stage(embed_dim=embed_dim, blocks=(Block(num_heads=1, mlp_ratio=min(block.mlp_ratio.values)),))
                for num_heads in block.num_heads.values:
                    check_divides(embed_dim, num_heads)

    def block_at(self, index: int) -> BlockSpace:
        return self.blocks[index] if self.blocks else self.block


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a search may choose from. A space with one choice everywhere is a single architecture."""

    __pydantic_config__ = STRICT
    builds = Architecture
    family: Family = "spikformer"
    time_steps: Integer = only(4)
    stem: StemSpace = StemSpace()
    stages: tuple[StageSpace, ...]

    def __post_init__(self) -> None:
        for time_steps in self.time_steps.values:
            if time_steps < 1:
                raise ValueError(f"time_steps must be at least 1, got {time_steps}")
        if len(self.stages) != 1:
            raise ValueError(f"the spikformer family has exactly one stage, got {len(self.stages)}")

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
        return self._walk(lambda gene, _path: gene.sample(rng))

    def largest(self) -> Architecture:
        """Every size at its largest; neurons at the choice nearest to the published one (threshold 1, tau 2)."""
        return self._walk(partial(_extreme, max))

    def smallest(self) -> Architecture:
        """Every size at its smallest; neurons as in `largest`."""
        return self._walk(partial(_extreme, min))

    def genes(self, architecture: Architecture) -> list[GeneValue]:
        """Every gene of the space with its value in one of the space's architectures."""
        return list(_genes(self, architecture, ()))

    def contains(self, architecture: Architecture) -> bool:
        alike = architecture.family == self.family and len(architecture.stages) == len(self.stages)
        return alike and all(found.gene.contains(found.value) for found in _genes(self, architecture, ()))

    def size(self) -> int | float:
        """How many architectures the space holds; infinite with a continuous gene."""
        return _size(self)

    def _walk(self, visit: Visitor) -> Architecture:
        architecture: Architecture = walk(self, visit)
        return architecture


GenePath = tuple[str | int, ...]
Visitor = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class GeneValue:
    """A gene, where it stands (`("stages", 0, "blocks", 2, "neuron", "tau")`), and its value in an architecture."""

    path: GenePath
    gene: Gene
    value: Any


def walk(space: Any, visit: Visitor, *values: Any, path: GenePath = ()) -> Any:
    """Build a value of `space`, asking `visit(gene, path, *values)` at every leaf.

    `values` are architectures of the space (or the corresponding parts of some); each leaf is visited with their values at that
    leaf. A block that only some of them have is visited with the values of those; one that none has, with no values.
    """
    if isinstance(space, Choice | Range):
        return visit(space, path, *values)
    if isinstance(space, StageSpace):
        return _walk_stage(space, visit, values, path)
    if isinstance(space, tuple):
        return tuple(walk(s, visit, *(v[i] for v in values), path=(*path, i)) for i, s in enumerate(space))
    if not is_dataclass(space):  # the family, which is no gene
        return space
    built = {
        f.name: walk(getattr(space, f.name), visit, *(getattr(v, f.name) for v in values), path=(*path, f.name))
        for f in fields(space)
    }
    builds: Any = space.builds  # type: ignore[union-attr]
    return builds(**built)


def _walk_stage(space: StageSpace, visit: Visitor, stages: tuple[Stage, ...], path: GenePath) -> Stage:
    embed_dim = visit(space.embed_dim, (*path, "embed_dim"), *(s.embed_dim for s in stages))
    depth = visit(space.depth, (*path, "depth"), *(len(s.blocks) for s in stages))
    blocks = []
    for i in range(depth):
        owners = (s.blocks[i] for s in stages if i < len(s.blocks))
        blocks.append(walk(space.block_at(i), visit, *owners, path=(*path, "blocks", i)))
    return Stage(embed_dim=embed_dim, blocks=tuple(blocks))


def _genes(space: Any, value: Any, path: GenePath) -> Iterator[GeneValue]:
    if isinstance(space, Choice | Range):
        yield GeneValue(path=path, gene=space, value=value)
    elif isinstance(space, StageSpace):
        yield GeneValue(path=(*path, "embed_dim"), gene=space.embed_dim, value=value.embed_dim)
        yield GeneValue(path=(*path, "depth"), gene=space.depth, value=len(value.blocks))
        for i, block in enumerate(value.blocks[: max(space.depth.values)]):
            yield from _genes(space.block_at(i), block, (*path, "blocks", i))
    elif isinstance(space, tuple):
        for i, (part, part_value) in enumerate(zip(space, value, strict=True)):
            yield from _genes(part, part_value, (*path, i))
    elif is_dataclass(space):
        for f in fields(space):
            yield from _genes(getattr(space, f.name), getattr(value, f.name), (*path, f.name))


def _size(space: Any) -> int | float:
    if isinstance(space, Choice | Range):
        return space.size
    if isinstance(space, StageSpace):
        per_depth = (math.prod(_size(space.block_at(i)) for i in range(depth)) for depth in space.depth.values)
        return space.embed_dim.size * sum(per_depth)
    if isinstance(space, tuple):
        return math.prod(_size(part) for part in space)
    if not is_dataclass(space):
        return 1
    return math.prod(_size(getattr(space, f.name)) for f in fields(space))


def _singleton(space: type, value: Any) -> Any:
    """The space of type `space` whose only member is `value`."""
    if space is StageSpace:
        blocks = tuple(_singleton(BlockSpace, block) for block in value.blocks)
        return StageSpace(embed_dim=only(value.embed_dim), depth=only(len(blocks)), block=blocks[0], blocks=blocks)
    hints = get_type_hints(space)
    return space(**{f.name: _singleton_field(hints[f.name], getattr(value, f.name)) for f in fields(space)})


def _singleton_field(hint: Any, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_singleton(StageSpace, stage) for stage in value)
    if is_dataclass(hint) and isinstance(hint, type):
        return only(value) if hint is Choice else _singleton(hint, value)
    return value if hint is Family else only(value)


def _extreme(pick: Callable[[Any], Any], gene: Gene, path: GenePath) -> Any:
    name = path[-1]
    if gene.values == (None,):
        return None
    if name == "v_threshold":
        return gene.nearest(PUBLISHED[name] * RELATIVE_THRESHOLD.get(str(path[-2]), 1.0))
    return gene.nearest(PUBLISHED[name]) if name in PUBLISHED else pick(gene.values)


_adapter = TypeAdapter(SearchSpace)
