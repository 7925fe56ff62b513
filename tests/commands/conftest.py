"""Tiny runs that several files of tests read. Each is made once, also if several processes run the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(name: str, make: Callable[[Path], None], factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a folder that the first process which needs it makes.

    Args:
        name: Of the folder.
        make: Called with the path of the folder if it does not exist.
        factory: Of the folder of this process, beside those of the other processes.
    """
    several = "PYTEST_XDIST_WORKER" in os.environ
    shared = (factory.getbasetemp().parent if several else factory.getbasetemp()) / "made-once" / name
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            made = factory.mktemp("runs") / name
            make(made)
            shutil.copytree(made, shared)
            return made
    copy = factory.mktemp("runs") / name
    shutil.copytree(shared, copy)
    return copy


def call(*args: object) -> None:
    """Run a command that must succeed."""
    from autospike.cli import app

    app([str(arg) for arg in args], standalone_mode=False)


@pytest.fixture(scope="session")
def searched_run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A searched and plotted run. Tests may add exports, and change nothing else."""

    def make(folder: Path) -> None:
        call("train", tiny_experiment, "--run", folder, "--set", "training.epochs=1", "--set", "search.generations=2")
        call("search", folder)
        call("plot", folder)

    return made_once("searched", make, tmp_path_factory)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A run by `autospike run` with fine-tuning, export and networks without spikes. Tests copy it before they change it."""
    return made_once("finished", lambda folder: call("run", tiny_experiment, "--run", folder), tmp_path_factory)
