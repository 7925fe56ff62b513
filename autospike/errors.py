"""The one error that is the user's to mend."""

from __future__ import annotations

from pydantic import ValidationError

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


class UserError(Exception):
    """Bad input. The message is one line: what was given, what is allowed, what to do. The command line exits with 2."""


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """A signal ended the work where it can go on. The command line exits as the signal would have it, 128 and its number."""

    def __init__(self, *, signal: int, step: int) -> None:
        super().__init__(f"interrupted at step {step}; run the same command again to resume")
        self.step, self.exit_code = step, 128 + signal


def first_problem(error: ValidationError, source: str) -> UserError:
    """Turn pydantic's report into one line about the first problem, with the path of the field as it stands in `source`."""
    problem = min(error.errors(), key=lambda p: p["type"] not in UNKNOWN_KEY)  # a misspelt key explains a missing one
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in problem["loc"]).lstrip(".")
    where = f"{source}: {path}" if path else source
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return UserError(f"{where}: {_reason(problem)}{more}")


def _reason(problem: object) -> str:
    kind, given = problem["type"], problem["input"]  # type: ignore[index]
    context = problem.get("ctx", {})  # type: ignore[attr-defined]
    if kind in UNKNOWN_KEY:
        return "unknown key; check the spelling"
    if kind.startswith("missing"):
        return "required, but absent"
    if "error" in context:  # a ValueError or UserError of ours, already a whole sentence
        return str(context["error"])
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {given!r}"  # type: ignore[index]
