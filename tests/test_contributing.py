"""The example family of CONTRIBUTING.md works as it stands there: one file, one registration."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from autospike.models.contract import SpikingModel
from autospike.space.families import FAMILIES, FamilyRules
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet

IMPORTS = """
from torch import Tensor, nn
from autospike.space.architecture import Stage
from autospike.models.contract import SpikingModel
from autospike.nn.layers import ConvNorm
from autospike.nn.neuron import LIF
"""


@pytest.fixture
def patchformer(monkeypatch: pytest.MonkeyPatch) -> str:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    module = ModuleType("patchformer_example")
    exec(IMPORTS + "\n".join(line.removeprefix("   ") for line in example.splitlines()), module.__dict__)
    monkeypatch.setitem(sys.modules, "patchformer_example", module)
    rules = FamilyRules(
        model="patchformer_example:PatchFormer",
        first_conv="conv.conv",
        shortcuts=("sew",),
        first_strides=(1, 2),
        later_strides=(2,),
    )
    monkeypatch.setitem(FAMILIES, "patchformer", rules)
    return "patchformer"


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
