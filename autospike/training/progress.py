"""Callbacks of a training: a progress bar, `log.jsonl` and TensorBoard."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import torch

from autospike.console import Bar, progress, several_bars, short
from autospike.errors import Interrupted, UserError
from autospike.events import Callback, Event, StepEvent
from autospike.kernels.lif import LIBRARY
from autospike.process import peak_memory_bytes
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
class StepTimer:
    """Measures the speed of a training over its last 50 steps.

    Attributes:
        network: Name of the network.
        images: Batch size, over all ranks.
        steps: Number of steps of the whole training.
        device: The device whose memory is reported.
        moments: Times at which the last steps ended, in seconds.
    """

    network: str
    images: int
    steps: int
    device: torch.device
    moments: deque[float] = field(default_factory=lambda: deque([time.perf_counter()], maxlen=51))

    def step_finished(self, step: int, *, loss: float, learning_rate: float) -> StepEvent:
        """Record the end of a step.

        Args:
            step: Number of finished steps.
            loss: Of the step.
            learning_rate: Of the step.

        Returns:
            The event of the step.
        """
        self.moments.append(time.perf_counter())
        mean_seconds = (self.moments[-1] - self.moments[0]) / (len(self.moments) - 1)
        return StepEvent(
            network=self.network,
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
    return peak_memory_bytes() / MB


@contextmanager
def reporting(
    run: RunDirectory, name: str, *, start: int, steps: int, device: torch.device, ranks: int, callbacks: Sequence[Callback] = ()
) -> Iterator[Callback]:
    """Report a training to callbacks: a progress bar, `log.jsonl`, TensorBoard, and those of the user.

    Args:
        run: The run that is written to.
        name: Of the network.
        start: Number of steps that were finished before.
        steps: Number of steps of the whole training.
        device: For the log.
        ranks: Number of ranks, for the log.
        callbacks: Of the user; they are called after the others.

    Yields:
        The callback that calls all of them.
    """
    neuron = "compiled" if LIBRARY.functions else "reference"
    run.log("train started", network=name, from_step=start, device=str(device), ranks=ranks, neuron=neuron)
    with (
        TensorBoard(run.folder / "tensorboard" / name, start=start) as tensorboard,
        progress(f"train {display_name(name)}", total=steps) as update_bar,
    ):
        every: tuple[Callback, ...] = (partial(show_step, update_bar), partial(log_step, run), tensorboard, *callbacks)

        def report(event: Event) -> None:
            for callback in every:
                callback(event)

        try:
            yield report
        except Interrupted as interruption:
            run.log("train interrupted", network=name, step=interruption.step)
            raise
    run.log("train finished", network=name)


def show_step(update_bar: Bar, event: Event) -> None:
    """Callback that shows each step in a progress bar.

    Args:
        update_bar: The function that updates the bar.
        event: Any event.
    """
    if isinstance(event, StepEvent):
        update_bar(event.step, f"loss {event.loss:.2f} {short(event.images_per_second)}/s {short(event.memory_mb * MB)}B")


class TrainingBars:
    """Callback and context manager that shows a progress bar for each of several trainings, from its first step to its last.

    Of names such as `ID/fine-tuned/0` it shows the first part, so that a bar has room in 80 columns.
    """

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._bars: dict[str, tuple[ExitStack, Bar]] = {}

    def __call__(self, event: Event) -> None:
        """Show a step.

        Args:
            event: Any event.
        """
        if not isinstance(event, StepEvent):
            return
        if event.network not in self._bars:
            self._bars[event.network] = self._opened(event)
        block, update_bar = self._bars[event.network]
        show_step(update_bar, event)
        if event.step == event.steps:
            block.close()

    def __enter__(self) -> TrainingBars:
        self._new_bar = self._shown.enter_context(several_bars())
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._shown.close()

    def _opened(self, event: StepEvent) -> tuple[ExitStack, Bar]:
        block = self._shown.enter_context(ExitStack())
        return block, block.enter_context(self._new_bar(f"train {event.network.split('/')[0]}", total=event.steps))


def log_step(run: RunDirectory, event: Event) -> None:
    """Callback that writes every tenth step and the last one to `log.jsonl`.

    Args:
        run: The run that is written to.
        event: Any event.
    """
    if isinstance(event, StepEvent) and _is_logged(event):
        run.log(
            "train",
            network=event.network,
            step=event.step,
            loss=event.loss,
            learning_rate=event.learning_rate,
            seconds=event.seconds,
            images_per_second=round(event.images_per_second, 1),
            memory_mb=round(event.memory_mb, 1),
            seconds_left=round(event.seconds_left, 1),
        )


def _is_logged(event: StepEvent) -> bool:
    return event.step % LOG_EVERY_STEPS == 0 or event.step == event.steps


class TensorBoard:
    """Callback and context manager that writes scalars of every tenth step and the last one to a TensorBoard folder.

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

    def __call__(self, event: Event) -> None:
        """Write the scalars of a step.

        Args:
            event: Any event.

        Raises:
            UserError: The disk is full.
        """
        if not isinstance(event, StepEvent) or not _is_logged(event):
            return
        try:
            for name in self.SCALARS:
                self._writer.add_scalar(name, getattr(event, name), event.step)
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
