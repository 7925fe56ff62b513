"""A tiny training on real digits, four steps an epoch, that several test files run."""

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
from autospike.data.images import load_images
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.distributed import ALONE, Ranks
from autospike.training.progress import Progress
from autospike.training.trainer import train

CONFIG = TrainingConfig(epochs=4, batch_size=32, learning_rate=0.01, warmup_epochs=1, checkpoint_epochs=1)


def forked() -> ForkServerContext:
    """Processes that start in a moment, for what a training needs is imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["autospike.training.trainer", "autospike.cli", "pytest", "sklearn.datasets", "tensorboard"])
    return context


class KilledError(Exception):
    """Stands for a kill at a step."""


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
        share=ranks.share(parts=config.accumulate),
    )


def run(
    space: SearchSpace,
    folder: Path,
    config: TrainingConfig = CONFIG,
    kill_at: int | None = None,
    also: Callable[[Progress], None] = lambda _now: None,
) -> list[Progress]:
    """Train in `folder`; at step `kill_at`, die after the update and before the next one."""
    steps: list[Progress] = []

    def report(now: Progress) -> None:
        steps.append(now)
        also(now)
        if now.step == kill_at:
            raise KilledError

    train(supernet(space), batches(config), config, Checkpoints(folder=folder), report, seed=0)
    return steps


def weights(folder: Path) -> dict[str, Tensor]:
    """All that the checkpoint of a finished training holds."""
    record = Checkpoints(folder=folder).record
    assert record is not None
    assert record.finished
    return {name: tensor.clone() for name, tensor in load_file(folder / record.file).items()}  # not the file's own memory


def same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], tensor) for name, tensor in expected.items())
