"""Operations of single layers, compared with calculations by hand and by loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import READS, WITH_HEADS
from torch import Tensor, nn

from autospike.counting.counter import Counter
from autospike.counting.layer_rules import conv_fan_out
from autospike.energy.counts import LayerCount
from autospike.models.contract import MeanHead, SpikingHead
from autospike.nn.attention import Gate, SumOfSpikes, operator
from autospike.nn.attention_product import AttentionProduct, Heads
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, RepLinear, SeparableConvNorm
from autospike.space.block import Block


class SingleLayer(nn.Module):
    """A model with one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any) -> Any:
        return self.layer(*args)


def count(layer: nn.Module, *args: Any, images: int = 1) -> list[LayerCount]:
    model, counter = SingleLayer(layer).eval(), Counter()
    with torch.no_grad(), counter.watch(model, images=images, time_steps=2):
        model(*args)
    return list(counter.operations().counts)


def spikes(*shape: int, high: int = 2, seed: int = 7) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed)).float()


# Layers


def test_linear_counts_values_times_outputs() -> None:
    x = torch.tensor([[[[[0.0, 1, 1], [2, 0, 0]]]], [[[[0, 0, 0], [0, 0, 1]]]]])  # T = 2, B = 1, 1 x 2 positions, 3 features
    (found,) = count(LinearNorm(3, 5, bias=True), x)
    assert found.acs == (4 * 5, 1 * 5)
    assert (found.layer, found.form, found.reads, found.time_steps) == ("layer.linear", "always", "stream", 2)
    assert (found.macs, found.input, found.rate) == (2 * 3 * 5, "integer", (4 / 6, 1 / 6))


@pytest.mark.parametrize("value", [0.3, -1.0])
def test_real_values_are_multiplied(value: float) -> None:
    (found,) = count(LinearNorm(3, 5, bias=True), torch.full((2, 1, 2, 2, 3), value))
    assert (found.input, found.macs, found.acs, found.rate) == ("real", 4 * 3 * 5, (), ())


def test_one_real_value_makes_its_step_real() -> None:
    x = spikes(2, 3, 2, 2, 3)
    x[1, 2, 1, 1, 2] = 0.5
    (found,) = count(LinearNorm(3, 5, bias=True), x, images=3)
    assert (found.input, found.input_by_step) == ("real", ("binary", "real"))
    assert found.acs == pytest.approx((per_image(x)[0] * 5, 0), rel=1e-12)
    assert found.rate == pytest.approx((per_image(x)[0] / 12, 0), rel=1e-12)


def test_the_kind_of_input_is_reported_for_each_step() -> None:
    """If the kinds of the steps differ."""
    x = torch.cat([spikes(1, 3, 2, 2, 3), spikes(1, 3, 2, 2, 3, high=5)])
    mixed, pure = count(LinearNorm(3, 5, bias=True), x, images=3) + count(LinearNorm(3, 5, bias=True), x[:1], images=3)
    assert (mixed.input, mixed.input_by_step) == ("integer", ("binary", "integer"))
    assert (pure.input, pure.input_by_step) == ("binary", ())
    assert mixed.acs == pytest.approx([5 * n for n in per_image(x)], rel=1e-12)


def reached_outputs(x: Tensor, weight: Tensor, **settings: int) -> tuple[float, ...]:
    """Return the sum over all values of the outputs that each reaches, by convolving each value separately with ones.

    `x` `[T, B, H, W, C]`; operations per step, mean over the images.
    """
    found = []
    for step in x:
        total = 0.0
        for index in step.nonzero().tolist():
            impulse = torch.zeros_like(step)
            impulse[tuple(index)] = step[tuple(index)]
            total += F.conv2d(impulse.permute(0, 3, 1, 2), torch.ones_like(weight), **settings).sum().item()
        found.append(total / x.shape[1])
    return tuple(found)


