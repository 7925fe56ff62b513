"""Plots, searches and `--help` start in a moment, because the brain loads no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from builders import analytic, scored

from autospike.energy.counts import to_rows
from autospike.search.archive import Archive
from autospike.space.search_space import SearchSpace

BODY = ("safetensors", "torch", "torchvision", "torchaudio", "timm", "spikingjelly")

BRAIN = [
    "autospike",
    "autospike.space.architecture",
    "autospike.cli",
    "autospike.console",
    "autospike.commands.plot",
    "autospike.config",
    "autospike.energy.conventions",
    "autospike.energy.counts",
    "autospike.energy.operations",
    "autospike.energy.quantised",
    "autospike.energy.totals",
    "autospike.errors",
    "autospike.space.families",
    "autospike.files",
    "autospike.space.genes",
    "autospike.measurement",
    "autospike.kernels.build",
    "autospike.pareto",
    "autospike.process",
    "autospike.space.published",
    "autospike.randomness",
    "autospike.report.energy",
    "autospike.report.figures",
    "autospike.report.record",
    "autospike.report.retrained",
    "autospike.report.tables",
    "autospike.run_directory",
    "autospike.search.algorithms",
    "autospike.search.archive",
    "autospike.search.evolution",
    "autospike.search.fitness",
    "autospike.search.by_products",
    "autospike.search.selection",
    "autospike.search.variation",
    "autospike.space.search_space",
    "autospike.space.visitor",
]

IMPORTS = "import importlib\nfor name in {names}: importlib.import_module(name)\n"
HELP = "from autospike.cli import app\nassert app(['--help'], standalone_mode=False) in (0, None)\n"
LOADED = "import json, sys\nprint(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def loaded_by(program: str) -> set[str]:
    """The packages that a fresh interpreter holds after a program."""
    ended = subprocess.run([sys.executable, "-c", program + LOADED], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.parametrize("program", [IMPORTS.format(names=BRAIN), HELP], ids=["the brain", "--help"])
def test_no_torch(program: str) -> None:
    packages = loaded_by(program)
    assert "autospike" in packages
    assert packages.isdisjoint(BODY)


def searched_run(folder: Path) -> Path:
    """The folder of a run, with an archive and a hand-made network that were measured elsewhere."""
    space = {"time_steps": [1, 2], "stages": [{"embed_dim": [8, 16], "depth": 1, "block": {"num_heads": [1, 2]}}]}
    experiment = {"space": space, "data": {"name": "digits", "image_size": 8}, "training": {"epochs": 1}}
    folder.mkdir()
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    built = SearchSpace.from_dict(space)
    archive = Archive(folder / "archive.sqlite", "p")
    archive.begin("nsga2-1", "{}")
    archive.propose("nsga2-1", 0, [built.largest(), built.smallest()])
    for architecture in (built.largest(), built.smallest()):
        archive.add([scored(analytic(architecture), f_aeb=0.5, generation=0)])
    archive.close()
    (folder / "baseline").mkdir()
    counts = to_rows(analytic(built.largest()).counts)
    (folder / "baseline" / "measurement.json").write_text(json.dumps({"search_accuracy": 0.5, "layers": counts}))
    return folder


def test_another_convention_costs_no_forward_pass(tmp_path: Path) -> None:
    """A plot under one loads no torch."""
    run = searched_run(tmp_path / "run")
    packages = loaded_by(
        f"from autospike.cli import app\napp(['plot', {str(run)!r}, '--energy', 'binary-only'], standalone_mode=False)\n"
    )
    assert (run / "report" / "binary-only" / "pareto.png").exists()
    assert packages.isdisjoint(BODY)
