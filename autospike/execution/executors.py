"""The executor that an experiment asks for, with workers that can measure subnets of a run's supernet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import autospike
from autospike.assembly import Assembly
from autospike.config import Experiment
from autospike.errors import UserError
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.executor import Executor, Serial
from autospike.execution.processes import Processes
from autospike.run_directory import Run
from autospike.supernet import Supernet

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a worker begins: a value that is sent to it, and makes its walker there.

    Args:
        experiment: with paths that hold wherever the worker is.
        weights: the supernet's, or the folder of its checkpoint.
        fingerprint: of the images that the search is about.
        versions: of the search, as `versions` gives them.
    """

    experiment: Experiment
    weights: Path | Weights
    fingerprint: str
    versions: str

    def __call__(self) -> TrieEvaluator:
        """Raises:
        UserError: the images here, or the versions, are not those of the search.
        """
        assembly = Assembly.open(self.experiment)
        here = versions()
        if here != self.versions:
            raise UserError(f"a worker has other versions ({here}) than the search ({self.versions}); install the same everywhere")
        if assembly.images.fingerprint != self.fingerprint:
            raise UserError("a worker sees other images than the search does; make data.root the same folder on every machine")
        return assembly.walker(self._supernet(assembly))

    def _supernet(self, assembly: Assembly) -> Supernet:
        space = self.experiment.search_space
        if isinstance(self.weights, Path):
            return assembly.trained(space, self.weights)
        supernet = assembly.supernet(space)
        supernet.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in self.weights.items()})
        return supernet


def create_executor(run: Run, assembly: Assembly) -> Executor:
    """Close it after use.

    Raises:
        UserError: the supernet is not trained, Ray is not installed, or its cluster cannot be reached.
    """
    supernet, config = assembly.trained(run.experiment.search_space, run.supernet), run.experiment.execution
    if config.executor == "serial":
        return Serial(walker=assembly.walker(supernet))
    if config.executor == "processes":
        if assembly.device.type != "cpu":
            raise UserError(
                "execution.executor: processes share out the cores of a CPU; on one GPU take serial, on several ray with "
                "execution.gpus_per_worker"
            )
        workers = config.workers or max(1, _cores() // torch.get_num_threads())
        return Processes(start=_start(run, assembly, run.supernet.resolve()), workers=workers)
    from autospike.execution.ray_cluster import Cluster

    weights = {name: values.numpy(force=True) for name, values in supernet.state_dict().items()}
    return Cluster(start=_start(run, assembly, weights), config=config, threads=torch.get_num_threads())


def _start(run: Run, assembly: Assembly, weights: Path | Weights) -> Start:
    """What is sent holds wherever it arrives: how many threads, which device, where the images are."""
    data = run.experiment.data
    root = data.root and data.root.resolve()
    update = {"threads": torch.get_num_threads(), "device": assembly.measured_on, "data": data.model_copy(update={"root": root})}
    return Start(
        experiment=run.experiment.model_copy(update=update),
        weights=weights,
        fingerprint=assembly.images.fingerprint,
        versions=versions(),
    )


def versions() -> str:
    """What a worker must have in common with the search, besides the images."""
    return f"autospike {autospike.__version__}, torch {torch.__version__}"


def _cores() -> int:
    """That this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in each period, or "max"
    allowed, _, period = quota.read_text().partition(" ") if quota.exists() else ("max", "", "")
    return cores if allowed == "max" else max(1, min(cores, int(allowed) // int(period)))
