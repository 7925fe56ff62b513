"""Architectures: nested frozen values `Architecture > Stage > Block > Neuron`.

An architecture holds what a search can change. It holds nothing about the data (image size, number of classes). The depth of a
stage is `len(stage.blocks)`. Architectures hash and compare by value. Each has one canonical JSON form, whose digest is its `id`.
Mutation and crossover create new values; no value is modified after it is created.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from autospike.errors import UserError, first_problem, quoted
from autospike.space.families import Shortcut, check_compact, check_shortcut, check_stage, check_stages, has_embedding_neurons
from autospike.space.limits import (
    MAX_DEPTH,
    MAX_EMBED_DIM,
    MAX_MLP_RATIO,
    MAX_NUMBER,
    MAX_TIME_STEPS,
    MIN_THRESHOLD,
    check_at_most,
    check_parameters,
)
from autospike.space.mixers import OPERANDS, WITH_HEADS
from autospike.space.parameters import count_parameters

TokenMixer = Literal["sdsa_1", "sdsa_1_dilated", "sdsa_2", "sdsa_3", "sdsa_4", "token_qk", "channel_qk", "sepconv", "none"]
ChannelMixer = Literal["mlp", "conv"]
ProjectionType = Literal["linear", "repconv"]

# Defaults of the fields of a block that only some token mixers use (`has_gene`). 8 heads: Meta-SpikeFormer's and QKFormer's code.
CONDITIONAL_GENE_DEFAULTS = {"num_heads": 8, "qkv": "linear", "projection": "linear"}

# Thresholds relative to the block's: neurons after attention have 0.5 where all others have 1.0 (published code of all families).
THRESHOLD_FACTORS = {"attention": 0.5}

# Neuron parameters of all published networks. The largest and smallest architecture of a space have the choices nearest to them.
PUBLISHED_NEURON = {"v_threshold": 1.0, "tau": 2.0}

# Defaults of the settings, the fields of an architecture that are never genes: those of Spikformer's ImageNet form.
SETTING_DEFAULTS = {"qkv_bias": False, "attention_scale": 0.125, "compact_embedding": False, "distilled": False}

# Fields that have the same value in a space and in all of its architectures.
SETTINGS = ("family", *SETTING_DEFAULTS)

STRICT = ConfigDict(extra="forbid", strict=True)


def _as_floats(value: object, *names: str) -> None:
    """Convert fields to float, so that 4 and 4.0 give the same JSON and the same id."""
    for name in names:
        number = getattr(value, name)
        if number is not None:
            if not abs(number) <= MAX_NUMBER:  # NaN is not either
                raise ValueError(f"{name} must be a finite number of at most {MAX_NUMBER:g}, got {quoted(number)}")
            object.__setattr__(value, name, float(number))


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Parameters of leaky integrate-and-fire (LIF) neurons.

    In each time step the membrane potential v integrates the input x: `h = v + (x - v) / tau`. The neuron emits a spike where
    `h >= v_threshold`, and resets to v = 0 there.

    Attributes:
        v_threshold: Firing threshold, greater than 0.
        tau: Membrane time constant in time steps, greater than 1.
    """

    __pydantic_config__ = STRICT
    v_threshold: float = 1.0
    tau: float = 2.0

    def __post_init__(self) -> None:
        _as_floats(self, "v_threshold", "tau")
        if self.v_threshold < MIN_THRESHOLD:
            raise ValueError(f"v_threshold must be greater than 0, at least {MIN_THRESHOLD:g}, got {self.v_threshold:g}")
        if self.tau <= 1:
            raise ValueError(f"tau must be greater than 1 (a neuron with tau 1 does not integrate), got {self.tau:g}")


@dataclass(frozen=True, kw_only=True)
class NeuronOverride:
    """Parameters of one neuron group that differ from those of its block.

    Attributes:
        v_threshold: Absolute firing threshold, or None to inherit the block's.
        tau: Membrane time constant in time steps, or None to inherit the block's.
    """

    __pydantic_config__ = STRICT
    v_threshold: float | None = None
    tau: float | None = None

    def __post_init__(self) -> None:
        _as_floats(self, "v_threshold", "tau")
        self.applied_to(Neuron())

    def applied_to(self, neuron: Neuron) -> Neuron:
        """Return a neuron with the overridden parameters replaced.

        Args:
            neuron: Supplies the parameters that are None here.

        Returns:
            The resulting parameters.
        """
        return Neuron(
            v_threshold=neuron.v_threshold if self.v_threshold is None else self.v_threshold,
            tau=neuron.tau if self.tau is None else self.tau,
        )


