"""A block of an architecture: a token mixer, a channel mixer, and the parameters of their neurons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal

from pydantic import ConfigDict

from autospike.errors import quoted
from autospike.space.limits import MAX_EMBED_DIM, MAX_LEVELS, MAX_MLP_RATIO, MAX_NUMBER, MIN_THRESHOLD, check_at_most
from autospike.space.mixers import DEPTHWISE, OPERANDS, SPIKING_SEPCONVS, WITH_HEADS, WITH_MLP_RATIO, WITH_PROJECTION_TYPES

TokenMixer = Literal[
    "sdsa_1",
    "sdsa_1_dilated",
    "sdsa_2",
    "sdsa_3",
    "sdsa_4",
    "token_qk",
    "channel_qk",
    "e_sdsa",
    "sepconv",
    "spiking_sepconv_3",
    "spiking_sepconv_7",
    "dwc_3",
    "dwc_5",
    "dwc_7",
    "none",
]
ChannelMixer = Literal["mlp", "conv", "mlp_residual", "replinear", "none"]
ProjectionType = Literal["linear", "repconv", "replinear"]

# Defaults of the fields of a block that only some mixers use (`has_gene`). 8 heads: Meta-SpikeFormer's and QKFormer's code.
CONDITIONAL_GENE_DEFAULTS = {"num_heads": 8, "qkv": "linear", "projection": "linear", "mlp_ratio": 4.0}

# Thresholds relative to the block's: neurons after attention have 0.5 where all others have 1.0 (published code of all families).
THRESHOLD_FACTORS = {"attention": 0.5}

# Neuron parameters of all published networks. The largest and smallest architecture of a space have the choices nearest to them.
PUBLISHED_NEURON = {"v_threshold": 1.0, "tau": 2.0, "levels": 1}

STRICT = ConfigDict(extra="forbid", strict=True)


def as_floats(value: object, *names: str) -> None:
    """Convert fields to float, so that 4 and 4.0 give the same JSON and the same id.

    Args:
        value: A frozen dataclass, which is changed in place.
        *names: Names of the fields; those that are None are left as they are.

    Raises:
        ValueError: A number is larger than `MAX_NUMBER`, or not finite.
    """
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

    With `levels` D > 1 it is an integer neuron: `h = v - v / tau + x`, it emits `s = round(clip(h / v_threshold, 0, D))`, and
    `v = h - s * v_threshold`. D virtual time steps of s binary spikes give the same sums.

    Attributes:
        v_threshold: Firing threshold, greater than 0.
        tau: Membrane time constant in time steps, greater than 1.
        levels: Largest value that the neuron emits in a time step, D. 1: spikes.
        leak: Whether the potential decays. Without a leak `h = v + x`, and tau has no effect.
        normalised: Whether an emitted s means s / D to the layer that reads it. Spikes that are added to a stream are not divided.
        integrates: Whether the potential lasts to the next time step. Otherwise `h = x`: every time step is computed alone, and tau
            and leak have no effect.
    """

    __pydantic_config__ = STRICT
    v_threshold: float = 1.0
    tau: float = 2.0
    levels: int = 1
    leak: bool = True
    normalised: bool = False
    integrates: bool = True

    def __post_init__(self) -> None:
        as_floats(self, "v_threshold", "tau")
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, got {quoted(self.levels)}")
        check_at_most("levels", self.levels, MAX_LEVELS)
        if self.v_threshold < MIN_THRESHOLD:
            raise ValueError(f"v_threshold must be greater than 0, at least {MIN_THRESHOLD:g}, got {self.v_threshold:g}")
        if self.tau <= 1:
            raise ValueError(f"tau must be greater than 1 (a neuron with tau 1 does not integrate), got {self.tau:g}")

    @property
    def output_scale(self) -> float:
        """What one level of the output means to the layer that reads it: 1 / D if normalised, else 1."""
        return 1 / self.levels if self.normalised else 1.0


@dataclass(frozen=True, kw_only=True)
class NeuronOverride:
    """Parameters of one neuron group that differ from those of its block.

    Attributes:
        v_threshold: Absolute firing threshold, or None to inherit the block's.
        tau: Membrane time constant in time steps, or None to inherit the block's.
        levels: Largest emitted value, or None to inherit the block's.
    """

    __pydantic_config__ = STRICT
    v_threshold: float | None = None
    tau: float | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        if self.v_threshold is not None or self.tau is not None or self.levels is not None:
            as_floats(self, "v_threshold", "tau")
            self.applied_to(Neuron())

    def applied_to(self, neuron: Neuron) -> Neuron:
        """Return a neuron with the overridden parameters replaced.

        Args:
            neuron: Supplies the parameters that are None here.

        Returns:
            The resulting parameters.
        """
        own = {name: value for name in PUBLISHED_NEURON if (value := getattr(self, name)) is not None}
        return replace(neuron, **own)


