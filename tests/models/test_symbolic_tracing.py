"""`torch.fx.symbolic_trace` of models, and feature extractors that are built on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from traced_models import ARCHITECTURES, architecture_of, firing_model, images

from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.nn.fusion import fuse
from autospike.nn.neuron import LIF

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> SpikingModel:
    return firing_model(request.param)


def frames() -> Tensor:
    return torch.randn(3, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_logits(model: SpikingModel) -> None:
    """Of images and frames, at every T, with one graph."""
    traced = torch.fx.symbolic_trace(model)
    assert len(model(images()).unique(dim=0)) > 1
    for x in (images(), images(1), frames()):
        torch.testing.assert_close(traced(x), model(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(traced(x, at=(1, 3)), model(x, at=(1, 3)), rtol=1e-5, atol=1e-5)


def test_neurons_are_calls_of_modules_in_the_graph(model: SpikingModel) -> None:
    traced = torch.fx.symbolic_trace(model)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {name for name, module in model.named_modules() if isinstance(module, LIF)} <= called


def test_gradients_and_statistics(model: SpikingModel) -> None:
    """A traced model has the layers of the model, and so its parameters."""
    traced, x = torch.fx.symbolic_trace(model.train()), images()
    found = []
    for run in (model, traced):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.zero_grad()
        run(x).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        found.append({name: buffer.clone() for name, buffer in model.named_buffers()})
        model.load_state_dict(before, strict=False)
    eager, eager_statistics, graph, graph_statistics = found
    assert any(grad.any() for grad in eager.values())
    for expected, actual in ((eager, graph), (eager_statistics, graph_statistics)):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_fused_model() -> None:
    model = fuse(firing_model("meta_spikeformer"))
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(images()), model(images()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_feature_extractor_of_torchvision() -> None:
    model, outputs = firing_model("spike_driven"), dict[str, Tensor]()
    names = ["stages.0.embedding", "stages.0.blocks.1", "head_lif"]
    extracted = create_feature_extractor(model, names)(images())
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda _module, _args, out, name=name: outputs.update({name: out}))
    model(images())
    for name in names:
        torch.testing.assert_close(extracted[name], outputs[name])


def test_other_modules_in_place_of_neurons() -> None:
    """An `nn.Identity` or any other module is called as usual."""
    model = build_model(architecture_of("spike_driven"), num_classes=5, in_chans=3).eval()
    model.head_lif = nn.ReLU()
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(images()), model(images()))
