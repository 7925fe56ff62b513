"""Read checkpoint files as training scripts save them. No code in a file is executed.

A training script saves the weights alone, or in a mapping with an optimizer, arguments and metrics, often with an exponential
moving average of the weights beside them. Wrappers add prefixes to the names: DistributedDataParallel and AveragedModel
(`module.`), `torch.compile` (`_orig_mod.`), Lightning (`model.`), FSDP. `open_checkpoint` finds the weights and removes the
prefixes.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import pathlib
import re
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from autospike.errors import UserError
from autospike.models.file_kinds import count_zip_entries, describe_file, has_wrong_checksum, is_safetensors, is_torch_zip

Weights = Literal["ema", "raw"]

# The largest published network has about 700 keys, and a file with optimizer state and an average about 3,000 tensors.
MAX_KEYS = 10_000
MAX_TENSORS_OF_A_FILE = 100_000

# Entries that training scripts save weights under, the preferred ones first. Others are used if they alone have weights.
RAW_ENTRIES = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params", "module")
# timm's entries first. Any other name with one of these words is an average as well.
EMA_ENTRIES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
EMA_WORD = re.compile(r"(?<![a-z])(ema|swa|avg|averaged?|shadow)(?![a-z])")
# Parts of a checkpoint that hold tensors by the names of weights, but no weights.
NO_WEIGHTS = re.compile(r"optim|sched|scaler|grad")
MAX_DEPTH = 4

# Names of wrappers that are part of a path anywhere, and those in front of it.
INNER_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
OUTER_WRAPPERS = ("module", "model", "net", "network")
# Counters beside the weights: of torch's AveragedModel, and of thop, which adds two to every module.
N_AVERAGED, COUNTERS = "n_averaged", {"n_averaged", "total_ops", "total_params"}
# A key of any published network that no other part of a checkpoint has, with what stands in front of it.
FIRST_LAYER = re.compile(r"((?:[^.]+\.)*?)(patch_embed1?\.(proj|rpe)_|downsample1_1\.encode_).+")
# How Hugging Face names the parts of a checkpoint: model-00001-of-00002.safetensors. A checkpoint of one part is complete.
SHARD = re.compile(r"-(\d{5})-of-(?!00001\b)(\d{5})\.")
# First components of the names of heads, which may be beside a wrapped backbone.
HEADS = ("head.", "head_kd.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of a checkpoint file.

    Attributes:
        state_dict: The weights by name, without prefixes of wrappers.
        weights: Whether they are an average or the raw weights.
        entry: Where they are in the file, such as `state_dict_ema`; empty if the file has nothing else.
        has_other: Whether the file has the other kind as well.
        unnamed_average: The entry of an average without names, which cannot be read; empty if there is none.
    """

    state_dict: dict[str, Tensor]
    weights: Weights
    entry: str
    has_other: bool
    unnamed_average: str = ""

    @property
    def choice(self) -> str | None:
        """A sentence on the weights that were taken; None if there was nothing to choose or to know."""
        if self.weights == "raw" and not self.has_other:
            average = f"the average under {self.unnamed_average} is a list without names, which cannot be read"
            return f"takes the raw weights; {average}" if self.unnamed_average else None
        kind, other = ("average", "raw") if self.weights == "ema" else ("raw", "ema")
        where = f" ({self.entry})" if self.entry else ""
        beside = f"; --weights {other} takes the {'raw weights' if other == 'raw' else 'average'}" if self.has_other else ""
        return f"takes the {kind} {'of the weights' if kind == 'average' else 'weights'}{where}{beside}"


def read_checkpoint(path: Path, weights: Weights | None = None) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint file; see `open_checkpoint`.

    Args:
        path: The file.
        weights: "ema" for the average of the weights, "raw" for the others; None for the average if there is one.

    Returns:
        The state dict, without prefixes of wrappers.

    Raises:
        UserError: The file does not exist, or contains anything else.
    """
    return open_checkpoint(path, weights).state_dict


def open_checkpoint(path: Path, weights: Weights | None = None) -> Checkpoint:
    """Read a checkpoint file. No code in the file is executed.

    Args:
        path: A safetensors file, or a torch file that contains only tensors and plain values.
        weights: "ema" for the average of the weights, "raw" for the others; None for the average if there is one, as in timm.

    Returns:
        The weights.

    Raises:
        UserError: The file does not exist, is of another kind, contains objects of classes that are not known to be harmless, or
            has no weights of the requested kind; or it is one part of several.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a published checkpoint (.safetensors, .pth, .pt, .pth.tar)")
    if part := SHARD.search(path.name):
        raise UserError(
            f"{path}: is part {int(part[1])} of {int(part[2])} of a sharded checkpoint; join the parts in one file of all tensors"
        )
    content = _load(path)
    found = list(_candidates(content))
    if not found:
        raise UserError(f"{path}: holds no state dict (a mapping of names to tensors, alone or under state_dict or model)")
    largest = max(len(candidate.state) for candidate in found)
    if largest > MAX_KEYS:
        raise UserError(f"{path}: {too_many_keys(largest)}")
    try:
        chosen = _choose([part for candidate in found for part in _networks(_unwrapped(candidate))], weights)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    for name, tensor in chosen.state_dict.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(f"{path}: key {name!r} is a sparse, quantised or empty tensor; give a checkpoint of dense tensors")
    return replace(chosen, unnamed_average=_unnamed_average(content))


