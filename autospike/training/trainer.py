"""Supernet training: each step draws subnets, adds up their losses on one batch, and updates the shared parameters.

A step depends on (seed, step), the parameters and the optimizer's state alone, so on one machine's CPU a training resumed from a
checkpoint ends at the same bits as one that was never stopped; and on several ranks as on one, up to rounding. AdamW decays the
corners that a step did not draw, for their gradient is zero, not absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from autospike.config import TrainingConfig
from autospike.data.batches import Batch, TrainingBatches
from autospike.errors import Interrupted
from autospike.randomness import keyed
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.averaging import Average
from autospike.training.checkpoint import Checkpoints, State
from autospike.training.distillation import Teacher
from autospike.training.distributed import ALONE, Ranks
from autospike.training.interruption import Interruption
from autospike.training.nonfinite import check_finite
from autospike.training.precision import in_bfloat16
from autospike.training.progress import Pace, Progress
from autospike.training.sampling import SAMPLING, Sampling
from autospike.training.step import TARGETS, LabelledBatch, learn


def train(
    supernet: Supernet,
    batches: TrainingBatches,
    config: TrainingConfig,
    checkpoints: Checkpoints,
    report: Callable[[Progress], None],
    *,
    seed: int,
    teacher: Teacher | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train to the end, from the newest checkpoint if there is one; after each step, report.

    Args:
        batches: this rank's shares of them.

    Raises:
        UserError: a checkpoint cannot be read or written; or the loss is no longer finite: the newest checkpoint is from before.
        Interrupted: by a signal, after a step of which there is a checkpoint.
    """
    steps, interval = config.epochs * batches.per_epoch, config.checkpoint_epochs * batches.per_epoch
    state = _state(supernet, config)
    learner = _Learner(
        state=state,
        space=supernet.space,
        teach=_teaching(supernet, config, batches, ranks),
        draw=SAMPLING[config.sampling],
        schedule=_schedule(state.optimizer, config, batches.per_epoch, steps),
        teacher=teacher,
        seed=seed,
        steps=steps,
        ranks=ranks,
        nonfinite=checkpoints.folder / "nonfinite",
    )
    ranks.first_alone(checkpoints.recover)
    start = checkpoints.restore(state)
    supernet.train()
    pace = Pace(images=min(batches.batch_size, len(batches.split)), steps=steps, device=batches.device)
    with Interruption() as interruption:
        for step, batch in zip(range(start, steps), batches(start, steps), strict=True):
            loss, done = learner.step(batch, step), step + 1
            signal = ranks.largest(interruption.signal)
            if done % interval == 0 or done == steps or signal:
                ranks.first_alone(partial(checkpoints.save, done, state, finished=done == steps))
            report(pace.after(done, loss=loss, learning_rate=state.optimizer.param_groups[0]["lr"]))
            if signal:
                raise Interrupted(signal=signal, step=done)
        signal = ranks.largest(interruption.signal)  # it may have come with the last step
        if signal:
            raise Interrupted(signal=signal, step=steps)


@dataclass(frozen=True, kw_only=True)
class _Learner:
    """What makes an update of a batch, on every rank alike.

    Args:
        teach: gradients of a lesson for some subnets, and what each adds to the loss.
        nonfinite: the folder in which a step is kept that cannot be gone on from.
    """

    state: State
    space: SearchSpace
    teach: Callable[[LabelledBatch, tuple[Architecture, ...]], Tensor]
    draw: Sampling
    schedule: Any
    teacher: Teacher | None
    seed: int
    steps: int
    ranks: Ranks
    nonfinite: Path

    def step(self, batch: Batch, step: int) -> float:
        """The mean loss of the step's subnets, on all ranks' shares."""
        self.schedule.step_update(step)
        architectures = self.draw(self.space, keyed(self.seed, "sampling", step), step / self.steps)
        lesson = _lesson(batch, self.teacher)
        losses = self.ranks.mean(self.teach(lesson, architectures))
        gradient = get_total_norm([p.grad for p in self.state.model.parameters() if p.grad is not None])
        check_finite(losses, gradient, lesson, architectures, step=step, folder=self.nonfinite, ranks=self.ranks)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        if self.state.average is not None:
            self.state.average.update(self.state.model, step + 1)
        return math.fsum(losses.flatten().tolist())


def _state(supernet: Supernet, config: TrainingConfig) -> State:
    """As a training begins."""
    optimizer = create_optimizer_v2(supernet, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay)
    return State(model=supernet, optimizer=optimizer, average=Average(supernet, config.ema) if config.ema else None)


def _teaching(supernet: Supernet, config: TrainingConfig, batches: TrainingBatches, ranks: Ranks) -> partial[Tensor]:
    """`learn`, of a network that several ranks may hold, at each subnet's own T or at every T of the space."""
    network: Any = supernet
    options: dict[str, Any] = {"accumulate": config.accumulate, "target_transform": TARGETS[config.targets]}
    if ranks.size > 1:
        network = replica = ranks.replica(supernet)
        options["alone"] = replica.no_sync
    if config.precision == "bfloat16":
        network = in_bfloat16(network, batches.device)
    if config.loss == "anytime":
        network = partial(network, at=supernet.space.time_steps.values)
    return partial(learn, network, **options)


def _lesson(batch: Batch, teacher: Teacher | None) -> LabelledBatch:
    """A second head learns what the teacher says, or the same as the first."""
    return LabelledBatch(images=batch.images, targets=batch.targets, taught=teacher(batch.images) if teacher else batch.targets)


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
