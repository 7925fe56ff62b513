"""Supernet training. Each step samples architectures, adds up their losses on one batch, and updates the shared parameters.

A step depends only on (seed, step), the parameters and the optimizer state. On the CPU of one machine, a training that resumes from
a checkpoint is therefore bit-identical to an uninterrupted one; on several ranks it equals that on one rank up to rounding. AdamW
also decays the parts of a parameter that a step did not sample, because their gradient is zero rather than absent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from autospike.config import TrainingConfig
from autospike.console import note
from autospike.data.batches import TrainingBatches
from autospike.errors import Interrupted
from autospike.events import Callback, CheckpointEvent, EpochEvent, ignore
from autospike.memory.allocator import retain_large_allocations
from autospike.process import SignalCatcher
from autospike.randomness import keyed, keyed_seed
from autospike.run_directory import RunDirectory
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.tasks.registry import task_of
from autospike.training.checkpoint import Checkpoints, TrainingState
from autospike.training.distillation import Teacher, load_teacher
from autospike.training.distributed import ALONE, Ranks
from autospike.training.initialisation import NetworkOfRun, initialise_from
from autospike.training.nonfinite import check_finite
from autospike.training.progress import StepTimer, display_name, reporting
from autospike.training.setup import Setup, build_supernet, training_batches
from autospike.training.step import SAMPLING, TARGETS, LabelledBatch, Sampling, Tet, accumulate_gradients, with_single_time_step

# Name of the decoder in a network; the factor `training.head_learning_rate` applies to its parameters.
DECODER = "decoder"


def train_network(
    run: RunDirectory,
    setup: Setup,
    space: SearchSpace,
    folder: Path,
    *,
    name: str,
    source: NetworkOfRun,
    initial: NetworkOfRun | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train the supernet of a space from its newest checkpoint to the last step, unless the training has finished.

    Args:
        run: Where progress is logged.
        setup: Configuration, data, device and ranks, which have joined their process group.
        space: The architectures that the supernet contains.
        folder: The folder with the checkpoints.
        name: Of the network, in logs and folders.
        source: Which network of a run initialises the parameters, if `training.start_from` is a run.
        initial: The trained network of this run that initialises the parameters, if `training.start_from` is None.
        callbacks: Receive the events of the training, in addition to the progress bar and the logs.

    Raises:
        UserError: A checkpoint or the initial parameters cannot be read, or the loss is not finite.
        Interrupted: By a signal, after a step of which there is a checkpoint.
    """
    config, checkpoints, ranks = setup.experiment.training, Checkpoints(folder=folder), setup.ranks
    batches = training_batches(setup)
    steps = config.epochs * batches.per_epoch
    ranks.first_alone(partial(recover, run, checkpoints, name, steps))
    record = checkpoints.record
    if record is not None and record.finished:
        if ranks.first:
            note(f"{display_name(name)}: already trained, {record.step} steps")
        return
    supernet, teacher = build_supernet(setup, space), None
    if config.teacher is not None:
        size, classes = setup.experiment.data.image_size, len(setup.images.classes)
        teacher = load_teacher(
            config.teacher, num_classes=classes, image_size=size, device=setup.device, preparation=setup.preparation
        )
    start_from, network = (run.folder, initial) if config.start_from is None and initial else (config.start_from, source)
    if start_from is not None and record is None:
        copied, total = initialise_from(supernet, start_from, network), sum(p.numel() for p in supernet.parameters())
        if ranks.first:
            origin = "the reference network" if config.start_from is None else start_from
            note(f"{display_name(name)}: starts from {origin}, {copied:,} of {total:,} parameters")
    start = record.step if record else 0
    reports = reporting(run, name, start=start, steps=steps, device=setup.device, ranks=ranks.size, callbacks=callbacks)
    with reports if ranks.first else nullcontext(ignore) as report:
        train(supernet, batches, config, checkpoints, report, seed=setup.training_seed, name=name, teacher=teacher, ranks=ranks)


