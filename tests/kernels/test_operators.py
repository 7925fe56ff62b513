"""Every kernel as an operator of torch: schema, fake implementation, autograd formula, and when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from instruction_sets import ISAS
from slow_parameters import slow_except
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from autospike.kernels import attention, batch_norm, input_values, lif, linear_lif, max_pool, packing, sparse_conv
from autospike.kernels.build import library, use_kernels
from autospike.kernels.lif import NeuronParameters
from autospike.kernels.operator import Library, is_observed

pytestmark = pytest.mark.skipif(library("lif") is None, reason="no C compiler here")

LIBRARIES: dict[str, Library] = {
    module.LIBRARY.name: module.LIBRARY for module in (attention, batch_norm, input_values, lif, max_pool, packing, sparse_conv)
}
PUBLISHED = NeuronParameters(
    tau=2.0, v_threshold=0.4, slope=4.0, soft_reset=False, decay_input=True, detach_reset=True, arctan=False
)
OTHER = PUBLISHED._replace(soft_reset=True, decay_input=False, detach_reset=False, arctan=True)

INTEGERS = PUBLISHED._replace(soft_reset=True, decay_input=False, levels=4)


def real(*shape: int, gradient: bool = False) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).requires_grad_(gradient)


def spikes(*shape: int, gradient: bool = False) -> Tensor:
    return (real(*shape) > 0.5).float().requires_grad_(gradient)


def norm(channels: int, *, gradient: bool) -> tuple[Tensor, ...]:
    return (
        real(channels, gradient=gradient),
        real(channels, gradient=gradient),
        real(channels) + 0.1,
        real(channels).abs() + 0.5,
    )


def cases() -> dict[str, tuple[Any, ...]]:
    """Arguments of every operator, by its name and what is special."""
    y, heads = real(3, 2, 4, 4, 5, gradient=True), spikes(2, 3, 9, 8, gradient=True)
    grad = real(3, 2, 4, 4, 5)
    without, affine, fixed = (None,) * 4, norm(5, gradient=True), norm(5, gradient=False)
    x, weight, bias = spikes(4, 5, 5, 20, gradient=True), real(6, 20, 3, 3, gradient=True), real(6, gradient=True)
    return {
        "lif": (y, *without, False, None, 3, *PUBLISHED, False),
        "lif with another neuron": (y, *without, False, None, 3, *OTHER, False),
        "lif with integers": (y, *affine, True, None, 3, *INTEGERS, True),
        "lif with counts": (y, *without, False, None, 3, *PUBLISHED, True),
        "lif with normalisation and stream": (y, *affine, True, real(3, 2, 4, 4, 5, gradient=True), 3, *PUBLISHED, False),
        "lif with running statistics": (y, *affine, False, None, 3, *OTHER, True),
        "lif with a still image": (y[:1], *affine, True, None, 6, *PUBLISHED, False),
        "lif_backward": (y.detach(), *without, False, grad, 3, *PUBLISHED),
        "lif_backward with normalisation": (y.detach(), *fixed, True, grad, 3, *OTHER),
        "lif_backward with integers": (y.detach(), *fixed, True, grad, 3, *INTEGERS),
        "linear_lif": (spikes(3, 2, 2, 2, 20), real(6, 20), None, *norm(6, gradient=False), None, *PUBLISHED, False),
        "linear_lif with all": (
            spikes(3, 2, 2, 2, 20), real(6, 20), real(6), *norm(6, gradient=False), real(3, 2, 2, 2, 6), *OTHER, True,
        ),
        "batch_statistics": (y.detach(),),
        "normalise": (y, *affine, True),
        "normalise with running statistics": (y, *affine, False),
        "normalise_backward": (y.detach(), *fixed, grad, True),
        "sparse_conv": (x, weight, bias, 1, 1, False),
        "sparse_conv with stride": (x, weight, None, 2, 1, False),
        "sparse_conv as linear layer": (x, real(6, 20, 1, 1, gradient=True), bias, 1, 0, True),
        "sparse_conv_weight_gradient": (x.detach(), real(4, 5, 5, 6), 3, 1),
        "attention": (heads, spikes(2, 3, 9, 8, gradient=True), heads.detach().flip(1).requires_grad_(), 2, 0.125),
        "attention_backward": (*(heads.detach(),) * 3, real(2, 3, 9, 8), 2, 0.125),
        "max_pool": (real(2, 3, 5, 4, 6, gradient=True),),
        "max_pool_backward": (real(2, 3, 5, 4, 6), real(2, 3, 3, 2, 6)),
        "bits_set": (spikes(7, 3),),
        "pack": (spikes(7, 3), 2),
        "unpack": (torch.arange(6, dtype=torch.uint8), 4, 11),
        "sum_values": (spikes(2, 3, 4, 5),),
    }  # fmt: skip


@pytest.mark.parametrize("isa", slow_except(ISAS[:1], ISAS or ["none"]), indirect=True)
@pytest.mark.parametrize("case", cases())
def test_schema_fake_implementation_and_autograd(case: str, isa: str) -> None:  # noqa: ARG001
    """`opcheck` runs the operator, compares it with its fake implementation, and traces it with AOTAutograd."""
    operator = getattr(torch.ops.autospike, case.split()[0]).default
    found = torch.library.opcheck(operator, cases()[case])
    assert set(found.values()) == {"SUCCESS"}


def test_every_operator_is_checked() -> None:
    registered = {
        name.removeprefix("autospike::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("autospike::")
    }
    assert {case.split()[0] for case in cases()} == {name.partition(".")[0] for name in registered}


@pytest.mark.parametrize("case", cases())
def test_operators_read_strided_tensors(case: str, isa: str) -> None:  # noqa: ARG001
    """The values of tensors with any memory layout are read in the order of their shape."""

    def strided(x: Any) -> Any:
        return x.detach().movedim(-1, 0).contiguous().movedim(0, -1) if isinstance(x, Tensor) and x.dim() > 1 else x

    def detached(x: Any) -> Any:
        return x.detach() if isinstance(x, Tensor) else x

    operator, args = getattr(torch.ops.autospike, case.split()[0]).default, cases()[case]
    found, expected = operator(*map(strided, args)), operator(*map(detached, args))
    for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
        assert torch.equal(one, other)


class Foreign(TorchDispatchMode):
    """Observes operations, without support for kernels."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Informed(Foreign):
    """Observes layers by rules, so kernels may run inside them."""

    reads_layers = True


