"""Rules of the network families, by name.

A family determines how an image becomes a stream of spikes or membrane potentials, and how a stage is connected to the next. The
blocks inside a stage are the same for all families (`autospike.space.architecture.Block`).

    spikformer         Spikformer (Zhou et al., ICLR 2023): patch embedding of four convolutions, one stage
    spike_driven       Spike-driven Transformer (Yao et al., NeurIPS 2023): the same on membrane potentials
    meta_spikeformer   Meta-SpikeFormer (Yao et al., ICLR 2024): a convolution before each stage, any number of stages
    qkformer           QKFormer (Zhou et al., NeurIPS 2024): patch embedding with a residual path, any number of stages

The values are those of the authors' code; widths and strides follow from the layers of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shortcut = Literal["sew", "membrane", "vanilla"]


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


FAMILIES: dict[str, FamilyRules] = {
    "spikformer": FamilyRules(
        model="autospike.models.spikformer:Spikformer",
        first_conv="convs.0.conv",
        shortcuts=("sew", "vanilla"),
        first_strides=(1, 2, 4, 8, 16),
        width_multiple=8,
    ),
    "spike_driven": FamilyRules(
        model="autospike.models.spike_driven:SpikeDrivenTransformer",
        first_conv="convs.0.conv",
        shortcuts=("membrane",),
        first_strides=(1, 2, 4, 8, 16),
        width_multiple=8,
    ),
    "meta_spikeformer": FamilyRules(
        model="autospike.models.meta_spikeformer:MetaSpikeFormer",
        first_conv="conv.conv",
        shortcuts=("membrane", "sew", "vanilla"),
        first_strides=(1, 2),
        later_strides=(1, 2),
        neuronless_first_embedding=("membrane",),
        first_feature=1,  # stride 4, the first feature map of the authors' detectors
    ),
    "qkformer": FamilyRules(
        model="autospike.models.qkformer:QKFormer",
        first_conv="conv.conv.conv",
        shortcuts=("sew",),
        first_strides=(1, 2, 4),
        later_strides=(1, 2),
        compact=True,
        width_multiple=2,
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


def has_embedding_neurons(family: str, index: int, shortcut: str) -> bool:
    """Return whether the embedding of a stage has neurons.

    Args:
        family: Key of `FAMILIES`.
        index: Index of the stage, from 0.
        shortcut: Kind of residual connection.

    Returns:
        False if parameters of the embedding's neurons have no effect.
    """
    return index > 0 or shortcut not in rules_of(family).neuronless_first_embedding


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
    if count > 1 and not rules_of(family).later_strides:
        raise ValueError(f"the {family} family has exactly one stage, got {count}")


def check_stage(family: str, index: int, embed_dim: int, stride: int) -> None:
    """Check width and stride of a stage.

    Args:
        family: Key of `FAMILIES`.
        index: Index of the stage, from 0.
        embed_dim: Width of the stage.
        stride: Stride of its embedding.

    Raises:
        ValueError: The family does not allow one of them.
    """
    rules = rules_of(family)
    strides = rules.later_strides if index else rules.first_strides
    if stride not in strides:
        allowed = ", ".join(map(str, strides))
        raise ValueError(f"stages[{index}].embedding.stride: choose from {allowed} in the {family} family, got {stride}")
    if embed_dim % rules.width_multiple:
        raise ValueError(
            f"stages[{index}].embed_dim must be a multiple of {rules.width_multiple} in the {family} family, "
            f"because its embedding starts with a fraction of the channels, got {embed_dim}"
        )
