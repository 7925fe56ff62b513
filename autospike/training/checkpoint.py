"""Checkpoints: all tensors in one safetensors file, and a JSON record that is written last and makes the file count.

    step-00000400.safetensors   parameters ("model.*"), their average if there is one ("averaged.*"),
                                optimizer state ("optimizer.INDEX.*", "group.INDEX.step")
    checkpoint.json             {"step", "file", "sha256", "finished", "previous": the same of the checkpoint before, or null}

The last two are kept. A kill before the record is written leaves the record of the checkpoint before, whose file is still there; a
file that was damaged later is told by its digest, and the previous checkpoint takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from autospike.errors import UserError
from autospike.files import read_json, sha256, write_json
from autospike.tensors import write_tensors

LEFT_BY_A_KILL = (".*.part", ".tmp*")  # ours; safetensors' own


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `checkpoint.json` says."""

    step: int
    file: str
    sha256: str
    finished: bool
    previous: Record | None = None

    @classmethod
    def of(cls, written: dict[str, Any]) -> Record:
        """Raises:
        TypeError: it is none.
        """
        previous = written.get("previous")
        return cls(**{**written, "previous": previous and cls.of(previous)})


@dataclass(frozen=True, kw_only=True)
class State:
    """What a training step changes, and a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizer
    average: ModelEmaV3 | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one training, in a folder."""

    folder: Path

    @property
    def record(self) -> Record | None:
        """The newest complete checkpoint, or None before the first.

        Raises:
            UserError: the record is none.
        """
        path = self.folder / "checkpoint.json"
        if not path.exists():
            return None
        try:
            return Record.of(read_json(path))
        except (TypeError, AttributeError):
            raise UserError(f"{path}: no record of a checkpoint; delete {self.folder} to train again") from None

    def recover(self) -> str | None:
        """If the newest checkpoint is damaged, return to the one before; what happened, in one line, or None.

        Raises:
            UserError: neither is whole.
        """
        record = self.record
        damage = self._damage(record) if record else None
        if record is None or damage is None:
            return None
        previous = record.previous
        if previous is None or self._damage(previous):
            raise UserError(f"{damage}, and no checkpoint before it is whole; delete {self.folder} to train again")
        self._write(previous)
        return f"{damage}; going on from the checkpoint before it, of step {previous.step}"

    def save(self, step: int, state: State, *, finished: bool) -> None:
        """Write a checkpoint, and forget all but the one before.

        Raises:
            UserError: the disk is full, or the folder cannot be written to; the checkpoints are as they were.
        """
        path, before = self.folder / f"step-{step:08d}.safetensors", self.record
        write_tensors(path, _pack(state))
        previous = replace(before, previous=None) if before else None
        self._write(Record(step=step, file=path.name, sha256=sha256(path), finished=finished, previous=previous))
        kept = {path.name, previous.file if previous else ""}
        for old in (path for pattern in ("step-*.safetensors", *LEFT_BY_A_KILL) for path in self.folder.glob(pattern)):
            if old.name not in kept:
                old.unlink()

    def restore(self, state: State) -> int:
        """Restore the newest checkpoint in place; returns the step that comes next, 0 before the first checkpoint.

        Raises:
            UserError: the file is missing, damaged, or of another model.
        """
        record = self.record
        if record is None:
            return 0
        with self._reading(record) as tensors:
            state.model.load_state_dict(_under(tensors, "model."))
            if state.average is not None:
                state.average.module.load_state_dict(_under(tensors, "averaged."))
            _restore(state.optimizer, _under(tensors, "optimizer."), _under(tensors, "group."))
        return record.step

    def load_trained(self, model: nn.Module) -> None:
        """Give a model the parameters that a training came to, averaged where it averaged.

        Raises:
            UserError: there is no checkpoint, or its file is missing, damaged, or of another model.
        """
        record = self.record
        if record is None:
            raise UserError(f"{self.folder}: no checkpoint here")
        with self._reading(record) as tensors:
            model.load_state_dict(trained(tensors))

    @contextmanager
    def _reading(self, record: Record) -> Iterator[dict[str, Tensor]]:
        damage, path = self._damage(record), self.folder / record.file
        if damage is not None:
            back = (
                f"autospike train goes back to step {record.previous.step}"
                if record.previous
                else "autospike train has none before it"
            )
            raise UserError(f"{damage}; {back}")
        try:
            yield load_file(path)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be restored ({reason}); delete {self.folder} to train again") from None

    def _damage(self, record: Record) -> str | None:
        """What is wrong with a checkpoint; None if its file is the one that was written."""
        path = self.folder / record.file
        try:
            return None if sha256(path) == record.sha256 else f"{path}: damaged, its content is not what was written"
        except OSError as error:
            return f"{path}: damaged, it cannot be read ({error.strerror})"

    def _write(self, record: Record) -> None:
        write_json(self.folder / "checkpoint.json", asdict(record))


def trained(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's parameters in a checkpoint: their average if it has one."""
    return _under(tensors, "averaged.") or _under(tensors, "model.")


def _pack(state: State) -> dict[str, Tensor]:
    values: dict[int, dict[str, Any]] = state.optimizer.state_dict()["state"]
    networks = {"model": state.model, **({"averaged": state.average.module} if state.average is not None else {})}
    packed = {f"{prefix}.{name}": tensor for prefix, model in networks.items() for name, tensor in model.state_dict().items()}
    for index, of_parameter in values.items():
        packed |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in of_parameter.items()}
    for index, group in enumerate(state.optimizer.param_groups):
        if "step" in group:  # LAMB counts its steps by group, not by parameter
            packed[f"group.{index}.step"] = torch.as_tensor(group["step"]).clone()
    return packed


def _restore(optimizer: Optimizer, tensors: dict[str, Tensor], groups: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor.clone()  # not the file's own memory, which a damage would spoil
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for name, step in groups.items():
        optimizer.param_groups[int(name.split(".")[0])]["step"] = step


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