NO_OVERRIDE = NeuronOverride()


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
        depthwise: Neurons between the two convolutions of a spiking SepConv.
        projection: Neurons at the output of the token mixer (SEW and vanilla shortcuts).
        channel_input: Neurons at the input of the channel mixer (membrane shortcuts).
        fc1: Neurons between the two layers of the channel mixer.
        fc2: Neurons at the output of the channel mixer (SEW and vanilla shortcuts).
    """

    __pydantic_config__ = STRICT
    token_input: NeuronOverride = NO_OVERRIDE
    q: NeuronOverride = NO_OVERRIDE
    k: NeuronOverride = NO_OVERRIDE
    v: NeuronOverride = NO_OVERRIDE
    attention: NeuronOverride = NO_OVERRIDE
    sepconv: NeuronOverride = NO_OVERRIDE
    depthwise: NeuronOverride = NO_OVERRIDE
    projection: NeuronOverride = NO_OVERRIDE
    channel_input: NeuronOverride = NO_OVERRIDE
    fc1: NeuronOverride = NO_OVERRIDE
    fc2: NeuronOverride = NO_OVERRIDE


def token_groups(token_mixer: str, shortcut: str) -> tuple[str, ...]:
    """Return the neuron groups of a token mixer in the order of computation.

    Args:
        token_mixer: Token mixer of the block.
        shortcut: Kind of residual connection of the network.

    Returns:
        Field names of `NeuronGroups`.
    """
    if token_mixer == "none":
        return ()
    inside: tuple[str, ...] = ()
    if token_mixer in OPERANDS:
        inside = (*OPERANDS[token_mixer], "attention")
    elif token_mixer not in DEPTHWISE:
        inside = ("sepconv", "depthwise") if token_mixer in SPIKING_SEPCONVS else ("sepconv",)
    return ("token_input", *inside) if shortcut == "membrane" else (*inside, "projection")


def channel_groups(channel_mixer: str, shortcut: str) -> tuple[str, ...]:
    """Return the neuron groups of a channel mixer in the order of computation.

    Args:
        channel_mixer: Channel mixer of the block.
        shortcut: Kind of residual connection of the network.

    Returns:
        Field names of `NeuronGroups`.
    """
    if channel_mixer == "none":
        return ()
    if channel_mixer == "replinear":
        return ("channel_input",) if shortcut == "membrane" else ("fc2",)
    return ("channel_input", "fc1") if shortcut == "membrane" else ("fc1", "fc2")


def neuron_groups(token_mixer: str, channel_mixer: str, shortcut: str) -> tuple[str, ...]:
    """Return the neuron groups of a block in the order of computation.

    Args:
        token_mixer: Token mixer of the block.
        channel_mixer: Channel mixer of the block.
        shortcut: Kind of residual connection of the network.

    Returns:
        Field names of `NeuronGroups`.
    """
    return token_groups(token_mixer, shortcut) + channel_groups(channel_mixer, shortcut)


def has_gene(name: str, token_mixer: str, channel_mixer: str) -> bool:
    """Return whether a field of `Block` has an effect with two mixers.

    Args:
        name: Field of `Block`.
        token_mixer: Token mixer of the block.
        channel_mixer: Channel mixer of the block.

    Returns:
        False if the field must be None.
    """
    if name == "num_heads":
        return token_mixer in WITH_HEADS
    if name == "mlp_ratio":
        return channel_mixer in WITH_MLP_RATIO
    return token_mixer in WITH_PROJECTION_TYPES if name in ("qkv", "projection") else True


def check_mixers(token_mixer: str, channel_mixer: str) -> None:
    """Check that a block has a mixer.

    Args:
        token_mixer: Token mixer of the block.
        channel_mixer: Channel mixer of the block.

    Raises:
        ValueError: Both are `none`.
    """
    if token_mixer == channel_mixer == "none":
        raise ValueError("a block needs a token mixer or a channel mixer; both are none")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A token mixer followed by a channel mixer, each in a residual branch.

    Attributes:
        token_mixer: Mixes positions: an attention, a separable convolution (`sepconv`; `spiking_sepconv_K` with neurons before each
            layer), a depthwise convolution (`dwc_K`), or `none`.
        channel_mixer: Mixes channels: two linear layers (`mlp`), two 3x3 convolutions (`conv`), two linear layers with a shortcut
            each (`mlp_residual`), a linear layer that is trained as two (`replinear`), or `none`.
        num_heads: Attention heads; must divide the stage's `embed_dim`. None where the token mixer has no heads; 8 by default.
        qkv: Layer that computes queries, keys and values. None where the token mixer is not an attention; linear by default.
        projection: Output layer of the attention. None where the token mixer is not an attention; linear by default.
        mlp_ratio: Hidden width of the channel mixer as a multiple of `embed_dim`. None where the channel mixer is `mlp_residual` or
            `replinear`, whose hidden width is `embed_dim`, or `none`; 4 by default.
        layer_scale: Whether the output of each residual branch is multiplied by a learnable factor for each channel, 1e-6 at first
            (CaiT; Touvron et al., ICCV 2021).
        neuron: Parameters of the block's neurons.
        groups: Overrides for single neuron groups.
    """

    __pydantic_config__ = STRICT
    token_mixer: TokenMixer = "sdsa_3"
    channel_mixer: ChannelMixer = "mlp"
    num_heads: int | None = None
    qkv: ProjectionType | None = None
    projection: ProjectionType | None = None
    mlp_ratio: float | None = None
    layer_scale: bool = False
    neuron: Neuron = Neuron()
    groups: NeuronGroups = NeuronGroups()

    def __post_init__(self) -> None:
        check_mixers(self.token_mixer, self.channel_mixer)
        as_floats(self, "mlp_ratio")
        for name, default in CONDITIONAL_GENE_DEFAULTS.items():
            self._resolve_default(name, default)
        if self.num_heads is not None and self.num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {quoted(self.num_heads)}")
        if self.mlp_ratio is not None:
            if self.mlp_ratio <= 0:
                raise ValueError(f"mlp_ratio must be greater than 0, got {self.mlp_ratio:g}")
            check_at_most("mlp_ratio", self.mlp_ratio, MAX_MLP_RATIO)
        for group in THRESHOLD_FACTORS:
            self.neuron_of(group)  # raises if the scaled threshold is too small

    def _resolve_default(self, name: str, default: object) -> None:
        """Replace None by the default, or reject a value, depending on whether the mixers use the field."""
        value, used = getattr(self, name), has_gene(name, self.token_mixer, self.channel_mixer)
        if value is None and used:
            object.__setattr__(self, name, default)
        elif value is not None and not used:
            mixer = f"channel_mixer {self.channel_mixer}" if name == "mlp_ratio" else f"token_mixer {self.token_mixer}"
            raise ValueError(f"{name} has no effect with {mixer}; leave it out")

    def neuron_of(self, group: str) -> Neuron:
        """Return the parameters of one neuron group.

        The block's threshold is multiplied by the group's factor (0.5 after attention, else 1). Then the group's override is
        applied, whose threshold is absolute: `groups.attention.v_threshold: 0.5` fires at 0.5.

        Args:
            group: Field name of `NeuronGroups`.

        Returns:
            The resulting parameters.
        """
        scaled = replace(self.neuron, v_threshold=self.neuron.v_threshold * THRESHOLD_FACTORS.get(group, 1.0))
        override: NeuronOverride = getattr(self.groups, group)
        return override.applied_to(scaled)


