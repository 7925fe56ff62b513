"""Search spaces: an architecture with a gene in place of each value.

A gene is a `Choice` between values (a single value is a choice of one) or, for neuron parameters, a continuous `Range`. A gene
visitor (`autospike.space.visitor`) chooses a value for each gene and thereby builds an architecture. Genes that have no effect with
the chosen token mixer or shortcut are not visited. Two different architectures of a space therefore always differ in a gene that
has an effect.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, StrictBool, TypeAdapter, ValidationError

from autospike import catalogue
from autospike.errors import UserError, first_problem
from autospike.files import read_yaml
from autospike.space.architecture import (
    NEVER,
    SETTINGS,
    Architecture,
    check_decoder,
    check_exit_margin,
    check_first_depth,
    check_mean_head,
    check_scale,
    check_time_steps,
)
from autospike.space.block import PUBLISHED_NEURON, THRESHOLD_FACTORS, check_layer_scale
from autospike.space.decoder import DECODER_SETTINGS
from autospike.space.families import (
    Shortcut,
    check_compact,
    check_shortcut,
    check_stage,
    check_stages,
    has_embedding_neurons,
    rules_of,
)
from autospike.space.genes import STRICT, UNSET, Choice, Finite, Gene, IntegerChoice, NumberChoice, fixed, names_of
from autospike.space.limits import check_parameters
from autospike.space.parameters import largest_parameters
from autospike.space.subspaces import BlockSpace, DecoderSpace, EmbeddingSpace, NeuronSpace, StageSpace
from autospike.space.visitor import GenePath, GeneValue, count_architectures, visit_genes

ShortcutChoice = Annotated[Choice, names_of(Shortcut)]


def _check_family(family: str) -> str:
    """Raise ValueError if the family does not exist."""
    rules_of(family)
    return family


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The set of architectures that a search chooses from.

    A space in which every gene has one value contains a single architecture.

    Attributes:
        family: Name of a family in `autospike.space.families.FAMILIES`.
        time_steps: Numbers of time steps T.
        shortcut: Residual connections.
        qkv_bias: As in `Architecture`, for all architectures of the space; likewise the next five.
        attention_scale: As in `Architecture`.
        compact_embedding: As in `Architecture`.
        distilled: As in `Architecture`.
        conv_bias: As in `Architecture`.
        mean_head: As in `Architecture`.
        stages: Genes of the stages, in the order of computation. The number of stages is fixed.
        decoder: Genes of neck and heads of a dense task; None for classification.
        exit_margin: Confidence margins of early exit, from 0 to 1, which training ignores. `search.early_exit` sets them.
    """

    __pydantic_config__ = STRICT
    family: Annotated[str, AfterValidator(_check_family)] = "spikformer"
    time_steps: IntegerChoice = fixed(4)
    shortcut: ShortcutChoice = fixed("sew")
    qkv_bias: StrictBool = False
    attention_scale: Finite = 0.125
    compact_embedding: StrictBool = False
    distilled: StrictBool = False
    conv_bias: StrictBool = False
    mean_head: StrictBool = False
    stages: tuple[StageSpace, ...]
    decoder: DecoderSpace | None = None
    exit_margin: NumberChoice = fixed(NEVER)

    def __post_init__(self) -> None:
        for time_steps in self.time_steps.values:
            check_time_steps(time_steps)
        check_scale(self.attention_scale)
        for margin in self.exit_margin.values:
            check_exit_margin(margin, dense=self.decoder is not None)
        for shortcut in self.shortcut.values:
            check_shortcut(self.family, shortcut)
        check_compact(self.family, self.compact_embedding)
        check_mean_head(self.mean_head, self.shortcut.values, dense=self.decoder is not None)
        check_stages(self.family, len(self.stages))
        check_first_depth(min(self.stages[0].depth.values))
        for i, stage in enumerate(self.stages):
            kinds = stage.embedding.kind.values
            for embed_dim, stride, kind in product(stage.embed_dim.values, stage.embedding.stride.values, kinds):
                check_stage(self.family, i, embed_dim, stride, kind)
            if stage.embedding.neuron != NeuronSpace() and not any(
                has_embedding_neurons(self.family, i, *pair) for pair in product(self.shortcut.values, kinds)
            ):
                raise ValueError(
                    f"stages[{i}].embedding.neuron: this embedding has no neurons with {self.shortcut.values[0]} shortcuts; "
                    "leave it out"
                )
            for where, block in stage.block_spaces():
                block.check_neurons(f"stages[{i}].{where}", self.shortcut.values)
                check_layer_scale(f"stages[{i}].{where}", block.layer_scale, self.shortcut.values)
        if self.decoder is not None:
            check_decoder(self.decoder.levels, stages=len(self.stages), distilled=self.distilled)

    @classmethod
    def load(cls, path: str | Path) -> SearchSpace:
        """Read a search space from a YAML file.

        Args:
            path: The file, or a name that `autospike list spaces` prints.

        Returns:
            The search space.

        Raises:
            UserError: The file is missing or is not YAML, or as in `from_dict`.
        """
        found = catalogue.find("search_spaces", str(path), Path())
        return cls.from_dict(read_yaml(found), source=str(found))

    @classmethod
    def from_dict(cls, value: object, *, source: str = "search space") -> SearchSpace:
        """Read a search space from nested dicts, without type conversion.

        Args:
            value: Nested dicts and lists, as from YAML.
            source: Where the value is from, for error messages.

        Returns:
            The search space.

        Raises:
            UserError: A key is unknown, a type is wrong or a value is not allowed. The message names the field.
        """
        try:
            space = _adapter.validate_python(value)
            parameters = largest_parameters(
                space, compact=space.compact_embedding, qkv_bias=space.qkv_bias, conv_bias=space.conv_bias
            )
            check_parameters("the largest subnet", parameters)
        except ValidationError as error:
            raise first_problem(error, source) from None
        except ValueError as error:
            raise UserError(f"{source}: {error}") from None
        return space

    @classmethod
    def of(cls, architecture: Architecture) -> SearchSpace:
        """Return the space that contains a single architecture.

        Retraining and the reference network use it, so that they run the code of a supernet.

        Args:
            architecture: The architecture.

        Returns:
            A space of size 1.
        """
        space: SearchSpace = _singleton(SearchSpace, architecture)
        return space

    def sample(self, rng: random.Random, *, size_fraction: float = 1.0) -> Architecture:
        """Draw an architecture, uniformly at each gene.

        Args:
            rng: Source of randomness.
            size_fraction: Restricts genes that determine the size of the network (widths, depths, heads, ratios, strides, time
                steps) to this fraction of their values, at least one. The values of the smallest networks remain.

        Returns:
            An architecture of the space.
        """
        return visit_genes(self, partial(_sampled_value, rng, size_fraction))

    def largest(self) -> Architecture:
        """Return the largest architecture.

        Returns:
            Every size at its largest value, every name at its first, neurons at the values nearest to the published ones.
        """
        return visit_genes(self, partial(_extreme_value, max))

    def smallest(self) -> Architecture:
        """Return the smallest architecture.

        Returns:
            Every size at its smallest value, every name at its first, neurons at the values nearest to the published ones.
        """
        return visit_genes(self, partial(_extreme_value, min))

    def genes(self, architecture: Architecture) -> list[GeneValue]:
        """Return the genes of an architecture with their values.

        Args:
            architecture: An architecture of the space.

        Returns:
            The genes that have an effect in this architecture, in the order in which they are visited.
        """
        found: list[GeneValue] = []
        visit_genes(self, partial(_recorded_value, found), architecture)
        return found

    def contains(self, architecture: Architecture) -> bool:
        """Return whether an architecture belongs to the space.

        Args:
            architecture: Any architecture.

        Returns:
            True if the space can build exactly this architecture.
        """
        same_settings = all(getattr(self, name) == getattr(architecture, name) for name in SETTINGS)
        if not same_settings or len(architecture.stages) != len(self.stages):
            return False
        return visit_genes(self, partial(_recorded_value, []), architecture) == architecture

    def size(self) -> int | float:
        """Return the number of architectures in the space.

        Returns:
            The exact number; infinite if a gene is continuous.
        """
        return count_architectures(self)

    def cover(self) -> list[Architecture]:
        """Return architectures that together have every parameter tensor of the space at its largest size.

        Which tensors a block has depends on its token mixer and on at most one other choice between names. Each token mixer is
        therefore combined with the n-th choice of all other genes at once, for every n.

        Returns:
            Different architectures; the first is `largest()`.
        """
        blocks = [block for stage in self.stages for _, block in stage.block_spaces()]
        mixers = max(block.token_mixer.size for block in blocks)
        others = max(gene.size for block in blocks for gene in (block.channel_mixer, block.qkv, block.projection))
        others = max(others, *(stage.embedding.kind.size for stage in self.stages), 1)
        pairs = product(range(int(mixers)), range(int(others)))
        found = (visit_genes(self, partial(_covering_value, mixer, other)) for mixer, other in pairs)
        return list(dict.fromkeys(found))


