"""Operations counted by hand, by brute force, and against the published dense totals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import READS, WITH_HEADS
from torch import Tensor, nn

from autospike.architecture import Architecture, Block, Embedding, Neuron, Stage
from autospike.counting import Counter, FiringRates, conv_fan_out
from autospike.energy import LayerCount
from autospike.models import build_model
from autospike.models.contract import SpikingHead, SpikingModel
from autospike.nn.attention import AttentionProduct, Heads, operator
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, SeparableConvNorm
from autospike.nn.neuron import LIF
from autospike.published import PUBLISHED
from autospike.space import SearchSpace


class Alone(nn.Module):
    """One layer as a model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any) -> Any:
        return self.layer(*args)


def count(layer: nn.Module, *args: Any, images: int = 1) -> list[LayerCount]:
    model, counter = Alone(layer).eval(), Counter()
    with torch.no_grad(), counter.watch(model):
        model(*args)
    return list(counter.counts(images=images))


def counted(model: nn.Module, images: Tensor) -> tuple[LayerCount, ...]:
    counter = Counter()
    with torch.no_grad(), counter.watch(model):
        model(images)
    return counter.counts(images=len(images))


def spikes(*shape: int, high: int = 2, seed: int = 7) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_linear_counts_values_times_outputs() -> None:
    x = torch.tensor([[[[[0.0, 1, 1], [2, 0, 0]]]], [[[[0, 0, 0], [0, 0, 1]]]]])  # T = 2, B = 1, 1 x 2 positions, 3 features
    (found,) = count(LinearNorm(3, 5, bias=True), x)
    assert found.acs == (4 * 5, 1 * 5)
    assert (found.layer, found.form, found.time_steps) == ("layer.linear", "always", 2)
    assert (found.macs, found.input, found.rate) == (2 * 3 * 5, "integer", (4 / 6, 1 / 6))


@pytest.mark.parametrize("value", [0.3, -1.0])
def test_real_values_are_multiplied(value: float) -> None:
    (found,) = count(LinearNorm(3, 5, bias=True), torch.full((2, 1, 2, 2, 3), value))
    assert (found.input, found.macs, found.acs, found.rate) == ("real", 4 * 3 * 5, (), ())


@pytest.mark.parametrize("pixels", [[-1.0, 1.0], [0.0, 1.0]])
def test_black_and_white_pixels_are_no_spikes(tiny_space: SearchSpace, pixels: list[float]) -> None:
    model = build_model(tiny_space.largest(), num_classes=10, in_chans=1).eval()
    images = torch.tensor(pixels)[torch.randint(0, 2, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))]
    real = {found.layer for found in counted(model, images) if found.input == "real"}
    assert real == {"stages.0.embedding.convs.0.conv", "head"}