@dataclass(frozen=True, kw_only=True)
class NeuronGroups:
    """Overrides for each neuron group of a block. Which groups exist depends on token mixer and shortcut (`neuron_groups`).

    Attributes:
        token_input: Neurons at the input of the token mixer (membrane shortcuts).
        q: Neurons after the query projection.
        k: Neurons after the key projection.
        v: Neurons after the value projection.
        attention: Neurons after the attention, before its output projection.
        sepconv: Neurons between a SepConv's expansion and its separable convolution.
        projection: Neurons at the output of the token mixer (SEW and vanilla shortcuts).
        channel_input: Neurons at the input of the channel mixer (membrane shortcuts).
        fc1: Neurons between the two layers of the channel mixer.
        fc2: Neurons at the output of the channel mixer (SEW and vanilla shortcuts).
    """

    __pydantic_config__ = STRICT
    token_input: NeuronOverride = NeuronOverride()
    q: NeuronOverride = NeuronOverride()
    k: NeuronOverride = NeuronOverride()
    v: NeuronOverride = NeuronOverride()
    attention: NeuronOverride = NeuronOverride()
    sepconv: NeuronOverride = NeuronOverride()
    projection: NeuronOverride = NeuronOverride()
    channel_input: NeuronOverride = NeuronOverride()
    fc1: NeuronOverride = NeuronOverride()
    fc2: NeuronOverride = NeuronOverride()


def neuron_groups(token_mixer: str, shortcut: str) -> tuple[str, ...]:
    """Return the neuron groups of a block in the order of computation.

    Args:
        token_mixer: Token mixer of the block.
        shortcut: Kind of residual connection of the network.

    Returns:
        Field names of `NeuronGroups`.
    """
    inside = (*OPERANDS[token_mixer], "attention") if token_mixer in OPERANDS else ("sepconv",)
    if shortcut == "membrane":
        token, channel = ("token_input", *inside), ("channel_input", "fc1")
    else:
        token, channel = (*inside, "projection"), ("fc1", "fc2")
    return channel if token_mixer == "none" else token + channel


def has_gene(name: str, token_mixer: str) -> bool:
    """Return whether a field of `Block` has an effect with a token mixer.

    Args:
        name: Field of `Block`.
        token_mixer: Token mixer of the block.

    Returns:
        False if the field must be None.
    """
    if name == "num_heads":
        return token_mixer in WITH_HEADS
    return token_mixer in OPERANDS if name in ("qkv", "projection") else True