CONVOLUTIONS: dict[str, tuple[Callable[[], ConvNorm], int]] = {
    "3x3": (lambda: ConvNorm(2, 3), 5 * 6 * 9),
    "3x3, stride 2": (lambda: ConvNorm(2, 3, stride=2, bias=True), 3 * 3 * 9),
    "1x1": (lambda: ConvNorm(2, 3, kernel_size=1), 5 * 6),
    "1x1, stride 2": (lambda: ConvNorm(2, 3, kernel_size=1, stride=2), 3 * 3),
    "7x7": (lambda: ConvNorm(2, 3, kernel_size=7), 5 * 6 * 49),
    "7x7, stride 2": (lambda: ConvNorm(2, 3, kernel_size=7, stride=2, bias=True), 3 * 3 * 49),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_counts_the_outputs_that_each_spike_reaches(name: str) -> None:
    build, positions = CONVOLUTIONS[name]
    layer, x = build(), spikes(2, 3, 5, 6, 2, high=3)
    size, stride = layer.conv.weight.shape[-1], layer.conv.stride[0]
    (found,) = count(layer, x, images=3)
    assert found.acs == pytest.approx(reached_outputs(x, layer.conv.weight, stride=stride, padding=size // 2), rel=1e-12)
    assert found.rate == pytest.approx([x[t].sum().item() / (3 * 5 * 6 * 2) for t in (0, 1)], rel=1e-12)
    assert (found.layer, found.input, found.form, found.macs) == ("layer.conv", "integer", "always", positions * 2 * 3)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_a_still_image_is_real_for_any_pixel_values(value: float) -> None:
    """It is given once with a number of time steps."""
    (found,) = count(ConvNorm(3, 4, stride=2), torch.full((1, 2, 5, 6, 3), value), 4, images=2)
    assert (found.reads, found.input, found.time_steps, found.macs) == ("image", "real", 4, 3 * 3 * 9 * 3 * 4)
    assert found.acs == found.rate == ()


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvNorm(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x=x, time_steps=4)


def test_layers_called_with_keyword_arguments() -> None:
    (found,) = count(ByKeyword(), torch.ones(1, 2, 5, 6, 3), images=2)
    assert (found.reads, found.time_steps, found.macs) == ("image", 4, 5 * 6 * 9 * 3 * 4)


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_separable_convolution_is_counted_in_both_forms(kernel_size: int) -> None:
    """In separate layers, spikes reach only the depthwise kernel and its output is real; fused, they reach every channel."""
    layer, x = SeparableConvNorm(4, 3, kernel_size=kernel_size), spikes(2, 2, 5, 6, 4)
    depthwise, pointwise, fused = count(layer, x, images=2)
    padding = kernel_size // 2
    assert depthwise.acs == reached_outputs(x, layer.depthwise.weight, padding=padding, groups=4)
    assert fused.acs == reached_outputs(x, torch.ones(3, 4, kernel_size, kernel_size), padding=padding)
    assert (depthwise.form, pointwise.form, fused.form) == ("separate", "separate", "fused")
    assert (depthwise.input, pointwise.input, fused.input) == ("binary", "real", "binary")
    assert (depthwise.macs, pointwise.macs, fused.macs) == tuple(
        5 * 6 * n for n in (4 * kernel_size**2, 4 * 3, 4 * 3 * kernel_size**2)
    )
    assert [c.layer for c in (depthwise, pointwise, fused)] == ["layer.depthwise", "layer.pointwise", "layer.fused"]
    assert (pointwise.acs, pointwise.rate, pointwise.time_steps) == ((), (), 2)


def test_repconv_is_counted_in_both_forms() -> None:
    """In separate layers, spikes reach only the first 1x1 convolution; fused, they reach a 3x3 convolution."""
    layer, x = RepConv(4), spikes(2, 2, 5, 6, 4)
    first, depthwise, last, fused = count(layer, x, images=2)
    assert first.acs == tuple(x[t].sum().item() * 4 / 2 for t in (0, 1))
    assert fused.acs == reached_outputs(x, torch.ones(4, 4, 3, 3), padding=1)
    assert [(c.layer, c.form, c.input, c.macs) for c in (first, depthwise, last, fused)] == [
        ("layer.first", "separate", "binary", 5 * 6 * 16),
        ("layer.depthwise", "separate", "real", 5 * 6 * 4 * 9),
        ("layer.last", "separate", "real", 5 * 6 * 16),
        ("layer.fused", "fused", "binary", 5 * 6 * 16 * 9),
    ]
    assert first.rate == fused.rate == tuple(x[t].double().mean().item() for t in (0, 1))


@pytest.mark.parametrize("outer_norm", [True, False])
def test_replinear_is_counted_as_two_layers_and_as_one(outer_norm: bool) -> None:
    """The normalisations are free. In one layer a spike reaches the 4 outputs, in two the 6 channels between them."""
    layer, x = RepLinear(4, 6, outer_norm=outer_norm), spikes(2, 2, 5, 6, 4)
    first, last, fused = count(layer, x, images=2)
    sums = [x[t].sum().item() / 2 for t in (0, 1)]
    assert (first.acs, fused.acs) == (tuple(6 * s for s in sums), tuple(4 * s for s in sums))
    assert [(c.layer, c.form, c.input, c.macs) for c in (first, last, fused)] == [
        ("layer.first", "separate", "binary", 5 * 6 * 24),
        ("layer.last", "separate", "real", 5 * 6 * 24),
        ("layer.fused", "fused", "binary", 5 * 6 * 16),
    ]


def test_fan_out_of_a_padded_convolution_is_smaller_at_the_border() -> None:
    found = conv_fan_out(nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.zeros(1, 1, 3, 4, 4))
    assert found.view(3, 4).tolist() == [[4 * 3, 6 * 3, 6 * 3, 4 * 3], [6 * 3, 9 * 3, 9 * 3, 6 * 3], [4 * 3, 6 * 3, 6 * 3, 4 * 3]]


def test_a_spiking_head_has_acs_and_a_mean_head_macs() -> None:
    """An integer mean is real."""
    x = torch.tensor([[[1.0, 0, 1], [0, 0, 1]], [[0, 0, 0], [1, 1, 1]]])  # T = 2, B = 2
    (spiking,), (mean,) = count(SpikingHead(3, 5), x, images=2), count(MeanHead(3, 5), x, images=2)
    assert (spiking.input, spiking.reads, spiking.acs, spiking.rate) == ("binary", "stream", (3 * 5 / 2, 3 * 5 / 2), (0.5, 0.5))
    assert (mean.input, mean.reads, mean.acs, mean.rate) == ("real", "mean", (), ())
    assert spiking.macs == mean.macs == 15
    assert spiking.time_steps == mean.time_steps == 2


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.map = LinearNorm(3, 3, bias=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.map(x) + self.map(y)


def test_a_layer_called_twice_is_counted_as_two_layers() -> None:
    """In each batch; otherwise the dense operations of the second call would be missing."""
    model, counter = Twice().eval(), Counter()
    for seed in (1, 2):
        x, y = spikes(2, 3, 1, 2, 3, seed=seed), torch.full((2, 3, 1, 4, 3), 0.5)
        with torch.no_grad(), counter.watch(model, images=3, time_steps=2):
            model.map(x), model.map(y)
    first, second = counter.operations().counts
    assert (first.layer.partition("#")[0], first.input, first.macs) == ("map.linear", "binary", 2 * 9)
    expected = [per_image(spikes(2, 3, 1, 2, 3, seed=seed)) for seed in (1, 2)]
    assert first.acs == pytest.approx([3 * (a + b) / 2 for a, b in zip(*expected, strict=True)], rel=1e-12)
    assert (second.input, second.macs, second.acs) == ("real", 4 * 9, ())
    assert second.layer != first.layer


# Attention


def heads_of(*counts: Sequence[int]) -> Heads:
    """Return q, k and v with given numbers of spikes at each step, in 2 heads of 3 tokens and 4 channels."""
    tensors = [torch.zeros(len(numbers), 1, 2 * 3 * 4) for numbers in counts]
    for tensor, numbers in zip(tensors, counts, strict=True):
        for step, number in zip(tensor, numbers, strict=True):
            step[:, :number] = 1
    return Heads(*(tensor.view(len(tensor), 1, 2, 3, 4) for tensor in tensors))


@pytest.mark.parametrize(("k", "v"), [(4, 24), (24, 4)])
def test_attention_counts_the_sparser_of_k_and_v(k: int, v: int) -> None:
    kv, qkv = count(AttentionProduct(0.125), heads_of([8], [k], [v]))
    assert (kv.layer, kv.acs, qkv.layer, qkv.acs) == ("layer.kv", (4 * 4,), "layer.qkv", (8 * 4,))
    assert kv.macs == qkv.macs == 2 * 3 * 4 * 4
    assert {kv.form, qkv.form} == {"always"}
    assert (kv.rate, qkv.rate) == ((4 / 24,), (8 / 24,))


def test_the_sparser_operand_is_chosen_at_each_step() -> None:
    """Over all steps v is sparser, but not at the second step."""
    kv, _ = count(AttentionProduct(0.125), heads_of([0, 0, 0], [20, 3, 9], [2, 12, 9]))
    assert kv.acs == (2 * 4, 3 * 4, 9 * 4)
    assert kv.rate == (2 / 24, 3 / 24, 9 / 24)


def test_the_sparser_operand_is_chosen_over_the_whole_batch() -> None:
    """The counted operand of a step is the same for all images of a batch."""
    q, first, second = (heads_of([n], [0], [0]).q for n in (0, 2, 20))
    k, v = torch.cat([first, second], dim=1), torch.cat([second, first], dim=1)
    kv, _ = count(AttentionProduct(1.0), Heads(torch.cat([q, q], dim=1), k, v), images=2)
    assert kv.acs == (22 * 4 / 2,)


def test_binary_operands_are_preferred_to_integer_operands() -> None:
    """Even if the integer operand is sparser; at each step."""
    q, k, v = heads_of([0, 0], [20, 6], [0, 18])
    v[0, ..., 0, 0] = 2
    k[1, ..., 0, 0] = 3
    kv, _ = count(AttentionProduct(0.125), Heads(q, k, v))
    assert (kv.input, kv.input_by_step, kv.acs) == ("binary", (), (20 * 4, 18 * 4))


def operator_of(mixer: str) -> nn.Module:
    heads = {"num_heads": 2} if mixer in WITH_HEADS else {}
    return operator(Block(token_mixer=mixer, **heads), 0.125)  # type: ignore[arg-type]


def per_image(x: Tensor) -> list[float]:
    """Return the spikes of `[T, B, ...]` at each step, as a mean over the images."""
    return [step.sum().item() / len(step) for step in x]


@pytest.mark.parametrize("mixer", ["sdsa_1", "sdsa_2", "token_qk", "channel_qk"])
def test_gated_attention_counts_sums_and_gates(mixer: str) -> None:
    """One accumulation for each spike that is summed, and for each spike that enters a gate."""
    operands = [spikes(2, 3, 4, 5, 8, seed=seed) for seed in range(len(READS[mixer]))]
    operands[1][0] *= spikes(3, 4, 5, 8, seed=8)  # k is sparser at the first step, v at the second
    operands[-1][1] *= spikes(3, 4, 5, 8, seed=9)
    expected = {"sum": per_image(operands[0]), "gate": per_image(operands[-1])}
    if mixer == "sdsa_1":
        q, k, v = operands
        fewer = [min(both) for both in zip(per_image(k), per_image(v), strict=True)]
        expected = {"coincidence": fewer, "sum": per_image(k * v), "gate": per_image(q)}
    found = {c.layer.removeprefix("layer."): c for c in count(operator_of(mixer), *operands, images=3)}
    assert found.keys() == expected.keys()
    for name, acs in expected.items():
        assert found[name].acs == pytest.approx(acs, rel=1e-12)
        assert found[name].rate == pytest.approx([n / (4 * 5 * 8) for n in acs], rel=1e-12)
        assert (found[name].macs, found[name].input, found[name].form) == (4 * 5 * 8, "binary", "always")


def test_dilated_gated_attention_counts_pooled_spikes() -> None:
    """K and v are multiplied after pooling, the sum reads pooled spikes, and the query is gated before pooling."""
    q, k, v = (spikes(2, 3, 4, 5, 8, seed=seed) * spikes(2, 3, 4, 5, 8, seed=seed + 9) for seed in range(3))
    layer, currents, operands = operator_of("sdsa_1_dilated"), [], []
    layer.get_submodule("lif").register_forward_pre_hook(lambda _m, args: currents.append(args[0]))
    layer.get_submodule("coincidence").register_forward_pre_hook(lambda _m, args: operands.extend(args))
    found = {c.layer.removeprefix("layer."): c for c in count(layer, q, k, v, images=3)}
    assert found.keys() == {"coincidence", "sum", "gate"}
    for pooled, whole in zip(operands, (k, v), strict=True):
        assert pooled.sum() > whole.sum()
    fewer = [min(both) for both in zip(*map(per_image, operands), strict=True)]
    for name, acs in (("coincidence", fewer), ("sum", per_image(currents[0])), ("gate", per_image(q))):
        assert found[name].acs == pytest.approx(acs, rel=1e-12)
        assert found[name].macs == 4 * 5 * 8


def test_gate_counts_the_spikes_of_the_larger_operand() -> None:
    """In any position, and for any number of spikes of the smaller operand."""
    large, small = torch.zeros(1, 1, 4, 8), torch.ones(1, 1, 1, 8)
    large[0, 0, 0] = 1
    for operands in ((large, small), (small, large)):
        (found,) = count(Gate(), *operands)
        assert (found.acs, found.macs, found.rate) == ((8,), 32, (0.25,))
    (found,) = count(Gate(), torch.ones_like(large), torch.zeros_like(small))
    assert found.acs == (32,)


def test_gate_counts_the_spikes_of_the_sparser_of_equally_large_operands() -> None:
    a, b = spikes(3, 2, 4, 8, seed=1), spikes(3, 2, 4, 8, seed=2) * spikes(3, 2, 4, 8, seed=3)
    b[1] = 1
    (found,) = count(Gate(), a, b, images=2)
    assert found.acs == (b[0].sum() / 2, a[1].sum() / 2, b[2].sum() / 2)


def test_a_sum_counts_each_spike_once() -> None:
    x = spikes(2, 3, 4, 8, high=4)
    (found,) = count(SumOfSpikes(dim=2), x, images=3)
    assert (found.layer, found.input, found.macs) == ("layer", "integer", 32)
    assert found.acs == tuple(per_image(x))
