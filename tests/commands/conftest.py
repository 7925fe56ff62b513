"""A tiny run that several files of tests read."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def searched_run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A searched and plotted run. Tests may add exports, and change nothing else."""
    from autospike.cli import app

    folder = tmp_path_factory.mktemp("runs") / "searched"
    settings = ["--set", "training.epochs=1", "--set", "search.generations=2"]
    for command in (["train", tiny_experiment, "--run", folder, *settings], ["search", folder], ["plot", folder]):
        app([str(arg) for arg in command], standalone_mode=False)
    return folder
