"""Run a command line in a forked process, and check the one law of the command line.

The law: the exit code is 0; or it is 2, standard error is one line of fewer than 500 characters, and no file was changed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kind import Command, Make

MAX_LINE = 500  # characters
MAX_CPU_SECONDS = 60  # of a command
MAX_SECONDS = 900.0  # of wall time, for a command that waits for ever; a busy machine is slow
MAX_MEMORY = 12 * 2**30  # bytes of address space of a command, of which torch alone reserves several GB

Snapshot = dict[str, tuple[int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command did.

    Attributes:
        code: Exit code; negative for a signal that ended it.
        seconds: Time that it took.
        errors: What it wrote to standard error.
        changed: Files that it created, changed or removed.
    """

    code: int
    seconds: float
    errors: str
    changed: tuple[str, ...]


def make_input(kind: str, make: Make, *, seed: int, index: int, base: Path, folder: Path) -> Command:
    """Write an input to a new folder. It depends on nothing but kind, seed and index.

    Args:
        kind: Name of the kind.
        make: Makes inputs of this kind.
        seed: Seed of the fuzzing.
        index: Number of the input.
        base: Folder of the valid inputs.
        folder: The folder to write to.

    Returns:
        The command that reads the input.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return make(random.Random(f"{seed}/{kind}/{index}"), base, folder)


def run_command(command: Command, folder: Path, *, modules: Path | None = None) -> Outcome:
    """Run a command in a fork of this process, which has the package loaded.

    Args:
        command: The command.
        folder: The working directory.
        modules: A file to write the names of the modules to that the command imported.

    Returns:
        What it did.
    """
    before, started = _snapshot(folder), time.monotonic()
    errors = folder.with_suffix(".errors")
    gc.freeze()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    process = os.fork()
    if not process:
        _child(command, folder, errors, modules)
    code = _wait(process, command, started)
    seconds = time.monotonic() - started
    after = _snapshot(folder)
    changed = tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))
    return Outcome(code=code, seconds=seconds, errors=errors.read_text(errors="replace"), changed=changed)


def import_modules(names: Path) -> None:
    """Import modules in this process, so that the next commands find them loaded.

    Args:
        names: A file that `run_command` wrote.
    """
    for name in names.read_text().splitlines():
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # made by a command while it ran: no file of that name
                importlib.import_module(name)


def _child(command: Command, folder: Path, errors: Path, modules: Path | None) -> NoReturn:
    """Run the command line as its own process would, and never return."""
    code, loaded = 70, set(sys.modules)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.setsid()
        os.chdir(folder)
        _redirect(folder.with_suffix(".output"), 1)
        _redirect(errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(i), "w", buffering=1) for i in (1, 2))
        sys.stderr.reconfigure(errors="backslashreplace")
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
        sys.argv = ["autospike", *command.arguments]
        from autospike import cli

        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if modules is not None:
            modules.write_text("\n".join(name for name in sys.modules if name not in loaded))
        os._exit(code)


def _redirect(path: Path, descriptor: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, descriptor)
    os.close(file)


def _wait(process: int, command: Command, started: float) -> int:
    """Wait for a process, and end it if it takes too long."""
    stopped = False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        elapsed = time.monotonic() - started
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return 0 if stopped and code in (128 + signal.SIGTERM, -signal.SIGTERM) else code
        if command.stop_after is not None and elapsed > command.stop_after and not stopped:
            os.kill(process, signal.SIGTERM)
            stopped = True
        if elapsed > MAX_SECONDS:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return -signal.SIGKILL
        signal.sigtimedwait({signal.SIGCHLD}, 0.5)


def _snapshot(folder: Path) -> Snapshot:
    """Size, time of change and kind of every file below a folder."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            status = path.lstat()
            is_file = not path.is_dir() or path.is_symlink()
            found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns, status.st_mode) if is_file else (0, 0, 0)
    return found


def violation(command: Command, outcome: Outcome) -> str:
    """Return how an outcome breaks the law, or an empty text.

    Args:
        command: The command.
        outcome: What it did.
    """
    if outcome.code not in (0, 2):
        took = f", after {outcome.seconds:.0f} s" if outcome.seconds > MAX_SECONDS else ""
        return f"exit code {outcome.code}{took}"
    if outcome.code == 0:
        others = [name for name in outcome.changed if not any(name == o or name.startswith(f"{o}/") for o in command.outputs)]
        return f"changed {others[:5]}" if others else ""
    lines = [line for line in outcome.errors.splitlines() if line.strip()]
    if len(lines) != 1:
        return f"{len(lines)} lines on standard error"
    if len(lines[0]) >= MAX_LINE:
        return f"a line of {len(lines[0])} characters"
    changed = [name for name in outcome.changed if name not in command.report]
    return f"exit code 2, but changed {changed[:5]}" if changed else ""
