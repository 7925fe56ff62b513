"""Published checkpoints give the logits, spikes and gradients of the published code; damaged ones are one-line errors."""

from __future__ import annotations

import argparse
import collections
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import one_line_error
from safetensors.torch import save_file
from slow_parameters import slow_except
from torch import Tensor

from autospike.models.checkpoint_import import load_reference, published_keys, read_checkpoint, recognise_format
from autospike.models.contract import SpikingModel
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Case:
    """Options of the import, and the architecture that follows from the constructor arguments of the published code."""

    options: dict[str, int]
    family: str
    shortcut: str
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    blocks: tuple[tuple[tuple[str, int | None], ...], ...]
    """The token mixer and the number of heads of each block, by stage."""
    in_chans: int = 3
    time_steps: int = 4
    qkv_bias: bool = False
    convolutional_stages: int = 0
    residual_mlp: bool = False
    attention_scale: float = 0.125
    same_spikes: tuple[str, ...] = ()
    """Neurons of the published code that read what others read, and fire alike; here they exist once."""
    exact_rates: bool = True
    """Whether rates are stored in float64, otherwise in float32."""


META = {"family": "meta_spikeformer", "shortcut": "membrane", "strides": (2, 2, 2, 2, 1), "convolutional_stages": 3}
SEPCONVS = ((("sepconv", None),), (("sepconv", None),), (("sepconv", None),) * 2)

