"""Programs, ONNX, the single step, NIR, and the comparison after writing."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slow_parameters import slow_except
from torch import Tensor
from traced_models import ARCHITECTURES, firing_model, images

from autospike.errors import UserError
from autospike.exporting import formats, nir_graph, onnx_model, program, stateful
from autospike.exporting.formats import Comparison, write_format
from autospike.exporting.variants import VariantName, variant_of
from autospike.models.contract import SpikingModel
from autospike.models.registry import build_model
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron


def convolutional(time_steps: int = 3) -> SpikingModel:
    """A Meta-SpikeFormer of convolutional blocks, which NIR can express, whose neurons fire."""
    block = Block(token_mixer="sepconv", channel_mixer="conv", mlp_ratio=2, neuron=Neuron(v_threshold=0.3))
    stages = (
        Stage(embed_dim=8, embedding=Embedding(stride=2), blocks=(block,)),
        Stage(embed_dim=12, embedding=Embedding(stride=2), blocks=(block,)),
    )
    torch.manual_seed(0)
    architecture = Architecture(family="meta_spikeformer", shortcut="membrane", time_steps=time_steps, stages=stages)
    model = build_model(architecture, num_classes=5, in_chans=3)
    for name, parameter in model.named_parameters():
        if name.split(".")[-2].endswith("bn"):
            torch.nn.init.normal_(parameter, 1 if name.endswith("weight") else 0.4, 0.5)
        elif name == "head.weight":
            torch.nn.init.normal_(parameter)
    for _ in range(20):
        model(images(16))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", slow_except(["spikformer", "meta_spikeformer"], ARCHITECTURES))
def test_single_steps(name: str) -> None:
    """T single steps from potentials of 0 give the logits of the model."""
    model = firing_model(name)
    expected = model.forward_steps(images())
    step = stateful.SingleStep(firing_model(name))
    potentials: list[Tensor] = []
    for t in range(model.architecture.time_steps):
        logits, *potentials = step(images(), potentials)
        torch.testing.assert_close(logits, expected[t], rtol=1e-5, atol=1e-5)
    assert len(potentials) == len(step.names)


@pytest.mark.slow
@torch.no_grad()
def test_batch_sizes_of_a_program(tmp_path: Path) -> None:
    variant = variant_of(firing_model("spike_driven"), "exact")
    assert program.write(variant, tmp_path, images()) == ("model.pt2",)
    loaded = program.load(tmp_path)
    for number in (6, 3, 1):
        torch.testing.assert_close(loaded(images(number)), variant.model(images(number)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["exact", "int8"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_program(tmp_path: Path, name: str, variant: VariantName) -> None:
    _, entry = write_format(tmp_path, "pt2", variant_of(firing_model(name), variant), images())
    assert entry["comparison"]["largest_difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["exact", "int8"])
@pytest.mark.parametrize(("name", "model"), [(name, model) for name in ("onnx", "stateful") for model in ARCHITECTURES])
def test_each_onnx_model(tmp_path: Path, model: str, name: str, variant: VariantName) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder, entry = write_format(tmp_path, name, variant_of(firing_model(model), variant), images())
    assert entry["comparison"]["largest_difference"] < 1e-3
    assert (tmp_path / folder / ("model.onnx" if name == "onnx" else "step.onnx")).exists()


def test_integers_of_a_rounded_weight_are_found() -> None:
    integers = np.array([[127, -3, 0], [-127, 64, 1]], dtype=np.int8)
    scale = np.array([0.013, 0.21], dtype=np.float32)
    found = onnx_model.as_integers(integers.astype(np.float32) * scale[:, None], 0)
    assert found is not None
    assert found[0] == 0
    assert np.array_equal(found[1], integers)
    assert onnx_model.as_integers(np.array([[1.0, 0.3333]], dtype=np.float32), 0) is None


def test_integers_of_linear_layers_are_not_quantised_again(tmp_path: Path) -> None:
    """Inputs are not rounded to 8 bits, as onnxruntime does for `DequantizeLinear` before `MatMul` on processors with VNNI."""
    onnx, helper = pytest.importorskip("onnx"), pytest.importorskip("onnx.helper")
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    integers = rng.integers(-127, 128, (64, 48)).astype(np.int8)
    integers[0] = 127
    weight = integers.astype(np.float32) * rng.uniform(0.01, 0.02, 48).astype(np.float32)
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "linear",
            [value("x", onnx.TensorProto.FLOAT, [5, 64])],
            [value("y", onnx.TensorProto.FLOAT, [5, 48])],
            [onnx.numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", onnx_model.OPSET)],
        ir_version=10,
    )
    onnx_model.store_integers(model)
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT}
    onnx.save(model, tmp_path / "model.onnx")
    x = rng.standard_normal((5, 64)).astype(np.float32)
    (found,) = onnx_model.session(tmp_path / "model.onnx")(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), x.astype(np.float64) @ weight.astype(np.float64), atol=2e-5)


@torch.no_grad()
def test_nir_of_convolutional_blocks(tmp_path: Path) -> None:
    """The written graph, run by the definitions of NIR's nodes, gives the logits; neurons and edges are those of the model."""
    nir = pytest.importorskip("nir")
    variant = variant_of(convolutional(), "fused")
    expected = variant.model(images())
    assert len(expected.unique(dim=0)) > 1
    nir_graph.write(variant, tmp_path, images())
    torch.testing.assert_close(nir_graph.load(tmp_path, 3)(images()), expected, rtol=1e-4, atol=1e-4)
    graph = nir.read(str(tmp_path / "model.nir"))
    lifs = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    assert len(lifs) == len([m for m in variant.model.modules() if isinstance(m, LIF)])
    assert {round(float(lif.v_threshold.flat[0]), 6) for lif in lifs} == {0.3, 1.0}


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("spikformer", ["operator.product: multiplies signals", "max-pool"]),
        ("spike_driven", ["multiplies two signals of spikes", "sums over tokens"]),
    ],
)
def test_nir_lists_what_it_cannot_express(tmp_path: Path, name: str, reasons: list[str]) -> None:
    pytest.importorskip("nir")
    with pytest.raises(UserError) as error:
        nir_graph.write(variant_of(firing_model(name), "fused"), tmp_path, images())
    assert all(reason in str(error.value) for reason in reasons)


