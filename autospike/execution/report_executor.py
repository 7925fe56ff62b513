"""The executor of a report: a worker process for a large archive, otherwise this process."""

from __future__ import annotations

import sqlite3
from concurrent.futures import Executor
from contextlib import closing
from importlib import import_module
from pathlib import Path

from autospike.execution.worker_process import ThisProcess, WorkerProcess
from autospike.process import available_cores
from autospike.searching.archive_file import open_to_read

# With fewer candidates, a worker process takes longer to start than it saves.
MANY_CANDIDATES = 10_000
# What the figures and the importance of genes need, which takes the worker process as long to load as to use.
MODULES = ("sklearn.ensemble", "sklearn.model_selection", "autospike.report.importance", "autospike.report.figures")


def report_executor(archive: Path) -> Executor:
    """Return the executor for `autospike.commands.plot.plot`.

    A worker process loads its modules while this process loads its own, so this function should be called before the command is
    imported. The worker imports the main module of this process again, which a script must expect (see `multiprocessing`).

    Args:
        archive: The SQLite file.

    Returns:
        A worker process, if the archive has many candidates and there are several cores; otherwise this process.

    Raises:
        UserError: The file is not an archive, or cannot be read.
    """
    with closing(open_to_read(archive)) as db:
        try:
            ((candidates,),) = db.execute("SELECT count(*) FROM evaluations").fetchall()
        except sqlite3.DatabaseError:  # a damaged page: `plot` says so
            return ThisProcess()
    if candidates < MANY_CANDIDATES or available_cores() == 1:
        return ThisProcess()
    return WorkerProcess(_import, *MODULES)


def _import(*modules: str) -> None:
    for name in modules:
        import_module(name)
