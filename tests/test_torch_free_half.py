"""The torch-free half of the package, as pyproject.toml lists it, loads no torch: plots and `--help` start quickly."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from builders import analytic, evaluation_of

from autospike.energy.counts import to_rows
from autospike.searching.archive import Archive
from autospike.space.search_space import SearchSpace

ROOT = Path(__file__).parents[1]


def torch_free_contract() -> dict[str, list[str]]:
    """Return the import-linter contract that forbids torch."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c["type"] == "forbidden" and "torch" in c["forbidden_modules"])
    return contract


def with_submodules(name: str) -> list[str]:
    """Return a module and, if it is a package, all its modules."""
    path = ROOT.joinpath(*name.split("."))
    if not path.is_dir():
        return [name]
    inside = (file.relative_to(ROOT).with_suffix("").parts for file in path.rglob("*.py"))
    return sorted({".".join(parts).removesuffix(".__init__") for parts in inside})


CONTRACT = torch_free_contract()
TORCH_PACKAGES = CONTRACT["forbidden_modules"]
# The command line imports its commands when they are called, which an import linter does not detect.
MODULES = ["autospike", "autospike.cli", *(module for name in CONTRACT["source_modules"] for module in with_submodules(name))]

IMPORTS = "import importlib\nfor name in {names}: importlib.import_module(name)\n"
HELP = "from autospike.cli import app\nassert app(['--help'], standalone_mode=False) in (0, None)\n"
LOADED = "import json, sys\nprint(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def loaded_by(program: str) -> set[str]:
    """Return the packages that a new interpreter has loaded after a program."""
    ended = subprocess.run([sys.executable, "-c", program + LOADED], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("program", [IMPORTS.format(names=MODULES), HELP], ids=["import", "--help"])
def test_torch_is_not_loaded(program: str) -> None:
    packages = loaded_by(program)
    assert "autospike" in packages
    assert packages.isdisjoint(TORCH_PACKAGES)


def searched_run(folder: Path) -> Path:
    """Return the folder of a run with an archive and a measured reference network."""
    space = {"time_steps": [1, 2], "stages": [{"embed_dim": [8, 16], "depth": 1, "block": {"num_heads": [1, 2]}}]}
    experiment = {"space": space, "data": {"name": "digits", "image_size": 8}, "training": {"epochs": 1}}
    folder.mkdir()
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    built = SearchSpace.from_dict(space)
    archive = Archive(folder / "archive.sqlite", "p")
    archive.begin("nsga2-1", "{}")
    archive.propose("nsga2-1", 0, [built.largest(), built.smallest()])
    for architecture in (built.largest(), built.smallest()):
        archive.add([evaluation_of(analytic(architecture), f_aeb=0.5, generation=0)])
    archive.close()
    (folder / "baseline").mkdir()
    counts = to_rows(analytic(built.largest()).counts)
    (folder / "baseline" / "measurement.json").write_text(json.dumps({"search_accuracy": 0.5, "layers": counts}))
    return folder


@pytest.mark.slow
def test_a_plot_under_another_convention_loads_no_torch(tmp_path: Path) -> None:
    run = searched_run(tmp_path / "run")
    packages = loaded_by(
        f"from autospike.cli import app\napp(['plot', {str(run)!r}, '--energy', 'binary-only'], standalone_mode=False)\n"
    )
    assert (run / "report" / "binary-only" / "pareto.png").exists()
    assert packages.isdisjoint(TORCH_PACKAGES)
