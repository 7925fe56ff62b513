"""Latency of subnets on the device of this process: the duration of a forward pass of one image, and of a batch.

The subnets have their inherited weights and calibrated statistics, because kernels skip zeros: without spikes they would be faster.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from autospike.data.batches import Batch
from autospike.evaluation.setup import calibrated_subnet, fixed_batches
from autospike.machine import processor_name
from autospike.measurement import Latency
from autospike.models.contract import SpikingModel
from autospike.run_directory import RunDirectory
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet
from autospike.training.setup import Setup, load_trained_supernet

# Passes before the measured ones, in which memory is allocated and operators are chosen; and measured passes. Our choice.
WARM_UP, PASSES = 3, 15


@dataclass(frozen=True, kw_only=True)
class LatencyMeter:
    """Measures the latency of subnets of a supernet, one after the other.

    Attributes:
        setup: Configuration, data and device.
        supernet: The trained supernet.
        one: An image of the search split as a batch.
        many: A batch of images of the search split.
    """

    setup: Setup
    supernet: Supernet
    one: Batch
    many: Batch

    @classmethod
    def of(cls, run: RunDirectory, setup: Setup) -> LatencyMeter:
        """Load the supernet of a run and a batch of `search.latency_batch` images.

        Args:
            run: A trained run.
            setup: Configuration, data and device.

        Returns:
            The meter.
        """
        search = fixed_batches(setup, setup.images.splits["search"])
        many = search.batch((0, min(run.experiment.search.latency_batch, len(search))))
        supernet = load_trained_supernet(setup, run.experiment.search_space, run.supernet)
        return cls(setup=setup, supernet=supernet, one=search.batch((0, 1)), many=many)

    @property
    def device(self) -> str:
        """Processor or GPU, number of threads, and size of the batch."""
        batch = f"batch of {len(self.many.targets)}"
        if self.setup.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.setup.device)}, {batch}"
        return f"{processor_name()}, {torch.get_num_threads()} threads, {batch}"

    def __call__(self, architectures: Sequence[Architecture]) -> Mapping[Architecture, Latency]:
        """Measure subnets. Those that differ in T only are calibrated together.

        Args:
            architectures: The subnets.

        Returns:
            Their latencies.
        """
        longest = max(self.supernet.space.time_steps.values)
        found: dict[Architecture, Latency] = {}
        for largest, group in _by_largest(architectures, longest).items():
            model = calibrated_subnet(self.setup, self.supernet, largest)
            for architecture in group:
                at_steps = self.supernet.extract(architecture)
                at_steps.load_state_dict(model.state_dict())
                found[architecture] = self._measure(at_steps.eval())
        return found

    def _measure(self, model: SpikingModel) -> Latency:
        one, many = (1000 * _median_s(model, batch.images) for batch in (self.one, self.many))
        return Latency(device=self.device, image_ms=one, batch_ms=many / len(self.many.targets))


def _by_largest(architectures: Iterable[Architecture], longest: int) -> dict[Architecture, list[Architecture]]:
    """The architectures by the same ones with the largest T."""
    groups: dict[Architecture, list[Architecture]] = {}
    for architecture in architectures:
        groups.setdefault(replace(architecture, time_steps=longest), []).append(architecture)
    return groups


@torch.no_grad()
def _median_s(model: SpikingModel, images: Tensor) -> float:
    """Median duration of a forward pass in seconds."""
    durations = []
    for _ in range(WARM_UP + PASSES):
        started = time.perf_counter()
        model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        durations.append(time.perf_counter() - started)
    return median(durations[WARM_UP:])
