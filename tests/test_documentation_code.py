"""Every Python block of the documentation runs, page by page from top to bottom, and the site builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoded_trees import Files, files, write_metadata, write_parquet, write_webdataset
from event_recordings import random_events, write_aedat3
from spikingjelly.activation_based import neuron
from torch import nn
from traced_models import firing_model, images

from autospike.config import Experiment
from autospike.data.loading import load_images
from autospike.model_folder import InputSpec, write_model

ROOT = Path(__file__).parents[1]
SLOW = {"models.md"}  # it exports to ONNX
# Pages whose blocks train networks, or call services: they are compiled here, and `tests/test_api.py` runs what they call.
COMPILED_ONLY = {"README.md", "python.md"}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if python_blocks(page)]


class MyLIF(nn.Module):
    """Neurons of other code."""


def names_of(page: str) -> dict[str, Any]:
    """What a page takes as given."""
    given: dict[str, dict[str, Any]] = {
        "energy.md": {
            "model": nn.Sequential(nn.Linear(4, 4), neuron.LIFNode(step_mode="m"), nn.Linear(4, 2)),
            "images": torch.rand(4, 2, 4),
            "MyLIF": MyLIF,
        },
        "early_exit.md": {"images": images()},
        "models.md": {"torch": torch, "images": images()},
        "training.md": {"current": torch.rand(4, 2, 3)},
    }
    return given.get(page, {})


def test_pages_with_code_are_found() -> None:
    assert {"README.md", "energy.md", "models.md", "from_timm.md"} <= {page.name for page in PAGES}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=pytest.mark.slow) if p.name in SLOW else p for p in PAGES], ids=lambda page: page.name
)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = firing_model("meta_spikeformer")
    spec = InputSpec.of_training(channels=3, image_size=8)
    classes = tuple(str(i) for i in range(5))
    write_model(tmp_path / "runs/mine/export", model, model.architecture, classes=classes, input_spec=spec)
    monkeypatch.chdir(tmp_path)
    namespace = names_of(page.name)
    for block in python_blocks(page):
        code = compile(block, page.name, "exec")
        if page.name not in COMPILED_ONLY:
            exec(code, namespace)


def write_folder(root: Path, given: Files) -> None:
    for split, encoded in given.items():
        for number, (label, content) in enumerate(encoded):
            path = root / split / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def write_recordings(root: Path, _given: Files) -> None:
    for i in range(20):
        write_aedat3(root / f"class_{i % 2}" / f"{i}.aedat", random_events(200, seed=i))


# The data that the experiments of docs/data.md read, by their folder.
TREES: dict[str, Callable[[Path, Files], None]] = {
    "my_images": write_folder,
    "my_table": lambda root, given: write_metadata(root, given, ".csv"),
    "my_dataset": write_parquet,
    "my_shards": write_webdataset,
    "my_recordings": write_recordings,
}


def test_the_experiment_of_each_data_source_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has at most 15 lines, and reads samples of every split from a small data set in its layout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    page = ROOT / "docs" / "data.md"
    (own,) = python_blocks(page)
    (tmp_path / "my_data.py").write_text(own)
    for root, write in TREES.items():
        write(tmp_path / root, files())
    found = {}
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL):
        assert len(block.splitlines()) <= 15
        (tmp_path / "experiment.yaml").write_text(block)
        experiment = Experiment.load(tmp_path / "experiment.yaml")
        opened = load_images(experiment.data, seed=0)
        for split in opened.splits.values():
            assert np.asarray(split.image(0)).size > 0
        found[experiment.data.name] = len(opened.classes)
    assert found == {"folder": 2, "metadata": 2, "parquet": 2, "tars": 2, "my_data:datasets": 3, "events": 2}


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "energy" / "index.html").exists()