def too_many_keys(number: int) -> str:
    """Return the reason why a state dict with more than `MAX_KEYS` keys is refused.

    Args:
        number: Number of keys.
    """
    return f"has {number:,} weights, but no supported network has more than {MAX_KEYS:,}; it is not a checkpoint of one"


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A mapping that may be a state dict.

    Attributes:
        entry: Its path in the file; empty for the whole.
        state: The mapping.
        average: Whether it is an average.
    """

    entry: str
    state: Mapping[str, Tensor]
    average: bool


def _load(path: Path) -> object:
    """Read the content of a file."""
    try:
        if is_safetensors(path):
            with safe_open(path, framework="pt") as file:
                _check_number(path, len(file.keys()))
            return load_file(path)
        _check_number(path, count_zip_entries(path))
        content = _load_torch(path)
        if is_torch_zip(path) and has_wrong_checksum(path):
            raise UserError(f"{path}: is damaged: the checksum of an entry is wrong; download it again")
        return content
    except UserError:
        raise
    except Exception as error:  # readers raise many kinds of exceptions for a damaged file
        raise UserError(f"{path}: cannot be read safely as a checkpoint: {_reason(path, error)}") from None


def _check_number(path: Path, tensors: int) -> None:
    """Refuse a file with too many tensors before they are read, which would take minutes."""
    if tensors > MAX_TENSORS_OF_A_FILE:
        raise UserError(f"{path}: {too_many_keys(tensors)}")


def _load_torch(path: Path) -> object:
    allowed, quiet = torch.serialization.safe_globals(SAFE_GLOBALS), warnings.catch_warnings(action="ignore")
    with allowed, quiet, path.open("rb") as file:  # torch would read a path that ends in .safetensors as a file of safetensors
        return torch.load(file, map_location="cpu", weights_only=True)


def _plain_dict(*_arguments: object) -> dict[Any, Any]:
    """Stands in for `collections.defaultdict`, which torch's reader does not fill."""
    return {}


def _plain_list(*_arguments: object) -> list[Any]:
    """Stands in for `collections.deque`, which torch's reader does not fill."""
    return []


def _renamed(target: Callable[..., object], *names: str) -> list[tuple[Callable[..., object], str]]:
    return [(target, name) for name in names]


# numpy's types without object and void, whose values are other objects.
_NUMPY_DTYPES = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGSUmM"]
_NUMPY_SCALARS = [np.dtype(code).type for code in "?bBhHiIlLqQefdgFDGSUmM"]

