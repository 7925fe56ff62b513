"""Set up the training of an experiment: data, device, supernet, batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autospike.config import Experiment
from autospike.data.batches import TrainingBatches
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.data.preparation import DEFAULT_PREPARATION, ImagePreparation
from autospike.errors import UserError
from autospike.randomness import keyed_seed
from autospike.run_directory import RunDirectory
from autospike.space.input_shape import InputShape
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.distributed import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Setup:
    """An experiment with opened data and a chosen device.

    Attributes:
        experiment: The configuration.
        images: The data with their splits.
        device: Where this process trains and measures.
        ranks: The ranks of a distributed training.
        repetition: Number of a repeated training. Each repetition has its own initial parameters, batches and sampled
            architectures; splits and calibration images are the same.
    """

    experiment: Experiment
    images: Images
    device: torch.device
    ranks: Ranks = ALONE
    repetition: int = 0

    @property
    def training_seed(self) -> int:
        """Seed of the training: that of the experiment, or one derived from it for a repetition."""
        seed = self.experiment.seed
        return keyed_seed(seed, "repetition", self.repetition) if self.repetition else seed

    @property
    def preparation(self) -> ImagePreparation:
        """How images are prepared: as this package does, with the normalisation of the experiment if it has one."""
        return preparation_of(self.experiment)

    @property
    def input_shape(self) -> InputShape:
        """Input and output size of the networks."""
        size = self.experiment.data.image_size
        return InputShape(image_size=size, channels=self.images.channels, classes=len(self.images.classes))


def preparation_of(experiment: Experiment) -> ImagePreparation:
    """Return how the images of an experiment are prepared; see `Setup.preparation`.

    Args:
        experiment: The configuration.
    """
    normalisation = experiment.data.normalisation
    if normalisation is None:
        return DEFAULT_PREPARATION
    return replace(DEFAULT_PREPARATION, mean=normalisation.mean, std=normalisation.std)


def open_run(run: RunDirectory) -> Setup:
    """Open the data of a run, and check that they are those that the run was trained on.

    Args:
        run: The run.

    Returns:
        The setup. See `open_experiment` for its effect on the process.

    Raises:
        UserError: The data cannot be opened or have changed, or the device does not exist.
    """
    setup = open_experiment(run.experiment, run.datasets)
    run.check_data(setup.images.fingerprint)
    return setup


def open_experiment(experiment: Experiment, datasets: Mapping[str, Any] | None = None) -> Setup:
    """Open the data of an experiment, choose the device, and set the number of threads of this process.

    Also disables TF32 in cuDNN: its rounding changes spikes.

    Args:
        experiment: The configuration.
        datasets: The user's own datasets by split, if `data.name` is `datasets`.

    Returns:
        The setup.

    Raises:
        UserError: The data cannot be opened, or the device does not exist.
    """
    if experiment.threads is not None:
        torch.set_num_threads(experiment.threads)
    torch.backends.cudnn.allow_tf32 = False
    images, ranks = load_images(experiment.data, seed=experiment.seed, datasets=datasets), Ranks.of_environment()
    reference = experiment.baseline_architecture
    images.check_time_steps(max(*experiment.search_space.time_steps.values, reference.time_steps if reference else 1))
    normalisation = experiment.data.normalisation
    if normalisation is not None and len(normalisation.mean) != images.channels:
        raise UserError(
            f"data.normalisation: {len(normalisation.mean)} values, but the images have {images.channels} channels; give one value "
            "for each channel"
        )
    return Setup(experiment=experiment, images=images, device=ranks.device(_device_type(experiment.device)), ranks=ranks)


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Set the number of threads for the length of a block: a training uses more than a worker that measures candidates.

    Args:
        count: Number of threads inside the block.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device_type(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: no CUDA device here; choose cpu or auto")
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"


def build_supernet(setup: Setup, space: SearchSpace) -> Supernet:
    """Build a supernet with fresh parameters.

    Args:
        setup: The parameters depend on its training seed only.
        space: The architectures that the supernet contains.

    Returns:
        The supernet, on the device of the setup.
    """
    with torch.random.fork_rng():
        torch.manual_seed(keyed_seed(setup.training_seed, "initial parameters"))
        surrogate = setup.experiment.training.surrogate
        supernet = Supernet(space, num_classes=len(setup.images.classes), in_chans=setup.images.channels, surrogate=surrogate)
    return supernet.to(setup.device)


def load_trained_supernet(setup: Setup, space: SearchSpace, folder: Path) -> Supernet:
    """Load the supernet of a finished training, with averaged parameters if the training averaged them.

    Args:
        setup: Number of classes, channels and device.
        space: The architectures that the supernet contains.
        folder: The folder with the checkpoints.

    Returns:
        The supernet, on the device of the setup.

    Raises:
        UserError: The training has not finished.
    """
    checkpoints = Checkpoints(folder=folder)
    record = checkpoints.record
    if record is None or not record.finished:
        raise UserError(f"{folder}: training has not finished; run: autospike train EXPERIMENT --run {folder.parent}")
    supernet = build_supernet(setup, space)
    checkpoints.load_trained(supernet)
    return supernet


def training_batches(setup: Setup) -> TrainingBatches:
    """Return augmented batches of the training split, the slice of this rank.

    Args:
        setup: Configuration, data, device and ranks.

    Raises:
        UserError: A setting of the training does not apply to these images.
    """
    config = setup.experiment.training
    if config.single_step_share and setup.images.time_steps is not None:
        raise UserError("training.single_step_share: only for still images, because one step reads one frame; set it to 0")
    return TrainingBatches(
        split=setup.images.splits["train"],
        num_classes=len(setup.images.classes),
        channels=setup.images.channels,
        image_size=setup.experiment.data.image_size,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        smoothing=config.smoothing,
        workers=config.workers,
        seed=setup.training_seed,
        device=setup.device,
        rank_slice=setup.ranks.slice(parts=config.accumulate),
        preparation=setup.preparation,
        images_per_epoch=config.images_per_epoch,
    )
