"""Commands in processes that are killed."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

from trainings import forkserver


def run_command(arguments: list[str]) -> None:
    """Run `autospike ARGUMENTS` in this process, with one thread as in the other tests."""
    import torch

    from autospike import cli

    torch.set_num_threads(1)
    sys.argv = ["autospike", *arguments]
    cli.main()


def kill_command(condition: Callable[[], bool], *arguments: object, seconds: float = 120) -> None:
    """Run a command in a new process, and kill the process as soon as a condition holds, which must be before its end."""
    process = forkserver().Process(target=run_command, args=([str(argument) for argument in arguments],))
    process.start()
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline and not condition():
        time.sleep(0.002)
    process.kill()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL, f"the command ended with exit code {process.exitcode}"
    assert condition()