def reached(x: Tensor, weight: Tensor, **settings: int) -> tuple[float, ...]:
    """A brute force: each value alone, as an impulse through a convolution of ones; the padding's outputs do not exist.

    `x` `[T, B, H, W, C]`; operations per step, mean over the images.
    """
    found = []
    for step in x:
        total = 0.0
        for place in step.nonzero().tolist():
            impulse = torch.zeros_like(step)
            impulse[tuple(place)] = step[tuple(place)]
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
def test_a_convolution_counts_what_each_spike_reaches(name: str) -> None:
    build, positions = CONVOLUTIONS[name]
    layer, x = build(), spikes(2, 3, 5, 6, 2, high=3)
    size, stride = layer.conv.weight.shape[-1], layer.conv.stride[0]
    (found,) = count(layer, x, images=3)
    assert found.acs == pytest.approx(reached(x, layer.conv.weight, stride=stride, padding=size // 2), rel=1e-12)
    assert found.rate == pytest.approx([x[t].sum().item() / (3 * 5 * 6 * 2) for t in (0, 1)], rel=1e-12)
    assert (found.layer, found.input, found.form, found.macs) == ("layer.conv", "integer", "always", positions * 2 * 3)


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_a_separable_convolution_counts_in_both_forms(kernel_size: int) -> None:
    """Apart, spikes reach the depthwise kernel only, and what comes out is real; fused they reach every output channel."""
    layer, x = SeparableConvNorm(4, 3, kernel_size=kernel_size), spikes(2, 2, 5, 6, 4)
    depthwise, pointwise, fused = count(layer, x, images=2)
    padding = kernel_size // 2
    assert depthwise.acs == reached(x, layer.depthwise.weight, padding=padding, groups=4)
    assert fused.acs == reached(x, torch.ones(3, 4, kernel_size, kernel_size), padding=padding)
    assert (depthwise.form, pointwise.form, fused.form) == ("separate", "separate", "fused")
    assert (depthwise.input, pointwise.input, fused.input) == ("binary", "real", "binary")
    assert (depthwise.macs, pointwise.macs, fused.macs) == tuple(
        5 * 6 * n for n in (4 * kernel_size**2, 4 * 3, 4 * 3 * kernel_size**2)
    )
    assert [c.layer for c in (depthwise, pointwise, fused)] == ["layer.depthwise", "layer.pointwise", "layer.fused"]
    assert (pointwise.acs, pointwise.rate, pointwise.time_steps) == ((), (), 2)


def test_repconv_counts_in_both_forms() -> None:
    """Apart, spikes reach the first 1x1 map only; fused it is a 3x3 convolution."""
    layer, x = RepConv(4), spikes(2, 2, 5, 6, 4)
    first, depthwise, last, fused = count(layer, x, images=2)
    assert first.acs == tuple(x[t].sum().item() * 4 / 2 for t in (0, 1))
    assert fused.acs == reached(x, torch.ones(4, 4, 3, 3), padding=1)
    assert [(c.layer, c.form, c.input, c.macs) for c in (first, depthwise, last, fused)] == [
        ("layer.first", "separate", "binary", 5 * 6 * 16),
        ("layer.depthwise", "separate", "real", 5 * 6 * 4 * 9),
        ("layer.last", "separate", "real", 5 * 6 * 16),
        ("layer.fused", "fused", "binary", 5 * 6 * 16 * 9),
    ]
    assert first.rate == fused.rate == tuple(x[t].double().mean().item() for t in (0, 1))


def test_fan_out_of_a_padded_convolution_is_smaller_at_the_border() -> None:
    fan_out = conv_fan_out(nn.Conv2d(1, 1, 3, padding=1), (3, 4))
    assert fan_out.tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]


@pytest.mark.parametrize("sparser", ["k", "v"])
def test_attention_counts_the_sparser_of_k_and_v(sparser: str) -> None:
    q, few, many = torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 4)
    q[..., 0, :] = 1  # 2 heads x 4 = 8 spikes
    few[..., :2, 0] = 1  # 4 spikes
    many[..., :, :] = 1  # 24 spikes
    kv, qkv = count(AttentionProduct(0.125), Heads(q, few, many) if sparser == "k" else Heads(q, many, few))
    assert (kv.layer, kv.acs, qkv.layer, qkv.acs) == ("layer.kv", (4 * 4,), "layer.qkv", (8 * 4,))
    assert kv.macs == qkv.macs == 2 * 3 * 4 * 4
    assert {kv.form, qkv.form} == {"always"}


def operator_of(mixer: str) -> nn.Module:
    heads = {"num_heads": 2} if mixer in WITH_HEADS else {}
    return operator(Block(token_mixer=mixer, **heads), 0.125)  # type: ignore[arg-type]


@pytest.mark.parametrize("mixer", ["sdsa_1", "sdsa_2", "token_qk", "channel_qk"])
def test_gates_count_what_is_summed_and_what_meets_a_gate(mixer: str) -> None:
    """Each spike that a sum takes, and each that meets a gate, whether it passes or not: one accumulation."""
    operands = [spikes(2, 3, 4, 5, 8, seed=seed) for seed in range(len(READS[mixer]))]
    summed = operands[1] * operands[2] if mixer == "sdsa_1" else operands[0]
    gated = operands[0] if mixer == "sdsa_1" else operands[-1]
    found = {c.layer: c for c in count(operator_of(mixer), *operands, images=3)}
    assert found.keys() == {"layer.sum", "layer.gate"}
    for layer, x in (("layer.sum", summed), ("layer.gate", gated)):
        assert found[layer].acs == pytest.approx([x[t].sum().item() / 3 for t in (0, 1)], rel=1e-12)
        assert found[layer].rate == pytest.approx([x[t].mean().item() for t in (0, 1)], rel=1e-6)
        assert (found[layer].macs, found[layer].input, found[layer].form) == (4 * 5 * 8, "binary", "always")


