"""Progress of a training: measured after each step, shown as a progress bar, written to `log.jsonl` and to TensorBoard."""

from __future__ import annotations

import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch

from autospike.console import progress, short
from autospike.errors import Interrupted, UserError
from autospike.kernels.lif import LIBRARY
from autospike.run_directory import RunDirectory

MB = 1e6

LOG_EVERY_STEPS = 10


def display_name(name: str) -> str:
    """Return the name of a network for messages.

    Args:
        name: The name in logs and folders, where the reference network is called `hand-made`.
    """
    return name.replace("hand-made", "reference network")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of a training after a step.

    Attributes:
        step: Number of finished steps.
        steps: Number of steps of the whole training.
        loss: Mean over the architectures of the step.
        learning_rate: Of the step.
        seconds: Duration of the step, with loading its batch.
        images_per_second: Of all ranks, as a mean over the last 50 steps.
        seconds_left: Estimated from the last 50 steps.
        memory_mb: Peak memory of this process in 10^6 bytes: allocated CUDA memory on CUDA, else resident memory.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float
    images_per_second: float
    seconds_left: float
    memory_mb: float


# Called after each step of a training.
ReportProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class StepTimer:
    """Measures the speed of a training over its last 50 steps.

    Attributes:
        images: Batch size, over all ranks.
        steps: Number of steps of the whole training.
        device: The device whose memory is reported.
        moments: Times at which the last steps ended, in seconds.
    """

    images: int
    steps: int
    device: torch.device
    moments: deque[float] = field(default_factory=lambda: deque([time.perf_counter()], maxlen=51))

    def step_finished(self, step: int, *, loss: float, learning_rate: float) -> Progress:
        """Record the end of a step.

        Args:
            step: Number of finished steps.
            loss: Of the step.
            learning_rate: Of the step.

        Returns:
            The progress after the step.
        """
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
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in one unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


@contextmanager
def reporting(
    run: RunDirectory, name: str, *, start: int, steps: int, device: torch.device, ranks: int
) -> Iterator[Callable[[Progress], None]]:
    """Report a training as a progress bar, and every ten steps in `log.jsonl` and to TensorBoard.

    Args:
        run: The run that is written to.
        name: Of the network.
        start: Number of steps that were finished before.
        steps: Number of steps of the whole training.
        device: For the log.
        ranks: Number of ranks, for the log.

    Yields:
        The function to call after each step.
    """
    neuron = "compiled" if LIBRARY.functions else "reference"
    run.log("train started", network=name, from_step=start, device=str(device), ranks=ranks, neuron=neuron)
    with (
        TensorBoard(run.folder / "tensorboard" / name, start=start) as tensorboard,
        progress(f"train {display_name(name)}", total=steps) as update_bar,
    ):

        def report(now: Progress) -> None:
            update_bar(now.step, f"loss {now.loss:.2f} {short(now.images_per_second)}/s {short(now.memory_mb * MB)}B")
            if now.step % LOG_EVERY_STEPS == 0 or now.step == now.steps:
                run.log("train", network=name, **_logged(now))
                tensorboard.write(now)

        try:
            yield report
        except Interrupted as interruption:
            run.log("train interrupted", network=name, step=interruption.step)
            raise
    run.log("train finished", network=name)


def _logged(now: Progress) -> dict[str, float]:
    return {
        "step": now.step,
        "loss": now.loss,
        "learning_rate": now.learning_rate,
        "seconds": now.seconds,
        "images_per_second": round(now.images_per_second, 1),
        "memory_mb": round(now.memory_mb, 1),
        "seconds_left": round(now.seconds_left, 1),
    }


class TensorBoard:
    """Context manager that writes scalars of a training to a TensorBoard folder.

    Args:
        folder: Folder of the event files.
        start: Number of steps that were finished before. Earlier values beyond it are hidden.

    Raises:
        UserError: The folder cannot be written to.
    """

    SCALARS = ("loss", "learning_rate", "images_per_second", "memory_mb")

    def __init__(self, folder: Path, *, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes half a second to import

        try:
            self._writer = SummaryWriter(folder, purge_step=start + 1)
        except OSError as error:
            raise self._write_error(error) from None

    def write(self, now: Progress) -> None:
        """Write the scalars of a step.

        Args:
            now: The progress after the step.

        Raises:
            UserError: The disk is full.
        """
        try:
            for name in self.SCALARS:
                self._writer.add_scalar(name, getattr(now, name), now.step)
        except OSError as error:
            raise self._write_error(error) from None

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        try:
            self._writer.close()
        except OSError as error:
            if kind is None:
                raise self._write_error(error) from None

    def _write_error(self, error: OSError) -> UserError:
        return UserError(
            f"tensorboard: cannot write events ({error.strerror or error}); free disk space and run the command again to resume"
        )
