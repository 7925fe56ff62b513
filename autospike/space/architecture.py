"""An architecture is a nested frozen value: `Architecture > Stage > Block > Neuron`.

It holds what a search may change, and nothing about the data (image size, classes). Depth is `len(blocks)`. It hashes and
compares by value, has one JSON form, and one digest, its `id`. Variation makes new values; nothing is ever changed in place.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from autospike.errors import UserError, first_problem
from autospike.space.families import Shortcut, check_compact, check_shortcut, check_stage, check_stages, has_embedding_neurons

TokenMixer = Literal["sdsa_1", "sdsa_1_dilated", "sdsa_2", "sdsa_3", "sdsa_4", "token_qk", "channel_qk", "sepconv", "none"]
ChannelMixer = Literal["mlp", "conv"]
Synapse = Literal["linear", "repconv"]

# The projections that each attention reads. SDSA-3 is Spikformer's SSA (see autospike.nn.attention).
OPERANDS: dict[str, tuple[str, ...]] = {
    "sdsa_1": ("q", "k", "v"),
    "sdsa_1_dilated": ("q", "k", "v"),
    "sdsa_2": ("q", "v"),
    "sdsa_3": ("q", "k", "v"),
    "sdsa_4": ("q", "k", "v"),
    "token_qk": ("q", "k"),
    "channel_qk": ("q", "k"),
}
# In the others each channel is a world of its own, and the number of heads changes nothing.
WITH_HEADS = frozenset({"sdsa_1_dilated", "sdsa_3", "sdsa_4", "token_qk"})

# Genes that some token mixers have no use for, and what they are where nothing is said.
USUAL_GENES = {"num_heads": 8, "qkv": "linear", "projection": "linear"}

# The neuron after attention fires at half the block's threshold: 0.5 where the others have 1.0 (published code of all families).
RELATIVE_THRESHOLD = {"attention": 0.5}

# Neuron parameters of all published networks: the reference point of spaces that search them.
PUBLISHED_NEURON = {"v_threshold": 1.0, "tau": 2.0}

# Fields of an architecture that are never genes, where no published form asks for another.
USUAL_SETTINGS = {"qkv_bias": False, "attention_scale": 0.125, "compact_embedding": False, "distilled": False}

# Fields that are the same in a space and in all of its architectures.
SETTINGS = ("family", *USUAL_SETTINGS)

STRICT = ConfigDict(extra="forbid", strict=True)


def _as_floats(value: object, *names: str) -> None:
    """Write 4 and 4.0 the same way, so that equal architectures have equal ids."""
    for name in names:
        given = getattr(value, name)
        if given is not None:
            if not math.isfinite(given):
                raise ValueError(f"{name} must be a finite number, got {given:g}")
            object.__setattr__(value, name, float(given))


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Leaky integrate-and-fire parameters: `h = v + (x - v) / tau`, a spike where `h >= v_threshold`."""

    __pydantic_config__ = STRICT
    v_threshold: float = 1.0
    tau: float = 2.0

    def __post_init__(self) -> None:
        _as_floats(self, "v_threshold", "tau")
        if self.v_threshold <= 0:
            raise ValueError(f"v_threshold must be greater than 0, got {self.v_threshold:g}")
        if self.tau <= 1:
            raise ValueError(f"tau must be greater than 1 (1 would not integrate at all), got {self.tau:g}")


@dataclass(frozen=True, kw_only=True)
class NeuronOverride:
    """Parameters of one neuron group that differ from its block's; `None` follows the block."""

    __pydantic_config__ = STRICT
    v_threshold: float | None = None
    tau: float | None = None

    def __post_init__(self) -> None:
        _as_floats(self, "v_threshold", "tau")
        self.applied_to(Neuron())

    def applied_to(self, neuron: Neuron) -> Neuron:
        return Neuron(
            v_threshold=neuron.v_threshold if self.v_threshold is None else self.v_threshold,
            tau=neuron.tau if self.tau is None else self.tau,
        )


@dataclass(frozen=True, kw_only=True)
class NeuronGroups:
    """The neurons of a block by what they do, each free to depart from the block's neuron. Which exist: `neuron_groups`."""

    __pydantic_config__ = STRICT
    token_input: NeuronOverride = NeuronOverride()
    """Opens the token mixer (membrane shortcuts)."""
    q: NeuronOverride = NeuronOverride()
    k: NeuronOverride = NeuronOverride()
    v: NeuronOverride = NeuronOverride()
    attention: NeuronOverride = NeuronOverride()
    sepconv: NeuronOverride = NeuronOverride()
    """Between a SepConv's expansion and its separable convolution."""
    projection: NeuronOverride = NeuronOverride()
    """Closes the token mixer (SEW and vanilla shortcuts)."""
    channel_input: NeuronOverride = NeuronOverride()
    """Opens the channel mixer (membrane shortcuts)."""
    fc1: NeuronOverride = NeuronOverride()
    """Between the channel mixer's two layers."""
    fc2: NeuronOverride = NeuronOverride()
    """Closes the channel mixer (SEW and vanilla shortcuts)."""


def neuron_groups(token_mixer: str, shortcut: str) -> tuple[str, ...]:
    """The neuron groups that a block has, in the order in which they fire."""
    inside = (*OPERANDS[token_mixer], "attention") if token_mixer in OPERANDS else ("sepconv",)
    if shortcut == "membrane":
        token, channel = ("token_input", *inside), ("channel_input", "fc1")
    else:
        token, channel = (*inside, "projection"), ("fc1", "fc2")
    return channel if token_mixer == "none" else token + channel


def has_gene(name: str, token_mixer: str) -> bool:
    """Whether a field of `Block` means something for a token mixer."""
    if name == "num_heads":
        return token_mixer in WITH_HEADS
    return token_mixer in OPERANDS if name in ("qkv", "projection") else True


