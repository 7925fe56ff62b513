"""Import checkpoints of the published code as models of this package.

`load_reference` recognises the state dicts of Spikformer (ImageNet, CIFAR and event form), the Spike-driven Transformer,
Meta-SpikeFormer (with or without its second head), E-SpikeFormer (base, large and event forms), QKFormer and Max-Former (ImageNet,
CIFAR and event form) by their keys. Widths, depths, hidden widths, number of classes and channels are read from shapes. The number
of heads, the stride of the one-stage families, the levels of integer neurons and whether those of event forms integrate cannot be
read from a state dict, and may be given.
`autospike.models.checkpoint_formats` describes the formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from autospike.errors import UserError
from autospike.models.checkpoint_format import CheckpointFormat, StateDict, in_chans
from autospike.models.checkpoint_formats import FORMATS
from autospike.models.checkpoint_reader import MAX_KEYS, open_checkpoint, read_checkpoint, too_many_keys
from autospike.models.contract import SpikingModel
from autospike.models.registry import build_model
from autospike.space.architecture import Architecture
from autospike.space.limits import MAX_LEVELS

# Types of weights. Numbers of 8 bits are not among them: they need scales, which a state dict does not name.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

__all__ = ["load_reference", "open_checkpoint", "published_keys", "read_checkpoint", "recognise_format"]


def load_reference(
    state_dict: StateDict,
    *,
    num_heads: int | None = None,
    stride: int | None = None,
    time_steps: int | None = None,
    levels: int | None = None,
    integrates: bool = False,
) -> tuple[SpikingModel, Architecture]:
    """Build the model of a published state dict.

    Args:
        state_dict: Of a published classification network, with its own keys.
        num_heads: Number of attention heads. By default as published: 8 in Meta-SpikeFormer, E-SpikeFormer and the CIFAR forms of
            QKFormer and Max-Former, 16 in their event forms; D / 64 in the ImageNet forms of Spikformer, QKFormer and Max-Former,
            D / 32 in the CIFAR form of Spikformer and D / 16 in its event form (at least 1); in the Spike-driven Transformer it is
            read from the state dict.
        stride: Total stride of a one-stage family. By default as published: in Spikformer 16 in the ImageNet and event forms and 4
            in the CIFAR form; in the Spike-driven Transformer 8 for events, 16 for 1000 classes, and otherwise 4.
        time_steps: T. By default as published: 4, but 1 in E-SpikeFormer; 16 in event forms, but 8 in those of Meta-SpikeFormer
            and E-SpikeFormer.
        levels: Largest value that the integer neurons of an E-SpikeFormer emit. By default as published: 4.
        integrates: Whether the neurons of an event form of E-SpikeFormer integrate over the frames, without a leak. By default
            every frame is computed alone.

    Returns:
        The model, in eval mode with the parameters and statistics of the checkpoint, and its architecture.

    Raises:
        UserError: No known network has these keys, or a key is unexpected or missing, has a wrong shape or values that are not
            finite. The message names the first such key.
    """
    if len(state_dict) > MAX_KEYS:
        raise UserError(f"state dict: {too_many_keys(len(state_dict))}")
    checkpoint_format = recognise_format(state_dict)
    try:
        architecture = _architecture(checkpoint_format, state_dict, num_heads, stride, levels, integrates=integrates)
        if time_steps is not None:
            architecture = replace(architecture, time_steps=time_steps)
        return _load(checkpoint_format, state_dict, architecture), architecture
    except KeyError as error:
        raise UserError(f"state dict of {checkpoint_format.name}: key {error.args[0]!r} is missing") from None
    except ValueError as error:
        raise UserError(f"state dict of {checkpoint_format.name}: {error}") from None


def _architecture(
    checkpoint_format: CheckpointFormat,
    state: StateDict,
    num_heads: int | None,
    stride: int | None,
    levels: int | None,
    *,
    integrates: bool,
) -> Architecture:
    """The architecture of a state dict.

    Raises:
        KeyError: A key is missing.
        ValueError: A value is no tensor of weights, a shape does not fit, or an argument has no effect.
    """
    if levels is not None and not checkpoint_format.integers:
        raise ValueError(f"levels can be given for E-SpikeFormer only, got {levels}; omit it")
    if levels is not None and not 2 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels must be from 2 to {MAX_LEVELS}, got {levels}")
    if integrates and not checkpoint_format.integers:
        raise ValueError("integrating neurons can be chosen for the event forms of E-SpikeFormer only; omit integrates")
    for key, tensor in state.items():
        counter = key.endswith("num_batches_tracked")
        if not isinstance(tensor, Tensor) or not (counter or (tensor.dtype in DTYPES and tensor.dim() and tensor.numel())):
            raise ValueError(f"key {key!r} holds no weights: {_describe(tensor)}")
    given = {**({} if levels is None else {"levels": levels}), **({"integrates": True} if integrates else {})}
    return checkpoint_format.architecture(state, num_heads, stride, **given)


def _load(checkpoint_format: CheckpointFormat, state: StateDict, architecture: Architecture) -> SpikingModel:
    """Build the model.

    Raises:
        KeyError: A key is missing.
        ValueError: A key is unexpected, or a shape does not fit.
    """
    with torch.device("meta"):
        model = build_model(architecture, num_classes=len(state["head.weight"]), in_chans=in_chans(state))
    keys = published_keys(checkpoint_format, state, model.state_dict())
    used = set(keys.values())
    for key in state:
        if key not in used and not re.fullmatch(checkpoint_format.unused, key):
            raise ValueError(f"key {key!r} does not belong to the network that the other keys describe")
    own = model.state_dict()
    weights = {name: _reshape(key, state[key], own[name].shape) for name, key in keys.items()}
    factor = checkpoint_format.spike_weight_factor(architecture)
    if factor != 1:
        for name, module in model.named_modules():
            if getattr(module, "input_scale", 1.0) != 1:
                weights[f"{name}.weight"] = weights[f"{name}.weight"] * factor  # the state dict of the caller is not changed
    for name, tensor in weights.items():
        _check_values(keys[name], tensor)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def published_keys(checkpoint_format: CheckpointFormat, state: StateDict, names: Iterable[str]) -> dict[str, str]:
    """Find the key of each parameter in a published state dict.

    Args:
        checkpoint_format: The format of the state dict.
        state: The state dict.
        names: Names of parameters and buffers in our model.

    Returns:
        Keys of the state dict by our names.

    Raises:
        KeyError: A key is missing.
    """
    keys = {}
    for name in names:
        stem, _, leaf = name.rpartition(".")
        candidates = _expanded(checkpoint_format, name) or [f"{theirs}.{leaf}" for theirs in _expanded(checkpoint_format, stem)]
        keys[name] = next((key for key in candidates if key in state), "")
        if not keys[name]:
            raise KeyError(next((key for key in candidates if key.count(".") > 1 and _is_plausible(key, state)), candidates[0]))
    return keys


def _expanded(checkpoint_format: CheckpointFormat, name: str) -> list[str]:
    """What the first rule whose pattern matches a name gives."""
    for pattern, templates in checkpoint_format.name_rules:
        if match := re.fullmatch(pattern, name):
            return [template(match) if callable(template) else match.expand(template) for template in templates]
    return []


def _is_plausible(key: str, state: StateDict) -> bool:
    """Whether a missing key looks like one of this state dict.

    Some published names have variants (`q_conv` and `q_linear`, `attn` and `tssa`). The variant of this state dict has other keys
    in the same module, and the same last parts in another module.
    """
    module, part, leaf = key.rsplit(".", 2)
    return any(k.startswith(f"{module}.") for k in state) and any(k.endswith(f".{part}.{leaf}") for k in state)


def recognise_format(state: StateDict) -> CheckpointFormat:
    """Find the format of a published state dict.

    Args:
        state: The state dict.

    Returns:
        Its format.

    Raises:
        UserError: No known network has such keys.
    """
    first_query = state.get("block.0.attn.q_conv.weight")
    if isinstance(first_query, Tensor) and first_query.dim() == 4:  # Spikformer convolves tokens, in one dimension
        return FORMATS[0]  # Spike-driven Transformer
    for checkpoint_format in FORMATS:
        if any(re.fullmatch(checkpoint_format.signature, key) for key in state):
            return checkpoint_format
    first = next(iter(state), None)
    if str(first).startswith(("stages.", "model.shared.")):
        raise UserError(
            "state dict: these are names of this package; open the exported folder that contains it with timm, or with --from"
        )
    known = ", ".join(dict.fromkeys(f.name for f in FORMATS))
    raise UserError(f"state dict: no known published network has the key {first!r}; known are {known}")


def _reshape(key: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """Reshape a published tensor to the shape of our parameter: a 1x1 convolution becomes a linear layer.

    Raises:
        ValueError: The shape does not fit.
    """
    reshaped = tensor.reshape(tensor.shape[: len(shape)]) if set(tensor.shape[len(shape) :]) <= {1} else tensor
    if reshaped.shape != shape:
        raise ValueError(f"key {key!r} has shape {tuple(tensor.shape)}, which does not fit {tuple(shape)}")
    return reshaped.clone() if reshaped.dtype == torch.float32 or not reshaped.is_floating_point() else reshaped.float()


def _check_values(key: str, tensor: Tensor) -> None:
    """Check that weights are finite, and that no variance is negative.

    Raises:
        ValueError: They are not.
    """
    finite = tensor.isfinite()
    if not finite.all():
        first = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"key {key!r} has {int((~finite).sum()):,} of {tensor.numel():,} values that are NaN or infinite "
            f"({tensor[tuple(first)].item()} at {first}); the training diverged or the file is damaged: take an earlier checkpoint"
        )
    if key.endswith("running_var") and (tensor < 0).any():
        raise ValueError(f"key {key!r} has a negative variance, {tensor.min().item():g}; the file is damaged")


def _describe(value: object) -> str:
    return f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
