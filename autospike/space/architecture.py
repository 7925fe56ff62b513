"""Architectures: nested frozen values `Architecture > Stage > Block > Neuron`.

An architecture holds what a search can change. It holds nothing about the data (image size, number of classes). The depth of a
stage is `len(stage.blocks)`. Architectures hash and compare by value. Each has one canonical JSON form, whose digest is its `id`.
Mutation and crossover create new values; no value is modified after it is created.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, cached_property
from itertools import accumulate
from operator import mul
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autospike.errors import UserError, first_problem, quoted
from autospike.space.block import (
    STRICT,
    Block,
    Neuron,
    as_floats,
    check_block,
    check_embed_dim,
    check_groups,
    check_layer_scale,
)
from autospike.space.decoder import DETECTOR_DEFAULTS, Decoder, check_stages_of
from autospike.space.families import (
    EmbeddingKind,
    Shortcut,
    check_compact,
    check_shortcut,
    check_stage,
    check_stages,
    has_embedding_neurons,
)
from autospike.space.limits import (
    MAX_DEPTH,
    MAX_TIME_STEPS,
    check_at_most,
    check_parameters,
)
from autospike.space.parameters import count_parameters

# Defaults of the settings, the fields of an architecture that are never genes: those of Spikformer's ImageNet form.
SETTING_DEFAULTS = {
    "qkv_bias": False,
    "attention_scale": 0.125,
    "compact_embedding": False,
    "distilled": False,
    "conv_bias": False,
    "mean_head": False,
}

NEVER = 1.0
"""The exit margin at which no image stops before the last time step: no confidence margin is above it."""

# Fields that have the same value in a space and in all of its architectures.
SETTINGS = ("family", *SETTING_DEFAULTS)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Layers at the start of a stage that change its input to the stage's width and resolution.

    Attributes:
        stride: Factor by which the embedding reduces height and width.
        neuron: Parameters of the embedding's neurons.
        kind: The layers: those of the network's `family`, or an embedding of Max-Former, which any family may use: `embed_orig`
            (strided convolutions), `embed_max` (convolutions with a max-pool) or `embed_max_plus` (four convolutions, three
            max-pools).
    """

    __pydantic_config__ = STRICT
    stride: int = 1
    neuron: Neuron = Neuron()
    kind: EmbeddingKind = "family"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """An embedding followed by blocks of one width. Later stages may be an embedding alone.

    Attributes:
        embed_dim: Number of channels of the blocks.
        embedding: Layers before the first block.
        blocks: The blocks in the order of computation.
    """

    __pydantic_config__ = STRICT
    embed_dim: int
    embedding: Embedding = Embedding()
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        check_embed_dim(self.embed_dim)
        check_at_most("blocks: the number of blocks", len(self.blocks), MAX_DEPTH)
        for block in self.blocks:
            check_block(self.embed_dim, block.num_heads, block.mlp_ratio)

    def hidden_features(self, block: Block) -> int:
        """Return the hidden width of a block's channel mixer: `round(embed_dim * mlp_ratio)`, or `embed_dim` without a ratio.

        Args:
            block: A block of this stage.

        Returns:
            Number of channels.
        """
        return self.embed_dim if block.mlp_ratio is None else round(self.embed_dim * block.mlp_ratio)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A whole network.

    `family` and the fields from `qkv_bias` to `mean_head` are settings: a search never changes them.

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
        conv_bias: Biases in the convolutions of the channel mixer `conv`, as in the large forms of E-SpikeFormer.
        mean_head: With membrane shortcuts, the first head reads the mean membrane potential in place of spikes, as in the large
            forms of E-SpikeFormer. A second head reads spikes.
        stages: The stages in the order of computation, at least one.
        decoder: Neck and heads of a dense task, in place of the classification head; None for classification.
        exit_margin: Confidence margin above which an image stops before the last time step (`autospike.models.early_exit`); with 1
            every image runs all T steps. It changes neither the parameters nor the training of the network.
    """

    __pydantic_config__ = STRICT
    family: str = "spikformer"
    time_steps: int = 4
    shortcut: Shortcut = "sew"
    qkv_bias: bool = False
    attention_scale: float = 0.125
    compact_embedding: bool = False
    distilled: bool = False
    conv_bias: bool = False
    mean_head: bool = False
    stages: tuple[Stage, ...]
    decoder: Decoder | None = None
    exit_margin: float = NEVER

    def __post_init__(self) -> None:
        as_floats(self, "attention_scale", "exit_margin")
        check_scale(self.attention_scale)
        check_exit_margin(self.exit_margin, dense=self.decoder is not None)
        check_time_steps(self.time_steps)
        check_shortcut(self.family, self.shortcut)
        check_compact(self.family, self.compact_embedding)
        check_mean_head(self.mean_head, (self.shortcut,), dense=self.decoder is not None)
        check_stages(self.family, len(self.stages))
        check_first_depth(len(self.stages[0].blocks))
        for i, stage in enumerate(self.stages):
            kind = stage.embedding.kind
            check_stage(self.family, i, stage.embed_dim, stage.embedding.stride, kind)
            if stage.embedding.neuron != Neuron() and not has_embedding_neurons(self.family, i, self.shortcut, kind):
                raise ValueError(
                    f"stages[{i}].embedding.neuron: this embedding has no neurons with {self.shortcut} shortcuts; leave it out"
                )
            for j, block in enumerate(stage.blocks):
                check_groups(f"stages[{i}].blocks[{j}]", block, self.shortcut)
                check_layer_scale(f"stages[{i}].blocks[{j}]", block.layer_scale, (self.shortcut,))
        if self.decoder is not None:
            check_decoder(self.decoder.levels, stages=len(self.stages), distilled=self.distilled)

    @property
    def exits_early(self) -> bool:
        """Whether an image may stop before the last time step."""
        return self.exit_margin < NEVER and self.time_steps > 1

    @cached_property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self.to_dict())

    @property
    def depth(self) -> int:
        """Number of blocks in all stages."""
        return sum(len(stage.blocks) for stage in self.stages)

    @property
    def head_neuron(self) -> Neuron:
        """Neuron before the head with membrane shortcuts: the default one with levels, leak and integration of the last block.

        It is not searched, as in all published networks.
        """
        last = next(stage.blocks[-1] for stage in reversed(self.stages) if stage.blocks).neuron_of("fc1")
        return replace(Neuron(), levels=last.levels, leak=last.leak, integrates=last.integrates)

    @property
    def stride(self) -> int:
        """Factor between the image's height or width and the last stage's."""
        return math.prod(stage.embedding.stride for stage in self.stages)

    @property
    def strides(self) -> tuple[int, ...]:
        """Factor between the image's height or width and that of each stage."""
        return tuple(accumulate((stage.embedding.stride for stage in self.stages), mul))

    def to_dict(self) -> dict[str, Any]:
        """Return the canonical form, which `from_dict` reads.

        Fields that are None and settings that have their default value are left out. A setting that a later version adds therefore
        does not change any id.

        Returns:
            Nested dicts and lists of JSON values.
        """
        canonical: dict[str, Any] = _canonical(self)
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


