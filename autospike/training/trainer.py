"""Supernet training: each step draws subnets, adds up their losses on one batch, and updates the shared parameters.

A step depends on (seed, step), the parameters and the optimizer's state alone, so on one machine's CPU a training resumed from a
checkpoint ends at the same bits as one that was never stopped. AdamW decays the corners that a step did not draw, for their
gradient is zero, not absent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer

from autospike.config import TrainingConfig
from autospike.data.batches import Batch, TrainingBatches
from autospike.errors import UserError
from autospike.randomness import keyed
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.distillation import Teacher
from autospike.training.sampling import SAMPLING
from autospike.training.step import TARGETS, Lesson, Network, NonFiniteLossError, learn


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands, after each step. `loss` is the mean over the step's subnets."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


def train(
    supernet: Supernet,
    batches: TrainingBatches,
    config: TrainingConfig,
    checkpoints: Checkpoints,
    report: Callable[[Progress], None],
    *,
    seed: int,
    teacher: Teacher | None = None,
) -> None:
    """Train to the end, from the newest checkpoint if there is one.

    Raises:
        UserError: a checkpoint cannot be read or written; or the loss is no longer finite: the newest checkpoint is from before.
    """
    steps, interval = config.epochs * batches.per_epoch, config.checkpoint_epochs * batches.per_epoch
    optimizer = create_optimizer_v2(supernet, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = _schedule(optimizer, config, batches.per_epoch, steps)
    teach = partial(learn, _network(supernet, config), accumulate=config.accumulate, hand_on=TARGETS[config.targets])
    start = checkpoints.load(supernet, optimizer)
    supernet.train()
    for step, batch in zip(range(start, steps), batches(start, steps), strict=True):
        started = time.perf_counter()
        schedule.step_update(step)
        architectures = SAMPLING[config.sampling](supernet.space, keyed(seed, "sampling", step), step / steps)
        try:
            loss = teach(_lesson(batch, teacher), architectures)
        except NonFiniteLossError as error:
            raise UserError(
                f"training: the loss is {error.loss} at step {step}, subnet {error.architecture.id}; lower training.learning_rate"
            ) from None
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if done % interval == 0 or done == steps:
            checkpoints.save(done, supernet, optimizer, finished=done == steps)
        learning_rate = optimizer.param_groups[0]["lr"]
        report(Progress(step=done, steps=steps, loss=loss, learning_rate=learning_rate, seconds=time.perf_counter() - started))


def _network(supernet: Supernet, config: TrainingConfig) -> Network:
    """What answers at each subnet's own T, or at every T of the space."""
    return partial(supernet, at=supernet.space.time_steps.values) if config.loss == "anytime" else supernet


def _lesson(batch: Batch, teacher: Teacher | None) -> Lesson:
    """A second head learns what the teacher says, or the same as the first."""
    return Lesson(images=batch.images, targets=batch.targets, taught=teacher(batch.images) if teacher else batch.targets)


def _schedule(optimizer: Optimizer, config: TrainingConfig, per_epoch: int, steps: int) -> Any:
    """Linear warm-up from the smallest rate, then half a cosine down to it."""
    return CosineLRScheduler(
        optimizer,
        t_initial=steps,
        lr_min=config.min_learning_rate,
        warmup_t=config.warmup * per_epoch,
        warmup_lr_init=config.min_learning_rate,
        warmup_prefix=False,
        t_in_epochs=False,
    )
