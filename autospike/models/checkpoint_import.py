"""Checkpoints of the published code: recognised by their keys, rebuilt as our architecture and model.

`load_reference` takes a state dict with the keys of Spikformer (ImageNet, CIFAR and event form), the Spike-driven Transformer,
Meta-SpikeFormer (with or without its second head) or QKFormer (ImageNet and CIFAR form). Widths, depths, hidden widths, classes and
channels are read from shapes. Two things leave no trace in a state dict, and may be said: the number of heads, and by how much the
one-stage families shrink an image. What each published code calls what is in `autospike.models.checkpoint_formats`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from autospike.errors import UserError
from autospike.models.checkpoint_formats import DIALECTS, Dialect, State, in_chans
from autospike.models.contract import SpikingModel
from autospike.models.registry import build_model
from autospike.space.architecture import Architecture


def load_reference(
    state_dict: State, *, num_heads: int | None = None, stride: int | None = None, time_steps: int | None = None
) -> tuple[SpikingModel, Architecture]:
    """The model, in eval mode with the checkpoint's parameters and statistics, and its architecture.

    Args:
        state_dict: a published classification network's, under its own keys.
        num_heads: unless given, as published: 8 in Meta-SpikeFormer and QKFormer's CIFAR form; D / 64 in ImageNet forms of
            Spikformer and QKFormer, D / 32 in Spikformer's CIFAR form, D / 16 in its event form (at least 1); the Spike-driven
            Transformer's keys tell.
        stride: of the one-stage families; unless given, 16 in Spikformer's ImageNet and event forms, 4 in its CIFAR form; of the
            Spike-driven Transformer 16 for 1000 classes, otherwise 4, and 8 for events.
        time_steps: T; unless given, 4, of event forms 16, and 8 of Meta-SpikeFormer's (HAR-DVS).

    Raises:
        UserError: no published network has these keys; a key is foreign or missing, or a shape does not fit: names the first one.
    """
    dialect = _recognise(state_dict)
    try:
        return _loaded(dialect, state_dict, num_heads, stride, time_steps)
    except KeyError as error:
        raise UserError(f"state dict of {dialect.name}: key {error.args[0]!r} is missing") from None
    except ValueError as error:
        raise UserError(f"state dict of {dialect.name}: {error}") from None


def _loaded(
    dialect: Dialect, state: State, num_heads: int | None, stride: int | None, time_steps: int | None
) -> tuple[SpikingModel, Architecture]:
    for key, tensor in state.items():
        counter = key.endswith("num_batches_tracked")
        if not isinstance(tensor, Tensor) or not (counter or (tensor.is_floating_point() and tensor.dim() and tensor.numel())):
            raise ValueError(f"key {key!r} holds no weights: {_described(tensor)}")
    architecture = dialect.architecture(state, num_heads, stride)
    if time_steps is not None:
        architecture = replace(architecture, time_steps=time_steps)
    with torch.device("meta"):
        model = build_model(architecture, num_classes=len(state["head.weight"]), in_chans=in_chans(state))
    keys = their_keys(dialect, state, model.state_dict())
    for key in state:
        if key not in keys.values() and not re.fullmatch(dialect.dead, key):
            raise ValueError(f"key {key!r} has no place in the network that the others make")
    fitted = {name: _fitted(key, state[key], model.state_dict()[name].shape) for name, key in keys.items()}
    model.load_state_dict(fitted, assign=True)
    return model.eval(), architecture


def their_keys(dialect: Dialect, state: State, ours: Iterable[str]) -> dict[str, str]:
    """What a state dict calls each of our names.

    Raises:
        KeyError: it has no such key.
    """
    keys = {}
    for name in ours:
        stem, _, leaf = name.rpartition(".")
        found = next((m, templates) for pattern, templates in dialect.naming if (m := re.fullmatch(pattern, stem)))
        candidates = [f"{found[0].expand(template)}.{leaf}" for template in found[1]]
        keys[name] = next((key for key in candidates if key in state), "")
        if not keys[name]:
            raise KeyError(next((key for key in candidates if key.count(".") > 1 and _has_kin(key, state)), candidates[0]))
    return keys


def _has_kin(key: str, state: State) -> bool:
    """Whether the key's neighbours are there, and its like elsewhere: codes say `q_conv` or `q_linear`, `attn` or `tssa`."""
    neighbourhood, part, leaf = key.rsplit(".", 2)
    return any(k.startswith(f"{neighbourhood}.") for k in state) and any(k.endswith(f".{part}.{leaf}") for k in state)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or a torch file that holds tensors and plain values.

    Raises:
        UserError: the file is missing, or holds anything else; nothing in it is ever run.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a published checkpoint (.safetensors, .pth, .pt, .pth.tar)")
    try:
        held = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except Exception as error:  # a damaged file makes its reader fail in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: no checkpoint that can be read safely ({reason})") from None
    for name in ("state_dict", "model"):
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    if not isinstance(held, dict) or not held or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in held.items()):
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors, alone or under state_dict or model)")
    return {name.removeprefix("module."): tensor for name, tensor in held.items()}


def _load_torch(path: Path) -> object:
    with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their arguments beside the weights
        return torch.load(path, map_location="cpu", weights_only=True)


def _recognise(state: State) -> Dialect:
    first_query = state.get("block.0.attn.q_conv.weight")
    if isinstance(first_query, Tensor) and first_query.dim() == 4:  # of the two one-stage networks one convolves images, one tokens
        return DIALECTS[0]
    for dialect in DIALECTS:
        if any(re.fullmatch(dialect.signature, key) for key in state):
            return dialect
    first = next(iter(state), None)
    if str(first).startswith(("stages.", "model.shared.")):
        raise UserError(
            "state dict: these are this package's own names; open the exported folder that holds it with timm, or with --from"
        )
    raise UserError(
        f"state dict: no published network that is known has the key {first!r}; known are {', '.join(d.name for d in DIALECTS)}"
    )


def _fitted(key: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """A tensor in our shape: a 1x1 convolution is a linear map.

    Raises:
        ValueError: it does not fit.
    """
    fitted = tensor.reshape(tensor.shape[: len(shape)]) if set(tensor.shape[len(shape) :]) <= {1} else tensor
    if fitted.shape != shape:
        raise ValueError(f"key {key!r} has shape {tuple(tensor.shape)}, which does not fit {tuple(shape)}")
    return fitted.float() if fitted.dtype in (torch.float16, torch.bfloat16, torch.float64) else fitted.clone()


def _described(value: object) -> str:
    return f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
