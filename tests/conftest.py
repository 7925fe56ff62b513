"""Fixtures that several test files share: small spaces, and runs of a tiny experiment."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: the networks here are too small for more

import pytest
import tiny_runs
import yaml
from tiny_experiment import TINY_EXPERIMENT, TINY_SPACE

from autospike.space.search_space import SearchSpace

# Of a command in the background, a shell or nohup sets these to be ignored, and the commands that tests start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def tiny_space() -> SearchSpace:
    return SearchSpace.from_dict(TINY_SPACE)


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_EXPERIMENT))
    return path


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A run after `autospike train`. Tests copy it before they change it."""
    return tiny_runs.trained(tiny_experiment, tmp_path_factory)


@pytest.fixture(scope="session")
def searched_run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A run after `train`, `search` and `plot`. Tests may add exports, and change nothing else."""
    return tiny_runs.searched(tiny_experiment, tmp_path_factory)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_experiment: Path) -> Path:
    """A run with fine-tuning, export and networks without spikes. Tests copy it before they change it."""
    return tiny_runs.finished(tiny_experiment, tmp_path_factory)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Reference outputs of the published models; see CONTRIBUTING.md."""
    folder = Path(os.environ.get("AUTOSPIKE_VECTORS", Path(__file__).parents[2] / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no reference vectors at {folder}; set AUTOSPIKE_VECTORS")
    return folder
