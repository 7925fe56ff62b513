"""Runs of the tiny experiment that several test files read. Each is made once, also if several processes run the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox


def made_once(name: str, make: Callable[[Path], None], factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a folder that the first process which needs it makes.

    Args:
        name: Of the folder.
        make: Called with the path of the folder if it does not exist.
        factory: Of the folder of this process, beside those of the other processes.
    """
    several = "PYTEST_XDIST_WORKER" in os.environ
    shared = (factory.getbasetemp().parent if several else factory.getbasetemp()) / "made-once" / name
    with FileLock(f"{shared}.lock", timeout=300):
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


@contextmanager
def without_figures() -> Iterator[None]:
    """Replace matplotlib's layout and `savefig`, which take most of the time of many commands: files of figures are empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw_without_rendering", lambda _figure: None)
        patch.setattr(Figure, "get_tightbbox", lambda _figure: Bbox.unit())
        patch.setattr(Figure, "savefig", lambda _figure, path, **_settings: Path(path).touch())
        yield


def trained(experiment: Path, factory: pytest.TempPathFactory) -> Path:
    """A run after `autospike train`."""
    return made_once("trained", lambda folder: call("train", experiment, "--run", folder), factory)


def searched(experiment: Path, factory: pytest.TempPathFactory) -> Path:
    """A run after `autospike train`, `search` and `plot`, with figures."""

    def make(folder: Path) -> None:
        shutil.copytree(trained(experiment, factory), folder)
        call("search", folder)
        call("plot", folder)

    return made_once("searched", make, factory)


def finished(experiment: Path, factory: pytest.TempPathFactory) -> Path:
    """A run that `autospike run` has completed after training and search: fine-tuning, export and networks without spikes."""

    def make(folder: Path) -> None:
        shutil.copytree(searched(experiment, factory), folder)
        with without_figures():
            call("run", experiment, "--run", folder)

    return made_once("finished", make, factory)
