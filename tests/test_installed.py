"""The wheel is enough: installed into a new environment, it runs an experiment by its name from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_has_all_modules_kernels_spaces_and_experiments(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", "autospike"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    data = [
        f"autospike/{folder}/{path.name}" for folder in ("search_spaces", "experiments") for path in (ROOT / folder).glob("*.yaml")
    ]
    assert {*listed, *data} == {name for name in names if not name.startswith("autospike-")}


@pytest.mark.slow
def test_an_installed_copy_runs_an_experiment_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """The dependencies are those of this environment; nothing is downloaded, and the checkout is not on the path."""
    environment, here = tmp_path / "environment", tmp_path / "empty"
    here.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    bin_folder = environment / "bin"
    subprocess.run([bin_folder / "pip", "install", "--quiet", "--no-index", "--no-deps", wheel], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*arguments: str) -> str:
        ended = subprocess.run(arguments, cwd=here, env=variables, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    where = call(str(bin_folder / "python"), "-c", "import autospike; print(autospike.__file__)")
    assert Path(where.strip()) == packages / "autospike" / "__init__.py"
    autospike = str(bin_folder / "autospike")
    assert call(autospike, "--version").startswith("autospike ")
    assert "spikformer_32" in call(autospike, "list", "spaces")
    small = ["training.epochs=1", "training.warmup_epochs=0", "search.generations=1", "search.population=4"]
    options = [part for setting in small for part in ("--set", setting)]
    printed = call(autospike, "run", "digits", "--run", "runs/digits", "--no-fine-tune", *options)
    assert "360 test" in printed
    assert {path.name for path in (here / "runs" / "digits" / "export").iterdir()} >= {"model.safetensors", "report.json"}
    call(autospike, "init", "mine")
    assert (here / "mine" / "experiment.yaml").exists()
