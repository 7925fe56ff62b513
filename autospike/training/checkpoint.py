"""Checkpoints of a training: all tensors in one safetensors file, and a JSON record that is written last.

    step-00000400.safetensors   parameters ("model.*"), their moving average if there is one ("averaged.*"),
                                optimizer state ("optimizer.INDEX.*", "group.INDEX.step")
    checkpoint.json             {"step", "file", "sha256", "finished", "previous": the same of the previous checkpoint, or null}

The last two checkpoints are kept. A process that is killed before the record is written leaves the record of the previous
checkpoint, whose file still exists. A file that is damaged later is recognised by its digest and replaced by the previous one. A
record that is lost or unreadable is rebuilt from the files: their names have the step, and a truncated file is recognised by its
header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer

from autospike.errors import UserError
from autospike.files import check_regular, read_json, sha256, write_json
from autospike.tensors import write_tensors

TEMPORARY_FILES = (".*.part", ".tmp*")  # of `files.replacing` and of safetensors, left behind by a killed process


@dataclass(frozen=True, kw_only=True)
class Record:
    """Content of `checkpoint.json`.

    Attributes:
        step: Number of finished steps.
        file: Name of the file with the tensors.
        sha256: Of that file.
        finished: Whether this is the last step of the training.
        previous: The previous checkpoint.
    """

    step: int
    file: str
    sha256: str
    finished: bool
    previous: Record | None = None

    @classmethod
    def from_dict(cls, written: Any) -> Record:
        """Build a record from JSON.

        Args:
            written: The JSON object.

        Returns:
            The record.

        Raises:
            ValueError: The object does not have the fields of a record, or `file` is not the name of a checkpoint in its folder.
        """
        try:
            previous = written.get("previous")
            record = cls(**{**written, "previous": previous and cls.from_dict(previous)})
        except (AttributeError, TypeError):
            raise ValueError("not the fields of a record") from None
        if [type(value) for value in (record.step, record.file, record.sha256, record.finished)] != [int, str, str, bool]:
            raise ValueError("a field of another type")
        if _step_of(record.file) is None:
            raise ValueError(f"file {record.file!r} is not the name of a checkpoint")
        return record


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What a training step changes and a checkpoint contains.

    Attributes:
        model: The trained parameters.
        optimizer: Its state.
        average: Moving average of the parameters, if there is one.
    """

    model: nn.Module
    optimizer: Optimizer
    average: ModelEmaV3 | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one training.

    Attributes:
        folder: The folder that contains them.
    """

    folder: Path

    @property
    def record(self) -> Record | None:
        """The record of the newest checkpoint, or None before the first one.

        If `checkpoint.json` is lost or unreadable, the record is rebuilt from the files, as of an unfinished training; `recover`
        writes it.

        Raises:
            UserError: `checkpoint.json` is unreadable, and there is no intact file; or the folder cannot be read.
        """
        try:
            return Record.from_dict(read_json(self._path))
        except (UserError, ValueError) as error:
            lost = not self._path.exists()
            record = self._rebuilt()
            if record is None and (self._files() or not lost):
                reason = "is missing" if lost else f"is not a checkpoint record ({error})"
                raise UserError(
                    f"{self._path}: {reason}, and no intact checkpoint is beside it; delete {self.folder} to train again"
                ) from None
            return record

    def recover(self, steps: int) -> str | None:
        """Rebuild the record if it is lost, or return to the previous checkpoint if the newest one is damaged.

        Args:
            steps: Number of steps of the whole training. A rebuilt record of the last one is that of a finished training.

        Returns:
            What happened, in one line; None if nothing is damaged.

        Raises:
            UserError: Both checkpoints are damaged.
        """
        record, what = self.record, None
        if record is not None and not self._is_recorded():
            what = f"{self._path}: lost or damaged, rebuilt from {record.file}"
            record = replace(record, finished=record.step >= steps)
            self._write(record)
        damage = self._damage(record) if record else None
        if record is None or damage is None:
            return what
        previous = record.previous
        if previous is None or self._damage(previous):
            raise UserError(f"{damage}, and there is no intact checkpoint before it; delete {self.folder} to train again")
        self._write(previous)
        return f"{damage}; resuming from the previous checkpoint, of step {previous.step}"

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.json"

    def _is_recorded(self) -> bool:
        try:
            Record.from_dict(read_json(self._path))
        except (UserError, ValueError):
            return False
        return True

    def _files(self) -> list[Path]:
        """All checkpoint files, the newest first."""
        found = [path for path in self.folder.glob("step-*.safetensors") if _step_of(path.name) is not None]
        return sorted(found, key=lambda path: -(_step_of(path.name) or 0))

    def _rebuilt(self) -> Record | None:
        """The record of the newest two files that are complete; None if there is none."""
        record = None
        for path in reversed([path for path in self._files() if _is_complete(path)][:2]):
            step = _step_of(path.name) or 0
            record = Record(step=step, file=path.name, sha256=sha256(path), finished=False, previous=record)
        return record

    def save(self, step: int, state: TrainingState, *, finished: bool) -> None:
        """Write a checkpoint, and delete all but the previous one.

        Args:
            step: Number of finished steps.
            state: What to write.
            finished: Whether this is the last step of the training.

        Raises:
            UserError: The disk is full or the folder is not writable; the earlier checkpoints are unchanged.
        """
        path, before = self.folder / f"step-{step:08d}.safetensors", self.record
        write_tensors(path, _pack(state))
        previous = replace(before, previous=None) if before else None
        self._write(Record(step=step, file=path.name, sha256=sha256(path), finished=finished, previous=previous))
        current = {path.name, previous.file if previous else ""}
        for old in (path for pattern in ("step-*.safetensors", *TEMPORARY_FILES) for path in self.folder.glob(pattern)):
            if old.name not in current:
                old.unlink()

    def restore(self, state: TrainingState) -> int:
        """Restore the newest checkpoint in place.

        Args:
            state: Receives the tensors.

        Returns:
            Number of finished steps, 0 if there is no checkpoint.

        Raises:
            UserError: The file is missing, damaged, or of another model.
        """
        record = self.record
        if record is None:
            return 0
        with self._tensors(record) as tensors:
            state.model.load_state_dict(_with_prefix(tensors, "model."))
            if state.average is not None:
                state.average.module.load_state_dict(_with_prefix(tensors, "averaged."))
            _restore_optimizer(state.optimizer, _with_prefix(tensors, "optimizer."), _with_prefix(tensors, "group."))
        return record.step

    def load_trained(self, model: nn.Module) -> None:
        """Load the trained parameters, or their moving average if the training has one.

        Args:
            model: Receives the parameters.

        Raises:
            UserError: There is no checkpoint, or its file is missing, damaged, or of another model.
        """
        record = self.record
        if record is None:
            raise UserError(f"{self.folder}: no checkpoint here")
        with self._tensors(record) as tensors:
            model.load_state_dict(trained_parameters(tensors))

    @contextmanager
    def _tensors(self, record: Record) -> Iterator[dict[str, Tensor]]:
        """The tensors of a checkpoint; errors in the block that uses them are reported as those of the file."""
        damage, path = self._damage(record), self.folder / record.file
        if damage is not None:
            previous = record.previous
            remedy = f"autospike train goes back to step {previous.step}" if previous else "there is no checkpoint before it"
            raise UserError(f"{damage}; {remedy}")
        try:
            yield load_file(path)
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be restored ({reason}); delete {self.folder} to train again") from None

    def _damage(self, record: Record) -> str | None:
        """What is wrong with the file of a checkpoint, or None."""
        path = self.folder / record.file
        try:
            return None if sha256(path) == record.sha256 else f"{path}: damaged, its content differs from what was written"
        except OSError as error:
            return f"{path}: damaged, it cannot be read ({error.strerror})"

    def _write(self, record: Record) -> None:
        write_json(self._path, asdict(record))


def _step_of(name: str) -> int | None:
    """The step in the name of a checkpoint file, or None if it is not such a name."""
    match = re.fullmatch(r"step-(\d+)\.safetensors", name, re.ASCII)
    return int(match[1]) if match else None


def _is_complete(path: Path) -> bool:
    """Whether a safetensors file has the size that its header states."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return bool(file.keys())
    except (OSError, SafetensorError):
        return False


def trained_parameters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters in the tensors of a checkpoint, as their moving average if there is one.

    Args:
        tensors: Tensors of a checkpoint by name.
    """
    return _with_prefix(tensors, "averaged.") or _with_prefix(tensors, "model.")


def _pack(state: TrainingState) -> dict[str, Tensor]:
    values: dict[int, dict[str, Any]] = state.optimizer.state_dict()["state"]
    networks = {"model": state.model, **({"averaged": state.average.module} if state.average is not None else {})}
    packed = {f"{prefix}.{name}": tensor for prefix, model in networks.items() for name, tensor in model.state_dict().items()}
    for index, of_parameter in values.items():
        packed |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in of_parameter.items()}
    for index, group in enumerate(state.optimizer.param_groups):
        if "step" in group:  # LAMB counts its steps for each group, not for each parameter
            packed[f"group.{index}.step"] = torch.as_tensor(group["step"]).clone()
    return packed


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], groups: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor.clone()  # the tensor itself is a view of the memory-mapped file
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for name, step in groups.items():
        optimizer.param_groups[int(name.split(".")[0])]["step"] = step


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