def _singleton(space: type, value: Any) -> Any:
    """Return the space of type `space` whose only element is `value`."""
    if space is StageSpace:
        blocks = tuple(_singleton(BlockSpace, block) for block in value.blocks)
        embedding = _singleton(EmbeddingSpace, value.embedding)
        return StageSpace(
            embed_dim=fixed(value.embed_dim),
            embedding=embedding,
            depth=fixed(len(blocks)),
            block=blocks[0] if blocks else BlockSpace(),
            blocks=blocks,
        )
    hints = get_type_hints(space)
    settings = DECODER_SETTINGS if space is DecoderSpace else SETTINGS
    return space(
        **{
            f.name: getattr(value, f.name)
            if f.name in settings
            else _singleton_field(f.name, hints[f.name], getattr(value, f.name))
            for f in fields(space)
        }
    )


def _singleton_field(name: str, hint: Any, value: Any) -> Any:
    if name == "decoder":
        return None if value is None else _singleton(DecoderSpace, value)
    if isinstance(value, tuple):
        return tuple(_singleton(StageSpace, stage) for stage in value)
    if is_dataclass(hint) and isinstance(hint, type) and hint is not Choice:
        return _singleton(hint, value)
    return value if hint is bool else fixed(value)


def _recorded_value(found: list[GeneValue], gene: Gene, path: GenePath, *values: Any) -> Any:
    """Gene visitor that keeps the parent's value and appends it to `found`."""
    value = values[0] if values else gene.values[0]
    found.append(GeneValue(path=path, gene=gene, value=value))
    return value


