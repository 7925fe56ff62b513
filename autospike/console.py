"""Output for the user while a command runs: progress bars, notes, tables. Everything is written through one console."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from threading import Event, Thread
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console()

# Called with the finished amount of work and a short text on its state.
Bar = Callable[[int, str], None]


# Seconds between two lines of progress where the output is a file or a pipe, such as the log of a job scheduler.
LINE_SECONDS = 30.0


class NewBar(Protocol):
    """Starts to show the progress of another work, for the length of a `with` block."""

    def __call__(self, title: str, *, total: int) -> AbstractContextManager[Bar]:
        """Return the context manager of the block, which yields the function that updates the progress.

        Args:
            title: Shown before the bar.
            total: Amount of work.
        """


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Bar]:
    """Show progress with elapsed and remaining time.

    In a terminal or a notebook, it is a bar in 80 columns. Elsewhere it is a line at the end and every 30 seconds,
    also while nothing is updated. A process that sends its notes to another one shows nothing.

    Args:
        title: Shown before the bar.
        total: Amount of work.

    Yields:
        The function that updates it.
    """
    with several_bars() as bar, bar(title, total=total) as update:
        yield update


@contextmanager
def several_bars() -> Iterator[NewBar]:
    """Show progress as `progress` does, of several works at the same time: bars below each other, or lines of each.

    Yields:
        The function that starts the bar of a work.
    """
    if _send_note is not None:
        yield _no_bar
        return
    if not _is_animated():
        yield _lines_as_bar
        return
    columns = (
        TextColumn("[bold]{task.description:<15}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console) as bars:

        @contextmanager
        def bar(title: str, *, total: int) -> Iterator[Bar]:
            task = bars.add_task(title, total=total, state="")
            yield lambda completed, state: bars.update(task, completed=completed, state=state)

        yield bar


@contextmanager
def _no_bar(title: str, *, total: int) -> Iterator[Bar]:  # noqa: ARG001
    yield lambda _completed, _state: None


@contextmanager
def _lines_as_bar(title: str, *, total: int) -> Iterator[Bar]:
    with printed_lines(ProgressLine(title=title, total=total)) as line:
        yield line.update


# In a worker process: sends a note to the parent. None in a process that prints its notes itself.
_send_note: Callable[[str], None] | None = None


def send_notes(send: Callable[[str], None]) -> None:
    """Send the notes of this process elsewhere instead of printing them, and show no progress. For a worker process.

    Args:
        send: Called with each note.
    """
    global _send_note
    _send_note = send


def _is_animated() -> bool:
    """Whether a bar can be redrawn: in a terminal, and in a notebook with ipywidgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


@dataclass(kw_only=True)
class ProgressLine:
    """State of some work, as a line of text.

    Attributes:
        title: Name of the work.
        total: Amount of work; 0 if it is not known.
        completed: Finished amount of work.
        state: A short text on its state.
        started: When the work began, by `time.monotonic`.
        before: Amount of work that an earlier command finished: that of the first update.
    """

    title: str
    total: int
    completed: int = 0
    state: str = ""
    started: float = field(default_factory=time.monotonic)
    before: int | None = None

    def update(self, completed: int, state: str) -> None:
        """Replace the finished amount of work and the text on its state.

        Args:
            completed: Finished amount of work, in the unit of `total`.
            state: A short text on the state of the work.
        """
        self.before = completed if self.before is None else self.before
        self.completed, self.state = completed, state

    def text(self) -> str:
        """Return the line, with elapsed time, and remaining time by the speed since the first update."""
        elapsed = time.monotonic() - self.started
        done = self.completed - (self.before or 0)
        parts = [f"{self.title}: {self.completed}/{self.total}" if self.total else self.title, _duration(elapsed)]
        if done > 0 and self.completed < self.total:
            parts.append(f"{_duration(elapsed * (self.total - self.completed) / done)} left")
        return ", ".join(filter(None, (*parts, self.state)))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


@contextmanager
def printed_lines(line: ProgressLine, *, every_seconds: float = LINE_SECONDS) -> Iterator[ProgressLine]:
    """Print a line of progress at regular times, by a thread of its own, and at the end.

    Args:
        line: The state of the work.
        every_seconds: Seconds between two lines.

    Yields:
        The line, whose state the work updates.
    """
    finished = Event()

    def print_lines() -> None:
        while not finished.wait(every_seconds):
            note(line.text())

    thread = Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        finished.set()
        thread.join()
        note(line.text())


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner for work of some seconds, or lines as `progress` does.

    Args:
        what: Description of the work.
    """
    if _send_note is not None:
        yield
        return
    if not _is_animated():
        with printed_lines(ProgressLine(title=what, total=0)):
            yield
        return
    with console.status(escape(what)):
        yield


def short(number: float) -> str:
    """Format a number with three digits and a letter: 37.4k, 1.2M.

    Args:
        number: A number that is not negative.

    Returns:
        The text.
    """
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def note(text: str) -> None:
    """Print a line in dim style, or send it where `send_notes` says.

    Args:
        text: The line, which is printed as it is, without markup.
    """
    if _send_note is not None:
        _send_note(text)
        return
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def definitions(descriptions: Mapping[str, str], caption: str) -> None:
    """Print one line for each name, with its description.

    Args:
        descriptions: Descriptions by name.
        caption: Printed below.
    """
    width = max(map(len, descriptions), default=0)
    for name, description in descriptions.items():
        console.print(f"{name:<{width}}  {description}", markup=False, highlight=False, soft_wrap=True)
    console.print(caption, style="dim", markup=False, highlight=False, soft_wrap=True)


def table(title: str, columns: list[str], rows: list[list[str]], caption: str) -> None:
    """Print a table, with less padding if it has many columns.

    Args:
        title: Printed above the table.
        columns: Names of the columns; the first one names the rows.
        rows: Cells.
        caption: Printed below the table.
    """
    drawn = Table(padding=(0, 0) if len(columns) > 6 else (0, 1))
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold")
    for row in rows:
        drawn.add_row(*map(escape, row))
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(drawn)
    console.print(caption, markup=False, highlight=False, soft_wrap=True)
