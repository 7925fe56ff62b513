"""From an experiment to its parts: data, batches, supernets, evaluators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from autospike.config import Experiment
from autospike.counting.counter import VERSION as COUNTING_VERSION
from autospike.data.batches import FixedBatches, TrainingBatches
from autospike.data.images import Images, Split, load_images
from autospike.errors import UserError
from autospike.evaluation.calibration import VERSION as CALIBRATION_VERSION
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.population import PopulationEvaluator, Watch
from autospike.evaluation.successive_halving import ROUNDS
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.executor import Executor
from autospike.memory.allocator import retain_large_allocations
from autospike.memory.cache import MB, ByteBudgetCache
from autospike.models.contract import SpikingModel
from autospike.randomness import keyed, keyed_seed
from autospike.run_directory import Run
from autospike.space.architecture import Architecture, digest
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.distillation import load_teacher
from autospike.training.distributed import ALONE, Ranks
from autospike.training.progress import Progress
from autospike.training.trainer import train


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The parts of one experiment, sharing one source of images."""

    experiment: Experiment
    images: Images
    device: torch.device
    ranks: Ranks = ALONE
    repetition: int = 0
    """Of a training. Each has initial weights, batches and draws of its own; splits and calibration images are the same."""

    @classmethod
    def of(cls, run: Run) -> Assembly:
        """Open the data, choose the device, and set torch's threads for this process.

        Raises:
            UserError: the data cannot be opened, is not the data that the run was trained on, or there is no such device.
        """
        assembly = cls.open(run.experiment)
        run.check_data(assembly.images.fingerprint)
        return assembly

    @classmethod
    def to_measure(cls, run: Run) -> Assembly:
        """As `of`. Last bits depend on the number of threads, so it is the same wherever candidates are measured: where several
        workers share the cores, one each unless the experiment says otherwise."""
        assembly = cls.of(run)
        if run.experiment.threads is None and run.experiment.execution.executor != "serial":
            torch.set_num_threads(1)
        return assembly

    @property
    def training_seed(self) -> int:
        """The experiment's, and for its repetitions seeds that follow from it."""
        seed = self.experiment.seed
        return keyed_seed(seed, "repetition", self.repetition) if self.repetition else seed

    @property
    def measured_on(self) -> str:
        """The kind of device on which candidates are measured."""
        return "cuda" if self.experiment.execution.gpus_per_worker else self.device.type

    @classmethod
    def open(cls, experiment: Experiment) -> Assembly:
        """As `of`, of an experiment that no run holds to its data."""
        if experiment.threads is not None:
            torch.set_num_threads(experiment.threads)
        torch.backends.cudnn.allow_tf32 = False  # a rounding more and a spike flips
        images, ranks = load_images(experiment.data, seed=experiment.seed), Ranks.of_environment()
        images.check_time_steps(max(*experiment.search_space.time_steps.values, experiment.baseline_architecture.time_steps))
        return cls(experiment=experiment, images=images, device=ranks.device(_device(experiment.device)), ranks=ranks)

    def supernet(self, space: SearchSpace) -> Supernet:
        """A fresh supernet; its initial parameters depend on the training's seed alone."""
        with torch.random.fork_rng():
            torch.manual_seed(keyed_seed(self.training_seed, "initial parameters"))
            surrogate = self.experiment.training.surrogate
            supernet = Supernet(space, num_classes=len(self.images.classes), in_chans=self.images.channels, surrogate=surrogate)
        return supernet.to(self.device)

    def train(self, supernet: Supernet, folder: Path, report: Callable[[Progress], None]) -> None:
        """Train a supernet to the end, from the newest checkpoint in `folder` if there is one. Several ranks have joined before."""
        config, seed = self.experiment.training, self.training_seed
        teacher = None
        if config.teacher is not None:
            size, classes = self.experiment.data.image_size, len(self.images.classes)
            teacher = load_teacher(config.teacher, num_classes=classes, image_size=size, device=self.device)
        batches, checkpoints = self._training_batches(), Checkpoints(folder=folder)
        with retain_large_allocations():
            train(supernet, batches, config, checkpoints, report, seed=seed, teacher=teacher, ranks=self.ranks)

    def training_steps(self) -> int:
        return self.experiment.training.epochs * self._training_batches().per_epoch

    def trained(self, space: SearchSpace, folder: Path) -> Supernet:
        """The supernet of a finished training, with averaged weights where it averaged.

        Raises:
            UserError: the training has not finished.
        """
        checkpoints = Checkpoints(folder=folder)
        record = checkpoints.record
        if record is None or not record.finished:
            raise UserError(f"{folder}: training has not finished; run: autospike train EXPERIMENT --run {folder.parent}")
        supernet = self.supernet(space)
        checkpoints.load_trained(supernet)
        return supernet

    def walker(self, supernet: Supernet) -> TrieEvaluator:
        """What measures candidates in this process. The search split's order is drawn, for it may be used in parts."""
        kept, search = self._room(), self.images.splits["search"]
        shuffled = search.drawn(len(search), keyed(self.experiment.seed, "order of the search split"))
        calibration, scoring = self.fixed_batches(self._calibration_split(), kept), self.fixed_batches(shuffled, kept)
        return TrieEvaluator(supernet=supernet, calibration=calibration, search=scoring, kept=kept)

    def evaluator(self, executor: Executor, watch: Watch) -> PopulationEvaluator:
        return PopulationEvaluator(
            executor=executor,
            calibration_images=len(self._calibration_split()),
            search_images=len(self.images.splits["search"]),
            config=self.experiment.evaluation,
            convention=self.experiment.search.energy_convention,
            spared=self.experiment.search_space.largest(),
            watch=watch,
        )

    def calibrated(self, supernet: Supernet, architecture: Architecture) -> SpikingModel:
        """A subnet as a plain model with statistics of its own: those with which a search scores it."""
        model, split = supernet.extract(architecture), self.fixed_batches(self._calibration_split())
        batches = (batch.images for batch in split(self.experiment.evaluation.calibration_batch_size))
        calibrate(model, batches, time_steps=max(supernet.space.time_steps.values))
        return model

    def held_out_batches(self) -> FixedBatches:
        """The test split, for the final measurement alone."""
        return self.fixed_batches(self.images.splits["test"])

    def fixed_batches(self, split: Split, kept: ByteBudgetCache | None = None) -> FixedBatches:
        size = self.experiment.data.image_size
        return FixedBatches(
            split=split,
            channels=self.images.channels,
            image_size=size,
            device=self.device,
            kept=self._room() if kept is None else kept,
        )

    def _room(self) -> ByteBudgetCache:
        return ByteBudgetCache(self.experiment.evaluation.kept_mb * MB)

    def _calibration_split(self) -> Split:
        count = self.experiment.evaluation.calibration_images
        return self.images.splits["train"].drawn(count, keyed(self.experiment.seed, "calibration"))

    def protocol_id(self, folder: Path) -> str:
        """Names everything that a score depends on besides the architecture."""
        record, config = Checkpoints(folder=folder).record, self.experiment.evaluation
        return digest(
            {
                "weights": record and record.sha256,
                "image_size": self.experiment.data.image_size,
                "images": self.images.fingerprint,
                "torch": torch.__version__,
                "calibration": [config.calibration_images, config.calibration_batch_size, CALIBRATION_VERSION],
                **({"racing": [config.racing, ROUNDS, self.experiment.search.convention]} if config.racing else {}),
                "time_steps": max(self.experiment.search_space.time_steps.values),
                "counting": COUNTING_VERSION,
                "device": self.measured_on,
                "threads": torch.get_num_threads() if self.measured_on == "cpu" else None,
            }
        )

    def _training_batches(self) -> TrainingBatches:
        config = self.experiment.training
        return TrainingBatches(
            split=self.images.splits["train"],
            num_classes=len(self.images.classes),
            channels=self.images.channels,
            image_size=self.experiment.data.image_size,
            batch_size=config.batch_size,
            augmentation=config.augmentation,
            smoothing=config.smoothing,
            workers=config.workers,
            seed=self.training_seed,
            device=self.device,
            share=self.ranks.share(parts=config.accumulate),
        )


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: no CUDA device here; choose cpu or auto")
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"
