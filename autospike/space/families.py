"""The families of networks, by name.

A family is a skeleton: how an image becomes a stream of spikes or membrane potentials, and how one stage hands over to the next.
What happens inside a stage, the blocks, is the same for all of them (`autospike.space.architecture.Block`).

    spikformer         Spikformer (Zhou et al., ICLR 2023): patch splitting by four convolutions, one stage
    spike_driven       Spike-driven Transformer (Yao et al., NeurIPS 2023): the same, on membrane potentials
    meta_spikeformer   Meta-SpikeFormer (Yao et al., ICLR 2024): a convolution between stages, any number of them
    qkformer           QKFormer (Zhou et al., NeurIPS 2024): patch embedding with a residual path, any number of stages
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shortcut = Literal["sew", "membrane", "vanilla"]


@dataclass(frozen=True, kw_only=True)
class FamilyRules:
    """What the skeleton of a family can be built with, and the class that builds it."""

    model: str
    """`module:Class`, imported when a network is built: this half of the package never loads torch."""
    first_conv: str
    """Where in the first stage's embedding the convolution is that reads the image: timm adapts it to other numbers of channels."""
    shortcuts: tuple[Shortcut, ...]
    first_strides: tuple[int, ...]
    """By how much the first stage's embedding may shrink the image."""
    later_strides: tuple[int, ...] = ()
    """The same of the stages after it; none if the family has one stage."""
    silent_first: tuple[Shortcut, ...] = ()
    """Shortcuts under which the first stage's embedding has no neurons."""
    first_feature: int = 0
    """The first of the maps that timm's features_only gives unless told otherwise."""
    compact: bool = False
    """Whether `compact_embedding` means something."""
    width_multiple: int = 1
    """Every embed_dim is a multiple of this."""


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
        silent_first=("membrane",),
        first_feature=1,  # at stride 4, as its detectors take them
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
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    return FAMILIES[family]


def check_shortcut(family: str, shortcut: str) -> None:
    allowed = rules_of(family).shortcuts
    if shortcut not in allowed:
        raise ValueError(f"shortcut: the {family} family has {' or '.join(allowed)} shortcuts, got {shortcut}")


def check_compact(family: str, compact_embedding: bool) -> None:
    if compact_embedding and not rules_of(family).compact:
        raise ValueError(f"compact_embedding: the {family} family has no such form; leave it out")


def has_embedding_neurons(family: str, index: int, shortcut: str) -> bool:
    """Whether there are neurons in the embedding of stage number `index`."""
    return index > 0 or shortcut not in rules_of(family).silent_first


def check_stages(family: str, count: int) -> None:
    if not count:
        raise ValueError("stages: a network needs at least one stage")
    if count > 1 and not rules_of(family).later_strides:
        raise ValueError(f"the {family} family has exactly one stage, got {count}")


def check_stage(family: str, index: int, embed_dim: int, stride: int) -> None:
    """Whether stage number `index` may have this width and shrink its input by this much."""
    rules = rules_of(family)
    strides = rules.later_strides if index else rules.first_strides
    if stride not in strides:
        allowed = ", ".join(map(str, strides))
        raise ValueError(f"stages[{index}].embedding.stride: choose from {allowed} in the {family} family, got {stride}")
    if embed_dim % rules.width_multiple:
        raise ValueError(
            f"stages[{index}].embed_dim must be a multiple of {rules.width_multiple} in the {family} family, "
            f"because its embedding begins with a part of the channels, got {embed_dim}"
        )
