"""Weight entanglement: leading corners, views, and the bits that extraction and export must keep; and every gene is alive."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

import autospike  # noqa: F401  (registers the models with timm)
from autospike.architecture import Architecture, Block, Neuron, Stage
from autospike.counting import Counter
from autospike.energy import LayerCount
from autospike.evaluation.calibration import calibrate
from autospike.export import write_model
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.models.registry import FAMILIES
from autospike.nn.neuron import LIF
from autospike.space import SearchSpace, walk
from autospike.supernet import Supernet, corner

NEURON = {"v_threshold": [0.4, 1.0], "tau": [1.5, 4.0]}
GROUPS = ("q", "k", "v", "attention", "projection", "fc1", "fc2")

SIZES = {"num_heads": [2, 4], "mlp_ratio": [1, 1.5, 2]}
OVERRIDES = {group: {"v_threshold": [0.05, 0.3], "tau": [1.25, 3.0]} for group in GROUPS}

# For each family, small spaces in which between them every gene that the family has is free.
FREE_SPACES: dict[str, dict[str, Any]] = {
    "spikformer": {
        "family": "spikformer",
        "time_steps": [2, 3],
        "stem": {"pools": [1, 2], "neuron": NEURON},
        "stages": [{"embed_dim": [16, 24, 32], "depth": [1, 2, 3], "block": {**SIZES, "neuron": NEURON}}],
    },
    "spikformer, neuron groups": {
        "family": "spikformer",
        "stages": [{"embed_dim": [16, 32], "depth": [1, 2], "block": {**SIZES, "groups": OVERRIDES}}],
    },
}


def free_space(name: str) -> SearchSpace:
    return SearchSpace.from_dict(FREE_SPACES[name])


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def calibrated(model: SpikingModel) -> SpikingModel:
    calibrate(model, [images(32)], time_steps=3)
    return model


@pytest.mark.parametrize("name", FREE_SPACES)
class TestContract:
    """What every family owes the supernet."""

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_a_smaller_architecture_is_a_corner_of_the_largest(self, name: str, seed: int) -> None:
        space = free_space(name)
        with torch.device("meta"):
            largest = dict(build_model(space.largest(), num_classes=4, in_chans=1).named_parameters())
            smaller = dict(build_model(space.sample(random.Random(seed)), num_classes=4, in_chans=1).named_parameters())
        assert smaller.keys() <= largest.keys()
        for key, parameter in smaller.items():
            assert len(parameter.shape) == len(largest[key].shape)
            assert all(small <= large for small, large in zip(parameter.shape, largest[key].shape, strict=True))

    @settings(max_examples=8, deadline=None)
    @given(seed=st.integers(0, 10**6))
    def test_view_equals_extracted_bit_for_bit(self, name: str, seed: int) -> None:
        space = free_space(name)
        supernet, architecture = Supernet(space, num_classes=4, in_chans=1), space.sample(random.Random(seed))
        extracted = calibrated(supernet.extract(architecture))
        state = {**dict(extracted.named_buffers()), **supernet.view(architecture)}
        with torch.no_grad():
            assert torch.equal(functional_call(extracted, state, (images(),)), extracted(images()))

    def test_the_corner_rule_holds_value_by_value(self, name: str) -> None:
        space = free_space(name)
        supernet, architecture = Supernet(space, num_classes=4, in_chans=1), space.smallest()
        shared = dict(supernet.shared.named_parameters())
        for key, parameter in supernet.extract(architecture).named_parameters():
            for index in ([0] * parameter.dim(), [size - 1 for size in parameter.shape]):
                assert parameter[tuple(index)] == shared[key][tuple(index)]

    def test_training_a_subnet_moves_its_corner_and_nothing_else(self, name: str) -> None:
        space = free_space(name)
        supernet, architecture = Supernet(space, num_classes=4, in_chans=1), space.smallest()
        (logits,) = supernet(images(16), [architecture])
        logits.square().sum().backward()
        sizes = {name: p.shape for name, p in build_model(architecture, num_classes=4, in_chans=1).named_parameters()}
        touched = 0
        for key, parameter in supernet.shared.named_parameters():
            if key not in sizes:
                assert parameter.grad is None
                continue
            assert parameter.grad is not None
            inside = corner(parameter.grad, sizes[key])
            assert parameter.grad.count_nonzero() == inside.count_nonzero()
            touched += int(inside.count_nonzero() > 0)
        assert touched > len(sizes) / 2

    def test_every_gene_changes_the_output_or_the_cost(self, name: str) -> None:
        """Change one gene at a time to each of its other values; weights stay the supernet's."""
        space = free_space(name)
        torch.manual_seed(0)
        supernet = Supernet(space, num_classes=4, in_chans=1)
        start = space.largest()
        before = behaviour(supernet, start)
        for found in space.genes(start):
            for value in found.gene.values:
                if value != found.value:
                    changed = replaced(space, start, found.path, value)
                    assert behaviour(supernet, changed) != before, f"{found.path} = {value} is a dead gene"


