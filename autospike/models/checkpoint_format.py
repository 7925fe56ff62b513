"""What a checkpoint format of the published code is, and what all of them need: sizes of tensors, and rules of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from autospike.space.architecture import Architecture

StateDict = Mapping[str, Tensor]
# A template of `re.Match.expand`, or a function of the match.
Template = str | Callable[[re.Match[str]], str]
# A pattern of names in our model, and templates of the names in the published code.
NameRules = tuple[tuple[str, tuple[Template, ...]], ...]


def _published_weights(_architecture: Architecture) -> float:
    return 1.0


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat:
    """The checkpoint format of one family's published code.

    Attributes:
        name: The name of the network.
        signature: Pattern of keys by which the format is recognised: no later format of `FORMATS` has such a key.
        name_rules: Patterns of our parameter names without their last part (`weight`, `running_mean`, ...), each with templates of
            the published names. Of several templates, the one whose key exists is used.
        unused: Pattern of keys that the published code never uses.
        architecture: Returns the architecture of a state dict. It is called with the state dict, `num_heads` and `stride`, of which
            the last two are None for the published value, and with `levels` and `integrates` if they are given and the network has
            `integers`. It raises a KeyError for a missing key, and a ValueError if a shape or an argument does not fit.
        integers: Whether the network has integer neurons, whose levels cannot be read from a state dict.
        spike_weight_factor: Returns the factor between our weights that read normalised integers and the published ones, for the
            architecture that `architecture` returned.
    """

    name: str
    signature: str
    name_rules: NameRules
    unused: str
    architecture: Callable[..., Architecture]
    integers: bool = False
    spike_weight_factor: Callable[[Architecture], float] = _published_weights


def size(state: StateDict, key: str, dim: int) -> int:
    """Return the size of a tensor along a dimension.

    Args:
        state: A state dict.
        key: The key of the tensor.
        dim: The dimension.

    Raises:
        KeyError: The tensor does not exist.
        ValueError: It has too few dimensions.
    """
    tensor = state[key]
    if tensor.dim() <= dim:
        raise ValueError(f"key {key!r} has shape {tuple(tensor.shape)}: too few dimensions")
    return tensor.shape[dim]


def in_chans(state: StateDict) -> int:
    """Return the number of image channels of a network.

    Args:
        state: Its state dict.

    Raises:
        KeyError: The weight of the first convolution is missing.
        ValueError: It has too few dimensions.
    """
    stems = ("patch_embed", "patch_embed1", "downsample1_1")
    embedding = next((stem for stem in stems if any(key.startswith(f"{stem}.") for key in state)), stems[0])
    if f"{embedding}.embed4.embed_conv.weight" in state:  # Max-Former, ImageNet form
        return size(state, f"{embedding}.embed1.embed_conv.weight", 1)
    first = "encode_conv" if embedding == "downsample1_1" else "proj_conv"
    return size(state, f"{embedding}.{first}.weight", 1)


def count(state: StateDict, prefix: str) -> int:
    """Return the number of blocks under a prefix.

    Args:
        state: A state dict.
        prefix: The path before the numbers of the blocks.

    Raises:
        KeyError: There are none, or one is missing before the last one.
    """
    found = {int(m[1]) for key in state if (m := re.match(rf"{re.escape(prefix)}\.(\d{{1,6}})\.", key))}
    missing = next(i for i in range(len(found) + 1) if i not in found)
    if not found or missing < len(found):
        raise KeyError(f"{prefix}.{missing}")
    return len(found)


def width_ratio(state: StateDict, key: str) -> float:
    """Return the ratio of output to input width of a weight: the MLP ratio, for the first of its two layers.

    Args:
        state: A state dict.
        key: The key of the weight.
    """
    return size(state, key, 0) / size(state, key, 1)


def refuse_stride(stride: int | None) -> None:
    """Check that no stride is given for a network whose strides are known.

    Args:
        stride: The stride, None if there is none.

    Raises:
        ValueError: There is one.
    """
    if stride is not None:
        raise ValueError(f"stride can be given for the one-stage families only, got {stride}; omit it")


HEAD: NameRules = ((r"head", (r"head",)),)


def downsampling_rules(stage: int, theirs: str) -> NameRules:
    """Return the rules for the embedding of a stage of Meta-SpikeFormer or E-SpikeFormer.

    Args:
        stage: The number of our stage.
        theirs: Its path in the published code.
    """
    return ((rf"stages\.{stage}\.embedding\.conv\.(?P<part>conv|bn)", (rf"{theirs}.encode_\g<part>",)),)