def check_embed_dim(embed_dim: int) -> None:
    """Check the width of a stage.

    Args:
        embed_dim: The width.

    Raises:
        ValueError: It is less than 1 or more than `MAX_EMBED_DIM`.
    """
    if embed_dim < 1:
        raise ValueError(f"embed_dim must be at least 1, got {quoted(embed_dim)}")
    check_at_most("embed_dim", embed_dim, MAX_EMBED_DIM)


def check_layer_scale(where: str, layer_scale: bool, shortcuts: Iterable[str]) -> None:
    """Check that a block can have a layer scale: a factor before neurons would be a threshold.

    Args:
        where: Path of the block, for the error message.
        layer_scale: Whether it has one.
        shortcuts: Kinds of residual connections of which the network has one.

    Raises:
        ValueError: It cannot.
    """
    others = [shortcut for shortcut in shortcuts if shortcut != "membrane"]
    if layer_scale and others:
        raise ValueError(f"{where}.layer_scale: for membrane shortcuts only, and the network has {' or '.join(others)} shortcuts")


def check_block(embed_dim: int, num_heads: int | None, mlp_ratio: float | None) -> None:
    """Check that a block is possible in a stage.

    Args:
        embed_dim: Width of the stage.
        num_heads: Attention heads of the block, None if it has none.
        mlp_ratio: Hidden width of the channel mixer as a multiple of `embed_dim`, None if it is no gene.

    Raises:
        ValueError: `embed_dim` is less than 1 or more than `MAX_EMBED_DIM`, the heads do not divide it, or the channel mixer has no
            hidden channels.
    """
    check_embed_dim(embed_dim)
    if num_heads is not None and embed_dim % num_heads:
        allowed = ", ".join(str(n) for n in range(1, embed_dim + 1) if embed_dim % n == 0)
        raise ValueError(f"num_heads {quoted(num_heads)} does not divide embed_dim {embed_dim}; choose from {allowed}")
    if mlp_ratio is not None and not round(embed_dim * mlp_ratio):
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
    existing = neuron_groups(block.token_mixer, block.channel_mixer, shortcut)
    for f in fields(block.groups):
        if f.name not in existing and getattr(block.groups, f.name) != NO_OVERRIDE:
            raise ValueError(
                f"{where}.groups.{f.name}: this neuron group does not exist with token_mixer {block.token_mixer} and {shortcut} "
                f"shortcuts; choose from {', '.join(existing)}"
            )
