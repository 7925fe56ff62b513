"""Every Python block of the documentation runs, page by page from top to bottom, and the site builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from traced_models import firing_model, images

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


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "energy" / "index.html").exists()