# Fields that are left out of the JSON form where they have their default value, so that they do not change the ids of architectures
# that were written before these fields existed.
OMITTED_DEFAULTS: dict[type, tuple[str, ...]] = {
    Neuron: ("levels", "leak", "normalised", "integrates"),
    Block: ("layer_scale",),
    Embedding: ("kind",),
    Decoder: tuple(DETECTOR_DEFAULTS),
    Architecture: ("exit_margin",),
}


def _canonical(value: Any) -> Any:
    """Return a dataclass as nested dicts and lists, without None, `OMITTED_DEFAULTS` and dicts that are empty as a result."""
    if not is_dataclass(value):
        return [_canonical(v) for v in value] if isinstance(value, tuple) else value
    kind: type = type(value)
    names, defaults = _written_fields(kind)
    written = (
        (name, v) for name in names if (v := getattr(value, name)) is not None and (name not in defaults or v != defaults[name])
    )
    return {name: found for name, v in written if (found := _canonical(v)) != {}}


@cache
def _written_fields(kind: type) -> tuple[tuple[str, ...], dict[str, object]]:
    """Names of the fields of a dataclass, and the default values of those that are left out where they have them."""
    omitted = OMITTED_DEFAULTS.get(kind, ())
    return tuple(f.name for f in fields(kind)), {f.name: f.default for f in fields(kind) if f.name in omitted}


def check_first_depth(blocks: int) -> None:
    """Check that the first stage has a block.

    Args:
        blocks: Its number of blocks.

    Raises:
        ValueError: It has none.
    """
    if not blocks:
        raise ValueError("stages[0]: depth must be at least 1; only later stages may be an embedding without blocks")


def check_mean_head(mean_head: bool, shortcuts: Sequence[str], *, dense: bool) -> None:
    """Check that a network can have a head that reads the mean membrane potential.

    Args:
        mean_head: Whether it has one.
        shortcuts: Kinds of residual connections of which the network has one.
        dense: Whether the network has a decoder.

    Raises:
        ValueError: It cannot.
    """
    if mean_head and (dense or set(shortcuts) != {"membrane"}):
        raise ValueError("mean_head: for classifiers with membrane shortcuts only; leave it out")


def check_scale(attention_scale: float) -> None:
    """Check the factor on the attention.

    Args:
        attention_scale: The factor.

    Raises:
        ValueError: It is not greater than 0.
    """
    if attention_scale <= 0:
        raise ValueError(f"attention_scale must be greater than 0, got {attention_scale:g}")


def check_decoder(levels: Sequence[int], *, stages: int, distilled: bool) -> None:
    """Check that a network can have a decoder.

    Args:
        levels: Indices of the stages that the decoder reads.
        stages: Number of stages of the network.
        distilled: Whether the network has a second classification head.

    Raises:
        ValueError: It cannot.
    """
    check_stages_of(levels, stages)
    if distilled:
        raise ValueError("distilled: a network with a decoder has no classification heads; leave it out")


def check_exit_margin(exit_margin: float, *, dense: bool) -> None:
    """Check an exit margin.

    Args:
        exit_margin: The margin.
        dense: Whether the network has a decoder.

    Raises:
        ValueError: It is not between 0 and 1, or below 1 for a network with a decoder.
    """
    if not 0 <= exit_margin <= NEVER:
        raise ValueError(f"exit_margin must be between 0 and 1, got {quoted(exit_margin)}")
    if dense and exit_margin < NEVER:
        raise ValueError("exit_margin: for classifiers only; the pixels of an image have no common exit; leave it out")


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


_adapter = TypeAdapter(Architecture)
