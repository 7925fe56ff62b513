"""Rules of the network families, by name.

A family determines how an image becomes a stream of spikes or membrane potentials, and how a stage is connected to the next. The
blocks inside a stage are the same for all families (`autospike.space.architecture.Block`).

    spikformer         Spikformer (Zhou et al., ICLR 2023): patch embedding of four convolutions, one stage
    spike_driven       Spike-driven Transformer (Yao et al., NeurIPS 2023): the same on membrane potentials
    meta_spikeformer   Meta-SpikeFormer (Yao et al., ICLR 2024): a convolution before each stage, any number of stages
    qkformer           QKFormer (Zhou et al., NeurIPS 2024): patch embedding with a residual path, any number of stages
    e_spikeformer      E-SpikeFormer (Yao et al., TPAMI 2025): the embeddings of Meta-SpikeFormer, for integer neurons
    max_former         Max-Former (Fang et al., NeurIPS 2025): an Embed_Orig first, then Embed_Max

The values are those of the authors' code; widths and strides follow from the layers of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

from autospike.space.embedding_layers import (
    EmbeddingLayers,
    downsampling,
    embed_max,
    embed_max_plus,
    embed_orig,
    max_former_embedding,
    one_convolution_layer,
    patch_embedding,
    patch_splitting,
)
from autospike.space.limits import MAX_STAGES, check_at_most

Shortcut = Literal["sew", "membrane", "vanilla"]
EmbeddingKind = Literal["family", "embed_orig", "embed_max", "embed_max_plus"]


def batch_norm_parameters(channels: int) -> int:
    """Return the number of parameters of a BatchNorm: weight and bias.

    Args:
        channels: Number of channels.
    """
    return 2 * channels


def conv_norm_parameters(in_channels: int, out_channels: int, *, kernel_size: int = 3, bias: bool = False) -> int:
    """Return the number of parameters of a convolution, or of a linear layer (kernel size 1), with its BatchNorm.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of the kernel.
        bias: Whether there is a bias.
    """
    return kernel_size**2 * in_channels * out_channels + bias * out_channels + batch_norm_parameters(out_channels)


class EmbeddingParameters(Protocol):
    """Function that returns the number of parameters of an embedding."""

    def __call__(self, in_channels: int, width: int, *, first: bool, compact: bool) -> int:
        """Return the number.

        Args:
            in_channels: Width of the stage before, or channels of an image.
            width: Width of the stage.
            first: Whether the stage is the first one.
            compact: The setting `compact_embedding`.
        """


def _one_convolution(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Return the number of parameters of an embedding of one 3x3 convolution; see `EmbeddingParameters`."""
    del first, compact
    return conv_norm_parameters(in_channels, width)


