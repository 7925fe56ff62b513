"""Mutated experiments, spaces and architectures are read, or are one short line; the fuzzer itself runs."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from tiny_experiment import TINY_EXPERIMENT, TINY_SPACE

from autospike.config import Experiment
from autospike.errors import UserError, one_line
from autospike.files import read_yaml
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

ROOT = Path(__file__).parents[1]
FUZZ = ROOT / "experiments" / "fuzz"
INPUTS = 150  # of each kind: about two seconds


@pytest.fixture(scope="module")
def mutation() -> Iterator[ModuleType]:
    """`experiments/fuzz/mutation.py`, which is a script's module and in no package."""
    sys.path.insert(0, str(FUZZ))
    try:
        import mutation

        yield mutation
    finally:
        sys.path.remove(str(FUZZ))


def check(path: Path, kind: str) -> bool:
    """Read a file as a command does. Return whether it is valid."""
    try:
        if kind == "experiment":
            Experiment.load(path).to_yaml()
        elif kind == "space":
            space = SearchSpace.load(path)
            space.size(), space.largest(), space.smallest(), space.sample(random.Random(0))
        else:
            assert Architecture.from_dict(read_yaml(path)).id
    except UserError as error:
        assert str(error)
        assert len(one_line(str(error))) <= 450
        return False
    return True


@pytest.mark.parametrize("kind", ["experiment", "space", "architecture"])
def test_mutated_files_are_read_or_one_line(kind: str, mutation: ModuleType, tmp_path: Path) -> None:
    largest = SearchSpace.from_dict(TINY_SPACE).largest().to_dict()
    valid = {"experiment": TINY_EXPERIMENT, "space": TINY_SPACE, "architecture": largest}[kind]
    path = tmp_path / "input.yaml"
    found = set()
    for i in range(INPUTS):
        mutation.write_mutated_yaml(path, valid, random.Random(f"{kind}/{i}"))
        found.add(check(path, kind))
    assert found == {True, False}


def test_inputs_depend_on_the_seed_alone(mutation: ModuleType, tmp_path: Path) -> None:
    texts = []
    for seed in (1, 1, 2):
        mutation.write_mutated_yaml(tmp_path / "input.yaml", TINY_SPACE, random.Random(seed))
        texts.append((tmp_path / "input.yaml").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_an_unchanged_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "input.yaml"
    path.write_text(yaml.safe_dump(TINY_EXPERIMENT))
    assert check(path, "experiment")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experiments", "spaces", "architectures", "images", "checkpoints", "runs"])
def test_a_slice_of_the_fuzzer(kind: str) -> None:
    command = [sys.executable, str(FUZZ), "--kind", kind, "--seed", "0", "--count", "60", "--seconds", "300"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
