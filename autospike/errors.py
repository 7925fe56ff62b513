"""Errors that the command line reports in one line, without a traceback."""

from __future__ import annotations

import reprlib

from pydantic import ValidationError

# Types of pydantic errors that mean a key is unknown: of a model and of a dataclass.
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


MAX_MESSAGE = 450  # characters of a message on the command line

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist = 3, 4, 6
_short.maxstring = _short.maxother = 60


def quoted(value: object) -> str:
    """Return a short `repr` of a value, for messages.

    Args:
        value: Any value.

    Returns:
        At most 200 characters, whatever the size of the value.
    """
    try:
        text = _short.repr(value)
    except ValueError:  # a whole number of more digits than Python converts
        return f"<{type(value).__name__}>"
    return text if len(text) <= 200 else f"{text[:197]}..."


def one_line(message: str) -> str:
    """Return a message as one printable line.

    Args:
        message: Any text.

    Returns:
        The text with white space collapsed, control characters escaped, and the middle left out if it exceeds `MAX_MESSAGE`.
    """
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
    if len(printable) <= MAX_MESSAGE:
        return printable
    tail = MAX_MESSAGE // 3
    return f"{printable[: MAX_MESSAGE - tail - 5]} ... {printable[-tail:]}"


class UserError(Exception):
    """Invalid input, or a state of files that the user must change.

    The message is one line: what was given, what is allowed, what to do. The exit code of the command line is 2.
    """


class Interrupted(Exception):  # noqa: N818 - not an error
    """A training was ended by a signal after a checkpoint, from which it can be resumed.

    Attributes:
        step: Number of finished training steps; None of several trainings.
        exit_code: Exit code of the command line: 128 plus the number of the signal, by convention of shells.
    """

    def __init__(self, *, signal: int, step: int | None = None) -> None:
        super().__init__(f"interrupted{'' if step is None else f' at step {step}'}; run the same command again to resume")
        self.step, self.exit_code = step, 128 + signal


def first_problem(error: ValidationError, source: str) -> UserError:
    """Convert a validation error of pydantic to an error with one line.

    Args:
        error: The validation error.
        source: Name of what was validated, for example a file.

    Returns:
        An error with the path of the first invalid field. An unknown key takes precedence, because a misspelt key is often the
        cause of a missing one.
    """
    problem = min(error.errors(), key=lambda p: p["type"] not in UNKNOWN_KEY)
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p:.60}" for p in problem["loc"]).lstrip(".")
    where = f"{source}: {path}" if path else source
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return UserError(f"{where}: {_reason(problem)}{more}")


def _reason(problem: object) -> str:
    """Reason of one validation problem, as part of a message."""
    kind, given = problem["type"], problem["input"]  # type: ignore[index]
    context = problem.get("ctx", {})  # type: ignore[attr-defined]
    if kind in UNKNOWN_KEY:
        return "unknown key; check the spelling"
    if kind.startswith("missing"):
        return "required, but missing"
    cause = context.get("error")
    if isinstance(cause, ValidationError):  # of a value that a validator of this package validated
        return str(first_problem(cause, "here"))
    if cause is not None:  # raised by a validator of this package, with a complete message
        return str(cause)
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {quoted(given)}"  # type: ignore[index]
