"""Jobs of `run_side_by_side`, which load quickly in a process of their own."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from autospike.console import note, progress, send_notes
from autospike.errors import Interrupted
from autospike.execution.side_by_side import Send
from autospike.process import SignalCatcher


@dataclass(frozen=True)
class Count:
    """Sends its name with the numbers from 0, then its process id."""

    name: str
    numbers: int

    def __call__(self, send: Send) -> None:
        for number in range(self.numbers):
            send((self.name, number))
        send((self.name, os.getpid()))


@dataclass(frozen=True)
class Note:
    """Prints a note, and shows progress."""

    text: str

    def __call__(self, send: Send) -> None:
        send_notes(send)
        with progress("work", total=1) as bar:
            bar(1, "")
        note(self.text)


@dataclass(frozen=True)
class Raise:
    """Raises an error."""

    error: Exception

    def __call__(self, _send: Send) -> None:
        raise self.error


@dataclass(frozen=True)
class Kill:
    """Sends a message, and ends its process by a signal."""

    number: signal.Signals

    def __call__(self, send: Send) -> None:
        send("dies")
        os.kill(os.getpid(), self.number)
        time.sleep(60)


@dataclass(frozen=True)
class Train:
    """Works until a signal comes, as a training does, and then writes a file. Sends its process id when it has begun."""

    checkpoint: Path

    def __call__(self, send: Send) -> None:
        with SignalCatcher() as caught:
            send(os.getpid())
            while not caught.signal:
                time.sleep(0.01)
            time.sleep(0.2)  # a second signal would end it before the file is written
            self.checkpoint.write_text("written")
            raise Interrupted(signal=caught.signal, step=1)


@dataclass(frozen=True)
class WaitFor:
    """Ends when a file exists."""

    path: Path

    def __call__(self, send: Send) -> None:
        send("waits")
        while not self.path.exists():
            time.sleep(0.01)
