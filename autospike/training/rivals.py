"""Training of the rivals (`autospike.models.rivals`) on the batches of the run, with its optimizer and schedule.

A rival reads the same augmented images as the networks of the run, in batches of the same size, for the same number of steps unless
the experiment says otherwise. Its targets are the labels; it has no teacher. Its weights start at random, also where the run starts
from a published network.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

from autospike.config import RivalName, TrainingConfig
from autospike.console import note
from autospike.data.batches import Batch, TrainingBatches
from autospike.errors import Interrupted, UserError
from autospike.events import Callback
from autospike.models.rivals import Rival, RivalInput, build_rival
from autospike.process import SignalCatcher
from autospike.randomness import keyed_seed
from autospike.run_directory import RunDirectory
from autospike.training.checkpoint import Checkpoints, TrainingState
from autospike.training.progress import StepTimer, reporting
from autospike.training.setup import Setup, training_batches
from autospike.training.trainer import learning_rate_schedule, moving_average, optimizer_settings, recover

# Our choice, not measured: the learning rate of timm's recipes for small ViTs (1e-3 at batches of 512 to 1,024 images).
LARGEST_VIT_LEARNING_RATE = 1e-3


@dataclass(frozen=True, kw_only=True)
class RivalTraining:
    """How one rival is built and trained.

    Attributes:
        name: The rival.
        reads: What it reads.
        config: Optimizer, schedule and augmentation.
        folder: Of its checkpoints.
    """

    name: RivalName
    reads: RivalInput
    config: TrainingConfig
    folder: Path

    @classmethod
    def of(cls, run: RunDirectory, setup: Setup, name: RivalName) -> RivalTraining:
        """Return the training of a rival of a run.

        Args:
            run: The run.
            setup: Its data.
            name: The rival.
        """
        return cls(name=name, reads=_rival_input(setup), config=rival_recipe(setup, name), folder=run.rivals / name)

    @property
    def is_finished(self) -> bool:
        """Whether the rival is trained."""
        record = Checkpoints(folder=self.folder).record if self.folder.exists() else None
        return record is not None and record.finished


def _rival_input(setup: Setup) -> RivalInput:
    """Return what the rivals of a run read: of event frames, as many as the reference network.

    Args:
        setup: Configuration and data.
    """
    experiment, images = setup.experiment, setup.images
    frames = experiment.comparable_architecture.time_steps if images.time_steps is not None else 0
    return RivalInput(channels=images.channels, frames=frames, image_size=experiment.data.image_size, classes=len(images.classes))


def rival_recipe(setup: Setup, name: RivalName) -> TrainingConfig:
    """Return the training of the run with the epochs and the learning rate of a rival.

    Args:
        setup: The configuration.
        name: The rival.
    """
    rivals, training = setup.experiment.rivals, setup.experiment.training
    largest = LARGEST_VIT_LEARNING_RATE if name == "vit" else training.learning_rate
    learning_rate = rivals.learning_rate or min(training.learning_rate, largest)
    epochs = rivals.epochs or training.epochs
    changes = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "min_learning_rate": min(training.min_learning_rate, learning_rate),
        "warmup_epochs": None if training.warmup >= epochs else training.warmup_epochs,
    }
    return training.model_copy(update=changes)


def untrained_rival(setup: Setup, name: RivalName) -> Rival:
    """Build a rival whose initial parameters depend on the seed of the training and its name only.

    Args:
        setup: Seed, data, reference network and device.
        name: The rival.

    Returns:
        The rival, on the device.
    """
    with torch.random.fork_rng():
        torch.manual_seed(keyed_seed(setup.training_seed, "rival", name))
        rival = build_rival(name, _rival_input(setup), setup.experiment.comparable_architecture)
    return rival.to(setup.device)


def trained_rival(setup: Setup, training: RivalTraining) -> Rival:
    """Load a trained rival, in eval mode.

    Args:
        setup: Reference network and device.
        training: The rival.

    Returns:
        The rival.

    Raises:
        UserError: Its checkpoint is missing or damaged.
    """
    rival = untrained_rival(setup, training.name)
    Checkpoints(folder=training.folder).load_trained(rival)
    return rival.eval()


def train_rival(run: RunDirectory, setup: Setup, training: RivalTraining) -> None:
    """Train a rival from its newest checkpoint to the last step, unless it is trained.

    Args:
        run: Where progress is logged.
        setup: Data and device.
        training: The rival.

    Raises:
        UserError: A checkpoint cannot be read or written, or the loss is not finite.
        Interrupted: By a signal, after a checkpoint.
    """
    checkpoints, batches = Checkpoints(folder=training.folder), training_batches(setup)
    steps, name = training.config.epochs * batches.per_epoch, f"rivals/{training.name}"
    recover(run, checkpoints, name, steps)
    record = checkpoints.record
    if record is not None and record.finished:
        other = "" if record.step == steps else f", in place of {steps}; delete {training.folder} to train it again"
        note(f"{training.name}: already trained, {record.step} steps{other}")
        return
    rival = untrained_rival(setup, training.name)
    with reporting(run, name, start=record.step if record else 0, steps=steps, device=setup.device, ranks=1) as report:
        fit_rival(rival, batches, training.config, checkpoints, report, name=name)


def fit_rival(
    rival: Rival,
    batches: TrainingBatches,
    config: TrainingConfig,
    checkpoints: Checkpoints,
    callback: Callback,
    *,
    name: str = "rival",
) -> None:
    """Train from the newest checkpoint, if there is one, to the last step. A step depends on (seed, step) and the parameters only.

    Args:
        rival: Its parameters are changed in place.
        batches: The batches.
        config: Optimizer and schedule.
        checkpoints: Written every `config.checkpoint_epochs` epochs and `config.checkpoint_minutes` minutes, after the last step,
            and on a signal.
        callback: Called after each step.
        name: Of the rival, in events.

    Raises:
        UserError: A checkpoint cannot be read or written, or the loss is not finite.
        Interrupted: By a signal, after a checkpoint.
    """
    steps, interval = config.epochs * batches.per_epoch, config.checkpoint_epochs * batches.per_epoch
    optimizer = create_optimizer_v2(rival, **optimizer_settings(rival, config))
    schedule = learning_rate_schedule(optimizer, config, batches.per_epoch, steps)
    average = moving_average(rival, config.ema) if config.ema else None
    state = TrainingState(model=rival, optimizer=optimizer, average=average)
    start, saved = checkpoints.restore(state), time.monotonic()
    timer = StepTimer(network=name, images=min(batches.batch_size, len(batches.split)), steps=steps, device=batches.device)
    rival.train()
    with SignalCatcher() as caught:
        for step, batch in zip(range(start, steps), batches(start, steps), strict=True):
            schedule.step_update(step)
            loss = _loss(rival, batch, bfloat16=config.precision == "bfloat16")
            loss.backward()
            if not loss.isfinite():
                raise UserError(f"{checkpoints.folder}: the loss is {loss.item():g} at step {step}; set rivals.learning_rate lower")
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            if average is not None:
                average.update(rival, done)
            due = time.monotonic() - saved >= 60 * config.checkpoint_minutes
            if done % interval == 0 or done == steps or caught.signal or due:
                saved = time.monotonic()
                checkpoints.save(done, state, finished=done == steps)
            callback(timer.step_finished(done, loss=loss.item(), learning_rate=optimizer.param_groups[0]["lr"]))
            if caught.signal:
                raise Interrupted(signal=caught.signal, step=done)


def _loss(rival: Rival, batch: Batch, *, bfloat16: bool) -> torch.Tensor:
    """Cross-entropy of a batch. Parameters and loss are float32 also where layers run in bfloat16."""
    with torch.autocast(batch.images.device.type, dtype=torch.bfloat16) if bfloat16 else nullcontext():
        logits = rival(batch.images)
    return F.cross_entropy(logits.float(), batch.targets)