# What a checkpoint may contain besides tensors. Creating an instance of any of these has no effect outside of it. Some are read as
# something simpler: a path as a pure path, which reads no file and exists on every platform.
SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    collections.OrderedDict,
    *_renamed(_plain_dict, "collections.defaultdict"),
    *_renamed(_plain_list, "collections.deque"),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, decimal.Decimal),
    *(bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, slice, range),
    *_renamed(
        pathlib.PurePosixPath,
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "PurePosixPath")),
    ),
    *_renamed(
        pathlib.PureWindowsPath,
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("WindowsPath", "PureWindowsPath")),
    ),
    np.ndarray,
    np.dtype,
    *dict.fromkeys([*_NUMPY_DTYPES, *_NUMPY_SCALARS]),
    *_renamed(
        np.float64(0).__reduce__()[0],  # type: ignore[arg-type]
        *(f"{module}.scalar" for module in ("numpy._core.multiarray", "numpy.core.multiarray")),
    ),
    *_renamed(
        np.zeros(0).__reduce__()[0],  # type: ignore[arg-type]
        *(f"{module}._reconstruct" for module in ("numpy._core.multiarray", "numpy.core.multiarray")),
    ),
]


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read: what it is, or which class it contains."""
    kind = describe_file(path)
    if kind is not None:
        return kind
    text = str(error)
    refused = re.search(r"GLOBAL (\S+)", text) or re.search(r"got <class '([^']+)'>", text)
    if refused:
        return (
            f"it contains an object of {refused[1]}, which is not one of the classes that are known to be harmless; "
            "give a file with the weights alone, as torch.save(model.state_dict(), FILE) writes"
        )
    if "Unsupported operand" in text and is_torch_zip(path):
        return "it was written with a pickle protocol other than 2, the default of torch.save; save it with the default"
    if is_torch_zip(path):
        return "it is a torch file, but damaged; download it again"
    return "it is not a file of torch.save or safetensors, or it is incomplete; download it again"


def _candidates(content: object, path: tuple[str, ...] = ()) -> Iterator[_Candidate]:
    """Yield the state dicts in the content of a file, at any depth to `MAX_DEPTH`."""
    if not isinstance(content, Mapping) or len(path) > MAX_DEPTH:
        return
    state = _weights(content)
    if state:
        average = any(map(_means_average, path)) or any(name.endswith(N_AVERAGED) for name in content)
        yield _Candidate(entry=".".join(path), state=state, average=average)
        return
    for name, value in content.items():
        if isinstance(name, str) and not NO_WEIGHTS.search(name.lower()):
            yield from _candidates(value, (*path, name))


def _means_average(name: str) -> bool:
    """Whether a word of a name, such as `model_EMA` or `netEma`, means an average."""
    return EMA_WORD.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()) is not None


def _unnamed_average(content: object, path: tuple[str, ...] = ()) -> str:
    """The entry of an average that is a list of tensors, as torch_ema saves it; empty if there is none."""
    if isinstance(content, Mapping) and len(path) <= MAX_DEPTH:
        inner = (_unnamed_average(value, (*path, name)) for name, value in content.items() if isinstance(name, str))
        return next(filter(None, inner), "")
    is_list = isinstance(content, list) and len(content) > 1 and all(isinstance(value, Tensor) for value in content)
    return ".".join(path) if is_list and any(map(_means_average, path)) else ""


def _weights(content: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """The weights of a mapping, if it is a state dict.

    A state dict has tensors by name. Counters and plain values may be beside them if the names are paths of modules, with a dot.
    """
    if not content or not all(isinstance(name, str) for name in content):
        return None
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor) and not _is_counter(name)}
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if not others:
        return tensors
    has_paths = any("." in name for name in tensors)
    return tensors if has_paths and not any("." in name for name in others) else None


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def _unwrapped(candidate: _Candidate) -> _Candidate:
    """Remove the prefixes of wrappers that are in front of all names, or inside a name."""
    names = {name: ".".join(part for part in name.split(".") if part not in INNER_WRAPPERS) for name in candidate.state}
    before: dict[str, str] = {}
    while names != before:
        before = names
        wrapper = next((w for w in OUTER_WRAPPERS if all(name.startswith(f"{w}.") for name in names.values())), "module")
        names = {name: short.removeprefix(f"{wrapper}.") for name, short in names.items()}
    return replace(candidate, state=_renamed_state(candidate.state, names))


def _renamed_state(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A state dict with other names; the values of those that coincide must be equal.

    Raises:
        ValueError: They are not equal.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        known = renamed.setdefault(names[name], tensor)
        if known is not tensor and not torch.equal(known, tensor):
            raise ValueError(f"has two different weights called {names[name]!r} without the prefixes of wrappers")
    return renamed


def _networks(candidate: _Candidate) -> Iterator[_Candidate]:
    """Yield the published networks in a state dict, without what is in front of their names; or the whole if there is none.

    A module of Lightning has its network under `model.`, an average beside it, and the losses and metrics that it owns.
    """
    prefixes = list(dict.fromkeys(m[1] for name in candidate.state if (m := FIRST_LAYER.fullmatch(name))))
    if not prefixes or prefixes == [""]:
        yield candidate
        return
    for prefix in prefixes:
        others = tuple(p for p in prefixes if len(p) > len(prefix))
        names = [name for name in candidate.state if name.startswith(prefix) and not (others and name.startswith(others))]
        average = candidate.average or any(map(_means_average, prefix.split(".")))
        entry = ".".join(filter(None, (candidate.entry, prefix.rstrip("."))))
        state = {name.removeprefix(prefix): candidate.state[name] for name in names}
        if len(prefixes) == 1:
            state |= {name: tensor for name, tensor in candidate.state.items() if name.startswith(HEADS)}
        yield _Candidate(entry=entry, state=state, average=average)


def _choose(found: Iterable[_Candidate], weights: Weights | None) -> Checkpoint:
    """Choose between averages and raw weights.

    Raises:
        ValueError: There are none of the requested kind, or several of it.
    """
    kinds: dict[Weights, list[_Candidate]] = {"ema": [], "raw": []}
    for candidate in found:
        kinds["ema" if candidate.average else "raw"].append(candidate)
    kind: Weights = weights or ("ema" if kinds["ema"] else "raw")
    if not kinds[kind]:
        has = "raw weights only" if kind == "ema" else "an average of the weights only"
        raise ValueError(f"has {has} ({kinds['raw' if kind == 'ema' else 'ema'][0].entry or 'the whole file'}); omit --weights")
    known = EMA_ENTRIES if kind == "ema" else RAW_ENTRIES
    ranked = sorted(kinds[kind], key=lambda candidate: _rank(candidate.entry, known))
    chosen = ranked[0]
    if len(ranked) > 1 and _rank(chosen.entry, known) == _rank(ranked[1].entry, known):
        entries = ", ".join(candidate.entry or "no entry" for candidate in ranked)
        raise ValueError(f"has several sets of weights, under {entries}; give a file with one of them")
    other = kinds["raw" if kind == "ema" else "ema"]
    return Checkpoint(state_dict=dict(chosen.state), weights=kind, entry=chosen.entry, has_other=bool(other))


def _rank(entry: str, known: tuple[str, ...]) -> int:
    """The position of an entry, or of the one that contains it, in a list; the length of the list if it is not there."""
    return next((i for i, name in enumerate(known) if entry == name or entry.startswith(f"{name}.")), len(known))
