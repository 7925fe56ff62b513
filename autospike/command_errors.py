"""How a command ends: an error as one line on standard error, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from autospike.errors import Interrupted, UserError, one_line
from autospike.process import interruptible

INTERRUPTED = 130  # typer's exit code for Ctrl-C
INTERRUPTION = "interrupted; run the same command again to resume"


def exit_with(command: Callable[[], int | None]) -> NoReturn:
    """Run a command, report its error in one line on standard error, and exit.

    Args:
        command: Returns the exit code; None is 0.

    Raises:
        SystemExit: Always. Code 2 for invalid input, 128 plus its number for a signal.
    """
    with interruptible() as received:
        try:
            code = command()
        except UserError as error:
            _fail(str(error))
        except Interrupted as interruption:
            _end(str(interruption), interruption.exit_code)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except OSError as error:  # a path that cannot be used, where no message of its own says so
            where = error.filename if error.filename is not None else "a file"
            _fail(f"{where}: {error.strerror or error}; check the path and its permissions")
        except Exception as error:
            if received.number:  # an error that the signal has caused
                _end(INTERRUPTION, received.exit_code)
            if _lacks_memory(error):
                _fail("not enough memory for networks, images and batches of these sizes; reduce them")
            _fail_by_parser(error)
        if code == INTERRUPTED:
            _end(INTERRUPTION, received.exit_code if received.number else INTERRUPTED)
        sys.exit(code or 0)


def _fail_by_parser(error: Exception) -> NoReturn:
    """Report an error of the command line parser; raise any other error."""
    if not hasattr(error, "format_message"):
        raise error
    if not error.format_message():  # no arguments: the parser has printed the help
        sys.exit(2)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None and context.parent is not None else "autospike"
    _fail(f"{error.format_message()} See: {command} --help")


def _lacks_memory(error: Exception) -> bool:
    """Whether an allocation failed: of Python, or of torch, which raises a RuntimeError on a CPU and a subclass of it on a GPU."""
    known = ("can't allocate memory", "out of memory", "Cannot allocate memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(text in str(error) for text in known))


def _fail(message: str) -> NoReturn:
    _end(Text.assemble(("error:", "bold red"), " ", one_line(message)), 2)


def _end(message: str | Text, code: int) -> NoReturn:
    """Print the last line on standard error, and exit."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(message)
    sys.exit(code)
