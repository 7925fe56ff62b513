"""A worker process, and its stand-in within this process: executors of `concurrent.futures`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from typing import Any, ParamSpec, TypeVar

from autospike.process import prepare_process, signals_blocked

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class WorkerProcess(ProcessPoolExecutor):
    """Executor with one worker process, which starts at once. Shutting it down kills the process and discards what it has not done.

    Signals of the terminal are for this process. The worker ends when this process is killed.

    Args:
        initialise: Called in the worker before anything else; picklable.
        *args: Its arguments; picklable.
    """

    def __init__(self, initialise: Callable[..., None], *args: Any) -> None:
        # Two processes start: Python's tracker of shared resources, after which Python unblocks SIGINT, and the worker.
        with signals_blocked():
            super().__init__(1, mp_context=get_context("spawn"), initializer=_initialise, initargs=(initialise, *args))
        with signals_blocked():
            self.submit(_nothing)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended.

        Args:
            number: The signal.
        """
        for process in list((self._processes or {}).values()):
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Kill the process.

        Args:
            wait: Whether to wait until it has ended.
            cancel_futures: Whether to cancel what it has not begun.
        """
        for process in list((self._processes or {}).values()):
            process.kill()
        super().shutdown(wait, cancel_futures=cancel_futures)


class ThisProcess(Executor):
    """Executor that runs a function when it is submitted, in this process and thread."""

    def submit(self, function: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Future[Result]:
        """Run a function.

        Args:
            function: The function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A future that is done.

        Raises:
            Exception: That of the function.
        """
        future = Future[Result]()
        future.set_result(function(*args, **kwargs))
        return future


def _initialise(initialise: Callable[..., None], *args: Any) -> None:
    """Prepare the worker process."""
    prepare_process()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    initialise(*args)


def _exit_with_parent() -> None:
    """End this process when the parent is killed."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _nothing() -> None:
    """A task whose submission starts the process."""