def test_a_dilated_gate_sums_what_its_neurons_see() -> None:
    q, k, v = (spikes(2, 3, 4, 5, 8, seed=seed) * spikes(2, 3, 4, 5, 8, seed=seed + 9) for seed in range(3))
    layer, currents = operator_of("sdsa_1_dilated"), []
    layer.get_submodule("lif").register_forward_pre_hook(lambda _m, args: currents.append(args[0]))
    found = {c.layer: c for c in count(layer, q, k, v, images=3)}
    assert found["layer.sum"].acs == pytest.approx([currents[0][t].sum().item() / 3 for t in (0, 1)], rel=1e-12)
    assert found["layer.gate"].acs == pytest.approx([q[t].sum().item() / 3 for t in (0, 1)], rel=1e-12)
    assert found["layer.sum"].macs == found["layer.gate"].macs == 4 * 5 * 8


def small(shortcut: str, *blocks: Block, distilled: bool = False) -> SpikingModel:
    """A model whose neurons fire, up to those before the head."""
    torch.manual_seed(0)
    stages = tuple(Stage(embed_dim=8, embedding=Embedding(stride=stride), blocks=blocks) for stride in (1, 2))
    architecture = Architecture(
        family="meta_spikeformer",
        shortcut=shortcut,  # type: ignore[arg-type]
        time_steps=3,
        distilled=distilled,
        stages=stages,
    )
    model = build_model(architecture, num_classes=5, in_chans=1)
    for name, parameter in model.named_parameters():
        if name.endswith("bn.bias"):
            nn.init.constant_(parameter, 0.8)
    model.train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.rand(16, 1, 8, 8))
    return model.eval()


MLP_ALONE = Block(token_mixer="none", neuron=Neuron(v_threshold=0.5))


@pytest.mark.parametrize(("shortcut", "kind"), [("membrane", "binary"), ("sew", "real"), ("vanilla", "real")])
def test_a_head_behind_neurons_accumulates_and_one_behind_a_mean_multiplies(shortcut: str, kind: str) -> None:
    model, inputs = small(shortcut, MLP_ALONE, distilled=True), []
    model.head.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    found = {c.layer: c for c in counted(model, torch.rand(4, 1, 8, 8))}
    assert isinstance(model.head, SpikingHead) == (kind == "binary")
    for head in (found["head"], found["head_dist"]):
        assert (head.input, head.macs, head.time_steps, head.form) == (kind, 8 * 5, 3, "always")
        fired = [step.sum().item() for step in inputs[0]]
        assert sum(fired) > 0
        assert head.acs == (pytest.approx([n * 5 / 4 for n in fired], rel=1e-12) if kind == "binary" else ())
        assert head.rate == (pytest.approx([n / (4 * 8) for n in fired], rel=1e-12) if kind == "binary" else ())


def test_a_mean_is_real_even_where_it_is_whole() -> None:
    model = small("sew", MLP_ALONE)
    with torch.no_grad():
        model.get_submodule("stages.0.embedding.conv.bn").bias.fill_(-99)  # type: ignore[union-attr,operator]
        model.get_submodule("stages.1.embedding.conv.bn").bias.fill_(-99)  # type: ignore[union-attr,operator]
        model.get_submodule("stages.1.blocks.0.channel.mixer.fc2.bn").bias.fill_(-99)  # type: ignore[union-attr,operator]
        assert not model.forward_features(torch.rand(2, 1, 8, 8)).any()
    assert counted(model, torch.rand(2, 1, 8, 8))[-1].input == "real"


def test_dense_totals_of_the_published_cifar_model() -> None:
    """Spikformer-4-384 on 32x32 images, in millions of MACs per step: stem, then q, k, v and projection, attention, MLP, head."""
    model = build_model(PUBLISHED["spikformer_cifar_4_384"].architecture, num_classes=10, in_chans=3).eval()
    counts = counted(model, torch.rand(1, 3, 32, 32))
    macs = {found.layer: found.macs / 1e6 for found in counts}
    stem = [macs[f"stages.0.embedding.convs.{i}.conv"] for i in range(4)] + [macs["stages.0.embedding.position.mixer.conv"]]
    assert stem == pytest.approx([1.327104, 42.467328, 169.869312, 169.869312, 84.934656], abs=1e-9)
    block = "stages.0.blocks.3"
    assert sum(macs[f"{block}.token.mixer.{p}.linear"] for p in ("q", "k", "v", "projection")) == pytest.approx(37.748736)
    assert macs[f"{block}.channel.mixer.fc1.linear"] + macs[f"{block}.channel.mixer.fc2.linear"] == pytest.approx(75.497472)
    # k^T v and q times it: 2 x 64 tokens x 384 channels x 32 channels a head
    assert macs[f"{block}.token.mixer.operator.product.kv"] + macs[f"{block}.token.mixer.operator.product.qkv"] == pytest.approx(
        2 * 64 * 384 * 32 / 1e6
    )
    assert macs["head"] == pytest.approx(0.00384)
    first = counts[0]
    assert (first.layer, first.macs * first.time_steps, first.input) == ("stages.0.embedding.convs.0.conv", 5_308_416, "real")


