"""What a kind of input is: files in a folder, and a command line that reads them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line, to be run in the folder of the input.

    Attributes:
        arguments: Arguments of `autospike`.
        outputs: Files and folders, relative to the folder of the input, that the command may create or change if it succeeds.
        stop_after: Seconds after which the command gets SIGTERM, because its work is long; it may then end as documented for a
            signal. None if it must end by itself.
        report: Files that the command may write even if it ends with exit code 2: the picture of `check-data`.
    """

    arguments: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    stop_after: float | None = None
    report: tuple[str, ...] = ()


# Writes one input to a folder and returns the command that reads it. Arguments: random generator, folder of valid inputs, folder.
Make = Callable[[random.Random, Path, Path], Command]
