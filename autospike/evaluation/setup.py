"""Set up the measurement of subnets: evaluators, executors, calibrated models, and the identity of the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import autospike
from autospike.config import Experiment
from autospike.counting.counter import VERSION as COUNTING_VERSION
from autospike.data.batches import FixedBatches
from autospike.data.images import Split
from autospike.errors import UserError
from autospike.evaluation.calibration import VERSION as CALIBRATION_VERSION
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.population import PopulationEvaluator, ProgressCallback
from autospike.evaluation.successive_halving import ROUNDS
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.executor import Executor, Serial
from autospike.execution.processes import Processes
from autospike.kernels.build import missing_kernels, missing_reason
from autospike.memory.cache import MIB, ByteBudgetCache
from autospike.models.contract import SpikingModel
from autospike.process import available_cores
from autospike.randomness import keyed
from autospike.run_directory import RunDirectory
from autospike.space.architecture import Architecture, digest
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.setup import Setup, build_supernet, load_trained_supernet, open_experiment, open_run

Weights = Mapping[str, NDArray[Any]]


def open_for_measurement(run: RunDirectory) -> Setup:
    """Open a run as `open_run` does, with the number of threads with which candidates are measured.

    The last bits of a result depend on the number of threads, so it must be the same in every worker. Workers that share the
    cores of a machine use one thread each unless the experiment sets `threads`.

    Args:
        run: The run.

    Returns:
        The setup.

    Raises:
        UserError: The data cannot be opened or have changed, or the device does not exist.
    """
    setup = open_run(run)
    if run.experiment.threads is None and run.experiment.execution.executor != "serial":
        torch.set_num_threads(1)
    return setup


def measuring_device_type(setup: Setup) -> str:
    """Return the type of the device on which candidates are measured, "cpu" or "cuda".

    Args:
        setup: Configuration and device.
    """
    return "cuda" if setup.experiment.execution.gpus_per_worker else setup.device.type


def trie_evaluator(setup: Setup, supernet: Supernet) -> TrieEvaluator:
    """Build the evaluator that measures candidates in this process.

    The search split is shuffled, because successive halving scores on parts of it.

    Args:
        setup: Configuration, data and device.
        supernet: The trained supernet.

    Returns:
        The evaluator; its batches and its intermediate results share one cache.
    """
    cache, search = _cache(setup), setup.images.splits["search"]
    shuffled = search.sample(len(search), keyed(setup.experiment.seed, "order of the search split"))
    calibration, scoring = fixed_batches(setup, calibration_split(setup), cache), fixed_batches(setup, shuffled, cache)
    return TrieEvaluator(supernet=supernet, calibration=calibration, search=scoring, cache=cache)


def population_evaluator(
    setup: Setup, executor: Executor, progress: ProgressCallback = lambda _done, _of: None
) -> PopulationEvaluator:
    """Build the evaluator of whole populations.

    Args:
        setup: Configuration and data.
        executor: Runs the shards.
        progress: Called after each shard with the numbers of finished shards and of all shards.

    Returns:
        The evaluator.
    """
    return PopulationEvaluator(
        executor=executor,
        calibration_images=len(calibration_split(setup)),
        search_images=len(setup.images.splits["search"]),
        config=setup.experiment.evaluation,
        convention=setup.experiment.search.energy_convention,
        exempt=setup.experiment.search_space.largest(),
        progress=progress,
    )


def calibrated_subnet(setup: Setup, supernet: Supernet, architecture: Architecture) -> SpikingModel:
    """Extract a subnet and calibrate its BatchNorm statistics as the search does.

    Args:
        setup: Configuration, data and device.
        supernet: The trained supernet.
        architecture: The subnet.

    Returns:
        A plain model in eval mode with its own parameters and statistics.
    """
    model, batches = supernet.extract(architecture), fixed_batches(setup, calibration_split(setup))
    images = (batch.images for batch in batches(setup.experiment.evaluation.calibration_batch_size))
    calibrate(model, images, time_steps=max(supernet.space.time_steps.values))
    return model


def held_out_batches(setup: Setup) -> FixedBatches:
    """Return the test split, which only the final measurement may open.

    Args:
        setup: Configuration, data and device.
    """
    return fixed_batches(setup, setup.images.splits["test"])


def fixed_batches(setup: Setup, split: Split, cache: ByteBudgetCache | None = None) -> FixedBatches:
    """Batches of a split without augmentation.

    Args:
        setup: Configuration, data and device.
        split: The images.
        cache: Holds decoded images; a new one of the configured size unless given.

    Returns:
        The batches.
    """
    return FixedBatches(
        split=split,
        channels=setup.images.channels,
        image_size=setup.experiment.data.image_size,
        device=setup.device,
        cache=_cache(setup) if cache is None else cache,
        preparation=setup.preparation,
    )


def calibration_split(setup: Setup) -> Split:
    """Return the training images on which statistics are calibrated.

    Args:
        setup: Configuration and data.
    """
    count = setup.experiment.evaluation.calibration_images
    return setup.images.splits["train"].sample(count, keyed(setup.experiment.seed, "calibration"))


def _cache(setup: Setup) -> ByteBudgetCache:
    return ByteBudgetCache(setup.experiment.evaluation.kept_mb * MIB)


def protocol_id(setup: Setup, folder: Path) -> str:
    """Digest of everything besides the architecture on which a score depends.

    Args:
        setup: Configuration, data and device.
        folder: The folder with the checkpoints of the supernet.

    Returns:
        The digest.
    """
    record, config = Checkpoints(folder=folder).record, setup.experiment.evaluation
    normalisation = setup.experiment.data.normalisation
    device = measuring_device_type(setup)
    without = missing_kernels() if device == "cpu" else ()
    return digest(
        {
            "weights": record and record.sha256,
            "image_size": setup.experiment.data.image_size,
            **({"normalisation": normalisation.model_dump(mode="json")} if normalisation else {}),
            "images": setup.images.fingerprint,
            "torch": torch.__version__,
            "calibration": [config.calibration_images, config.calibration_batch_size, CALIBRATION_VERSION],
            **({"racing": [config.racing, ROUNDS, setup.experiment.search.convention]} if config.racing else {}),
            "time_steps": max(setup.experiment.search_space.time_steps.values),
            "counting": COUNTING_VERSION,
            **({} if setup.experiment.task == "classification" else {"task": setup.experiment.task}),
            "device": device,
            "threads": torch.get_num_threads() if device == "cpu" else None,
            # Operations of torch round differently. Absent if all kernels are there, as in archives of earlier versions.
            **({"without_kernels": list(without)} if without else {}),
        }
    )


@dataclass(frozen=True, kw_only=True)
class CreateTrieEvaluator:
    """Creates the trie evaluator of a worker, in the worker. Picklable.

    Attributes:
        experiment: The configuration, with paths that are valid in the worker.
        weights: The parameters of the supernet, or the folder of its checkpoint.
        fingerprint: Of the images of the search.
        versions: Of the process that searches, as `versions` returns them.
        datasets: The user's own datasets by split, if the images are such objects.
    """

    experiment: Experiment
    weights: Path | Weights
    fingerprint: str
    versions: str
    datasets: Mapping[str, Any] | None = None

    def __call__(self) -> TrieEvaluator:
        """Create the evaluator in this process.

        Raises:
            UserError: The images or the versions of the worker differ from those of the search.
        """
        setup = open_experiment(self.experiment, self.datasets)
        missing_reason()  # the search has said so
        here = versions()
        if here != self.versions:
            raise UserError(f"a worker has other versions ({here}) than the search ({self.versions}); install the same everywhere")
        if setup.images.fingerprint != self.fingerprint:
            raise UserError("a worker reads other images than the search; make data.root the same folder on every machine")
        return trie_evaluator(setup, self._supernet(setup))

    def _supernet(self, setup: Setup) -> Supernet:
        space = self.experiment.search_space
        if isinstance(self.weights, Path):
            return load_trained_supernet(setup, space, self.weights)
        supernet = build_supernet(setup, space)
        supernet.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in self.weights.items()})
        return supernet


def create_executor(run: RunDirectory, setup: Setup) -> Executor:
    """Create the configured executor, with workers that measure subnets of the supernet of a run. The caller closes it.

    Args:
        run: The run.
        setup: As `open_for_measurement` returns it.

    Returns:
        The executor.

    Raises:
        UserError: The supernet is not trained, Ray is not installed, or its cluster cannot be reached.
    """
    supernet, config = load_trained_supernet(setup, run.experiment.search_space, run.supernet), run.experiment.execution
    if config.executor == "serial":
        return Serial(state=trie_evaluator(setup, supernet))
    if config.executor == "processes":
        if setup.device.type != "cpu":
            raise UserError(
                "execution.executor: processes divide the cores of a CPU; choose serial for one GPU, ray for several with "
                "execution.gpus_per_worker"
            )
        workers = config.workers or max(1, available_cores() // torch.get_num_threads())
        return Processes(create_state=_worker_state(run, setup, run.supernet.resolve()), workers=workers)
    from autospike.execution.ray_cluster import Cluster

    weights = {name: values.numpy(force=True) for name, values in supernet.state_dict().items()}
    return Cluster(create_state=_worker_state(run, setup, weights), config=config, threads=torch.get_num_threads())


def _worker_state(run: RunDirectory, setup: Setup, weights: Path | Weights) -> CreateTrieEvaluator:
    """Creates the state of workers, with the number of threads, the device and the data folder made explicit."""
    data = run.experiment.data
    root = data.root and data.root.resolve()
    update = {
        "threads": torch.get_num_threads(),
        "device": measuring_device_type(setup),
        "data": data.model_copy(update={"root": root, "channels": setup.images.channels}),
    }
    return CreateTrieEvaluator(
        experiment=run.experiment.model_copy(update=update),
        weights=weights,
        fingerprint=setup.images.fingerprint,
        versions=versions(),
        datasets=run.datasets,
    )


def versions() -> str:
    """Return the versions of the packages, and the missing kernels, that must be the same in every worker."""
    without = missing_kernels()
    return f"autospike {autospike.__version__}, torch {torch.__version__}" + (f", without {', '.join(without)}" if without else "")
