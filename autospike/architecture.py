"""An architecture is a nested frozen value: `Architecture > Stage > Block > Neuron`.

It holds what a search may change, and nothing about the data (image size, classes). Depth is `len(blocks)`. It hashes and
compares by value, has one JSON form, and one digest, its `id`. Variation makes new values; nothing is ever changed in place.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from autospike.errors import UserError, first_problem

Family = Literal["spikformer"]

# The neuron after attention fires at half the block's threshold: 0.5 where the others have 1.0 (Spikformer's published code).
RELATIVE_THRESHOLD = {"attention": 0.5}

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
    """The seven neuron groups of a Spikformer block, each free to depart from the block's neuron."""

    __pydantic_config__ = STRICT
    q: NeuronOverride = NeuronOverride()
    k: NeuronOverride = NeuronOverride()
    v: NeuronOverride = NeuronOverride()
    attention: NeuronOverride = NeuronOverride()
    projection: NeuronOverride = NeuronOverride()
    fc1: NeuronOverride = NeuronOverride()
    fc2: NeuronOverride = NeuronOverride()


@dataclass(frozen=True, kw_only=True)
class Block:
    """One encoder block: spiking self-attention, then an MLP."""

    __pydantic_config__ = STRICT
    num_heads: int = 8
    mlp_ratio: float = 4.0
    neuron: Neuron = Neuron()
    groups: NeuronGroups = NeuronGroups()

    def __post_init__(self) -> None:
        _as_floats(self, "mlp_ratio")
        if self.num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {self.num_heads}")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio must be greater than 0, got {self.mlp_ratio:g}")

    def neuron_of(self, group: str) -> Neuron:
        """The neuron of one group: the block's, its threshold scaled where the family says so, then the group's own override.

        An override's threshold is absolute: `groups.attention.v_threshold: 0.5` fires at 0.5.
        """
        scaled = Neuron(v_threshold=self.neuron.v_threshold * RELATIVE_THRESHOLD.get(group, 1.0), tau=self.neuron.tau)
        override: NeuronOverride = getattr(self.groups, group)
        return override.applied_to(scaled)


@dataclass(frozen=True, kw_only=True)
class Stem:
    """Spiking patch splitting: four convolutions, of which the last `pools` halve the image."""

    __pydantic_config__ = STRICT
    pools: int = 2
    neuron: Neuron = Neuron()

    def __post_init__(self) -> None:
        if not 0 <= self.pools <= 4:
            raise ValueError(f"pools counts how many of the stem's four stages halve the image: 0 to 4, got {self.pools}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Blocks of one width."""

    __pydantic_config__ = STRICT
    embed_dim: int
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("a stage needs at least one block")
        if self.embed_dim < 8 or self.embed_dim % 8:
            raise ValueError(
                f"embed_dim must be a multiple of 8, because the stem starts at embed_dim / 8 channels, got {self.embed_dim}"
            )
        for block in self.blocks:
            check_divides(self.embed_dim, block.num_heads)
            if not self.hidden_features(block):
                raise ValueError(f"mlp_ratio {block.mlp_ratio:g} of embed_dim {self.embed_dim} leaves an MLP without neurons")

    def hidden_features(self, block: Block) -> int:
        """Width of a block's MLP."""
        return round(self.embed_dim * block.mlp_ratio)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A whole network: the family, the number of time steps, the stem, and the stages of blocks."""

    __pydantic_config__ = STRICT
    family: Family = "spikformer"
    time_steps: int = 4
    stem: Stem = Stem()
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if self.time_steps < 1:
            raise ValueError(f"time_steps must be at least 1, got {self.time_steps}")
        if len(self.stages) != 1:
            raise ValueError(f"the spikformer family has exactly one stage, got {len(self.stages)}")

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits that name this architecture: SHA-256 of its canonical JSON."""
        return digest(self.to_dict())

    @property
    def depth(self) -> int:
        return sum(len(stage.blocks) for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """The canonical form: every field but the neuron overrides that follow their block."""
        canonical: dict[str, Any] = _without_none(asdict(self))
        return canonical

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


def check_divides(embed_dim: int, num_heads: int) -> None:
    if embed_dim % num_heads:
        allowed = ", ".join(str(n) for n in range(1, embed_dim + 1) if embed_dim % n == 0)
        raise ValueError(f"num_heads {num_heads} does not divide embed_dim {embed_dim}; choose from {allowed}")


_adapter = TypeAdapter(Architecture)
