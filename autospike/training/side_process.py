"""A training in a second process, beside that of this process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from types import TracebackType

from autospike.console import console
from autospike.errors import Interrupted, UserError
from autospike.process import available_cores, prepare_process
from autospike.run_directory import Run
from autospike.training.setup import Setup


def can_train_side_by_side(setup: Setup) -> bool:
    """Whether the reference network can be trained in a second process without slowing down the supernet.

    The number of threads must be set in the experiment, because results depend on it.

    Args:
        setup: The setup of the run.
    """
    threads, cores = setup.experiment.threads, available_cores()
    if setup.experiment.baseline_architecture is None or setup.device.type != "cpu" or setup.ranks.size > 1 or threads is None:
        return False
    return cores - os.getloadavg()[0] >= 2 * threads - 0.5


class TrainingProcess:
    """Context manager that trains a network of a run in a second process.

    The process prints nothing. It does not receive Ctrl-C from the terminal: when the block ends early, it is sent SIGTERM, writes
    a checkpoint and ends. It also ends if this process is killed.

    Args:
        train: Function of a module that trains a network of the run.
        run: The run.
    """

    def __init__(self, train: Callable[[Run], None], run: Run) -> None:
        context = get_context("spawn")
        self._results, results = context.Pipe(duplex=False)
        self._process = context.Process(target=_main, args=(train, run, results))

    def __enter__(self) -> TrainingProcess:
        self._process.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()

    def finish(self) -> None:
        """Wait for the end of the training.

        Raises:
            UserError: The training raised one, or its process was killed.
            Interrupted: By a signal to the process, after a checkpoint.
        """
        self._process.join()
        if not self._results.poll():
            raise UserError("reference network: the process of its training was killed; run the same command again to resume")
        outcome: _Outcome = self._results.recv()
        if outcome.error:
            raise UserError(outcome.error)
        if outcome.signal:
            raise Interrupted(signal=outcome.signal, step=outcome.step)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """How a training in a second process ended.

    Attributes:
        error: Message of the `UserError` that it raised.
        signal: Number of the signal that interrupted it, 0 if none did.
        step: Number of finished steps when it was interrupted.
    """

    error: str = ""
    signal: int = 0
    step: int = 0


def _main(train: Callable[[Run], None], run: Run, results: Connection) -> None:
    """Train, and send the outcome."""
    os.setsid()  # Ctrl-C is for the first process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    prepare_process()
    console.quiet = True
    try:
        train(run)
    except UserError as error:
        results.send(_Outcome(error=str(error)))
    except Interrupted as interruption:
        results.send(_Outcome(signal=interruption.exit_code - 128, step=interruption.step))
    else:
        results.send(_Outcome())


def _exit_with_parent() -> None:
    """End this process, after a checkpoint, when its parent is killed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
