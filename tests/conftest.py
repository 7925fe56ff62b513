"""Fixtures that several test files share: small spaces, and one tiny run from training to plots."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: the networks here are too small for more

import pytest
import yaml

from autospike.space.search_space import SearchSpace

TINY_SPACE = {
    "family": "spikformer",
    "time_steps": [2, 3],
    "stages": [
        {
            "embed_dim": [8, 16],
            "embedding": {"stride": 4},
            "depth": [1, 2],
            "block": {
                "num_heads": [1, 2],
                "mlp_ratio": [1, 2],
                "neuron": {"v_threshold": [0.5, 1.0], "tau": [1.5, 2.0]},
            },
        }
    ],
}

TINY_EXPERIMENT = {
    "seed": 3,
    "space": TINY_SPACE,
    "data": {"name": "digits", "image_size": 8, "search_share": 0.1, "test_share": 0.1},
    "training": {"epochs": 2, "batch_size": 256, "learning_rate": 0.01, "warmup_epochs": 0, "checkpoint_epochs": 1},
    "evaluation": {"calibration_images": 64, "calibration_batch_size": 64, "batch_size": 64},
    "search": {"algorithm": "nsga2", "population": 6, "generations": 3},
}


@pytest.fixture
def tiny_space() -> SearchSpace:
    return SearchSpace.from_dict(TINY_SPACE)


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_EXPERIMENT))
    return path


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Reference outputs of the published models; see CONTRIBUTING.md."""
    folder = Path(os.environ.get("AUTOSPIKE_VECTORS", Path(__file__).parents[2] / "shared" / "vectors"))
    if not folder.is_dir():
        pytest.skip(f"no reference vectors at {folder}; set AUTOSPIKE_VECTORS")
    return folder
