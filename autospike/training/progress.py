"""Where a training stands, and how fast it goes."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import torch

MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A training after a step. `loss` is the mean over the step's subnets; `images_per_second` are those of all ranks."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    """The step took, with its batch's loading."""
    images_per_second: float
    seconds_left: float
    memory_mb: float
    """The most that this process has held: on CUDA of tensors there, else of the machine's memory."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a training of `steps` goes, by its last 50.

    Args:
        images: of a batch, on all ranks.
        device: whose memory is told.
    """

    images: int
    steps: int
    device: torch.device
    moments: deque[float] = field(default_factory=lambda: deque([time.perf_counter()], maxlen=51))

    def after(self, step: int, *, loss: float, learning_rate: float) -> Progress:
        """To be called at the end of every step."""
        self.moments.append(time.perf_counter())
        mean_seconds = (self.moments[-1] - self.moments[0]) / (len(self.moments) - 1)
        return Progress(
            step=step,
            steps=self.steps,
            loss=loss,
            learning_rate=learning_rate,
            seconds=self.moments[-1] - self.moments[-2],
            images_per_second=self.images / mean_seconds,
            seconds_left=(self.steps - step) * mean_seconds,
            memory_mb=_peak_memory_mb(self.device),
        )


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    unit = 1 if sys.platform == "darwin" else 1024  # of what the system calls ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB
