"""Long jobs in processes of their own, several at a time, which send messages to this process while they work.

This process alone acts on the signals of a terminal or a job scheduler. It then asks the processes to end by STOP_SIGNAL: a
training ends after a checkpoint, other work at once. They end as well if this process is killed.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from typing import Any

from autospike.errors import Interrupted, UserError
from autospike.execution.worker_process import WorkerProcess
from autospike.process import STOP_SIGNAL, SignalCatcher

# Called by a job with a message, which must be picklable.
Send = Callable[[Any], None]
# Does its work, and sends messages. Must be picklable.
SendingJob = Callable[[Send], None]

# Interval at which this process checks whether a signal came or another process ended, if there are no messages.
POLL_SECONDS = 0.1


def run_side_by_side(jobs: Sequence[SendingJob], *, at_once: int, receive: Callable[[Any], None]) -> None:
    """Run every job in a process of its own, which ends with the job.

    If a job fails or its process is killed, no further job starts, and the other processes are asked to end; the first error is
    raised when they have ended.

    Args:
        jobs: The jobs, in the order in which they start.
        at_once: Number of processes that run at the same time.
        receive: Called in this thread with each message: those of one job in their order, those of different jobs as they come.

    Raises:
        Interrupted: By a signal, when all processes have ended.
        BrokenProcessPool: A process was killed.
        UserError: A process was asked to end by another process than this one.
        Exception: That of a job or of `receive`. After one of `receive`, the processes are killed.
    """
    with SignalCatcher() as caught:
        running = _SideBySide(waiting=deque(jobs), at_once=at_once, receive=receive)
        try:
            while running.continues():
                if caught.signal and not running.stopping:
                    running.stop()
        finally:
            running.kill()
    if caught.signal:
        raise Interrupted(signal=caught.signal)
    if running.error is not None:
        raise running.error


@dataclass(kw_only=True)
class _SideBySide:
    """The jobs that wait and those that run.

    Attributes:
        error: The first error of a job.
        stopping: Whether the processes were asked to end.
    """

    waiting: deque[SendingJob]
    at_once: int
    receive: Callable[[Any], None]
    running: list[_Running] = field(default_factory=list)
    error: BaseException | None = None
    stopping: bool = False

    def continues(self) -> bool:
        """Start jobs, receive a message of each that has sent one, and remove those that have ended.

        Returns:
            Whether jobs are left.
        """
        while self.waiting and len(self.running) < self.at_once:
            self.running.append(_Running.start(self.waiting.popleft()))
        ready = connection.wait([each.receiver for each in self.running if each.is_open], timeout=POLL_SECONDS)
        for each in self.running:
            if each.receiver in ready:
                each.pass_message(self.receive)
        for each in [each for each in self.running if each.has_ended]:
            self.running.remove(each)
            each.kill()
            self._fail(each.error)
        return bool(self.running or self.waiting)

    def stop(self) -> None:
        """Ask the processes to end, and start no more."""
        self.stopping = True
        self.waiting.clear()
        for each in self.running:
            each.worker.send_signal(STOP_SIGNAL)

    def kill(self) -> None:
        """Kill the processes."""
        for each in self.running:
            each.kill()

    def _fail(self, error: BaseException | None) -> None:
        if error is not None and not self.stopping:  # what a process that is asked to end raises is no error
            self.error = error
            self.stop()


@dataclass(kw_only=True)
class _Running:
    """A job in its process.

    Attributes:
        worker: The process.
        receiver: The end of the pipe at which its messages arrive.
        completed: Done when the job has ended; whether it has finished its work.
        is_open: Whether more messages may arrive.
    """

    worker: WorkerProcess
    receiver: connection.Connection
    completed: Future[bool]
    is_open: bool = True

    @classmethod
    def start(cls, job: SendingJob) -> _Running:
        receiver, sender = get_context("spawn").Pipe(duplex=False)
        worker = WorkerProcess(_remember, sender)
        sender.close()  # this process's copy: the pipe ends with the other process
        try:
            completed = worker.submit(_work, job)
        except BrokenProcessPool as error:  # it was killed while it started
            completed = Future()
            completed.set_exception(error)
        return cls(worker=worker, receiver=receiver, completed=completed)

    def pass_message(self, receive: Callable[[Any], None]) -> None:
        """Pass the next message on, unless the process has ended and there is none."""
        try:
            message = self.receiver.recv()
        except (EOFError, OSError):  # OSError: it was killed while it sent one
            self.is_open = False
            return
        receive(message)

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended and all of its messages were passed on."""
        return self.completed.done() and not (self.is_open and self.receiver.poll())

    @property
    def error(self) -> BaseException | None:
        """Why the job has not finished its work; None if it has."""
        error = self.completed.exception()
        if error is None and not self.completed.result():
            return UserError("a process of this command was ended by a signal; run the same command again to resume")
        return error

    def kill(self) -> None:
        self.worker.shutdown()
        self.receiver.close()


# In the process of a job: the end of the pipe at which messages are sent.
_sender: connection.Connection


def _remember(sender: connection.Connection) -> None:
    """Store the pipe, and leave the signals to the parent. SIGINT and SIGHUP are ignored already."""
    global _sender
    _sender = sender
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _work(job: SendingJob) -> bool:
    """Run the job, and return whether it has finished its work: not if it was asked to end."""
    signal.signal(STOP_SIGNAL, signal.default_int_handler)
    try:
        job(_sender.send)
    except (Interrupted, KeyboardInterrupt):
        return False
    finally:
        signal.signal(STOP_SIGNAL, signal.SIG_IGN)  # the process ends now
        _sender.close()
    return True
