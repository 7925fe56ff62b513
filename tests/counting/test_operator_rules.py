"""Operator rules, for operations outside layers with rules: compared with calculations by hand and with layer rules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import FAMILIES, READS, WITH_HEADS, few_examples
from hypothesis import given
from hypothesis import strategies as st
from slow_parameters import slow_except
from spikingjelly.activation_based.neuron import IFNode
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autospike.counting.counter import Counter
from autospike.counting.coverage import UnknownOperationError
from autospike.counting.fan_out import fan_out
from autospike.counting.layer_rules import LAYER_RULES
from autospike.counting.model import count_operations
from autospike.counting.operator_rules import operator_name
from autospike.energy.conventions import CONVENTIONS
from autospike.energy.counts import LayerCount
from autospike.energy.operations import Operations
from autospike.models import build_model
from autospike.models.contract import MeanHead, SpikingHead
from autospike.models.spikformer import Spikformer
from autospike.nn.attention import Gate, SumOfSpikes
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import ConvNorm, LinearNorm, Norm, RepConv, RepLinear, SeparableConvNorm
from autospike.nn.neuron import LIF
from autospike.nn.regions import RegionConv, RegionLinear, RegionUpsampling
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron
from autospike.space.published import PUBLISHED

STEPS, BATCH = 3, 2


def spikes(*shape: int, high: int = 2, seed: int = 7) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed)).float()


def real(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class FunctionModule(nn.Module):
    """A module that calls a function of its layers and its inputs."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def operations_of_run(model: nn.Module, *args: Any, strict: bool = True, images: int = BATCH, steps: int = STEPS) -> Operations:
    counter = Counter(strict=strict)
    with torch.no_grad(), counter.watch(model.eval(), images=images, time_steps=steps):
        model(*args)
    return counter.operations()


def single_count(model: nn.Module, *args: Any) -> LayerCount:
    (found,) = operations_of_run(model, *args).counts
    return found


def per_image(x: Tensor, times: float = 1) -> tuple[float, ...]:
    """Return the sum of `[T, B, ...]` at each step, as a mean over the images."""
    return tuple(step.sum().item() * times / len(step) for step in x)


# Fan-out


def fan_out_by_loop(size: int, taps: int, stride: int, padding: int, dilation: int) -> list[int]:
    """Return how many outputs each input along one dimension reaches, by a loop over outputs and taps."""
    reached_outputs = [0] * size
    for output in range((size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1):
        for tap in range(taps):
            index = output * stride - padding + tap * dilation
            if 0 <= index < size:
                reached_outputs[index] += 1
    return reached_outputs


def transposed_fan_out_by_loop(size: int, taps: int, stride: int, padding: int, dilation: int, output_padding: int) -> list[int]:
    outputs = range((size - 1) * stride - 2 * padding + dilation * (taps - 1) + output_padding + 1)
    return [sum(i * stride - padding + tap * dilation in outputs for tap in range(taps)) for i in range(size)]


def products(along: Sequence[list[int]]) -> list[float]:
    return [float(math.prod(each)) for each in itertools.product(*along)]


@st.composite
def geometries(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[int, ...]], bool]:
    """Draw arguments of `fan_out`, the same by dimension, and whether it is transposed; one to three dimensions."""
    transposed = draw(st.booleans())
    dims = []
    for _ in range(draw(st.integers(1, 3))):
        taps, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
        padding = draw(st.integers(0, 3 if not transposed else dilation * (taps - 1) // 2))
        size = draw(st.integers(max(1, dilation * (taps - 1) + 1 - 2 * padding), dilation * (taps - 1) + 6))
        output_padding = draw(st.integers(0, max(stride, dilation) - 1)) if transposed else 0
        dims.append((size, taps, stride, padding, dilation, output_padding))
    size, kernel, stride, padding, dilation, output_padding = zip(*dims, strict=True)
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "transposed": transposed}
    return {"size": size, "kernel": kernel, "output_padding": output_padding, **settings}, dims, transposed


@few_examples
@given(geometries())
def test_fan_out_matches_a_loop_over_outputs_and_kernel_positions(
    drawn: tuple[dict[str, Any], list[tuple[int, ...]], bool],
) -> None:
    arguments, dims, transposed = drawn
    along = [transposed_fan_out_by_loop(*dim) if transposed else fan_out_by_loop(*dim[:-1]) for dim in dims]
    size, kernel = arguments.pop("size"), arguments.pop("kernel")
    found = fan_out(size, kernel, **arguments)
    assert found.dtype == torch.float64
    assert found.tolist() == products(along)


def test_fan_out_of_a_dilated_strided_convolution() -> None:
    """Seven inputs, three taps with dilation 2, stride 2 and padding 1."""
    found = fan_out((7,), (3,), stride=(2,), padding=(1,), dilation=(2,))
    assert found.tolist() == [0, 2, 0, 3, 0, 2, 0]


Convolution = Callable[[], nn.Module]
CONVOLUTIONS: dict[str, tuple[Convolution, tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (9,)),
    "2d": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(1, 0), dilation=(2, 1), bias=False), (7, 5)),
    "2d, same": (lambda: nn.Conv2d(4, 6, (5, 3), padding="same"), (7, 5)),
    "2d, grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (5, 6)),
    "2d, depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (5, 6)),
    "3d": (lambda: nn.Conv3d(4, 3, (2, 3, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (4, 5, 6)),
    "1d, transposed": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (5,)),
    "2d, transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 5)),
    "3d, transposed": (lambda: nn.ConvTranspose3d(4, 2, 2, stride=2), (2, 3, 2)),
}