def _patch_splitting(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Parameters of `SpikingPatchSplitting`: four convolutions, and one as position embedding."""
    del first, compact
    widths = (in_channels, width // 8, width // 4, width // 2, width, width)
    return sum(conv_norm_parameters(i, o) for i, o in pairwise(widths))


def _downsampling(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Parameters of `Downsampling`: one convolution with a bias."""
    del compact
    return conv_norm_parameters(in_channels, width, kernel_size=7 if first else 3, bias=True)


def _patch_embedding(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Parameters of `FirstPatchEmbedding` and `PatchEmbedding`."""
    before = conv_norm_parameters(in_channels, width // 2) if first else 0
    in_channels = width // 2 if first else in_channels
    second = 0 if first and compact else conv_norm_parameters(width, width)
    return before + conv_norm_parameters(in_channels, width) + second + conv_norm_parameters(in_channels, width, kernel_size=1)


def _embed_orig(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Parameters of `EmbedOrig`: two convolutions, a third one unless compact, and one of size 1."""
    del first
    half = width // 2
    third = 0 if compact else conv_norm_parameters(width, width)
    convs = conv_norm_parameters(in_channels, half) + conv_norm_parameters(half, width) + third
    return convs + conv_norm_parameters(half, width, kernel_size=1)


def _embed_max(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Parameters of `EmbedMax`: two convolutions, and one of size 1."""
    del first, compact
    convs = conv_norm_parameters(in_channels, width) + conv_norm_parameters(width, width)
    return convs + conv_norm_parameters(in_channels, width, kernel_size=1)


def _embed_max_plus(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Parameters of `EmbedMaxPlus`: four convolutions, and one of size 1."""
    del first, compact
    widths = (in_channels, width // 8, width // 4, width // 2, width)
    return sum(conv_norm_parameters(i, o) for i, o in pairwise(widths)) + conv_norm_parameters(widths[2], width, kernel_size=1)


def _max_former_embedding(in_channels: int, width: int, *, first: bool, compact: bool) -> int:
    """Parameters of an `EmbedOrig` in the first stage, otherwise of an `EmbedMax`."""
    return (_embed_orig if first else _embed_max)(in_channels, width, first=first, compact=compact)


@dataclass(frozen=True, kw_only=True)
class EmbeddingRules:
    """What an embedding allows that any family may use.

    Attributes:
        strides: Allowed strides.
        width_multiple: `embed_dim` of its stage must be a multiple of this.
        first_conv: Path, inside the embedding, of the convolution that reads its input.
        parameters: Number of parameters.
        layers: Convolutions of the embedding, so that costs are known before a network is built.
    """

    strides: tuple[int, ...]
    width_multiple: int
    first_conv: str
    parameters: EmbeddingParameters
    layers: EmbeddingLayers


# Embeddings of Max-Former's published code, by kind.
EMBEDDINGS: dict[str, EmbeddingRules] = {
    "embed_orig": EmbeddingRules(
        strides=(1, 2, 4), width_multiple=2, first_conv="orig1.conv", parameters=_embed_orig, layers=embed_orig
    ),
    "embed_max": EmbeddingRules(strides=(1, 2), width_multiple=1, first_conv="max1.conv", parameters=_embed_max, layers=embed_max),
    "embed_max_plus": EmbeddingRules(
        strides=(1, 2, 4, 8), width_multiple=8, first_conv="plus1.conv", parameters=_embed_max_plus, layers=embed_max_plus
    ),
}


@dataclass(frozen=True, kw_only=True)
class FamilyRules:
    """What architectures a family allows, and the class that builds them.

    Attributes:
        model: Class of the network as `module:Class`. It is imported when a network is built, so that this module does not import
            torch.
        first_conv: Path, inside the first stage's embedding, of the convolution that reads the image. timm adapts this convolution
            to other numbers of input channels.
        shortcuts: Allowed residual connections.
        first_strides: Allowed strides of the first stage's embedding.
        later_strides: Allowed strides of the embeddings of later stages; empty if the family has one stage.
        neuronless_first_embedding: Shortcuts with which the first stage's embedding has no neurons.
        first_feature: Index of the first stage that timm's `features_only` returns by default.
        compact: Whether `compact_embedding` is allowed.
        width_multiple: Every `embed_dim` must be a multiple of this.
        embedding_parameters: Number of parameters of an embedding, so that networks that are too large are rejected before they are
            built.
        embedding_layers: Convolutions of an embedding, so that costs are known before a network is built.
    """

    model: str
    first_conv: str
    shortcuts: tuple[Shortcut, ...]
    first_strides: tuple[int, ...]
    later_strides: tuple[int, ...] = ()
    neuronless_first_embedding: tuple[Shortcut, ...] = ()
    first_feature: int = 0
    compact: bool = False
    width_multiple: int = 1
    embedding_parameters: EmbeddingParameters = _one_convolution
    embedding_layers: EmbeddingLayers = one_convolution_layer


FAMILIES: dict[str, FamilyRules] = {
    "spikformer": FamilyRules(
        model="autospike.models.spikformer:Spikformer",
        first_conv="convs.0.conv",
        shortcuts=("sew", "vanilla"),
        first_strides=(1, 2, 4, 8, 16),
        width_multiple=8,
        embedding_parameters=_patch_splitting,
        embedding_layers=patch_splitting,
    ),
    "spike_driven": FamilyRules(
        model="autospike.models.spike_driven:SpikeDrivenTransformer",
        first_conv="convs.0.conv",
        shortcuts=("membrane",),
        first_strides=(1, 2, 4, 8, 16),
        width_multiple=8,
        embedding_parameters=_patch_splitting,
        embedding_layers=patch_splitting,
    ),
    "meta_spikeformer": FamilyRules(
        model="autospike.models.meta_spikeformer:MetaSpikeFormer",
        first_conv="conv.conv",
        shortcuts=("membrane", "sew", "vanilla"),
        first_strides=(1, 2),
        later_strides=(1, 2),
        neuronless_first_embedding=("membrane",),
        first_feature=1,  # stride 4, the first feature map of the authors' detectors
        embedding_parameters=_downsampling,
        embedding_layers=downsampling,
    ),
    "qkformer": FamilyRules(
        model="autospike.models.qkformer:QKFormer",
        first_conv="conv.conv.conv",
        shortcuts=("sew",),
        first_strides=(1, 2, 4),
        later_strides=(1, 2),
        compact=True,
        width_multiple=2,
        embedding_parameters=_patch_embedding,
        embedding_layers=patch_embedding,
    ),
    "e_spikeformer": FamilyRules(
        model="autospike.models.meta_spikeformer:ESpikeFormer",
        first_conv="conv.conv",
        shortcuts=("membrane",),
        first_strides=(1, 2),
        later_strides=(1, 2),
        neuronless_first_embedding=("membrane",),
        first_feature=1,
        embedding_parameters=_downsampling,
        embedding_layers=downsampling,
    ),
    "max_former": FamilyRules(
        model="autospike.models.max_former:MaxFormer",
        first_conv="orig1.conv",
        shortcuts=("membrane", "sew"),
        first_strides=(1, 2, 4),
        later_strides=(1, 2),
        compact=True,
        width_multiple=2,
        embedding_parameters=_max_former_embedding,
        embedding_layers=max_former_embedding,
    ),
}


def rules_of(family: str) -> FamilyRules:
    """Return the rules of a family.

    Args:
        family: Key of `FAMILIES`.

    Returns:
        The rules.

    Raises:
        ValueError: The family does not exist.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    return FAMILIES[family]


def check_shortcut(family: str, shortcut: str) -> None:
    """Check that a family has a kind of residual connection.

    Args:
        family: Key of `FAMILIES`.
        shortcut: Kind of residual connection.

    Raises:
        ValueError: It is not allowed in this family.
    """
    allowed = rules_of(family).shortcuts
    if shortcut not in allowed:
        raise ValueError(f"shortcut: the {family} family has {' or '.join(allowed)} shortcuts, got {shortcut}")


def check_compact(family: str, compact_embedding: bool) -> None:
    """Check that a family has a compact embedding, if one is required.

    Args:
        family: Key of `FAMILIES`.
        compact_embedding: Whether the embedding is compact.

    Raises:
        ValueError: The embedding is compact and the family has no such form.
    """
    if compact_embedding and not rules_of(family).compact:
        raise ValueError(f"compact_embedding: the {family} family has no such form; leave it out")


def has_embedding_neurons(family: str, index: int, shortcut: str, kind: str) -> bool:
    """Return whether the embedding of a stage has neurons.

    Args:
        family: Key of `FAMILIES`.
        index: Index of the stage, from 0.
        shortcut: Kind of residual connection.
        kind: Kind of the embedding.

    Returns:
        False if parameters of the embedding's neurons have no effect.
    """
    return kind != "family" or index > 0 or shortcut not in rules_of(family).neuronless_first_embedding


def check_stages(family: str, count: int) -> None:
    """Check the number of stages.

    Args:
        family: Key of `FAMILIES`.
        count: Number of stages.

    Raises:
        ValueError: There is none, or there are several in a family with one stage.
    """
    if not count:
        raise ValueError("stages: a network needs at least one stage")
    check_at_most("stages: the number of stages", count, MAX_STAGES)
    if count > 1 and not rules_of(family).later_strides:
        raise ValueError(f"the {family} family has exactly one stage, got {count}")


def embedding_parameters(family: str, kind: str) -> EmbeddingParameters:
    """Return the function that counts the parameters of an embedding.

    Args:
        family: Key of `FAMILIES`.
        kind: Kind of the embedding.
    """
    return rules_of(family).embedding_parameters if kind == "family" else EMBEDDINGS[kind].parameters


def embedding_layers(family: str, kind: str) -> EmbeddingLayers:
    """Return the function that lists the convolutions of an embedding.

    Args:
        family: Key of `FAMILIES`.
        kind: Kind of the embedding.
    """
    return rules_of(family).embedding_layers if kind == "family" else EMBEDDINGS[kind].layers


def check_stage(family: str, index: int, embed_dim: int, stride: int, kind: str) -> None:
    """Check width and stride of a stage.

    Args:
        family: Key of `FAMILIES`.
        index: Index of the stage, from 0.
        embed_dim: Width of the stage.
        stride: Stride of its embedding.
        kind: Kind of its embedding.

    Raises:
        ValueError: The family, or the kind of embedding, does not allow one of them.
    """
    rules = rules_of(family)
    if kind != "family":
        _check_embedding(index, embed_dim, stride, kind)
        return
    strides = rules.later_strides if index else rules.first_strides
    if stride not in strides:
        allowed = ", ".join(map(str, strides))
        raise ValueError(f"stages[{index}].embedding.stride: choose from {allowed} in the {family} family, got {stride}")
    if embed_dim % rules.width_multiple:
        raise ValueError(
            f"stages[{index}].embed_dim must be a multiple of {rules.width_multiple} in the {family} family, "
            f"because its embedding starts with a fraction of the channels, got {embed_dim}"
        )


def _check_embedding(index: int, embed_dim: int, stride: int, kind: str) -> None:
    """Check width and stride of a stage whose embedding is not that of the family."""
    rules = EMBEDDINGS[kind]
    if stride not in rules.strides:
        allowed = ", ".join(map(str, rules.strides))
        raise ValueError(f"stages[{index}].embedding.stride: choose from {allowed} with kind {kind}, got {stride}")
    if embed_dim % rules.width_multiple:
        raise ValueError(
            f"stages[{index}].embed_dim must be a multiple of {rules.width_multiple} with embedding kind {kind}, got {embed_dim}"
        )