CASES = {
    "spikformer_cifar_d64_L2": Case(
        options={"num_heads": 4},
        family="spikformer",
        shortcut="sew",
        widths=(64,),
        strides=(4,),
        blocks=((("sdsa_3", 4),) * 2,),
        qkv_bias=True,
    ),
    "spikformer_imagenet_d64_L2": Case(
        options={"num_heads": 4}, family="spikformer", shortcut="sew", widths=(64,), strides=(16,), blocks=((("sdsa_3", 4),) * 2,)
    ),
    "sdt1_imagenet_d64_L2": Case(
        options={"stride": 16},
        family="spike_driven",
        shortcut="membrane",
        widths=(64,),
        strides=(16,),
        blocks=((("sdsa_1", None),) * 2,),
    ),
    "sdt1_cifar_d64_L2": Case(
        options={}, family="spike_driven", shortcut="membrane", widths=(64,), strides=(4,), blocks=((("sdsa_1", None),) * 2,)
    ),
    "sdt1_dvs_d32_L2": Case(
        options={},
        family="spike_driven",
        shortcut="membrane",
        widths=(32,),
        strides=(8,),
        blocks=((("sdsa_1_dilated", 4),) * 2,),
        in_chans=2,
        time_steps=16,
    ),
    "sdt2_full_6p2": Case(
        options={"num_heads": 4},
        widths=(8, 16, 24, 40, 48),
        blocks=(*SEPCONVS, (("sdsa_3", 4),) * 6, (("sdsa_3", 4),) * 2),
        exact_rates=False,
        **META,
    ),
    "sdt2_short_2p1": Case(
        options={},
        widths=(8, 16, 32, 48, 64),
        blocks=(*SEPCONVS, (("sdsa_3", 8),) * 2, (("sdsa_3", 8),)),
        exact_rates=False,
        **META,
    ),
    "qkformer_imagenet_d64_L5": Case(
        options={"num_heads": 4},
        family="qkformer",
        shortcut="sew",
        widths=(16, 32, 64),
        strides=(4, 2, 2),
        blocks=((("token_qk", 4),), (("token_qk", 4),) * 2, (("sdsa_3", 4),) * 2),
    ),
}
CASES |= {
    "maxformer_imagenet_d64": Case(
        options={},
        family="max_former",
        shortcut="membrane",
        widths=(16, 32, 64),
        strides=(4, 2, 2),
        blocks=((("dwc_7", None),), (("dwc_5", None),) * 2, (("sdsa_3", 1),) * 7),
    ),
    "maxformer_cifar_d64": Case(
        options={},
        family="max_former",
        shortcut="membrane",
        widths=(16, 32, 64),
        strides=(1, 2, 2),
        blocks=((("none", None),), (("dwc_3", None),), (("sdsa_3", 8),) * 2),
        same_spikes=("patch_embed1.embed2.embed_lif",),
    ),
    "maxformer_event_d64": Case(
        options={},
        family="max_former",
        shortcut="membrane",
        widths=(32, 64),
        strides=(8, 2),
        blocks=((("dwc_3", None),), (("sdsa_3", 16),)),
        in_chans=2,
        time_steps=16,
        residual_mlp=True,
    ),
    "qkformer_dvs_d64": Case(
        options={},
        family="qkformer",
        shortcut="sew",
        widths=(32, 64),
        strides=(8, 2),
        blocks=((("token_qk", 16),), (("sdsa_3", 16),)),
        in_chans=2,
        time_steps=16,
    ),
    "spikformer_dvs_d32_L2": Case(
        options={"num_heads": 16},
        family="spikformer",
        shortcut="sew",
        widths=(32,),
        strides=(16,),
        blocks=((("sdsa_3", 16),) * 2,),
        in_chans=2,
        time_steps=16,
        attention_scale=0.25,
    ),
}
# One checkpoint of each format, for tests that do not depend on the values.
STATE_DICTS = {
    "Spikformer": "spikformer_imagenet_d64_L2",
    "Spike-driven Transformer": "sdt1_cifar_d64_L2",
    "Meta-SpikeFormer": "sdt2_short_2p1",
    "E-SpikeFormer": "espikeformer_sq",
    "Max-Former": "maxformer_imagenet_d64",
    "QKFormer": "qkformer_imagenet_d64_L5",
}
StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A file of reference outputs, and the model that is imported from its state dict."""

    case: Case
    stored: dict[str, np.ndarray]
    meta: dict[str, Any]
    state: StateDict
    model: SpikingModel
    architecture: Architecture

    @property
    def images(self) -> Tensor:
        """Images `[B, C, H, W]`, or frames `[T, B, C, H, W]`, which the published code takes as `[B, T, C, H, W]`."""
        images = torch.from_numpy(self.stored["input"])
        return images.transpose(0, 1) if images.dim() == 5 else images


def read(vectors: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(vectors / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def state_dict(stored: dict[str, np.ndarray]) -> StateDict:
    return {key.removeprefix("sd/"): torch.from_numpy(value) for key, value in stored.items() if key.startswith("sd/")}


@pytest.fixture(scope="module", params=CASES)
def reference(request: pytest.FixtureRequest, vectors: Path) -> Reference:
    case, stored = CASES[request.param], read(vectors, request.param)
    state = state_dict(stored)
    model, architecture = load_reference(state, **case.options)
    meta = json.loads(str(stored["meta_json"]))
    return Reference(case=case, stored=stored, meta=meta, state=state, model=model, architecture=architecture)


@pytest.fixture(params=STATE_DICTS)
def format_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def state(format_name: str, vectors: Path) -> StateDict:
    """A complete state dict of one format."""
    return state_dict(read(vectors, STATE_DICTS[format_name]))


def test_architecture(reference: Reference) -> None:
    architecture, case = reference.architecture, reference.case
    assert (architecture.family, architecture.shortcut) == (case.family, case.shortcut)
    assert tuple(stage.embed_dim for stage in architecture.stages) == case.widths
    assert tuple(stage.embedding.stride for stage in architecture.stages) == case.strides
    settings = (architecture.time_steps, architecture.attention_scale, architecture.qkv_bias)
    assert settings == (case.time_steps, case.attention_scale, case.qkv_bias)
    assert not architecture.distilled
    assert reference.model.architecture == architecture


def test_blocks(reference: Reference) -> None:
    case = reference.case
    for i, (stage, expected) in enumerate(zip(reference.architecture.stages, case.blocks, strict=True)):
        assert tuple((block.token_mixer, block.num_heads) for block in stage.blocks) == expected
        assert {block.mlp_ratio for block in stage.blocks} == {
            None if case.residual_mlp else reference.meta["kwargs"]["mlp_ratios"]
        }
        mlp = "mlp_residual" if case.residual_mlp else "mlp"
        assert {block.channel_mixer for block in stage.blocks} == {"conv" if i < case.convolutional_stages else mlp}
        attention = {block.qkv for block in stage.blocks} | {block.projection for block in stage.blocks}
        if stage.blocks[0].num_heads:
            assert attention == {"repconv" if case.family == "meta_spikeformer" else "linear"}


def test_classes_and_channels(reference: Reference) -> None:
    assert reference.model.num_classes == reference.meta["kwargs"]["num_classes"] == 10
    assert reference.images.shape[-3] == reference.meta["kwargs"]["in_channels"] == reference.case.in_chans
    assert not reference.model.training


def test_number_of_parameters_without_unused_ones(reference: Reference) -> None:
    unused = sum(reference.state[key].numel() for key in reference.meta["params_without_grad"])
    assert sum(p.numel() for p in reference.model.parameters()) == reference.meta["params"] - unused


@pytest.mark.parametrize("time_steps", [1, 2, 4])
def test_logits(reference: Reference, time_steps: int) -> None:
    with torch.no_grad():
        logits = reference.model.forward_steps(reference.images, time_steps).mean(dim=0)
    np.testing.assert_allclose(logits.numpy(), reference.stored[f"out_T{time_steps}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("time_steps", [1, 2])
def test_logits_at_fewer_time_steps(reference: Reference, time_steps: int) -> None:
    model, architecture = load_reference(reference.state, **reference.case.options, time_steps=time_steps)
    assert architecture.time_steps == time_steps
    with torch.no_grad():
        np.testing.assert_allclose(model(reference.images).numpy(), reference.stored[f"out_T{time_steps}"], rtol=1e-5, atol=1e-5)


@contextmanager
def spikes_of(model: SpikingModel) -> Iterator[list[Tensor]]:
    """Outputs of all LIF layers, in the order of execution."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, spikes: seen.append(spikes.detach()))
        for module in model.modules()
        if isinstance(module, LIF)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_spikes_are_identical(reference: Reference) -> None:
    """Compared layer by layer and step by step. Counts are integers, which follow from the stored rates.

    Potentials keep 1e-4 from their thresholds, so float32 rounding can move no spike.
    """
    with torch.no_grad(), spikes_of(reference.model) as layers:
        reference.model(reference.images)
    names, rates = reference.stored["lif_names"], reference.stored["lif_rate_per_step"]
    kept = [i for i, name in enumerate(names) if name not in reference.case.same_spikes]
    names, rates = names[kept], rates[kept]
    assert len(layers) == len(names) == len(rates)
    for name, spikes, rate in zip(names, layers, rates, strict=True):
        actual, desired = spikes.double().flatten(1).sum(dim=1).numpy(), rate * spikes[0].numel()
        np.testing.assert_allclose(desired, desired.round(), rtol=0, atol=0.01, err_msg=str(name))
        np.testing.assert_array_equal(actual, desired.round(), err_msg=str(name))
        if reference.case.exact_rates:
            np.testing.assert_allclose(actual / spikes[0].numel(), rate, rtol=0, atol=1e-9, err_msg=str(name))


