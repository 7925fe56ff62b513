"""What a person sees while a command works: progress bars, short notes, tables. Everything goes through one console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console()

Bar = Callable[[int, str], None]


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Bar]:
    """A bar with count, elapsed and remaining time, in 80 columns. Call it with how far the work is, and a word on its state."""
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
        task = bars.add_task(title, total=total, state="")
        yield lambda completed, state: bars.update(task, completed=completed, state=state)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A sign of life for work of some seconds."""
    with console.status(escape(what)):
        yield


def short(number: float) -> str:
    """Three digits and a letter: 37.4k, 1.2M."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def note(text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def table(title: str, columns: list[str], rows: list[list[str]], caption: str) -> None:
    """A table whose first column names the rows, with a line above it and one below. Many columns stand closer."""
    drawn = Table(padding=(0, 0) if len(columns) > 6 else (0, 1))
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold")
    for row in rows:
        drawn.add_row(*map(escape, row))
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(drawn)
    console.print(caption, markup=False, highlight=False, soft_wrap=True)
