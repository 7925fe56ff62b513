"""CONTRIBUTING.md is correct: files and functions that it names exist, and its example family works as written."""

from __future__ import annotations

import importlib
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from autospike.models.contract import SpikingModel
from autospike.space.families import FAMILIES, FamilyRules
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FOLDERS = ("autospike/", "tests/", "experiments/", "search_spaces/", "docs/")
NAMED_PATHS = sorted({name for name in re.findall(r"[`(]([\w./]+)[`)]", TEXT) if name.startswith(FOLDERS) and "NAME" not in name})
ROUTES = re.findall(r"^\| `(autospike/[\w/]+)\.py` \| `([\w.]+)` \|", TEXT, flags=re.MULTILINE)
DEFINITIONS = re.findall(r"`([\w.]+)`\s+(?:in\s+)?\(?`(autospike/[\w/]+)\.py`", TEXT)
IMPORTS = """
from torch import Tensor, nn
from autospike.space.architecture import Stage
from autospike.models.contract import SpikingModel
from autospike.nn.layers import ConvNorm
from autospike.nn.neuron import LIF
"""


@pytest.fixture
def patchformer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    module = ModuleType("patchformer_example")
    exec(IMPORTS + "\n".join(line.removeprefix("   ") for line in example.splitlines()), module.__dict__)
    monkeypatch.setitem(sys.modules, "patchformer_example", module)
    FAMILIES["patchformer"] = FamilyRules(
        model="patchformer_example:PatchFormer",
        first_conv="conv.conv",
        shortcuts=("sew",),
        first_strides=(1, 2),
        later_strides=(2,),
    )
    yield "patchformer"
    del FAMILIES["patchformer"]


def test_the_document_names_paths_and_routes() -> None:
    assert len(NAMED_PATHS) > 30
    assert len(ROUTES) > 30
    assert len(DEFINITIONS) >= 10


@pytest.mark.parametrize("path", NAMED_PATHS)
def test_each_named_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("file", "name"), ROUTES)
def test_each_function_of_a_route_is_in_its_file(file: str, name: str) -> None:
    module = file.replace("/", ".")
    value: object = importlib.import_module(module)
    for attribute in f"autospike.{name}".removeprefix(f"{module}.").split("."):
        value = getattr(value, attribute)
    assert callable(value)


@pytest.mark.parametrize(("name", "file"), DEFINITIONS)
def test_each_named_definition_is_in_its_file(name: str, file: str) -> None:
    value: object = importlib.import_module(file.replace("/", "."))
    for attribute in name.split("."):
        value = getattr(value, attribute)


def test_the_example_family_trains_as_a_supernet(patchformer: str) -> None:
    stage = {"embed_dim": [4, 8], "embedding": {"stride": 2}, "depth": [1, 2], "block": {"num_heads": [1, 2]}}
    space = SearchSpace.from_dict({"family": patchformer, "stages": [stage, stage]})
    supernet, subnet = Supernet(space, num_classes=3, in_chans=1), space.sample(random.Random(0))
    (logits,) = supernet(torch.rand(4, 1, 8, 8), [subnet])
    logits.sum().backward()
    assert logits.shape == (4, 3)
    extracted = supernet.extract(subnet)
    assert isinstance(extracted, SpikingModel)
    assert [info["reduction"] for info in extracted.feature_info] == [2, 4]