@dataclass(frozen=True, kw_only=True)
class Block:
    """A token mixer, then a channel mixer, each in a residual branch.

    `num_heads`, `qkv` and `projection` are None where the token mixer has no use for them; elsewhere 8 and "linear" unless given.
    """

    __pydantic_config__ = STRICT
    token_mixer: TokenMixer = "sdsa_3"
    """How positions exchange spikes: an attention, a separable convolution, or not at all."""
    channel_mixer: ChannelMixer = "mlp"
    """Two linear layers, or two 3x3 convolutions."""
    num_heads: int | None = None
    qkv: Synapse | None = None
    """What computes queries, keys and values."""
    projection: Synapse | None = None
    """What follows attention."""
    mlp_ratio: float = 4.0
    """Hidden width of the channel mixer as a multiple of embed_dim."""
    neuron: Neuron = Neuron()
    groups: NeuronGroups = NeuronGroups()

    def __post_init__(self) -> None:
        _as_floats(self, "mlp_ratio")
        for name, usual in USUAL_GENES.items():
            self._settle(name, usual)
        if self.num_heads is not None and self.num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {self.num_heads}")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio must be greater than 0, got {self.mlp_ratio:g}")

    def _settle(self, name: str, usual: object) -> None:
        given, meaningful = getattr(self, name), has_gene(name, self.token_mixer)
        if given is None and meaningful:
            object.__setattr__(self, name, usual)
        elif given is not None and not meaningful:
            raise ValueError(f"{name} has no effect with token_mixer {self.token_mixer}; leave it out")

    def neuron_of(self, group: str) -> Neuron:
        """The neuron of one group: the block's, its threshold scaled after attention, then the group's own override.

        An override's threshold is absolute: `groups.attention.v_threshold: 0.5` fires at 0.5.
        """
        scaled = Neuron(v_threshold=self.neuron.v_threshold * RELATIVE_THRESHOLD.get(group, 1.0), tau=self.neuron.tau)
        override: NeuronOverride = getattr(self.groups, group)
        return override.applied_to(scaled)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What brings a stage's input to its width and size."""

    __pydantic_config__ = STRICT
    stride: int = 1
    """By how much it shrinks the image."""
    neuron: Neuron = Neuron()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Blocks of one width, behind the embedding that leads to it."""

    __pydantic_config__ = STRICT
    embed_dim: int
    embedding: Embedding = Embedding()
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("a stage needs at least one block")
        for block in self.blocks:
            check_block(self.embed_dim, block.num_heads, block.mlp_ratio)

    def hidden_features(self, block: Block) -> int:
        """Hidden width of a block's channel mixer."""
        return round(self.embed_dim * block.mlp_ratio)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A whole network: family, number of time steps, and stages of blocks. `qkv_bias` to `distilled` are settings, never genes."""

    __pydantic_config__ = STRICT
    family: str = "spikformer"
    time_steps: int = 4
    shortcut: Shortcut = "sew"
    """membrane: branches add to a membrane potential and open with neurons (MS). sew: branches end in neurons and add spikes (SEW).
    vanilla: neurons after the addition (VS)."""
    qkv_bias: bool = False
    """Biases in linear q, k, v: the CIFAR form of Spikformer has them."""
    attention_scale: float = 0.125
    """Factor on q (k^T v), whatever the head size; 0.25 in Spikformer's event form."""
    compact_embedding: bool = False
    """The CIFAR form of QKFormer's patch embedding."""
    distilled: bool = False
    """A second head, trained on a teacher's answers and averaged with the first (Meta-SpikeFormer)."""
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        _as_floats(self, "attention_scale")
        check_scale(self.attention_scale)
        if self.time_steps < 1:
            raise ValueError(f"time_steps must be at least 1, got {self.time_steps}")
        check_shortcut(self.family, self.shortcut)
        check_compact(self.family, self.compact_embedding)
        check_stages(self.family, len(self.stages))
        for i, stage in enumerate(self.stages):
            check_stage(self.family, i, stage.embed_dim, stage.embedding.stride)
            if stage.embedding.neuron != Neuron() and not has_embedding_neurons(self.family, i, self.shortcut):
                raise ValueError(f"stages[{i}].embedding.neuron: no neurons there under {self.shortcut} shortcuts; leave it out")
            for j, block in enumerate(stage.blocks):
                check_groups(f"stages[{i}].blocks[{j}]", block, self.shortcut)

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits that name this architecture: SHA-256 of its canonical JSON."""
        return digest(self.to_dict())

    @property
    def depth(self) -> int:
        return sum(len(stage.blocks) for stage in self.stages)

    @property
    def stride(self) -> int:
        """By how much the last stage's positions are fewer than the image's pixels, along each side."""
        return math.prod(stage.embedding.stride for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """The canonical form: every field but those without meaning, and settings that are as usual.

        So that a setting that a later version adds changes no id.
        """
        canonical: dict[str, Any] = _without_none(asdict(self))
        return {name: value for name, value in canonical.items() if USUAL_SETTINGS.get(name) != value}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, value: object, *, source: str = "architecture") -> Architecture:
        """Parse strictly.

        Raises:
            UserError: an unknown key, a wrong type or an impossible value; names the field.
        """
        try:
            return _adapter.validate_json(json.dumps(value, default=str))
        except TypeError:
            raise UserError(f"{source}: keys must be words") from None
        except ValidationError as error:
            raise first_problem(error, source) from None

    @classmethod
    def from_json(cls, text: str, *, source: str = "architecture") -> Architecture:
        """As `from_dict`, from JSON text."""
        try:
            return _adapter.validate_json(text)
        except ValidationError as error:
            raise first_problem(error, source) from None


def digest(value: object) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        pruned = {key: _without_none(v) for key, v in value.items() if v is not None}
        return {key: v for key, v in pruned.items() if v != {}}
    return [_without_none(v) for v in value] if isinstance(value, tuple) else value


def check_scale(attention_scale: float) -> None:
    if attention_scale <= 0:
        raise ValueError(f"attention_scale must be greater than 0, got {attention_scale:g}")


def check_block(embed_dim: int, num_heads: int | None, mlp_ratio: float) -> None:
    """Whether a block fits into a width."""
    if embed_dim < 1:
        raise ValueError(f"embed_dim must be at least 1, got {embed_dim}")
    if num_heads is not None and embed_dim % num_heads:
        allowed = ", ".join(str(n) for n in range(1, embed_dim + 1) if embed_dim % n == 0)
        raise ValueError(f"num_heads {num_heads} does not divide embed_dim {embed_dim}; choose from {allowed}")
    if not round(embed_dim * mlp_ratio):
        raise ValueError(f"mlp_ratio {mlp_ratio:g} of embed_dim {embed_dim} leaves an MLP without neurons")


def check_groups(where: str, block: Block, shortcut: str) -> None:
    """Whether every neuron group that departs from the block's neuron exists."""
    existing = neuron_groups(block.token_mixer, shortcut)
    for f in fields(block.groups):
        if f.name not in existing and getattr(block.groups, f.name) != NeuronOverride():
            raise ValueError(
                f"{where}.groups.{f.name}: no such neurons with token_mixer {block.token_mixer} and {shortcut} shortcuts; "
                f"they have {', '.join(existing)}"
            )


_adapter = TypeAdapter(Architecture)
