"""Checkpoints: all tensors in one safetensors file, and a JSON record that is written last and makes the file count.

    step-00000400.safetensors   parameters ("model.*"), optimizer state ("optimizer.INDEX.*", "group.INDEX.step")
    checkpoint.json             {"step", "file", "sha256", "finished"}

A kill between the two leaves the record of the checkpoint before, whose file is still there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from autospike.errors import UserError
from autospike.files import read_json, replacing, sha256, write_json


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `checkpoint.json` says."""

    step: int
    file: str
    sha256: str
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one training, in a folder."""

    folder: Path

    @property
    def record(self) -> Record | None:
        """The newest complete checkpoint, or None before the first."""
        path = self.folder / "checkpoint.json"
        if not path.exists():
            return None
        try:
            return Record(**read_json(path))
        except TypeError:
            raise UserError(f"{path}: no record of a checkpoint; delete {self.folder} to train again") from None

    def save(self, step: int, model: nn.Module, optimizer: Optimizer, *, finished: bool) -> None:
        """Write a checkpoint, then forget the ones before."""
        path = self.folder / f"step-{step:08d}.safetensors"
        with replacing(path) as temporary:
            save_file(_pack(model, optimizer), temporary)
        write_json(self.folder / "checkpoint.json", {"step": step, "file": path.name, "sha256": sha256(path), "finished": finished})
        for old in (*self.folder.glob("step-*.safetensors"), *self.folder.glob(".*.part")):  # a killed save leaves its part
            if old != path:
                old.unlink()

    def load(self, model: nn.Module, optimizer: Optimizer | None = None) -> int:
        """Restore the newest checkpoint in place; returns the step that comes next, 0 before the first checkpoint.

        Raises:
            UserError: the file is missing, damaged, or of another model.
        """
        record = self.record
        if record is None:
            return 0
        path = self.folder / record.file
        try:
            if sha256(path) != record.sha256:
                raise ValueError("its content is not what was written")
            tensors = load_file(path)
            model.load_state_dict(_under(tensors, "model."))
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be restored ({reason}); delete {self.folder} to train again") from None
        if optimizer is not None:
            _restore(optimizer, _under(tensors, "optimizer."), _under(tensors, "group."))
        return record.step


def _pack(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    packed = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for index, values in state.items():
        packed |= {f"optimizer.{index}.{name}": torch.as_tensor(value).contiguous() for name, value in values.items()}
    for index, group in enumerate(optimizer.param_groups):
        if "step" in group:  # LAMB counts its steps by group, not by parameter
            packed[f"group.{index}.step"] = torch.as_tensor(group["step"]).clone()
    return packed


def _restore(optimizer: Optimizer, tensors: dict[str, Tensor], groups: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for name, step in groups.items():
        optimizer.param_groups[int(name.split(".")[0])]["step"] = step


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
