"""Fusing normalisations, RepConv and SepConv into single layers: equal outputs, and the published dense totals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from builders import FAMILIES, READS
from slow_parameters import slow_except
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autospike.counting.model import count_operations
from autospike.energy.counts import LayerCount
from autospike.evaluation.calibration import calibrate
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.nn.fusion import fuse
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, RepLinear, SeparableConvNorm
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron
from autospike.space.published import PUBLISHED

SYNAPSES = (LinearNorm, ConvNorm, SeparableConvNorm, RepConv, RepLinear)


def architecture_of(family: str, shortcut: str) -> Architecture:
    """Return an architecture with every kind of layer in every block where it is possible."""
    blocks = tuple(
        Block(token_mixer=mixer, channel_mixer=channel, **{"mlp_ratio": 1, **synapses}, neuron=Neuron(v_threshold=0.3))  # type: ignore[arg-type]
        for mixer, channel, synapses in (
            ("sdsa_3", "mlp", {"num_heads": 2, "qkv": "repconv", "projection": "linear"}),
            ("sdsa_1", "conv", {"qkv": "linear", "projection": "repconv"}),
            ("sepconv", "conv", {}),
            ("none", "mlp", {}),
            ("sdsa_3", "replinear", {"num_heads": 2, "qkv": "replinear", "projection": "replinear", "mlp_ratio": None}),
        )
    )
    first = Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=blocks)
    second = Stage(embed_dim=24, embedding=Embedding(stride=2), blocks=blocks[:2])
    stages = (first, second) if FAMILIES[family][2] else (first,)
    return Architecture(family=family, shortcut=shortcut, time_steps=3, qkv_bias=True, stages=stages)  # type: ignore[arg-type]


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 2, 12, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def calibrated(architecture: Architecture) -> SpikingModel:
    torch.manual_seed(0)
    model = build_model(architecture, num_classes=5, in_chans=2)
    for name, parameter in model.named_parameters():
        if name.split(".")[-2].endswith("bn"):
            nn.init.normal_(parameter, 1 if name.endswith("weight") else 0.4, 0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter)
    calibrate(model, [images(32)], time_steps=3)
    return model


FAMILIES_AND_SHORTCUTS = [(family, shortcut) for family, (shortcuts, *_) in FAMILIES.items() for shortcut in shortcuts]


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_a_fused_model_has_the_same_output(family: str, shortcut: str) -> None:
    """In double precision, where no potential is within rounding of its threshold."""
    model = calibrated(architecture_of(family, shortcut)).double()
    with torch.no_grad():
        before = model(images().double())
        after = fuse(model)(images().double())
    assert len(before.unique(dim=0)) > 1
    torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_every_fused_layer_has_the_same_output_in_single_precision(family: str, shortcut: str) -> None:
    model = calibrated(architecture_of(family, shortcut))
    inputs: dict[str, tuple[Tensor, ...]] = {}
    synapses = {name: module for name, module in model.named_modules() if isinstance(module, SYNAPSES)}
    for name, module in synapses.items():
        module.register_forward_pre_hook(lambda _m, args, name=name: inputs.__setitem__(name, args))
    with torch.no_grad():
        model(images())
        assert inputs.keys() == synapses.keys()
        expected = {name: module(*inputs[name]) for name, module in synapses.items()}
        fuse(model)
        for name, args in list(inputs.items()):
            torch.testing.assert_close(model.get_submodule(name)(*args), expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_a_fused_model_has_no_normalisation_and_single_layers(family: str, shortcut: str) -> None:
    model = calibrated(architecture_of(family, shortcut))
    kinds = {type(module) for module in model.modules()} & set(SYNAPSES)
    assert kinds == set(SYNAPSES)
    count = sum(isinstance(module, SYNAPSES) for module in model.modules())
    fused = fuse(model)
    assert fused is model
    assert not [module for module in fused.modules() if isinstance(module, _BatchNorm)]
    linear_layers = [
        name for name, module in fused.named_modules() if isinstance(module, nn.Linear | nn.Conv2d) and "head" not in name
    ]
    assert len(linear_layers) == count
    assert not fused.training
    assert not any(module.training for module in fused.modules())


def test_fusing_again_changes_nothing() -> None:
    model = fuse(calibrated(architecture_of("meta_spikeformer", "membrane")))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = fuse(model).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_model_without_statistics_is_rejected() -> None:
    """After fusing, nothing would show that its statistics were never computed, and an evaluator would measure it."""
    new = build_model(architecture_of("qkformer", "sew"), num_classes=3, in_chans=1).eval()
    with pytest.raises(ValueError, match="statistics of its own"):
        fuse(new)


def test_a_single_layer_is_fused() -> None:
    layer = LinearNorm(3, 2, bias=False)
    layer(torch.rand(2, 4, 1, 1, 3))
    x = torch.rand(2, 4, 1, 1, 3)
    fused = fuse(layer.eval())
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm1d)]
    torch.testing.assert_close(fused(x), layer(x))


def test_a_model_in_training_mode_is_rejected_and_unchanged() -> None:
    model = calibrated(architecture_of("qkformer", "sew")).train()
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"eval mode; call model.eval\(\)"):
        fuse(model)
    assert model.state_dict().keys() == before.keys()


def counted(model: nn.Module, x: Tensor) -> tuple[LayerCount, ...]:
    return count_operations(model, x, strict=True).counts


def dense(counts: Sequence[LayerCount], *forms: str) -> int:
    return sum(count.macs for count in counts if count.form in forms)


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_counts_of_a_fused_model_equal_the_fused_counts_before_fusing(family: str, shortcut: str) -> None:
    """The counts `always` and `fused` of a model equal all counts of its fused form."""
    model = calibrated(architecture_of(family, shortcut)).double()
    before_fusing = [count for count in counted(model, images().double()) if count.form != "separate"]
    found = counted(fuse(model), images().double())
    assert {count.form for count in found} == {"always"}
    assert [(c.macs, c.input, c.time_steps) for c in found] == [(c.macs, c.input, c.time_steps) for c in before_fusing]
    for after, before in zip(found, before_fusing, strict=True):
        assert after.acs == pytest.approx(before.acs, rel=1e-12)
        assert after.rate == pytest.approx(before.rate, rel=1e-12)


@pytest.mark.parametrize("mixer", READS)
def test_fused_layers_of_each_token_mixer(mixer: str) -> None:
    block = Block(token_mixer=mixer, **(dict.fromkeys(("qkv", "projection"), "repconv") if READS[mixer] else {}))  # type: ignore[arg-type]
    stage = Stage(embed_dim=16, blocks=(block,))
    counts = counted(calibrated(Architecture(family="meta_spikeformer", stages=(stage,))), images())
    fused = {count.layer.removeprefix("stages.0.blocks.0.token.mixer.") for count in counts if count.form == "fused"}
    convolutional = {"separable.fused"} if mixer == "sepconv" else set()
    assert fused == ({f"{name}.fused" for name in (*READS[mixer], "projection")} if READS[mixer] else convolutional)


# Dense multiply-accumulates of one image at 224 x 224 in 10^9, without the first convolution: as the networks train, with RepConv
# fused, and with SepConv fused as well.
TOTALS = {"15m": (6.41, 9.98, 14.84), "31m": (13.93, 21.29, 32.3), "55m": (24.70, 37.80, 57.4)}


@pytest.mark.parametrize("name", slow_except(["15m"], TOTALS))
def test_dense_totals_of_the_published_models(name: str) -> None:
    architecture = replace(PUBLISHED[f"meta_spikeformer_{name}"].architecture, time_steps=1)
    model = build_model(architecture, num_classes=1000, in_chans=3).eval()
    first, *rest = counted(model, torch.zeros(1, 3, 224, 224))
    assert first.macs == 112 * 112 * architecture.stages[0].embed_dim * 3 * 7 * 7
    separable = [count for count in rest if "separable" in count.layer]
    others = [count for count in rest if count not in separable]
    found = (
        dense(rest, "always", "separate"),
        dense(others, "always", "fused") + dense(separable, "separate"),
        dense(rest, "always", "fused"),
    )
    assert [total / 1e9 for total in found] == pytest.approx(TOTALS[name], rel=1e-3)