def reached_outputs(conv: nn.Module, x: Tensor) -> float:
    """Return the sum of all outputs of a convolution with weights of one."""
    ones = {name: torch.zeros_like(p) if name == "bias" else torch.ones_like(p) for name, p in conv.named_parameters()}
    return torch.func.functional_call(conv, ones, (x,)).sum().item()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_counts_the_outputs_that_each_value_reaches(name: str) -> None:
    build, size = CONVOLUTIONS[name]
    conv, x = build(), spikes(STEPS, BATCH, 4, *size, high=3)
    found = single_count(FunctionModule(lambda m, x: m.conv(x), conv=conv), x.flatten(0, 1))
    assert found.acs == tuple(reached_outputs(conv, step) / BATCH for step in x)
    assert found.rate == pytest.approx([step.mean().item() for step in x], rel=1e-6)
    assert (found.layer, found.input, found.form, found.reads, found.time_steps) == ("conv", "integer", "always", "stream", STEPS)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_dense_operations_of_a_convolution_match_the_flop_counter_of_torch(name: str) -> None:
    build, size = CONVOLUTIONS[name]
    model, x = FunctionModule(lambda m, x: m.conv(x), conv=build()), real(STEPS * BATCH, 4, *size)
    found = single_count(model, x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * STEPS * BATCH * found.macs
    assert (found.input, found.acs, found.rate) == ("real", (), ())


# Products of matrices


def parameter(*shape: int) -> nn.Parameter:
    """Return a parameter of ones, which has the values of spikes but is no input."""
    return nn.Parameter(torch.ones(*shape))


LINEAR: dict[str, FunctionModule] = {
    "layer": FunctionModule(lambda m, x: m.w(x), w=nn.Linear(4, 5)),
    "layer without bias": FunctionModule(lambda m, x: m.w(x), w=nn.Linear(4, 5, bias=False)),
    "function": FunctionModule(lambda m, x: F.linear(x, m.w), w=parameter(5, 4)),
    "product": FunctionModule(lambda m, x: x @ m.w, w=parameter(4, 5)),
    "transposed weight": FunctionModule(lambda m, x: x @ m.w.t(), w=parameter(5, 4)),
    "part of a weight": FunctionModule(lambda m, x: x @ m.w[:, 2:7], w=parameter(4, 9)),
    "weight first": FunctionModule(lambda m, x: (m.w @ x.transpose(-1, -2)).transpose(-1, -2), w=parameter(5, 4)),
    "expanded weight": FunctionModule(
        lambda m, x: torch.bmm(x.flatten(0, 1), m.w.expand(len(x) * x.shape[1], 4, 5)), w=parameter(4, 5)
    ),
    "addmm": FunctionModule(lambda m, x: torch.addmm(m.b, x.flatten(0, 2), m.w), w=parameter(4, 5), b=parameter(5)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_every_form_of_a_linear_layer(name: str) -> None:
    x = spikes(STEPS, BATCH, 6, 4, high=3)
    found = single_count(LINEAR[name], x)
    assert (found.acs, found.macs, found.input, found.time_steps) == (per_image(x, 5), 6 * 4 * 5, "integer", STEPS)
    assert found.rate == pytest.approx(per_image(x, 1 / 24), rel=1e-12)
    of_reals = single_count(LINEAR[name], real(STEPS, BATCH, 6, 4))
    assert (of_reals.acs, of_reals.macs, of_reals.input) == ((), 6 * 4 * 5, "real")


def test_totals_of_a_product_that_merges_time_with_other_dimensions() -> None:
    """Torch runs it as one product of a long matrix."""
    x = spikes(STEPS, BATCH, 6, 4)
    found = single_count(FunctionModule(lambda m, x: torch.einsum("tbnc,dc->tbnd", x, m.w), w=parameter(5, 4)), x)
    assert sum(found.acs) == x.sum().item() * 5 / BATCH
    assert found.macs * found.time_steps == STEPS * 6 * 4 * 5
    assert found.macs * sum(found.rate) == pytest.approx(sum(found.acs), rel=1e-12)


def test_matrix_vector_product() -> None:
    x = spikes(STEPS * BATCH, 4)
    found = single_count(FunctionModule(lambda m, x: x @ m.w, w=parameter(4)), x)
    assert (found.acs, found.macs) == (per_image(x.view(STEPS, BATCH, 4)), 4)


def hidden(_module: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def test_product_of_activations_is_counted_by_the_sparser_operand_at_each_step() -> None:
    """`[T, B, heads, n, k]` times `[T, B, heads, k, m]`: a value of the first reaches m outputs, one of the second n."""
    a, b = spikes(STEPS, BATCH, 2, 6, 3), spikes(STEPS, BATCH, 2, 3, 4, seed=8)
    a[1], b[2] = 0, 0
    found = single_count(FunctionModule(hidden), a, b)
    drivers = [min((4 * x.sum().item(), x.mean().item()), (6 * y.sum().item(), y.mean().item())) for x, y in zip(a, b, strict=True)]
    assert found.acs == tuple(acs / BATCH for acs, _ in drivers)
    assert found.rate == pytest.approx([rate for _, rate in drivers], rel=1e-6)
    assert (found.macs, found.input, found.time_steps) == (2 * 6 * 3 * 4, "binary", STEPS)
    assert drivers[0][0] > 0


@pytest.mark.parametrize(
    ("a", "b", "driver", "kind"),
    [
        (spikes(STEPS, BATCH, 6, 3), real(STEPS, BATCH, 3, 4), "a", "binary"),
        (real(STEPS, BATCH, 6, 3), spikes(STEPS, BATCH, 3, 4), "b", "binary"),
        (spikes(STEPS, BATCH, 6, 3, high=2), spikes(STEPS, BATCH, 3, 4, high=9), "a", "binary"),
        (spikes(STEPS, BATCH, 6, 3, high=9), real(STEPS, BATCH, 3, 4), "a", "integer"),
        (real(STEPS, BATCH, 6, 3), real(STEPS, BATCH, 3, 4), None, "real"),
    ],
)
def test_kinds_of_operands_of_a_product(a: Tensor, b: Tensor, driver: str | None, kind: str) -> None:
    found = single_count(FunctionModule(hidden), a, b)
    expected = {"a": per_image(a, 4), "b": per_image(b, 6), None: ()}[driver]
    assert (found.acs, found.input, found.macs) == (expected, kind, 6 * 3 * 4)


def test_the_counted_operand_of_a_product_is_chosen_at_each_step() -> None:
    """If one operand is real, the other one may be spikes."""
    a, b = real(STEPS, BATCH, 6, 3), spikes(STEPS, BATCH, 3, 4, high=3)
    a[1], b[2] = spikes(BATCH, 6, 3), spikes(BATCH, 3, 4)
    found = single_count(FunctionModule(hidden), a, b)
    assert (found.input, found.input_by_step) == ("integer", ("integer", "binary", "binary"))
    assert found.acs == (per_image(b, 6)[0], per_image(a, 4)[1], per_image(b, 6)[2])


COMPUTED: dict[str, FunctionModule] = {
    "masked": FunctionModule(lambda m, x: F.linear(x, m.w * m.mask), w=parameter(5, 4), mask=parameter(5, 4)),
    "cast": FunctionModule(lambda m, x: x @ m.w.double().float(), w=parameter(4, 5)),
    "with bias": FunctionModule(lambda m, x: F.linear(x, m.w.abs(), m.b), w=parameter(5, 4), b=parameter(5)),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_computed_in_the_forward_pass_is_a_weight(name: str) -> None:
    """It has the values of spikes, but is no operand that is counted."""
    model, x = FunctionModule(lambda m, x: m.layer(x), layer=COMPUTED[name]), spikes(STEPS, BATCH, 6, 4, high=3)
    counts = [operations_of_run(model, x, strict=False).counts, operations_of_run(model, x + 0.5, strict=False).counts]
    (found,), (of_reals,) = ([c for c in each if c.macs == 6 * 4 * 5] for each in counts)
    assert (found.input, found.acs) == ("integer", per_image(x, 5))
    assert (of_reals.input, of_reals.acs) == ("real", ())


def test_dense_operations_of_products_match_the_flop_counter_of_torch() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = torch.einsum("tbnc,tbmc->tbnm", x, m.fc(x))
        return torch.baddbmm(y.flatten(0, 1), x.flatten(0, 1), x.flatten(0, 1).transpose(1, 2))

    model, x = FunctionModule(forward, fc=nn.Linear(8, 8)), real(STEPS, BATCH, 6, 8)
    found = operations_of_run(model, x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    assert sum(c.macs * c.time_steps for c in found.counts) * BATCH * 2 == counter.get_total_flops()
    assert not found.unknown


def test_an_operation_after_a_mean_over_time_has_one_step() -> None:
    model = FunctionModule(lambda m, x: m.head(x.mean(dim=0)), head=nn.Linear(4, 5))
    found = single_count(model, spikes(STEPS, BATCH, 4))
    assert (found.layer, found.time_steps, found.macs, found.input) == ("head", 1, 20, "real")


def test_totals_do_not_depend_on_the_order_of_dimensions() -> None:
    """The dimension of time x batch only separates the steps."""
    x = spikes(STEPS, BATCH, 6, 4)
    found = single_count(FunctionModule(lambda m, x: m.fc(x.movedim(0, 2)), fc=nn.Linear(4, 5)), x)
    assert sum(found.acs) == x.sum().item() * 5 / BATCH
    assert found.macs * found.time_steps == STEPS * 6 * 4 * 5


# Gates and sums


def test_mask_counts_the_values_of_the_larger_operand() -> None:
    x, mask = spikes(STEPS, BATCH, 6, 4), spikes(STEPS, BATCH, 1, 4, seed=8)
    for operands in ((x, mask), (mask, x)):
        found = single_count(FunctionModule(lambda _m, a, b: a * b), *operands)
        assert (found.acs, found.macs, found.input) == (per_image(x), 24, "binary")


def test_mask_of_equal_size_counts_the_sparser_operand_at_each_step() -> None:
    a, b = spikes(STEPS, BATCH, 6, 4), spikes(STEPS, BATCH, 6, 4, seed=8)
    a[0], b[1] = 0, 0
    found = single_count(FunctionModule(lambda _m, a, b: a * b), a, b)
    assert found.acs == tuple(map(min, per_image(a), per_image(b)))
    assert found.acs[2] > 0


def test_mask_applied_in_place_is_counted_by_its_input() -> None:
    def forward(_m: Any, a: Tensor, b: Tensor) -> Tensor:
        a *= b
        return a

    x, mask = spikes(STEPS, BATCH, 6, 4), torch.zeros(STEPS, BATCH, 1, 4)
    assert single_count(FunctionModule(forward), x.clone(), mask).acs == per_image(x)


def test_boolean_mask_is_counted() -> None:
    x = spikes(STEPS, BATCH, 6, 4, high=3)
    found = single_count(FunctionModule(lambda _m, x: x * (x > 1)), x)
    assert (found.input, found.acs) == ("binary", per_image((x > 1).float()))


def test_scaling_is_free() -> None:
    model = FunctionModule(
        lambda m, x: x * 0.125 * m.scale[:4] * m.scale[3:] * m.factor / m.scale[1:5],
        scale=parameter(7),
        factor=parameter(1),
    )
    found = operations_of_run(model, spikes(STEPS, BATCH, 6, 4))
    assert not found.counts
    assert found.free["scaling by a number or a weight"] == 5


def test_division_by_activations_is_not_free() -> None:
    """A normalisation without an exponential divides, at an unknown cost."""
    found = operations_of_run(
        FunctionModule(lambda _m, x, y: x / y), spikes(STEPS, BATCH, 6, 4), real(STEPS, BATCH, 6, 4).abs() + 1, strict=False
    )
    assert found.counts or found.unknown
    assert not found.free


def test_outer_product_as_matrix_product_and_as_mask() -> None:
    """Each value of one operand is combined with each value of the other."""
    a, b = spikes(STEPS, BATCH, 6, 1), spikes(STEPS, BATCH, 1, 6, seed=8)
    as_matrices, as_mask = single_count(FunctionModule(hidden), a, b), single_count(FunctionModule(lambda _m, a, b: a * b), a, b)
    assert as_matrices.acs == tuple(6 * n for n in map(min, per_image(a), per_image(b)))
    assert (as_mask.acs, as_mask.macs) == (as_matrices.acs, as_matrices.macs)


@pytest.mark.parametrize("dims", [(-1,), (2, 3), ()])
def test_sum_of_spikes_adds_each_once(dims: tuple[int, ...]) -> None:
    x = spikes(STEPS, BATCH, 6, 4, high=3)
    found = single_count(FunctionModule(lambda _m, x: x.sum(dim=dims)), x)
    assert (found.layer, found.acs, found.macs, found.input) == ("sum", per_image(x), 24, "integer")


def test_sum_of_values_that_are_real_at_one_step_is_free() -> None:
    x = spikes(STEPS, BATCH, 6, 4)
    x[1] += 0.5
    found = operations_of_run(FunctionModule(lambda _m, x: x.sum(dim=-1)), x)
    assert (found.counts, found.free) == ((), {"means, and sums of real values": 1})


def test_sums_of_real_values_and_of_weights_are_free() -> None:
    model = FunctionModule(lambda m, x: x.sum(dim=-1, keepdim=True) + m.w.sum() + m.w.sum(dim=0), w=parameter(4, 4))
    found = operations_of_run(FunctionModule(lambda m, x: m.inner(x), inner=model), real(STEPS, BATCH, 6, 4))
    assert "means, and sums of real values" in found.free
    assert not found.unknown
    assert not found.counts


def test_cost_of_operations_independent_of_the_images_is_finite() -> None:
    """A grid of positions that is computed in each forward pass has fewer values than images."""
    model = FunctionModule(lambda m, x: m.fc(x) + (torch.arange(2.0) * torch.arange(2.0)).sum(), fc=nn.Linear(4, 5))
    found = operations_of_run(model, spikes(STEPS, BATCH * 4, 4), images=BATCH * 4)
    assert all(math.isfinite(found.energy(name).energy_mj) for name in CONVENTIONS)


# Operator rules compared with layer rules


def subclass(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"My{kind.__name__}", (kind,), {})


X = (STEPS, BATCH, 5, 6, 4)
SYNAPSES: dict[type[nn.Module], tuple[tuple[Any, ...], tuple[Tensor, ...]]] = {
    LinearNorm: ((4, 7), (spikes(*X, high=3),)),
    ConvNorm: ((4, 7), (spikes(*X, high=3),)),
    SeparableConvNorm: ((4, 7), (spikes(*X),)),
    RepConv: ((4,), (spikes(*X),)),
    RepLinear: ((4, 6), (spikes(*X),)),
    SumOfSpikes: ((2,), (spikes(*X),)),
    Gate: ((), (spikes(*X), spikes(STEPS, BATCH, 5, 6, 1))),
    SpikingHead: ((4, 7), (spikes(STEPS, BATCH, 4),)),
    MeanHead: ((4, 7), (real(STEPS, BATCH, 4),)),
}
KEYWORDS: dict[type[nn.Module], dict[str, Any]] = {
    LinearNorm: {"bias": True},
    SeparableConvNorm: {"kernel_size": 3},
    RepLinear: {"outer_norm": True},
}


def values_of(found: Operations) -> list[tuple[Any, ...]]:
    """Return the counts without names and without the fields that only conventions use."""
    return [(c.input, c.macs, c.time_steps, c.acs, c.rate) for c in found.counts if c.form != "fused"]


@pytest.mark.parametrize("kind", SYNAPSES)
def test_operator_rules_match_layer_rules(kind: type[nn.Module]) -> None:
    arguments, inputs = SYNAPSES[kind]
    named = KEYWORDS.get(kind, {})
    by_layer = FunctionModule(lambda m, *x: m.layer(*x), layer=kind(*arguments, **named))
    by_operators = FunctionModule(lambda m, *x: m.layer(*x), layer=subclass(kind)(*arguments, **named))
    expected, found = operations_of_run(by_layer, *inputs), operations_of_run(by_operators, *inputs, strict=False)
    assert values_of(found) == values_of(expected) != []
    assert all(c.layer.startswith("layer") for c in found.counts)
    of_its_border = {"layer: sqrt", "layer: div"} if kind is RepConv else set()  # of the border, which is computed from weights
    assert found.unknown.keys() <= of_its_border


def test_operator_rules_match_the_layer_rule_of_attention() -> None:
    """There are more tokens than channels, so k^T v runs first."""
    heads = Heads(*(spikes(STEPS, BATCH, 2, 6, 4, seed=seed) * spikes(STEPS, BATCH, 2, 6, 4, seed=seed + 5) for seed in range(3)))
    by_layer = FunctionModule(lambda m, x: m.layer(x), layer=AttentionProduct(0.125))
    by_operators = FunctionModule(lambda m, x: m.layer(x), layer=subclass(AttentionProduct)(0.125))
    assert values_of(operations_of_run(by_operators, heads)) == values_of(operations_of_run(by_layer, heads))
    assert [c.layer for c in operations_of_run(by_operators, heads).counts] == ["layer.bmm", "layer.bmm#2"]


def test_kernels_do_not_hide_the_operators_of_a_subclass_without_a_rule() -> None:
    """In eval mode a linear layer, its normalisation and its neurons run as one kernel, without operators of torch."""
    x = spikes(*X)
    layers = [kind(4, 7, bias=True) for kind in (LinearNorm, subclass(LinearNorm))]
    by_layer, by_operators = (
        operations_of_run(
            FunctionModule(lambda m, x: m.layer(x, lif=m.lif), layer=layer, lif=LIF(Neuron())).eval(), x, strict=False
        )
        for layer in layers
    )
    assert values_of(by_operators) == values_of(by_layer) != []


def test_every_layer_rule_is_compared_with_operator_rules() -> None:
    """Layers of a detector read as many regions as there are; tests/tasks/test_detection_run.py has their counts."""
    regions = {RegionConv, RegionLinear, RegionUpsampling}
    assert {*SYNAPSES, AttentionProduct, *regions} == LAYER_RULES.keys()


# Operators without a rule


UNKNOWN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "exp": (torch.exp, "exp"),
    "softmax": (lambda x: torch.softmax(x, dim=-1), "_softmax"),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[-1:]), "native_layer_norm"),
    "gelu": (F.gelu, "gelu"),
    "sigmoid": (torch.sigmoid, "sigmoid"),
    "tanh, in place": (lambda x: x.clone().tanh_(), "tanh"),
    "square": (lambda x: x**2, "pow"),
    "cumsum": (lambda x: x.cumsum(dim=0), "cumsum"),
    "sort": (lambda x: x.sort(dim=-1), "sort"),
    "interpolation": (lambda x: F.interpolate(x.flatten(0, 1).unsqueeze(1), scale_factor=2, mode="bicubic"), "upsample_bicubic2d"),
    "dot": (lambda x: x[0, 0, 0] @ x[0, 0, 1], "dot"),
    "of a list": (lambda x: torch._foreach_exp([x]), "_foreach_exp"),
    "noise": (lambda x: x + torch.randn(x.shape), "randn"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_operator_without_a_rule_is_reported_by_name(name: str) -> None:
    function, called = UNKNOWN[name]
    model = FunctionModule(lambda m, x: m.stage.odd(x), stage=nn.Module())
    model.stage.odd = FunctionModule(lambda _m, x: function(x))
    x = spikes(STEPS, BATCH, 6, 4)
    with pytest.raises(UnknownOperationError, match=rf"^stage\.odd: {called}: this operator has no rule"):
        operations_of_run(model, x)
    assert operations_of_run(model, x, strict=False).unknown == {f"stage.odd: {called}": 1}


def test_operators_on_weights_only_are_free() -> None:
    """They can be computed before the first image."""
    model = FunctionModule(lambda m, x: m.fc(x) + (m.w @ m.w).exp().sum() * m.w.exp().sum(), fc=nn.Linear(4, 5), w=parameter(9, 9))
    found = operations_of_run(model, spikes(STEPS, BATCH, 4), strict=False)
    assert not [name for name in found.unknown if "mm" in name]
    assert [c.layer for c in found.counts] == ["fc"]


def test_activations_inside_a_list_argument_are_recognised() -> None:
    model = FunctionModule(lambda m, x: m.w.index_put((x.long().flatten(),), m.w[0]), w=parameter(9))
    assert operations_of_run(model, spikes(STEPS, BATCH, 4), strict=False).unknown == {"the model: index_put": 1}


class Fallback(nn.Module):
    """Calls a layer that raises, and continues without it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(FunctionModule(lambda _m, x: x.reshape(-1, 7)))

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.inner(x)
        except RuntimeError:
            return x.exp()


def test_layer_name_after_an_exception_in_a_submodule() -> None:
    assert operations_of_run(Fallback(), spikes(STEPS, BATCH, 4), strict=False).unknown == {"the model: exp": 1}


def test_an_unknown_operator_of_the_model_itself() -> None:
    assert operations_of_run(FunctionModule(lambda _m, x: x.exp().exp()), spikes(STEPS, BATCH, 4), strict=False).unknown == {
        "the model: exp": 2
    }


def test_operators_inside_neurons_are_free() -> None:
    """No convention counts the operations of neurons."""

    class Sigmoidal(LIF):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.sigmoid(x) * x)

    class Exponential(IFNode):
        def neuronal_charge(self, x: Tensor) -> None:
            self.v = self.v + x * torch.exp(x)

    model = FunctionModule(lambda m, x: m.second(m.first(x)), first=Sigmoidal(Neuron()), second=Exponential(step_mode="m"))
    found = operations_of_run(model, real(STEPS, BATCH, 4))
    assert (found.free, found.counts) == ({"neurons": 2}, ())


@pytest.mark.parametrize(
    ("torch_function", "name"),
    [
        (torch.ops.aten.add.Tensor, "add"),
        (torch.ops.aten.add_.Scalar, "add"),
        (torch.ops.aten.mm.default, "mm"),
        (torch.ops.aten.__and__.Tensor, "__and__"),
        (torch.ops.aten._softmax.default, "_softmax"),
        (torch.ops.prims.exp.default, "prims::exp"),
    ],
)
def test_operator_name(torch_function: Any, name: str) -> None:
    assert operator_name(torch_function) == name


SMALL = Architecture(time_steps=STEPS, stages=(Stage(embed_dim=16, blocks=(Block(num_heads=2, mlp_ratio=1),)),))


class Exponential(Spikformer):
    """A user-defined family with an operation without a rule."""

    def forward_features(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        return torch.exp(super().forward_features(x, time_steps))


class Pairwise(Spikformer):
    """A user-defined family with a matrix product outside layers with rules."""

    def forward_features(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        stream = super().forward_features(x, time_steps).flatten(2, 3)
        return (stream @ stream.transpose(-1, -2)).unsqueeze(2)[..., :16]


Call = Callable[[Any, Tensor], Tensor]
CALLS: dict[str, Call] = {"call": lambda m, x: m(x), "method": lambda m, x: m.forward_steps(x)}


@pytest.mark.parametrize("how", CALLS)
def test_a_model_with_an_unknown_operator_is_an_error(how: str) -> None:
    """Also if a method of the model is called instead of the model, as in an evaluation."""
    model, images = Exponential(SMALL, num_classes=3, in_chans=1).eval(), torch.rand(2, 1, 4, 6)
    counter = Counter()
    with (
        pytest.raises(UnknownOperationError, match="the model: exp"),
        torch.no_grad(),
        counter.watch(model, images=2, time_steps=STEPS),
    ):
        CALLS[how](model, images)


@pytest.mark.parametrize("how", CALLS)
def test_a_product_in_a_method_of_the_model_is_counted(how: str) -> None:
    """The product of an integer stream, 24 tokens and 16 channels, and its transpose."""
    model, images = Pairwise(SMALL, num_classes=3, in_chans=1).eval(), torch.rand(2, 1, 4, 6)
    for module in model.modules():
        if isinstance(module, Norm):
            nn.init.constant_(module.bias, 2.0)
    counter = Counter()
    with torch.no_grad():
        stream = Spikformer.forward_features(model, images)
        with counter.watch(model, images=2, time_steps=STEPS):
            CALLS[how](model, images)
    found = {c.layer: c for c in counter.operations().counts}["bmm"]
    assert (found.macs, found.input, found.time_steps) == (24 * 16 * 24, "integer", STEPS)
    assert found.acs == tuple(24 * n for n in per_image(stream))
    assert sum(found.acs) > 0


# The coverage check of several batches


@pytest.mark.parametrize("seed", [0, 17])
def test_the_coverage_check_runs_in_every_batch_if_it_counted_something(seed: int) -> None:
    """Products, masks and sums outside layers with rules, added over three batches. With seed 17, the first mask is zero."""
    torch.manual_seed(seed)

    def forward(m: Any, x: Tensor) -> Tensor:
        gated = m.fc(x).ge(0).float() * x
        return (gated @ gated.transpose(-1, -2)).sum(dim=-1)

    model, x = FunctionModule(forward, fc=nn.Linear(4, 4)), spikes(STEPS, 6, 5, 4)
    whole, counter = operations_of_run(model, x, images=6), Counter()
    for part in map(Tensor.contiguous, x.split([1, 3, 2], dim=1)):
        with torch.no_grad(), counter.watch(model, images=part.shape[1], time_steps=STEPS):
            model(part)
    assert counter.operations().counts == whole.counts
    assert len(whole.counts) == 4
    assert counter.operations().free == whole.free
    with pytest.raises(UnknownOperationError), torch.no_grad(), counter.watch(model, images=6, time_steps=STEPS):
        model(x).exp()


def test_the_coverage_check_is_skipped_after_a_batch_without_counts() -> None:
    model, images, counter = build_model(SMALL, num_classes=3, in_chans=1).eval(), torch.rand(2, 1, 8, 8), Counter()
    with pytest.raises(UnknownOperationError), torch.no_grad(), counter.watch(model, images=2, time_steps=STEPS):
        model(images).exp()
    with torch.no_grad(), counter.watch(model, images=2, time_steps=STEPS):
        model(images)
    with torch.no_grad(), counter.watch(model, images=2, time_steps=STEPS):
        model(images).exp()  # not checked


def test_unknown_operators_are_reported_for_one_forward_pass() -> None:
    model, counter, x = (
        FunctionModule(lambda m, x: m.fc(x).exp(), fc=nn.Linear(4, 4)),
        Counter(strict=False),
        spikes(STEPS, BATCH, 4),
    )
    for _ in range(3):
        with torch.no_grad(), counter.watch(model, images=BATCH, time_steps=STEPS):
            model(x)
    assert counter.operations().unknown == {"the model: exp": 1}


def test_first_batch_of_blank_frames() -> None:
    """Blank frames may be a still image, the later frames cannot."""
    model, counter = FunctionModule(lambda m, x: m.conv(x), conv=nn.Conv2d(1, 2, 3)), Counter()
    for x in (torch.zeros(STEPS * BATCH, 1, 5, 5), spikes(STEPS * BATCH, 1, 5, 5)):
        with torch.no_grad(), counter.watch(model, images=BATCH, time_steps=STEPS):
            model(x)
    (found,) = counter.operations().counts
    assert (found.layer, found.macs, found.time_steps) == ("conv", 9 * 9 * 2, STEPS)


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, 0.0)])
def test_an_unknown_operator_in_one_of_several_batches(values: tuple[float, ...]) -> None:
    model, counter = FunctionModule(lambda m, x: m.fc(x).exp() if x.any() else m.fc(x), fc=nn.Linear(4, 4)), Counter(strict=False)
    for value in values:
        x = torch.full((STEPS, BATCH, 4), value)
        with torch.no_grad(), counter.watch(model, images=BATCH, time_steps=STEPS):
            model(x)
    assert counter.operations().unknown["the model: exp"] == 1


# All published networks


def reduced(architecture: Architecture) -> Architecture:
    """Return a narrow copy with one block of each kind in a stage and two time steps."""
    stages = []
    for stage in architecture.stages:
        blocks = [replace(block, num_heads=2 if block.num_heads else None) for block in stage.blocks]
        stages.append(replace(stage, embed_dim=16, blocks=tuple(dict.fromkeys(blocks))))
    return replace(architecture, time_steps=2, stages=tuple(stages))


def assert_nothing_unknown(architecture: Architecture, x: Tensor, num_classes: int) -> None:
    model = build_model(architecture, num_classes=num_classes, in_chans=x.shape[-3])
    found = count_operations(model, x, strict=True)
    assert not found.unknown
    layers = {name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    assert layers <= {c.layer for c in found.counts}


@pytest.mark.parametrize("name", slow_except([name for name in PUBLISHED if "cifar" in name], PUBLISHED))
def test_no_operator_of_a_published_network_is_unknown(name: str) -> None:
    published = PUBLISHED[name]
    events = published.in_chans == 2
    x = spikes(*(2,) * events, 2, published.in_chans, 32, 32, high=4)
    assert_nothing_unknown(reduced(published.architecture), x, num_classes=7)


def smallest_of_each_form() -> list[str]:
    """Return the narrowest published network of each form."""
    found: dict[Architecture, str] = {}
    for name in sorted(PUBLISHED, key=lambda name: PUBLISHED[name].architecture.stages[-1].embed_dim):
        found.setdefault(reduced(PUBLISHED[name].architecture), name)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", smallest_of_each_form())
def test_no_operator_of_a_full_size_network_is_unknown(name: str) -> None:
    published = PUBLISHED[name]
    architecture = replace(published.architecture, time_steps=1)
    assert_nothing_unknown(architecture, torch.rand(1, published.in_chans, 32, 32), published.num_classes)


FAMILIES_AND_SHORTCUTS = [(family, shortcut) for family, (shortcuts, *_) in FAMILIES.items() for shortcut in shortcuts]


@pytest.mark.parametrize(
    ("family", "shortcut"), slow_except([("spikformer", "sew"), ("spike_driven", "membrane")], FAMILIES_AND_SHORTCUTS)
)
def test_no_operator_of_any_architecture_choice_is_unknown(family: str, shortcut: str) -> None:
    """All token mixers, channel mixers, synapses and shortcuts, with a second head."""
    blocks = [
        Block(
            token_mixer=mixer, channel_mixer=channel, mlp_ratio=1, **dict.fromkeys(("qkv", "projection") if READS[mixer] else (), s)
        )  # type: ignore[arg-type]
        for mixer in READS
        for channel, s in (("mlp", "linear"), ("conv", "repconv"))
    ]
    blocks = [replace(block, num_heads=2 if block.token_mixer in WITH_HEADS else None) for block in blocks]
    stages = tuple(
        Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=tuple(blocks)) for _ in range(2 if FAMILIES[family][2] else 1)
    )
    architecture = Architecture(
        family=family,
        shortcut=shortcut,  # type: ignore[arg-type]
        time_steps=2,
        qkv_bias=True,
        distilled=True,
        stages=stages,
    )
    assert_nothing_unknown(architecture, torch.rand(2, 1, 8, 8), num_classes=3)


# Values times weights, and their sum: a linear layer without a matrix product

D = 4


def distinct(*shape: int) -> nn.Parameter:
    """Weights that differ."""
    return nn.Parameter(torch.arange(1.0, 1 + math.prod(shape)).reshape(shape) / 8)


SUMS_OF_PRODUCTS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "method": lambda m, x: (x * m.w[0]).sum(-1),
    "function": lambda m, x: torch.sum(m.w[0] * x, dim=-1, keepdim=True),
    "all dimensions of one image": lambda m, x: (x.flatten(0, 1) * m.w[0]).sum((1, 2)),
    "weights of the shape of the values": lambda m, x: (x * m.w[0].expand(x.shape)).sum(-1),
    "mean": lambda m, x: (x * m.w[0]).mean(-1),
    "other dimension": lambda m, x: (x * m.v).mean(2),
    "vecdot": lambda m, x: torch.linalg.vecdot(x, m.w[0]),
    "einsum": lambda m, x: torch.einsum("...i,i->...", x, m.w[0]),
    "einsum of one shape": lambda m, x: torch.einsum("...i,...i->...", x, m.w[0].expand(x.shape)),
    "one output": lambda m, x: (x[..., None, :] * m.w[:1]).sum(-1),
    "moved": lambda m, x: (x * m.w[0]).transpose(2, 3).contiguous().clone().sum(2),
    "flattened": lambda m, x: (x * m.u).flatten(2).sum(-1),
    "in place": lambda m, x: x.clone().mul_(m.w[0]).sum(-1),
    "quotient": lambda m, x: (x / m.w[0]).sum(-1),
    "scaled before and after": lambda m, x: (0.3 * x * m.w[0] * 2.0 * m.w[1] + m.w[2]).sum(-1),
    "split and joined": lambda m, x: torch.cat((x * m.w[0]).chunk(2, dim=2), dim=2).sum(-1),
    "global pooling": lambda m, x: F.adaptive_avg_pool2d((x * m.w[0]).movedim(-1, 0).flatten(1, 2).movedim(1, 0), 1),
}


@pytest.mark.parametrize("form", SUMS_OF_PRODUCTS)
def test_a_sum_of_values_times_weights_is_a_dot_product(form: str) -> None:
    """6 x 4 values of an image meet one weight each: 24 MACs, or an accumulation for each spike."""
    x = spikes(STEPS, BATCH, 6, D)
    model = FunctionModule(SUMS_OF_PRODUCTS[form], w=distinct(3, D), v=distinct(6, 1), u=distinct(6, D))
    found = single_count(model, x)
    assert (found.macs, found.input) == (24, "binary")
    assert found.acs == pytest.approx(per_image(x))


def test_a_dot_product_of_real_values_is_counted_as_multiplications() -> None:
    found = single_count(FunctionModule(lambda m, x: (x * m.w).sum(-1), w=distinct(D)), real(STEPS, BATCH, 6, D))
    assert (found.macs, found.input) == (24, "real")


def test_a_dot_product_of_a_part_counts_the_part() -> None:
    x = spikes(STEPS, BATCH, 6, D)
    found = single_count(FunctionModule(lambda m, x: (x * m.w)[..., 1:].sum(-1), w=distinct(D)), x)
    assert (found.macs, found.acs) == (18, per_image(x[..., 1:]))


def test_weights_that_are_equal_along_the_sum_scale_it() -> None:
    """Layer scale before a global pooling: the sum of the spikes is counted, the weights merge into the next layer."""
    x = spikes(STEPS, BATCH, 6, D)
    scaled = FunctionModule(lambda m, x: (x * m.w).sum(2), w=distinct(D))
    assert single_count(scaled, x) == single_count(FunctionModule(lambda _m, x: x.sum(2)), x)
    mean = operations_of_run(FunctionModule(lambda m, x: (x * m.w).mean(2), w=distinct(D)), x)
    assert (mean.counts, mean.unknown) == ((), {})


def test_a_residual_with_layer_scale_is_free_until_it_is_summed_over_channels() -> None:
    x = spikes(STEPS, BATCH, 6, D)
    residual = FunctionModule(lambda m, x: (x + x * m.w).mean(2), w=distinct(D))
    assert operations_of_run(residual, x).counts == ()
    over_channels = FunctionModule(lambda m, x: (x + x * m.w).sum(-1), w=distinct(D))
    assert single_count(over_channels, x).macs == 24


def test_a_sum_over_products_that_are_counted_is_not_counted_again() -> None:
    """A linear layer with 3 outputs, as a product that broadcasts the values."""
    x = spikes(STEPS, BATCH, 6, D)
    found = single_count(FunctionModule(lambda m, x: (x[..., None, :] * m.w).sum(-1), w=distinct(3, D)), x)
    assert (found.macs, found.acs) == (72, per_image(x, 3))


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "pooling": (lambda m, x: F.avg_pool1d((x * m.w).flatten(0, 1), 2), "avg_pool"),
    "loop": (lambda m, x: sum((x * m.w)[..., i] for i in range(D)), "add"),
    "dot": (lambda m, x: torch.dot(x.flatten(), m.w.repeat(36)), "dot"),
    "cosine similarity": (lambda m, x: F.cosine_similarity(x, m.w, dim=-1), "linalg_vector_norm"),
    "bilinear": (lambda m, x: F.bilinear(x, x, m.w.expand(1, D, D)), "_trilinear"),
    "addbmm": (lambda m, x: torch.addbmm(m.w[:1], x.flatten(0, 1), m.w.expand(6, 1, D).mT), "addbmm"),
    "addmv": (lambda m, x: torch.addmv(m.w[:1], x.flatten(0, 2), m.w), "addmv"),
    "addcmul": (lambda m, x: torch.addcmul(m.w, x, m.w).sum(-1), "addcmul"),
    "embedding bag": (
        lambda m, x: F.embedding_bag(torch.arange(D).expand(36, D), m.w[:, None], per_sample_weights=x.flatten(0, 2), mode="sum"),
        "_embedding_bag",
    ),
    "cumulative sum": (lambda m, x: (x * m.w).cumsum(-1), "cumsum"),
    "distance": (lambda m, x: torch.cdist(x, m.w.expand(1, 1, 1, D)), "_cdist_forward"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_of_products_with_weights_are_refused_by_name(name: str) -> None:
    function, operator = REFUSED[name]
    with pytest.raises(
        UnknownOperationError, match=rf"the model: {operator}\w*( of values times weights)?: this operator has no rule"
    ):
        operations_of_run(FunctionModule(function, w=distinct(D)), spikes(STEPS, BATCH, 6, D))


PRODUCTS_OF_WEIGHTS: dict[str, tuple[Callable[[Any, Tensor], Any], int]] = {
    "addmm": (lambda m, x: torch.addmm(m.w[:, 0], x.flatten(0, 2), m.w.t()), 5),
    "baddbmm": (lambda m, x: torch.baddbmm(m.w[:, 0], x.flatten(0, 1), m.w.t().expand(6, D, 5)), 5),
    "tensordot": (lambda m, x: torch.tensordot(x, m.w, dims=([3], [1])), 5),
    "kron": (lambda m, x: torch.kron(x.flatten(0, 2), m.w[:1, :3].contiguous()), 3),
    "transposed convolution": (lambda m, x: F.conv_transpose1d(x.flatten(0, 1).mT, m.w.t()[..., None]), 5),
}


@pytest.mark.parametrize("name", PRODUCTS_OF_WEIGHTS)
def test_products_with_several_weights_count_each(name: str) -> None:
    function, reached = PRODUCTS_OF_WEIGHTS[name]
    x = spikes(STEPS, BATCH, 6, D)
    found = single_count(FunctionModule(function, w=distinct(5, D)), x)
    assert (found.macs, found.acs) == (24 * reached, per_image(x, reached))