def test_every_lif_layer_runs_once(reference: Reference) -> None:
    with torch.no_grad(), spikes_of(reference.model) as layers:
        reference.model(reference.images)
    assert len(layers) == sum(isinstance(module, LIF) for module in reference.model.modules())


def gradients(reference: Reference) -> dict[str, Tensor]:
    """Return the gradients of `sum(logits * cotangent)` in eval mode, by the names of the published code."""
    model = reference.model
    model.zero_grad()
    (model(reference.images) * torch.from_numpy(reference.stored["cotangent"])).sum().backward()
    parameters = dict(model.named_parameters())
    keys = published_keys(recognise_format(reference.state), reference.state, parameters)
    return {key: parameters[name].grad for name, key in keys.items()}


def test_gradients(reference: Reference) -> None:
    """Depends on the surrogate and on detached parts. Some gradients are stored completely, of the others the norm."""
    actual = gradients(reference)
    norms = reference.meta["grad_norms"]
    assert set(actual) == set(norms)
    for key, grad in actual.items():
        assert grad.double().norm().item() == pytest.approx(norms[key], rel=1e-5), key
    stored = {key.removeprefix("grad/"): grad for key, grad in reference.stored.items() if key.startswith("grad/")}
    assert len(stored) >= 4
    for key, grad in stored.items():
        expected = torch.from_numpy(grad).reshape(actual[key].shape)
        assert (actual[key] - expected).norm() <= 1e-5 * expected.norm(), key