def _is_name(gene: Gene) -> bool:
    return isinstance(gene.values[0], str)


def _sampled_value(rng: random.Random, size_fraction: float, gene: Gene, path: GenePath) -> Any:
    """Gene visitor of `SearchSpace.sample`."""
    if path[-1] in PUBLISHED_NEURON or gene == UNSET or _is_name(gene):  # does not determine a size
        return gene.sample(rng)
    few = max(1, math.ceil(len(gene.values) * size_fraction))
    return rng.choice(gene.values[-few:] if path[-1] == "stride" else gene.values[:few])  # a large stride makes a small network


def _extreme_value(extreme: Callable[[Any], Any], gene: Gene, path: GenePath) -> Any:
    """Gene visitor of `SearchSpace.largest` (`extreme` is max) and `SearchSpace.smallest` (`extreme` is min)."""
    name = path[-1]
    if gene == UNSET:
        return None
    if name == "v_threshold":
        return gene.nearest(PUBLISHED_NEURON[name] * THRESHOLD_FACTORS.get(str(path[-2]), 1.0))
    if name in PUBLISHED_NEURON:
        return gene.nearest(PUBLISHED_NEURON[name])
    if _is_name(gene):
        return gene.values[0]
    if name == "stride":  # a small stride makes a large network
        return min(gene.values) if extreme is max else max(gene.values)
    return extreme(gene.values)


def _covering_value(mixer: int, other: int, gene: Gene, path: GenePath) -> Any:
    """Gene visitor of `SearchSpace.cover`: largest sizes, token mixer number `mixer`, name number `other` of every other gene."""
    if not _is_name(gene):
        return _extreme_value(max, gene, path)
    index = {"token_mixer": mixer, "shortcut": 0}.get(str(path[-1]), other)
    return gene.values[index % len(gene.values)]


_adapter = TypeAdapter(SearchSpace)
