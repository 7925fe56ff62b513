"""Fine-tuning of several finalists at the same time, each in a process of its own.

A training on the CPU depends on the experiment, the network and the number of threads only, so the results are those of trainings
one after the other, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from autospike.console import note, send_notes
from autospike.errors import UserError
from autospike.evaluation.setup import open_for_measurement
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.events import Callback
from autospike.execution.side_by_side import Send, run_side_by_side
from autospike.kernels.build import missing_reason
from autospike.process import memory_limit, peak_memory_bytes
from autospike.run_directory import RunDirectory
from autospike.space.architecture import Architecture
from autospike.training.progress import TrainingBars
from autospike.training.retraining import fine_tuned, train_retrained
from autospike.training.setup import Setup, threads_of_torch


def trainings_at_once(run: RunDirectory, setup: Setup, *, cores: int, threads: int) -> int:
    """Return how many trainings of finalists may run at the same time.

    Args:
        run: The run. Datasets that are Python objects of the user may not exist in another process: one training at a time.
        setup: The opened run. On a GPU, one training at a time.
        cores: Number of cores that the trainings may use.
        threads: Number of threads of each training.

    Returns:
        As many as have a core for each thread, and memory: each is taken to need what this process has needed so far, because the
        supernet is at least as large as a finalist. At least 1.
    """
    if setup.device.type != "cpu" or run.datasets is not None:
        return 1
    limit = memory_limit()
    room = cores if limit is None else limit // peak_memory_bytes() - 1  # less this process
    return max(1, min(cores // threads, room))


def fine_tune_side_by_side(
    run: RunDirectory,
    architectures: Sequence[Architecture],
    *,
    at_once: int,
    threads: int,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Fine-tune finalists, and measure them on the search split, each in a process of its own.

    The processes import the main module of this one again, which a script must expect (see `multiprocessing`).

    Args:
        run: A searched run, opened with the number of threads with which candidates are measured.
        architectures: The finalists.
        at_once: Number of trainings at the same time.
        threads: Number of threads of each training.
        callbacks: Receive the events of the trainings in this process: those of one training in their order, those of different
            trainings as they come.

    Raises:
        UserError: As of `train_retrained`, or the process of a training was killed. The other trainings end after a checkpoint.
        Interrupted: By a signal, after a checkpoint of each training.
    """
    jobs = [
        FineTuning(run=run, architecture=architecture, training_threads=threads, measuring_threads=torch.get_num_threads())
        for architecture in architectures
    ]
    with TrainingBars() as bars:

        def receive(message: Any) -> None:
            if isinstance(message, str):
                note(message)
                return
            bars(message)
            for callback in callbacks:
                callback(message)

        try:
            run_side_by_side(jobs, at_once=at_once, receive=receive)
        except BrokenProcessPool:
            raise UserError(
                "fine-tune: the process of a training was killed, for example for lack of memory; run the same command again to "
                "resume, with `taskset -c 0` before it for one training at a time"
            ) from None


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Fine-tunes a finalist and measures it, in a worker process. Picklable.

    Attributes:
        run: A searched run, without datasets that are Python objects.
        architecture: The finalist.
        training_threads: Number of threads of the training.
        measuring_threads: Number of threads of the measurement.
    """

    run: RunDirectory
    architecture: Architecture
    training_threads: int
    measuring_threads: int

    def __call__(self, send: Send) -> None:
        """Train from the newest checkpoint, and write the measurement.

        Args:
            send: Called with the events of the training, and with notes.

        Raises:
            UserError: As of `train_retrained`.
            Interrupted: The parent has asked the process to end, after a checkpoint.
        """
        send_notes(lambda _note: None)  # the command has opened the same data, and said what there is to say
        missing_reason()
        setup = open_for_measurement(self.run)
        send_notes(send)
        torch.set_num_threads(self.measuring_threads)
        network = fine_tuned(self.run, self.architecture, seed=0)
        with threads_of_torch(self.training_threads):
            train_retrained(self.run, setup, network, [send])
        measure_trained_alone(self.run, setup, self.architecture, network.checkpoints)