def test_every_family_has_a_space_under_contract() -> None:
    assert {space["family"] for space in FREE_SPACES.values()} == set(FAMILIES)


@pytest.mark.parametrize("v_threshold", [0.4, 1.0])
def test_a_block_threshold_reaches_every_neuron_group(v_threshold: float) -> None:
    neuron = Neuron(v_threshold=v_threshold, tau=3.0)
    stage = Stage(embed_dim=16, blocks=(Block(num_heads=2, neuron=neuron), Block(num_heads=2)))
    model = build_model(Architecture(stages=(stage,)), num_classes=4, in_chans=1)
    reached = {name: module.neuron for name, module in model.blocks[0].named_modules() if isinstance(module, LIF)}
    projections = {f"attention.{group}.lif" for group in ("q", "k", "v", "projection")} | {"mlp.fc1.lif", "mlp.fc2.lif"}
    assert reached == {"attention.lif": Neuron(v_threshold=v_threshold / 2, tau=3.0)} | dict.fromkeys(projections, neuron)


def replaced(space: SearchSpace, architecture: Architecture, path: tuple[str | int, ...], value: Any) -> Architecture:
    changed: Architecture = walk(
        space, lambda gene, at, *v: value if at == path else (v[0] if v else gene.nearest(1)), architecture
    )
    return changed


def behaviour(supernet: Supernet, architecture: Architecture) -> tuple[list[float], tuple[LayerCount, ...]]:
    """Logits on some images, and the counted cost of each layer."""
    model, counter = calibrated(supernet.extract(architecture)), Counter()
    with torch.no_grad(), counter.watch(model):
        logits = model(images(32))
    return logits.flatten().tolist(), counter.counts(images=32)


def test_an_export_opened_by_timm_has_the_same_bits(tmp_path: Path) -> None:
    space = free_space("spikformer")
    supernet, architecture = Supernet(space, num_classes=4, in_chans=1), space.sample(random.Random(11))
    model = calibrated(supernet.extract(architecture))
    write_model(tmp_path, model, architecture, classes=("a", "b", "c", "d"), in_chans=1, image_size=8)
    for said in ({}, {"pretrained": True}):
        opened = timm.create_model(f"local-dir:{tmp_path}", **said).eval()
        with torch.no_grad():
            assert torch.equal(opened(images()), model(images()))
    assert opened.architecture == architecture
    assert opened.pretrained_cfg["input_size"] == (1, 8, 8)


def test_a_shape_that_is_no_corner_is_refused() -> None:
    with pytest.raises(ValueError, match="not a corner"):
        corner(torch.zeros(3, 4), (3, 5))
    with pytest.raises(ValueError, match="not a corner"):
        corner(torch.zeros(3, 4), (3,))


def test_the_store_is_of_the_largest_architecture(tiny_space: SearchSpace) -> None:
    supernet, plain = Supernet(tiny_space, num_classes=4, in_chans=1), build_model(tiny_space.largest(), num_classes=4, in_chans=1)
    assert {n: p.shape for n, p in supernet.shared.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    assert not list(supernet.buffers())