def test_a_format_that_computes_another_model_is_refused(tmp_path: Path) -> None:
    """The model adds the number of its calls to each logit, so that what was written is 1 behind. Nothing is kept."""
    variant, calls = variant_of(firing_model("spikformer"), "exact"), count()
    variant.model.register_forward_hook(lambda _model, _arguments, logits: logits + next(calls))
    with pytest.raises(UserError, match=r"refused.*largest difference of a logit 1 on 6 images"):
        write_format(tmp_path, "torch", variant, images())
    assert not list(tmp_path.iterdir())


def comparison(*differences: float) -> Comparison:
    expected = torch.tensor([[10.0, 0.0]] * len(differences))
    return Comparison.of(expected + torch.tensor([[d, 0.0] for d in differences]), expected)


@pytest.mark.parametrize(
    ("differences", "agrees"),
    [
        ([0.0] * 10, True),
        ([0.009] * 10, True),  # a tolerance of 1e-3 of the largest logit, 10
        ([0.011] * 10, False),
        ([5.0, *[0.0] * 9], True),  # one image of ten by a moved spike
        ([5.0, 5.0, *[0.0] * 8], False),
        ([float("nan"), *[0.0] * 9], True),
        ([float("nan")] * 10, False),
    ],
)
def test_which_differences_are_rounding(differences: list[float], agrees: bool) -> None:
    assert comparison(*differences).agrees == agrees


def test_maps_may_differ_at_one_position_of_a_hundred() -> None:
    """Of 16x16 positions, 2 are less than 1 %, 3 are more. A map whose logits differ by rounding only is not moved."""
    expected = torch.zeros(10, 2, 16, 16)
    expected[:, 0] = 10
    for positions, agrees in [(2, True), (3, True), (0, True)]:
        found = expected.clone()
        found[0, 1].view(-1)[:positions] = 20
        assert Comparison.of(found, expected).agrees == agrees
        assert Comparison.of(found, expected).other_predictions == int(positions == 3)
    found = expected.clone()
    found[:2, 1, 0, :3] = 20
    assert not Comparison.of(found, expected).agrees


def test_other_shapes_do_not_agree() -> None:
    assert not Comparison.of(torch.zeros(2, 3), torch.zeros(2, 4)).agrees


@pytest.mark.parametrize(("text", "names"), [("timm", []), ("onnx,torch", ["onnx", "torch"]), ("nir, timm,nir", ["nir"])])
def test_formats_on_the_command_line(text: str, names: list[str]) -> None:
    assert formats.parse_formats(text) == names


@pytest.mark.parametrize("parse", [formats.parse_formats, formats.parse_variants])
def test_unknown_names_are_errors(parse: Any) -> None:
    with pytest.raises(UserError, match="'onx' is unknown; choose from"):
        parse("onx")
