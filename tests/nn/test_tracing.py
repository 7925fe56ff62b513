"""Compiled, exported, traced and transformed models compute the same as eager ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
import torch
from slow_parameters import slow_except
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from traced_models import ARCHITECTURES, architecture_of, firing_model, images

from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.nn.blocks import SpikingBlock


@pytest.fixture(params=slow_except(["spikformer"], ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> Iterator[SpikingModel]:
    torch._dynamo.reset()
    yield firing_model(request.param)
    torch._dynamo.reset()


def gradients(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    run(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def exported(model: nn.Module, x: Tensor, *, strict: bool) -> Callable[[Tensor], Tensor]:
    """Return an exported model that must run without this package."""
    program = torch.export.export(model, (x,), strict=strict)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in operators if "autospike" in name or "spikingjelly" in name]
    return program.module()


TRACERS: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]] = {
    "torch.compile": lambda model, _x: torch.compile(model, fullgraph=True, backend="aot_eager"),
    "torch.export": lambda model, x: exported(model, x, strict=False),
    "torch.export, strict": lambda model, x: exported(model, x, strict=True),
    "torch.jit.trace": lambda model, x: torch.jit.trace(model, x, check_trace=False),
    "make_fx": lambda model, x: make_fx(model)(x),
    "vmap": lambda model, _x: lambda x: torch.vmap(model)(x.unsqueeze(1)).squeeze(1),
}


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "tracer", [pytest.param(name, marks=[] if name in ("torch.jit.trace", "vmap") else [pytest.mark.slow]) for name in TRACERS]
)
@torch.no_grad()
def test_traced_models_have_the_same_logits(model: SpikingModel, tracer: str) -> None:
    """The images differ from those of the tracing."""
    expected = model(images())
    found = TRACERS[tracer](model, images(6).flip(0) * 2)(images())
    assert len(expected.unique(dim=0)) > 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_block_has_the_same_gradients_and_statistics() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    x = torch.randint(0, 2, (3, 4, 4, 4, 16)).float()
    block = SpikingBlock(architecture_of("spikformer"), 16, 32, ARCHITECTURES["spikformer"][1][0])
    assert_compiled_training_equals_eager(block, x)


@pytest.mark.slow
def test_a_compiled_training_step_has_the_same_gradients_and_statistics(model: SpikingModel) -> None:
    assert_compiled_training_equals_eager(model, images())


def assert_compiled_training_equals_eager(model: nn.Module, x: Tensor) -> None:
    eager, copy = model.train(), deepcopy(model).train()
    compiled = torch.compile(copy, fullgraph=True, backend="aot_eager")
    expected, found = gradients(eager, eager, x), gradients(copy, compiled, x)
    assert expected.keys() == found.keys()
    assert sum(bool(grad.any()) for grad in expected.values()) > len(expected) / 2
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-5)
    for name, buffer in eager.named_buffers():
        torch.testing.assert_close(copy.get_buffer(name), buffer)


@pytest.mark.slow
@torch.no_grad()
def test_a_model_compiled_by_inductor_has_the_same_logits(model: SpikingModel) -> None:
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(images()), model(images()), rtol=1e-5, atol=1e-5)


def test_torch_func_grad_equals_autograd(model: SpikingModel) -> None:
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, (parameters, buffers), (images(),))
        return logits.square().sum()

    found, expected = torch.func.grad(loss)(parameters), gradients(model, model, images())
    assert any(grad.any() for grad in expected.values())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", slow_except(["spikformer"], ARCHITECTURES))
def test_fake_tensors_have_the_shape_and_device_of_the_logits(name: str, device: str, training: bool) -> None:
    """Mixed devices would raise, also on a machine without a GPU."""
    with FakeTensorMode(), torch.device(device):
        model = build_model(architecture_of(name), num_classes=5, in_chans=3).train(training)
        logits = model(torch.randn(2, 3, 8, 8))
    assert (logits.shape, logits.device.type) == ((2, 5), device)