def train(
    supernet: Supernet,
    batches: TrainingBatches,
    config: TrainingConfig,
    checkpoints: Checkpoints,
    callback: Callback,
    *,
    seed: int,
    name: str = "supernet",
    teacher: Teacher | None = None,
    ranks: Ranks = ALONE,
    sample: Sampling | None = None,
) -> None:
    """Train from the newest checkpoint, if there is one, to the last step.

    Args:
        supernet: Its parameters are changed in place.
        batches: The batches, or the slices of this rank.
        config: Optimizer, schedule, sampling, targets and loss.
        checkpoints: Written every `config.checkpoint_epochs` epochs and `config.checkpoint_minutes` minutes, after the last step,
            and on a signal.
        callback: Called after each step, each epoch and each checkpoint.
        seed: Key of the sampled architectures.
        name: Of the network, in events.
        teacher: Gives the targets of the distillation head; the labels do if None.
        ranks: The ranks of a distributed training.
        sample: Chooses the architectures of a step; the function that `config.sampling` names if None.

    Raises:
        UserError: A checkpoint cannot be read or written, or the loss is not finite; the newest checkpoint is from before.
        Interrupted: By a signal, after a step of which there is a checkpoint.
    """
    steps, interval = config.epochs * batches.per_epoch, config.checkpoint_epochs * batches.per_epoch
    optimizer = create_optimizer(supernet, config)
    schedule = learning_rate_schedule(optimizer, config, batches.per_epoch, steps)
    average = moving_average(supernet, config.ema) if config.ema else None
    state = TrainingState(model=supernet, optimizer=optimizer, average=average)
    network, no_sync = ranks.replica(supernet)
    tet = Tet(weight=config.tet_weight, mean=config.tet_mean) if config.loss == "tet" else None
    task = task_of(supernet.space.decoder)
    sample, time_steps = sample or SAMPLING[config.sampling], supernet.space.time_steps.values if config.loss == "anytime" else ()
    start = checkpoints.restore(state)
    supernet.train()
    saved = time.monotonic()
    epoch_losses: list[float] = []
    timer = StepTimer(network=name, images=min(batches.batch_size, len(batches.split)), steps=steps, device=batches.device)
    with retain_large_allocations(), SignalCatcher() as caught:
        for step, batch in zip(range(start, steps), batches(start, steps), strict=True):
            schedule.step_update(step)
            architectures = sample(supernet.space, keyed(seed, "sampling", step), step / steps)
            if step < config.single_step_share * steps:
                architectures = with_single_time_step(architectures)
            teacher_targets = batch.targets if teacher is None else teacher(batch.images)
            labelled = LabelledBatch(images=batch.images, targets=batch.targets, teacher_targets=teacher_targets)
            with _random_samples(seed, step, batches.device) if task.reads_targets else nullcontext():
                losses = accumulate_gradients(
                    network,
                    labelled,
                    architectures,
                    parts=config.accumulate,
                    at=time_steps,
                    loss_function=task.loss,
                    target_transform=TARGETS[config.targets],
                    bfloat16=config.precision == "bfloat16",
                    no_sync=no_sync,
                    tet=tet,
                    reads_targets=task.reads_targets,
                )
            losses = ranks.mean(losses)
            updated = [p for p in supernet.parameters() if p.grad is not None]
            gradient_norm = get_total_norm([p.grad for p in updated if p.grad is not None])
            check_finite(
                losses, gradient_norm, labelled, architectures, step=step, folder=checkpoints.folder / "nonfinite", ranks=ranks
            )
            if config.clip is not None:
                clip_grads_with_norm_(updated, config.clip, gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            if average is not None:
                average.update(supernet, done)
            received = ranks.largest(caught.signal)
            due = ranks.largest(int(time.monotonic() - saved >= 60 * config.checkpoint_minutes))
            if done % interval == 0 or done == steps or received or due:
                saved = time.monotonic()
                ranks.first_alone(partial(checkpoints.save, done, state, finished=done == steps))
                callback(CheckpointEvent(network=name, step=done, folder=checkpoints.folder, finished=done == steps))
            loss = math.fsum(losses.flatten().tolist())
            callback(timer.step_finished(done, loss=loss, learning_rate=optimizer.param_groups[0]["lr"]))
            epoch_losses.append(loss)
            if done % batches.per_epoch == 0:
                epoch, mean = done // batches.per_epoch, math.fsum(epoch_losses) / len(epoch_losses)
                callback(EpochEvent(network=name, epoch=epoch, epochs=config.epochs, step=done, loss=mean))
                epoch_losses.clear()
            if received:
                raise Interrupted(signal=received, step=done)
        received = ranks.largest(caught.signal)  # a signal that came after the last check
        if received:
            raise Interrupted(signal=received, step=steps)


@contextmanager
def _random_samples(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators by (seed, step) for the length of a block: detectors sample anchors and regions."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(keyed_seed(seed, "sampled regions", step))
        yield


def create_optimizer(supernet: Supernet, config: TrainingConfig) -> Optimizer:
    """Create the optimizer of a supernet.

    Args:
        supernet: The parameters.
        config: Kind of optimizer, learning rate, its factor for a decoder, and weight decay.

    Returns:
        The optimizer. Biases and parameters of normalisations have no weight decay, as in timm.
    """
    settings = optimizer_settings(supernet, config)
    if config.head_learning_rate == 1:
        return create_optimizer_v2(supernet, **settings)
    groups = []
    for in_head, scale in ((False, 1.0), (True, config.head_learning_rate)):
        part = [p for name, p in supernet.named_parameters() if name.startswith(f"shared.{DECODER}.") == in_head]
        for one_dimensional, decay in ((False, config.weight_decay), (True, 0.0)):
            parameters = [p for p in part if (p.dim() <= 1) == one_dimensional]
            groups.append({"params": parameters, "weight_decay": decay, "lr_scale": scale})  # timm's schedules read lr_scale
    return create_optimizer_v2(supernet, param_group_fn=lambda _model: groups, **settings)


def optimizer_settings(network: nn.Module, config: TrainingConfig) -> dict[str, Any]:
    """Return the arguments of timm's `create_optimizer_v2`. On the CPU, AdamW is fused: one operation updates all parameters.

    Args:
        network: The parameters.
        config: Kind of optimizer, learning rate and weight decay.
    """
    settings = {"opt": config.optimizer, "lr": config.learning_rate, "weight_decay": config.weight_decay}
    on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
    return settings | ({"fused": True} if config.optimizer == "adamw" and on_cpu else {})


def moving_average(network: nn.Module, decay: float) -> ModelEmaV3:
    """Exponential moving average of the parameters of a network, by timm.

    The average is over steps. A parameter that only one step of k samples has an average over a k-th as many of its own updates.

    Args:
        network: The network, such as a supernet.
        decay: Weight of the old average at a step. In the first steps it is smaller, `1 - step ** (-2 / 3)`, so that the initial
            parameters are soon forgotten.

    Returns:
        The average, in its `module`. Call `update(network, step)` after each step, counted from 1.
    """
    return ModelEmaV3(network, decay=decay, use_warmup=True)


def learning_rate_schedule(optimizer: Optimizer, config: TrainingConfig, steps_per_epoch: int, steps: int) -> Any:
    """Linear warm-up, then half a cosine or a straight line down to the smallest learning rate, which the cooldown keeps.

    Args:
        optimizer: The optimizer.
        config: Learning rates, warm-up and cooldown.
        steps_per_epoch: Steps in an epoch.
        steps: Steps of the whole training.

    Returns:
        timm's scheduler. Call `step_update(step)` before each step.
    """
    shared: dict[str, Any] = {
        "t_initial": steps - config.cooldown_epochs * steps_per_epoch,
        "lr_min": config.min_learning_rate,
        "warmup_t": config.warmup * steps_per_epoch,
        "warmup_lr_init": config.min_learning_rate if config.warmup_learning_rate is None else config.warmup_learning_rate,
        "warmup_prefix": False,
        "t_in_epochs": False,
    }
    if config.schedule == "poly":
        return PolyLRScheduler(optimizer, power=1.0, **shared)
    return CosineLRScheduler(optimizer, **shared)


def recover(run: RunDirectory, checkpoints: Checkpoints, name: str, steps: int) -> None:
    """Rebuild a lost record, or return to the previous checkpoint if the newest one is damaged, and log it.

    Args:
        run: Where it is logged.
        checkpoints: The checkpoints.
        name: Of the network, in logs.
        steps: Steps of the whole training.

    Raises:
        UserError: Both checkpoints are damaged.
    """
    damage = checkpoints.recover(steps)
    if damage is not None:
        note(f"{display_name(name)}: {damage}")
        run.log("checkpoint damaged", network=name, what=damage)
