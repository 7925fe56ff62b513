"""The command line, called in this process."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from autospike import cli


class Outcome(NamedTuple):
    """What a user sees."""

    code: int
    out: str
    err: str


def autospike(capsys: pytest.CaptureFixture[str], *args: object) -> Outcome:
    """Run `autospike ARGS`."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["autospike", *map(str, args)])
        cli.main()
    captured = capsys.readouterr()
    return Outcome(int(stop.value.code or 0), captured.out, captured.err)