def test_kernels_run_unless_something_observes_operations() -> None:
    x = real(2, 3)
    seen: list[bool] = []

    def look(y: Tensor) -> Tensor:
        seen.append(lif.LIBRARY.supports(y))
        return y.sum()

    look(x)
    with Informed():
        look(x)
    assert seen == [True, True]
    with Foreign():
        look(x)
    with FlopCounterMode(display=False):
        look(x)
    torch.jit.trace(look, x, check_trace=False)
    make_fx(look)(x)
    torch.func.grad(look)(x)
    with use_kernels("off"):
        look(x)
    assert seen == [True] * 2 + [False] * 6
    assert not is_observed()


@pytest.mark.parametrize("other", [lambda x: x.double(), lambda x: x.bfloat16(), lambda x: x.to("meta"), lambda x: x.int()])
def test_other_types_and_devices_are_composite(other: Callable[[Tensor], Tensor]) -> None:
    assert not lif.LIBRARY.supports(real(2), other(real(2)))
    assert lif.LIBRARY.supports(real(2), None)


def test_a_negated_view_is_read_as_its_values() -> None:
    view = torch._neg_view(real(3, 4, 5))
    assert torch.equal(lif.lif(view, 3, PUBLISHED)[0], lif.lif(view.clone(), 3, PUBLISHED)[0])


def test_memory_that_cannot_be_allocated_is_an_error() -> None:
    """Scratch memory of 2^58 bytes and more does not exist. Nothing is read or written before it is allocated."""
    with pytest.raises(MemoryError, match="sum_values: no memory"):
        input_values.LIBRARY.functions.sum_values(None, 0, 0, 1 << 56, 1, None, None)
    with pytest.raises(MemoryError, match="batch_statistics: no memory"):
        batch_norm.LIBRARY.functions.batch_statistics(None, 0, 1 << 54, 1, None, None)


@pytest.mark.parametrize("case", ["lif", "lif with normalisation and stream", "normalise", "sparse_conv", "attention", "max_pool"])
def test_eager_calls_and_the_dispatcher_compute_the_same(case: str) -> None:
    """The direct call and `torch.ops.autospike.*`, with gradients."""
    name = case.split()[0]
    module = {"normalise": batch_norm}.get(name) or globals()[name]
    for direct, dispatched in zip(
        *(
            _with_gradients(function, cases()[case])
            for function in (getattr(module, f"_{name}"), getattr(torch.ops.autospike, name))
        ),
        strict=True,
    ):
        assert torch.equal(direct, dispatched)


def _with_gradients(function: Callable[..., Any], args: tuple[Any, ...]) -> list[Tensor]:
    out = function(*args)
    out = out[0] if isinstance(out, tuple) else out
    leaves = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
    return [out, *torch.autograd.grad(out, leaves, torch.cos(torch.arange(out.numel())).view_as(out))]


def test_composite_and_kernel_have_the_same_spikes_and_gradients() -> None:
    for neuron in (PUBLISHED, OTHER, PUBLISHED._replace(detach_reset=False), PUBLISHED._replace(arctan=True, soft_reset=True)):
        found = []
        for kernels in ("native", "off"):
            y, stream = real(5, 3, 4, 6, gradient=True), real(5, 3, 4, 6, gradient=True)
            with use_kernels(kernels):
                fired, counts = lif.lif(y * 2, 5, neuron, count=True)
                added, _ = lif.lif(y * 2, 5, neuron, stream=stream)
            grads = torch.autograd.grad(fired, y, torch.cos(torch.arange(fired.numel())).view_as(fired))
            found.append((fired, counts, added - stream, torch.autograd.grad(added.sum(), stream)[0], *grads))
        (*kernel, kernel_grad), (*composite, composite_grad) = found
        assert all(map(torch.equal, kernel, composite))
        assert 0.05 < kernel[0].mean() < 0.95
        torch.testing.assert_close(kernel_grad, composite_grad, rtol=1e-5, atol=1e-6)


def test_linear_lif_is_not_for_gradients() -> None:
    x, weight = spikes(2, 2, 2, 2, 32), real(8, 32)
    assert not linear_lif.supports(x, weight, None, norm(8, gradient=False), None)
    with torch.no_grad():
        assert linear_lif.supports(x, weight, None, norm(8, gradient=False), None)