def test_every_synaptic_layer_of_a_model_is_counted_once() -> None:
    """Each linear map and convolution by its own name, the products, sums and gates of attention, and what can be fused."""
    blocks = tuple(
        Block(token_mixer=mixer, channel_mixer=channel, **({"num_heads": 2} if mixer in WITH_HEADS else {}), **synapses)  # type: ignore[arg-type]
        for mixer in READS
        for channel, synapses in (("mlp", {"qkv": "repconv"} if READS[mixer] else {}), ("conv", {}))
    )
    model = small("membrane", *blocks)
    maps = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    expected = maps.copy()
    for stage in range(2):
        for i, block in enumerate(blocks):
            mixer = f"stages.{stage}.blocks.{i}.token.mixer"
            if block.token_mixer in ("sdsa_3", "sdsa_4"):
                expected |= {f"{mixer}.operator.product.kv", f"{mixer}.operator.product.qkv"}
            elif READS[block.token_mixer]:
                expected |= {f"{mixer}.operator.sum", f"{mixer}.operator.gate"}
            if block.token_mixer == "sepconv":
                expected |= {f"{mixer}.separable.fused"}
            if block.qkv == "repconv":
                expected |= {f"{mixer}.{name}.fused" for name in READS[block.token_mixer]}
    found = [c.layer for c in counted(model, torch.rand(2, 1, 8, 8))]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize("shortcut", ["membrane", "sew"])
def test_batches_add_up(shortcut: str) -> None:
    block = Block(num_heads=2, qkv="repconv", neuron=Neuron(v_threshold=0.4))
    model = small(shortcut, block, Block(token_mixer="sepconv", channel_mixer="conv", neuron=Neuron(v_threshold=0.4)))
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 4
    parts = Counter()
    with torch.no_grad(), parts.watch(model):
        for part in images.split([5, 2, 2, 3]):
            model(part)
    assert counted(model, images) == parts.counts(images=12)
    assert all(sum(found.acs) for found in parts.counts(images=12) if found.input != "real")


def test_a_still_image_counts_once_per_step_though_it_is_convolved_once(tiny_space: SearchSpace) -> None:
    model = build_model(tiny_space.smallest(), num_classes=10, in_chans=1).eval()
    image, frames = torch.ones(2, 1, 8, 8), Counter()
    with torch.no_grad(), frames.watch(model):
        model(image.expand(2, *image.shape))
    first, *rest = counted(model, image)
    assert rest == list(frames.counts(images=2)[1:])  # frames' own values are spikes; a still image's pixels are real
    assert (first.input, first.macs, first.time_steps) == ("real", 8 * 8 * 9, 2)
    assert frames.counts(images=2)[0].input == "binary"


def test_nothing_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch was counted"):
        Counter().counts(images=1)


def test_hooks_are_gone_afterwards(tiny_space: SearchSpace) -> None:
    model, counter = build_model(tiny_space.smallest(), num_classes=10, in_chans=1).eval(), Counter()
    with counter.watch(model):
        pass
    model(torch.rand(2, 1, 8, 8))
    assert not counter.layers


def test_firing_rates_are_means_of_neuron_outputs(tiny_space: SearchSpace) -> None:
    model, firing, seen = build_model(tiny_space.smallest(), num_classes=10, in_chans=1).eval(), FiringRates(), []
    lif = model.get_submodule("stages.0.embedding.lifs.0")
    handle = lif.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad(), firing.watch(model):
        model(torch.rand(3, 1, 8, 8) * 9)
        model(torch.rand(2, 1, 8, 8) * 9)
    handle.remove()
    expected = torch.cat([s.flatten() for s in seen]).mean().item()
    assert expected > 0
    assert firing.rates()["stages.0.embedding.lifs.0"] == pytest.approx(expected)
    assert firing.rates().keys() == {name for name, module in model.named_modules() if isinstance(module, LIF)}
    assert len(firing.rates()) == 5 + 7  # four convolutions and the position code; q, k, v, attention, projection, fc1, fc2