def test_the_model_owns_its_parameters(state: StateDict) -> None:
    """Training the model does not change the state dict."""
    before = {key: tensor.clone() for key, tensor in state.items()}
    model, _ = load_reference(state)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert all(torch.equal(state[key], tensor) for key, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


# From the publications: 64, 32 and 16 channels per head in the three forms of Spikformer, 64 in QKFormer.
@pytest.mark.parametrize(
    ("name", "heads"),
    [("spikformer_imagenet_d64_L2", 1), ("spikformer_cifar_d64_L2", 2), ("sdt2_full_6p2", 8), ("qkformer_imagenet_d64_L5", 1)],
)
def test_default_number_of_heads(vectors: Path, name: str, heads: int) -> None:
    _, architecture = load_reference(state_dict(read(vectors, name)))
    assert {block.num_heads for stage in architecture.stages for block in stage.blocks} - {None} == {heads}


@pytest.mark.parametrize(
    ("name", "stride"), [("spikformer_imagenet_d64_L2", 16), ("spikformer_cifar_d64_L2", 4), ("sdt1_cifar_d64_L2", 4)]
)
def test_default_stride(vectors: Path, name: str, stride: int) -> None:
    """`stride` overrides it; for the Spike-driven Transformer, 1000 classes mean ImageNet."""
    state = state_dict(read(vectors, name))
    assert load_reference(state)[1].stride == stride
    assert load_reference(state, stride=8)[1].stride == 8
    imagenet = {**state, "head.weight": torch.zeros(1000, 64), "head.bias": torch.zeros(1000)}
    assert load_reference(imagenet)[1].stride == (16 if name.startswith("sdt1") else stride)


def test_event_form_of_spikformer(vectors: Path) -> None:
    """It has two input channels: scale 0.25, 16 channels per head, stride 16."""
    state = state_dict(read(vectors, "spikformer_imagenet_d64_L2"))
    state["patch_embed.proj_conv.weight"] = state["patch_embed.proj_conv.weight"][:, :2]
    model, architecture = load_reference(state)
    assert (architecture.attention_scale, architecture.stride) == (0.25, 16)
    assert {block.num_heads for block in architecture.stages[0].blocks} == {4}
    with torch.no_grad():
        assert model(torch.rand(4, 1, 2, 32, 48)).shape == (1, 10)


def test_compact_form_of_qkformer(vectors: Path) -> None:
    """The CIFAR form has one convolution less in the first embedding, other names of SSA and MLP, strides 1, 2, 2, and 8 heads."""
    whole = state_dict(read(vectors, "qkformer_imagenet_d64_L5"))
    kept = {key: tensor for key, tensor in whole.items() if not key.startswith("patch_embed1.proj2_")}
    state = {key.replace("stage3.0.attn", "stage3.0.ssa").replace(".mlp.fc", ".mlp.mlp"): tensor for key, tensor in kept.items()}
    model, architecture = load_reference(state)
    assert architecture.compact_embedding
    assert [stage.embedding.stride for stage in architecture.stages] == [1, 2, 2]
    assert {block.num_heads for stage in architecture.stages for block in stage.blocks} == {8}
    assert torch.equal(model.stages[2].blocks[0].channel.mixer.fc2.bn.bias, whole["stage3.0.mlp.fc2_bn.bias"])
    with torch.no_grad():
        assert model.forward_features(torch.rand(1, 3, 12, 8)).shape == (4, 1, 3, 2, 64)


@pytest.mark.parametrize("name", ["sdt2_short_2p1", "qkformer_imagenet_d64_L5"])
def test_stride_of_a_multi_stage_family_is_an_error(vectors: Path, name: str) -> None:
    state = state_dict(read(vectors, name))
    assert "stride can be given for the one-stage families only, got 16" in one_line_error(lambda: load_reference(state, stride=16))


def test_number_of_heads_that_does_not_divide_the_width(vectors: Path) -> None:
    state = state_dict(read(vectors, "spikformer_cifar_d64_L2"))
    assert "num_heads 3 does not divide embed_dim 64" in one_line_error(lambda: load_reference(state, num_heads=3))


def test_second_head_of_distillation(vectors: Path) -> None:
    """In inference both heads read the same pooled spikes, and their logits are averaged."""
    state = state_dict(read(vectors, "sdt2_short_2p1"))
    images = torch.from_numpy(read(vectors, "sdt2_short_2p1")["input"])
    weight, bias = torch.randn(10, 64), torch.randn(10)
    plain, _ = load_reference(state)
    both, architecture = load_reference({**state, "head_kd.weight": weight, "head_kd.bias": bias})
    assert architecture.distilled
    with torch.no_grad():
        pooled = plain.forward_head(plain.forward_features(images), pre_logits=True)
        expected = (pooled @ state["head.weight"].T + state["head.bias"] + pooled @ weight.T + bias) / 2
        assert pooled.any()
        torch.testing.assert_close(both(images), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(both.forward_steps(images).mean(dim=0), expected, rtol=1e-5, atol=1e-5)


# For each format, a key in the middle and the first convolution, by the names of the published code.
MIDDLE = {
    "Spikformer": "block.1.attn.k_bn.running_var",
    "Spike-driven Transformer": "block.0.mlp.fc2_conv.bias",
    "Meta-SpikeFormer": "block3.1.attn.v_conv.0.body.2.2.weight",
    "E-SpikeFormer": "block3.1.conv.dwconv.1.weight",
    "Max-Former": "stage2.1.mixer.conv_bn.weight",
    "QKFormer": "stage2.1.tssa.q_bn.weight",
}
FIRST_CONVOLUTION = {
    "Spikformer": "patch_embed.proj_conv.weight",
    "Spike-driven Transformer": "patch_embed.proj_conv.weight",
    "Meta-SpikeFormer": "downsample1_1.encode_conv.weight",
    "E-SpikeFormer": "downsample1_1.encode_conv.weight",
    "Max-Former": "patch_embed1.embed1.embed_conv.weight",
    "QKFormer": "patch_embed1.proj_conv.weight",
}


def import_error(state: StateDict) -> str:
    return one_line_error(lambda: load_reference(state))


def test_a_missing_key_is_an_error(format_name: str, state: StateDict) -> None:
    del state[MIDDLE[format_name]]
    message = import_error(state)
    assert message.startswith(f"state dict of {format_name}: ")
    assert "missing" in message


def test_a_missing_key_is_named(format_name: str, state: StateDict) -> None:
    del state[MIDDLE[format_name]]
    assert MIDDLE[format_name] in import_error(state)


def test_the_first_of_two_missing_keys_is_named(vectors: Path) -> None:
    """Both names of the block are tested."""
    state = state_dict(read(vectors, "spikformer_cifar_d64_L2"))
    del state["block.1.attn.v_linear.weight"], state["block.0.mlp.fc2_bn.bias"]
    message = import_error(state)
    assert "fc2" in message
    assert "v" not in message.split("'")[1].split(".")


@pytest.mark.parametrize("key", ["head.bias", "head.weight"])
def test_a_missing_head_is_named(state: StateDict, key: str) -> None:
    del state[key]
    assert key in import_error(state)


def test_a_missing_first_convolution_is_named(format_name: str, state: StateDict) -> None:
    del state[FIRST_CONVOLUTION[format_name]]
    assert FIRST_CONVOLUTION[format_name] in import_error(state)


@pytest.mark.parametrize("unexpected", ["extra.weight", "block.0.attn.gate.weight", "head.scale", "weight"])
def test_an_unexpected_key_is_named(format_name: str, state: StateDict, unexpected: str) -> None:
    message = import_error({**state, unexpected: torch.zeros(1)})
    assert message.startswith(f"state dict of {format_name}: ")
    assert f"key {unexpected!r}" in message


def test_a_single_key_of_a_further_block_is_an_error(vectors: Path) -> None:
    """It implies a further block, whose other keys are missing."""
    state = state_dict(read(vectors, "spikformer_cifar_d64_L2"))
    assert "block.2.mlp.fc1_linear.weight" in import_error({**state, "block.2.attn.q_bn.bias": torch.zeros(64)})


@pytest.mark.parametrize("damage", ["longer", "shorter", "deeper"])
def test_a_key_with_a_wrong_shape_is_named(format_name: str, state: StateDict, damage: str) -> None:
    key = MIDDLE[format_name]
    given = state[key]
    state[key] = {
        "longer": torch.cat([given, given]),
        "shorter": given[:-1],
        "deeper": torch.stack([given] * 2, dim=-1),
    }[damage]
    message = import_error(state)
    assert message.startswith(f"state dict of {format_name}: key {key!r} has shape {tuple(state[key].shape)}")
    assert f"does not fit {tuple(given.shape)}" in message


NO_WEIGHTS = {
    "a number": torch.tensor(1.0),
    "whole numbers": torch.ones(4, 4, dtype=torch.int64),
    "8 bits": torch.ones(4, 4).to(torch.float8_e4m3fn),
    "complex numbers": torch.ones(4, 4, dtype=torch.complex64),
    "empty": torch.zeros(0, 4),
    "no tensor": [1.0, 2.0],
}


@pytest.mark.parametrize("damage", NO_WEIGHTS)
def test_any_key_without_weights_is_named(format_name: str, state: StateDict, damage: str) -> None:
    """For the first key, one in the middle, and that of the head."""
    for key in (FIRST_CONVOLUTION[format_name], MIDDLE[format_name], "head.weight"):
        assert f"key {key!r}" in import_error({**state, key: NO_WEIGHTS[damage]})


@pytest.mark.parametrize("format_name", slow_except(["Spikformer"], STATE_DICTS), indirect=True)
def test_any_key_of_one_dimension_is_named(state: StateDict) -> None:
    for key, tensor in state.items():
        if tensor.dim() > 1 and "talking_heads" not in key:
            assert f"key {key!r}" in import_error({**state, key: torch.zeros(3)})


def test_half_precision_weights_are_converted_to_single_precision(vectors: Path) -> None:
    stored = read(vectors, "spikformer_cifar_d64_L2")
    halved = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state_dict(stored).items()}
    model, _ = load_reference(halved, num_heads=4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(torch.from_numpy(stored["input"])).shape == (1, 10)


def test_spike_driven_transformer_without_unused_keys_is_recognised(vectors: Path) -> None:
    """Its query layers are two-dimensional convolutions, those of Spikformer one-dimensional."""
    stored = read(vectors, "sdt1_cifar_d64_L2")
    state = {key: tensor for key, tensor in state_dict(stored).items() if "talking_heads" not in key}
    model, architecture = load_reference(state, stride=4)
    assert (architecture.family, architecture.shortcut) == ("spike_driven", "membrane")
    with torch.no_grad():
        logits = model(torch.from_numpy(stored["input"]))
    torch.testing.assert_close(logits, torch.from_numpy(stored["out_T4"]), rtol=1e-5, atol=1e-5)


def test_the_first_of_two_wrong_shapes_is_named(format_name: str, state: StateDict) -> None:
    state[MIDDLE[format_name]], state["head.bias"] = torch.zeros(3), torch.zeros(4)
    assert MIDDLE[format_name] in import_error(state)


TORCHVISION = {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(("unexpected", "first"), [({}, "None"), (TORCHVISION, "'conv1.weight'")], ids=["empty", "torchvision"])
def test_unknown_network_is_an_error(unexpected: StateDict, first: str) -> None:
    message = import_error(unexpected)
    assert first in message
    assert "Spike-driven Transformer, E-SpikeFormer, Meta-SpikeFormer, Max-Former, QKFormer, Spikformer" in message


WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2), "a.steps": torch.tensor(3)}


def same(given: StateDict) -> bool:
    return given.keys() == WEIGHTS.keys() and all(torch.equal(given[key], WEIGHTS[key]) for key in WEIGHTS)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert same(read_checkpoint(tmp_path / "a.safetensors"))


ARGUMENTS = argparse.Namespace(model="spikformer", lr=5e-4, betas=(0.9, 0.999), mean=[0.5], resume=None, amp=True)
PARALLEL = {f"module.{key}": tensor for key, tensor in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        collections.OrderedDict(WEIGHTS),
        PARALLEL,
        {"state_dict": PARALLEL, "args": ARGUMENTS, "epoch": 299, "metric": 0.74},
        {"model": WEIGHTS, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "args": ARGUMENTS},
        {key: torch.nn.Parameter(tensor.float()) for key, tensor in WEIGHTS.items()},
    ],
    ids=["plain", "ordered", "parallel", "state_dict", "model", "parameters"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read(tmp_path: Path, content: object, zipped: bool) -> None:
    """With and without the arguments of a training script, from one or several processes, in both file formats of torch."""
    torch.save(content, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(tmp_path / "a.pth.tar"))


def test_a_file_makes_the_same_model_as_its_state_dict(tmp_path: Path, vectors: Path) -> None:
    stored = read(vectors, "spikformer_cifar_d64_L2")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state_dict(stored).items()}}, tmp_path / "a.pth")
    model, _ = load_reference(read_checkpoint(tmp_path / "a.pth"), num_heads=4)
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(stored["input"])).numpy(), stored["out_T4"], rtol=1e-5, atol=1e-5)


