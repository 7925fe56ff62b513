"""Search spaces of the parts of an architecture: neurons, blocks, embeddings and stages.

Each class mirrors a class of `autospike.space.architecture` field by field, with a gene in place of each value. The attribute
`builds` is the mirrored class. Field types parse genes as written in YAML (`autospike.space.genes`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import product
from typing import Annotated

from pydantic import StrictBool, StrictInt

from autospike.space.architecture import Embedding
from autospike.space.block import (
    CONDITIONAL_GENE_DEFAULTS,
    PUBLISHED_NEURON,
    Block,
    ChannelMixer,
    Neuron,
    NeuronGroups,
    NeuronOverride,
    ProjectionType,
    TokenMixer,
    check_block,
    check_embed_dim,
    check_mixers,
    has_gene,
    neuron_groups,
)
from autospike.space.decoder import Decoder, DecoderKind, LevelStrides, check_channels, check_detector, check_levels
from autospike.space.families import EmbeddingKind
from autospike.space.genes import STRICT, UNSET, Choice, Finite, IntegerChoice, NumberChoice, NumberGene, fixed, names_of
from autospike.space.limits import MAX_DEPTH, check_at_most

TokenMixerChoice = Annotated[Choice, names_of(TokenMixer)]
ChannelMixerChoice = Annotated[Choice, names_of(ChannelMixer)]
ProjectionChoice = Annotated[Choice, names_of(ProjectionType)]
EmbeddingKindChoice = Annotated[Choice, names_of(EmbeddingKind)]


def _check_neuron_values(space: NeuronSpace | NeuronOverrideSpace) -> None:
    """Raise ValueError if a value of a gene is not allowed in a neuron."""
    for name in PUBLISHED_NEURON:
        for value in getattr(space, name).values:
            NeuronOverride(**{name: value})


@dataclass(frozen=True, kw_only=True)
class NeuronSpace:
    """Genes of `Neuron`.

    Attributes:
        v_threshold: Firing threshold, a choice or a range; 1.0 by default.
        tau: Membrane time constant in time steps, a choice or a range; 2.0 by default.
        levels: Largest emitted values; 1 by default.
        leak: As in `Neuron`, for all architectures of the space.
        normalised: As in `Neuron`, for all architectures of the space.
        integrates: As in `Neuron`, for all architectures of the space.
    """

    __pydantic_config__ = STRICT
    builds = Neuron
    v_threshold: NumberGene = fixed(1.0)
    tau: NumberGene = fixed(2.0)
    levels: IntegerChoice = fixed(1)
    leak: StrictBool = True
    normalised: StrictBool = False
    integrates: StrictBool = True

    def __post_init__(self) -> None:
        _check_neuron_values(self)


@dataclass(frozen=True, kw_only=True)
class NeuronOverrideSpace:
    """Genes of `NeuronOverride`. A gene that is not written inherits the block's value.

    Attributes:
        v_threshold: Absolute firing threshold, a choice or a range.
        tau: Membrane time constant in time steps, a choice or a range.
        levels: Largest emitted values.
    """

    __pydantic_config__ = STRICT
    builds = NeuronOverride
    v_threshold: NumberGene = UNSET
    tau: NumberGene = UNSET
    levels: IntegerChoice = UNSET

    def __post_init__(self) -> None:
        _check_neuron_values(self)


@dataclass(frozen=True, kw_only=True)
class NeuronGroupsSpace:
    """Genes of `NeuronGroups`, where the groups are described.

    Attributes:
        token_input: Of the neurons at the input of the token mixer.
        q: Of the neurons after the query projection.
        k: Of the neurons after the key projection.
        v: Of the neurons after the value projection.
        attention: Of the neurons after the attention.
        sepconv: Of the neurons inside a SepConv.
        depthwise: Of the neurons inside a spiking SepConv.
        projection: Of the neurons at the output of the token mixer.
        channel_input: Of the neurons at the input of the channel mixer.
        fc1: Of the neurons between the two layers of the channel mixer.
        fc2: Of the neurons at the output of the channel mixer.
    """

    __pydantic_config__ = STRICT
    builds = NeuronGroups
    token_input: NeuronOverrideSpace = NeuronOverrideSpace()
    q: NeuronOverrideSpace = NeuronOverrideSpace()
    k: NeuronOverrideSpace = NeuronOverrideSpace()
    v: NeuronOverrideSpace = NeuronOverrideSpace()
    attention: NeuronOverrideSpace = NeuronOverrideSpace()
    sepconv: NeuronOverrideSpace = NeuronOverrideSpace()
    depthwise: NeuronOverrideSpace = NeuronOverrideSpace()
    projection: NeuronOverrideSpace = NeuronOverrideSpace()
    channel_input: NeuronOverrideSpace = NeuronOverrideSpace()
    fc1: NeuronOverrideSpace = NeuronOverrideSpace()
    fc2: NeuronOverrideSpace = NeuronOverrideSpace()


@dataclass(frozen=True, kw_only=True)
class BlockSpace:
    """Genes of `Block`.

    Attributes:
        token_mixer: Choice between token mixers.
        channel_mixer: Choice between channel mixers.
        num_heads: Numbers of attention heads. Every one must divide every `embed_dim` of the stage.
        qkv: Choice between layers that compute queries, keys and values.
        projection: Choice between output layers of the attention.
        mlp_ratio: Hidden widths of the channel mixer as multiples of `embed_dim`.
        layer_scale: As in `Block`, for all architectures of the space.
        neuron: Genes of the block's neurons.
        groups: Genes of single neuron groups.
    """

    __pydantic_config__ = STRICT
    builds = Block
    token_mixer: TokenMixerChoice = fixed("sdsa_3")
    channel_mixer: ChannelMixerChoice = fixed("mlp")
    num_heads: IntegerChoice = UNSET
    qkv: ProjectionChoice = UNSET
    projection: ProjectionChoice = UNSET
    mlp_ratio: NumberChoice = UNSET
    layer_scale: StrictBool = False
    neuron: NeuronSpace = NeuronSpace()
    groups: NeuronGroupsSpace = NeuronGroupsSpace()

    def __post_init__(self) -> None:
        for pair in self.mixers():
            check_mixers(*pair)
        for name, default in CONDITIONAL_GENE_DEFAULTS.items():
            self._resolve_default(name, default)
        for num_heads in self.num_heads.values:
            Block(num_heads=num_heads)
        for mlp_ratio in self.mlp_ratio.values:
            Block(mlp_ratio=mlp_ratio)
        for v_threshold in self.neuron.v_threshold.values:
            Block(neuron=Neuron(v_threshold=v_threshold))

    def _resolve_default(self, name: str, default: object) -> None:
        """Replace an unset gene by its default, or reject a gene, depending on whether some mixers use it."""
        used = any(has_gene(name, *pair) for pair in self.mixers())
        if getattr(self, name) == UNSET and used:
            object.__setattr__(self, name, fixed(default))
        elif getattr(self, name) != UNSET and not used:
            kind = "channel_mixer" if name == "mlp_ratio" else "token_mixer"
            raise ValueError(f"{name} has no effect with {kind} {' or '.join(getattr(self, kind).values)}; leave it out")

    def mixers(self) -> Iterable[tuple[str, str]]:
        """Return all pairs of a token mixer and a channel mixer of the space."""
        return product(self.token_mixer.values, self.channel_mixer.values)

    def check_neurons(self, where: str, shortcuts: Iterable[str]) -> None:
        """Check that every neuron gene has an effect with some token mixer and shortcut of the space.

        Args:
            where: Path of the block, for the error message.
            shortcuts: Residual connections between which the space chooses.

        Raises:
            ValueError: A neuron group does not exist, or all groups override a gene of the block's neuron.
        """
        existing = {group for s, pair in product(shortcuts, self.mixers()) for group in neuron_groups(*pair, s)}
        for f in fields(self.groups):
            if f.name not in existing and getattr(self.groups, f.name) != NeuronOverrideSpace():
                raise ValueError(
                    f"{where}.groups.{f.name}: this neuron group does not exist in this space; "
                    f"choose from {', '.join(sorted(existing))}"
                )
        for name in PUBLISHED_NEURON:
            if getattr(self.neuron, name).size > 1 and all(getattr(getattr(self.groups, g), name) != UNSET for g in existing):
                raise ValueError(
                    f"{where}.neuron.{name} has choices but no effect: every neuron group overrides it; set it to one value"
                )


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpace:
    """Genes of `Embedding`.

    Attributes:
        stride: Factors by which the embedding reduces height and width; 1 by default.
        neuron: Genes of the embedding's neurons.
        kind: Choice between embeddings; that of the family by default.
    """

    __pydantic_config__ = STRICT
    builds = Embedding
    stride: IntegerChoice = fixed(1)
    neuron: NeuronSpace = NeuronSpace()
    kind: EmbeddingKindChoice = fixed("family")


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """Genes of `Stage`.

    Attributes:
        embed_dim: Widths.
        embedding: Genes of the embedding.
        depth: Numbers of blocks, each at least 1; or 0 alone for a stage that is an embedding.
        block: Genes of every block, used if `blocks` is empty. Each block chooses independently.
        blocks: Genes of each position, as many as the largest depth, where positions differ.
    """

    __pydantic_config__ = STRICT
    embed_dim: IntegerChoice
    embedding: EmbeddingSpace = EmbeddingSpace()
    depth: IntegerChoice
    block: BlockSpace = BlockSpace()
    blocks: tuple[BlockSpace, ...] = ()

    def __post_init__(self) -> None:
        if min(self.depth.values) < 1 and self.depth.values != (0,):
            raise ValueError(f"depth must be at least 1, got {min(self.depth.values)}")
        check_at_most("depth", max(self.depth.values), MAX_DEPTH)
        if self.blocks and len(self.blocks) != max(self.depth.values):
            raise ValueError(f"blocks lists {len(self.blocks)} blocks, but the largest depth is {max(self.depth.values)}")
        for embed_dim in self.embed_dim.values:
            check_embed_dim(embed_dim)
        for embed_dim, block in product(self.embed_dim.values, (block for _, block in self.block_spaces())):
            for num_heads in block.num_heads.values:
                check_block(embed_dim, num_heads, block.mlp_ratio.values[0])
            for mlp_ratio in block.mlp_ratio.values:
                check_block(embed_dim, None, mlp_ratio)

    def block_spaces(self) -> list[tuple[str, BlockSpace]]:
        """Return the spaces of the blocks as written.

        Returns:
            Pairs of path inside the stage and space: one for each of `blocks`, or one for `block`; none for an embedding alone.
        """
        if self.depth.values == (0,):
            return []
        return [(f"blocks[{i}]", block) for i, block in enumerate(self.blocks)] or [("block", self.block)]

    def block_at(self, index: int) -> BlockSpace:
        """Return the space of one block.

        Args:
            index: Position of the block in the stage, from 0.

        Returns:
            The space from which the block at this position is chosen.
        """
        return self.blocks[index] if self.blocks else self.block


@dataclass(frozen=True, kw_only=True)
class DecoderSpace:
    """Genes of `Decoder`.

    Attributes:
        kind: As in `Decoder`, for all architectures of the space; likewise the next two.
        spiking: As in `Decoder`.
        levels: As in `Decoder`.
        channels: Widths of the feature pyramid.
        head_channels: Widths of the head.
        level_strides: As in `Decoder`, for all architectures of the space; likewise the next two.
        anchor_scale: As in `Decoder`.
        proposals: As in `Decoder`.
        neuron: Genes of the decoder's neurons.
    """

    __pydantic_config__ = STRICT
    builds = Decoder
    kind: DecoderKind = "semantic-fpn"
    spiking: StrictBool = True
    levels: tuple[StrictInt, ...]
    channels: IntegerChoice
    head_channels: IntegerChoice
    level_strides: LevelStrides = "actual"
    anchor_scale: Finite = 8.0
    proposals: StrictInt = 1000
    neuron: NeuronSpace = NeuronSpace()

    def __post_init__(self) -> None:
        check_levels(self.levels)
        check_detector(self)
        for name in ("channels", "head_channels"):
            for channels in getattr(self, name).values:
                check_channels(name, channels)
        if not self.spiking and self.neuron != NeuronSpace():
            raise ValueError("decoder.neuron: a decoder with spiking: false has no neurons; leave it out")

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the fields that are genes and have an effect."""
        return ("channels", "head_channels", "neuron") if self.spiking else ("channels", "head_channels")