@dataclass(frozen=True, kw_only=True)
class Block:
    """A token mixer followed by a channel mixer, each in a residual branch.

    Attributes:
        token_mixer: Mixes positions: an attention, a separable convolution (`sepconv`), or `none`.
        channel_mixer: Mixes channels: two linear layers (`mlp`) or two 3x3 convolutions (`conv`).
        num_heads: Attention heads; must divide the stage's `embed_dim`. None where the token mixer has no heads; 8 by default.
        qkv: Layer that computes queries, keys and values. None where the token mixer is not an attention; linear by default.
        projection: Output layer of the attention. None where the token mixer is not an attention; linear by default.
        mlp_ratio: Hidden width of the channel mixer as a multiple of `embed_dim`.
        neuron: Parameters of the block's neurons.
        groups: Overrides for single neuron groups.
    """

    __pydantic_config__ = STRICT
    token_mixer: TokenMixer = "sdsa_3"
    channel_mixer: ChannelMixer = "mlp"
    num_heads: int | None = None
    qkv: ProjectionType | None = None
    projection: ProjectionType | None = None
    mlp_ratio: float = 4.0
    neuron: Neuron = Neuron()
    groups: NeuronGroups = NeuronGroups()

    def __post_init__(self) -> None:
        _as_floats(self, "mlp_ratio")
        for name, default in CONDITIONAL_GENE_DEFAULTS.items():
            self._resolve_default(name, default)
        if self.num_heads is not None and self.num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {quoted(self.num_heads)}")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio must be greater than 0, got {self.mlp_ratio:g}")
        check_at_most("mlp_ratio", self.mlp_ratio, MAX_MLP_RATIO)
        for group in THRESHOLD_FACTORS:
            self.neuron_of(group)  # raises if the scaled threshold is too small

    def _resolve_default(self, name: str, default: object) -> None:
        """Replace None by the default, or reject a value, depending on whether the token mixer uses the field."""
        value, used = getattr(self, name), has_gene(name, self.token_mixer)
        if value is None and used:
            object.__setattr__(self, name, default)
        elif value is not None and not used:
            raise ValueError(f"{name} has no effect with token_mixer {self.token_mixer}; leave it out")

    def neuron_of(self, group: str) -> Neuron:
        """Return the parameters of one neuron group.

        The block's threshold is multiplied by the group's factor (0.5 after attention, else 1). Then the group's override is
        applied, whose threshold is absolute: `groups.attention.v_threshold: 0.5` fires at 0.5.

        Args:
            group: Field name of `NeuronGroups`.

        Returns:
            The resulting parameters.
        """
        scaled = Neuron(v_threshold=self.neuron.v_threshold * THRESHOLD_FACTORS.get(group, 1.0), tau=self.neuron.tau)
        override: NeuronOverride = getattr(self.groups, group)
        return override.applied_to(scaled)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Layers at the start of a stage that change its input to the stage's width and resolution.

    Attributes:
        stride: Factor by which the embedding reduces height and width.
        neuron: Parameters of the embedding's neurons.
    """

    __pydantic_config__ = STRICT
    stride: int = 1
    neuron: Neuron = Neuron()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """An embedding followed by blocks of one width.

    Attributes:
        embed_dim: Number of channels of the blocks.
        embedding: Layers before the first block.
        blocks: The blocks in the order of computation, at least one.
    """

    __pydantic_config__ = STRICT
    embed_dim: int
    embedding: Embedding = Embedding()
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("a stage needs at least one block")
        check_at_most("blocks: the number of blocks", len(self.blocks), MAX_DEPTH)
        for block in self.blocks:
            check_block(self.embed_dim, block.num_heads, block.mlp_ratio)

    def hidden_features(self, block: Block) -> int:
        """Return the hidden width of a block's channel mixer: `round(embed_dim * mlp_ratio)`.

        Args:
            block: A block of this stage.

        Returns:
            Number of channels.
        """
        return round(self.embed_dim * block.mlp_ratio)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A whole network.

    `family` and the fields from `qkv_bias` to `distilled` are settings: a search never changes them.

    Attributes:
        family: Name of a family in `autospike.space.families.FAMILIES`.
        time_steps: Number of time steps T.
        shortcut: Residual connections. `membrane`: branches start with neurons and add to a membrane potential (MS). `sew`:
            branches end with neurons and add spikes (SEW). `vanilla`: neurons follow the addition (VS).
        qkv_bias: Biases in linear q, k, v, as in the CIFAR form of Spikformer.
        attention_scale: Factor s in `s q (k^T v)`, independent of the head size. 0.125 in all published forms except
            Spikformer's event form (0.25).
        compact_embedding: Patch embedding of QKFormer's CIFAR form, which has one convolution less.
        distilled: A second head, which is trained on a teacher's predictions and averaged with the first (Meta-SpikeFormer).
        stages: The stages in the order of computation, at least one.
    """

    __pydantic_config__ = STRICT
    family: str = "spikformer"
    time_steps: int = 4
    shortcut: Shortcut = "sew"
    qkv_bias: bool = False
    attention_scale: float = 0.125
    compact_embedding: bool = False
    distilled: bool = False
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        _as_floats(self, "attention_scale")
        check_scale(self.attention_scale)
        check_time_steps(self.time_steps)
        check_shortcut(self.family, self.shortcut)
        check_compact(self.family, self.compact_embedding)
        check_stages(self.family, len(self.stages))
        for i, stage in enumerate(self.stages):
            check_stage(self.family, i, stage.embed_dim, stage.embedding.stride)
            if stage.embedding.neuron != Neuron() and not has_embedding_neurons(self.family, i, self.shortcut):
                raise ValueError(
                    f"stages[{i}].embedding.neuron: this embedding has no neurons with {self.shortcut} shortcuts; leave it out"
                )
            for j, block in enumerate(stage.blocks):
                check_groups(f"stages[{i}].blocks[{j}]", block, self.shortcut)

    @cached_property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self.to_dict())

    @property
    def depth(self) -> int:
        """Number of blocks in all stages."""
        return sum(len(stage.blocks) for stage in self.stages)

    @property
    def stride(self) -> int:
        """Factor between the image's height or width and the last stage's."""
        return math.prod(stage.embedding.stride for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form, which `from_dict` reads.

        Fields that are None and settings that have their default value are left out. A setting that a later version adds therefore
        does not change any id.

        Returns:
            Nested dicts and lists of JSON values.
        """
        canonical: dict[str, Any] = _without_none(asdict(self))
        return {name: value for name, value in canonical.items() if SETTING_DEFAULTS.get(name) != value}

    def to_json(self) -> str:
        """Return the canonical JSON: `to_dict` with sorted keys and without spaces.

        Returns:
            One line of JSON.
        """
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, value: object, *, source: str = "architecture") -> Architecture:
        """Read an architecture from nested dicts, without type conversion.

        Args:
            value: Nested dicts and lists, as from YAML or JSON.
            source: Where the value is from, for error messages.

        Returns:
            The architecture.

        Raises:
            UserError: A key is unknown, a type is wrong or a value is not allowed. The message names the field.
        """
        try:
            text = json.dumps(value, default=str)
        except TypeError:
            raise UserError(f"{source}: keys must be strings") from None
        except (ValueError, RecursionError):
            raise UserError(f"{source}: a value contains itself, is nested too deeply, or is a number of too many digits") from None
        return cls.from_json(text, source=source)

    @classmethod
    def from_json(cls, text: str, *, source: str = "architecture") -> Architecture:
        """Read an architecture from JSON text, without type conversion.

        Args:
            text: A JSON object.
            source: Where the text is from, for error messages.

        Returns:
            The architecture.

        Raises:
            UserError: The text is not JSON, or as in `from_dict`.
        """
        try:
            architecture = _adapter.validate_json(text)
            check_parameters("the network", count_parameters(architecture))
        except ValidationError as error:
            raise first_problem(error, source) from None
        except ValueError as error:
            raise UserError(f"{source}: {error}") from None
        return architecture


def digest(value: object) -> str:
    """Return a short digest of a JSON value.

    Args:
        value: Anything that `json.dumps` accepts.

    Returns:
        The first 12 hexadecimal digits of the SHA-256 of the JSON with sorted keys and without spaces.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _without_none(value: Any) -> Any:
    """Return nested dicts and lists without None and without dicts that are empty as a result."""
    if isinstance(value, dict):
        pruned = {key: _without_none(v) for key, v in value.items() if v is not None}
        return {key: v for key, v in pruned.items() if v != {}}
    return [_without_none(v) for v in value] if isinstance(value, tuple) else value


def check_scale(attention_scale: float) -> None:
    """Check the factor on the attention.

    Args:
        attention_scale: The factor.

    Raises:
        ValueError: It is not greater than 0.
    """
    if attention_scale <= 0:
        raise ValueError(f"attention_scale must be greater than 0, got {attention_scale:g}")


def check_time_steps(time_steps: int) -> None:
    """Check a number of time steps.

    Args:
        time_steps: T.

    Raises:
        ValueError: It is less than 1 or more than `MAX_TIME_STEPS`.
    """
    if time_steps < 1:
        raise ValueError(f"time_steps must be at least 1, got {quoted(time_steps)}")
    check_at_most("time_steps", time_steps, MAX_TIME_STEPS)


def check_block(embed_dim: int, num_heads: int | None, mlp_ratio: float) -> None:
    """Check that a block is possible in a stage.

    Args:
        embed_dim: Width of the stage.
        num_heads: Attention heads of the block, None if it has none.
        mlp_ratio: Hidden width of the channel mixer as a multiple of `embed_dim`.

    Raises:
        ValueError: `embed_dim` is less than 1 or more than `MAX_EMBED_DIM`, the heads do not divide it, or the channel mixer has no
            hidden channels.
    """
    if embed_dim < 1:
        raise ValueError(f"embed_dim must be at least 1, got {quoted(embed_dim)}")
    check_at_most("embed_dim", embed_dim, MAX_EMBED_DIM)
    if num_heads is not None and embed_dim % num_heads:
        allowed = ", ".join(str(n) for n in range(1, embed_dim + 1) if embed_dim % n == 0)
        raise ValueError(f"num_heads {quoted(num_heads)} does not divide embed_dim {embed_dim}; choose from {allowed}")
    if not round(embed_dim * mlp_ratio):
        raise ValueError(f"mlp_ratio {mlp_ratio:g} of embed_dim {embed_dim} gives a channel mixer with 0 hidden channels")


def check_groups(where: str, block: Block, shortcut: str) -> None:
    """Check that every overridden neuron group exists.

    Args:
        where: Path of the block, for the error message.
        block: The block.
        shortcut: Kind of residual connection of the network.

    Raises:
        ValueError: An override has no effect.
    """
    existing = neuron_groups(block.token_mixer, shortcut)
    for f in fields(block.groups):
        if f.name not in existing and getattr(block.groups, f.name) != NeuronOverride():
            raise ValueError(
                f"{where}.groups.{f.name}: this neuron group does not exist with token_mixer {block.token_mixer} and {shortcut} "
                f"shortcuts; choose from {', '.join(existing)}"
            )


_adapter = TypeAdapter(Architecture)