class Malicious:
    """Unpickling an instance creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.marker), "w")


class Unknown:
    """A harmless class that is not on the list of allowed ones."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a"])
def test_code_in_a_file_is_not_executed(tmp_path: Path, zipped: bool, name: str) -> None:
    path, marker = tmp_path / name, tmp_path / "marker"
    torch.save({"state_dict": WEIGHTS, "args": Malicious(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert str(path) in one_line_error(lambda: read_checkpoint(path))
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # an unsafe load does execute it


@pytest.mark.parametrize("content", [Unknown(), {"state_dict": WEIGHTS, "hook": Unknown()}, torch.nn.Linear(2, 2)])
def test_a_file_with_objects_of_other_classes_is_an_error(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert one_line_error(lambda: read_checkpoint(tmp_path / "a.pth")).startswith(f"{tmp_path / 'a.pth'}: cannot be read safely")


@pytest.mark.parametrize(
    "content", [torch.zeros(2), [torch.zeros(2)], {}, {"state_dict": {}}, {"a": torch.zeros(1), "epoch": 3}, "a", {"model": "a"}]
)
def test_a_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert one_line_error(lambda: read_checkpoint(tmp_path / "a.pth")).startswith(f"{tmp_path / 'a.pth'}: holds no state dict")


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "folder.pth"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.pth").mkdir()
    message = one_line_error(lambda: read_checkpoint(tmp_path / name))
    assert message.startswith(f"{tmp_path / name}: no such file")
    assert ".safetensors" in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt", ""])
@pytest.mark.parametrize("content", ["hello world, this is text\n", "\n\n", '{"a": 1}', "\x89PNG\r\n"])
def test_a_text_file_is_an_error(tmp_path: Path, suffix: str, content: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text(content)
    assert one_line_error(lambda: read_checkpoint(path)).startswith(f"{path}: cannot be read safely")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert str(tmp_path / name) in one_line_error(lambda: read_checkpoint(tmp_path / name))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_an_error(tmp_path: Path, zipped: bool) -> None:
    """As after an interrupted download."""
    path = tmp_path / "a.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        assert str(path) in one_line_error(lambda: read_checkpoint(path))


def test_a_state_dict_with_numeric_keys_is_an_error(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(1)}, tmp_path / "a.pth")
    assert "no state dict" in one_line_error(lambda: read_checkpoint(tmp_path / "a.pth"))
