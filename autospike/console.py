"""Output for the user while a command runs: progress bars, notes, tables. Everything is written through one console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console()

# Called with the finished amount of work and a short text on its state.
Bar = Callable[[int, str], None]


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Bar]:
    """Show a progress bar with elapsed and remaining time, in 80 columns.

    Args:
        title: Shown before the bar.
        total: Amount of work.

    Yields:
        The function that updates the bar.
    """
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
    """Show a spinner for work of some seconds.

    Args:
        what: Description of the work.
    """
    with console.status(escape(what)):
        yield


def short(number: float) -> str:
    """Format a number with three digits and a letter: 37.4k, 1.2M."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.3g}"


def note(text: str) -> None:
    """Print a line in dim style."""
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
