"""Plots, searches and `--help` start in a moment, because the brain loads no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

BODY = ("torch", "torchvision", "torchaudio", "timm", "spikingjelly")

BRAIN = [
    "autospike",
    "autospike.architecture",
    "autospike.cli",
    "autospike.commands.plot",
    "autospike.config",
    "autospike.energy",
    "autospike.errors",
    "autospike.families",
    "autospike.files",
    "autospike.genes",
    "autospike.measurement",
    "autospike.pareto",
    "autospike.published",
    "autospike.randomness",
    "autospike.report.figures",
    "autospike.report.tables",
    "autospike.rundir",
    "autospike.search.algorithms",
    "autospike.search.archive",
    "autospike.search.evolution",
    "autospike.search.fitness",
    "autospike.search.selection",
    "autospike.search.variation",
    "autospike.space",
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
