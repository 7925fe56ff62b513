"""A small training on the digits, four steps an epoch, for several test files."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from autospike.config import AugmentationConfig, DataConfig, TrainingConfig
from autospike.data.batches import TrainingBatches
from autospike.data.loading import load_images
from autospike.events import Event, StepEvent
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.distributed import ALONE, Ranks
from autospike.training.trainer import train

CONFIG = TrainingConfig(epochs=4, batch_size=32, learning_rate=0.01, warmup_epochs=1, checkpoint_epochs=1)
SHORT = CONFIG.model_copy(update={"epochs": 2})  # eight steps, checkpoints after four and eight


def forkserver() -> ForkServerContext:
    """Context whose processes start quickly, because the modules of a training are imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["autospike.training.trainer", "autospike.cli", "pytest", "sklearn.datasets", "tensorboard"])
    return context


class KilledError(Exception):
    """Ends a training at a step as a kill would."""


def supernet(space: SearchSpace) -> Supernet:
    torch.manual_seed(2)
    return Supernet(space, num_classes=10, in_chans=1)


def batches(config: TrainingConfig, kind: type[TrainingBatches] = TrainingBatches, ranks: Ranks = ALONE) -> TrainingBatches:
    """Four steps an epoch, at the batch size of `CONFIG`."""
    split = load_images(DataConfig(name="digits", image_size=8), seed=0).splits["train"]
    return kind(
        split=replace(split, indices=split.indices[:128], labels=split.labels[:128]),
        num_classes=10,
        channels=1,
        image_size=8,
        batch_size=config.batch_size,
        augmentation=AugmentationConfig(min_scale=0.6, mixup=0.2),
        smoothing=0.1,
        workers=0,
        seed=0,
        rank_slice=ranks.slice(parts=config.accumulate),
    )


def run(
    space: SearchSpace,
    folder: Path,
    config: TrainingConfig = CONFIG,
    kill_at: int | None = None,
    report: Callable[[StepEvent], None] = lambda _now: None,
) -> list[StepEvent]:
    """Train in `folder`; raise KilledError after step `kill_at`."""
    steps: list[StepEvent] = []

    def record(now: Event) -> None:
        if not isinstance(now, StepEvent):
            return
        steps.append(now)
        report(now)
        if now.step == kill_at:
            raise KilledError

    train(supernet(space), batches(config), config, Checkpoints(folder=folder), record, seed=0)
    return steps


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors in the checkpoint of a finished training."""
    record = Checkpoints(folder=folder).record
    assert record is not None
    assert record.finished
    return {name: tensor.clone() for name, tensor in load_file(folder / record.file).items()}  # not memory-mapped


def bit_identical(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], tensor) for name, tensor in expected.items())
