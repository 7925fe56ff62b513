"""Operations counted by hand, by brute force, and against the published dense totals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autospike.architecture import Architecture, Block, Neuron, Stage
from autospike.counting import Counter, FiringRates, conv_fan_out
from autospike.energy import LayerCount
from autospike.models import build_model
from autospike.nn.attention import AttentionProduct, Heads
from autospike.nn.layers import SpikingConv, SpikingLinear
from autospike.space import SearchSpace


class Alone(nn.Module):
    """One layer as a model, fed frames `[T, B, ...]`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def count(layer: nn.Module, x: Tensor) -> list[LayerCount]:
    model, counter = Alone(layer).eval(), Counter()
    with torch.no_grad(), counter.watch(model):
        model(x)
    return list(counter.counts(images=1))


def spikes(*shape: int, high: int = 2) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(7)).float()


def test_linear_counts_values_times_outputs() -> None:
    x = torch.tensor([[[[0.0, 1, 1], [2, 0, 0]]], [[[0, 0, 0], [0, 0, 1]]]])  # T = 2, B = 1, N = 2, 3 features
    (found,) = count(SpikingLinear(3, 5, Neuron()), x)
    assert found.acs == (4 * 5, 1 * 5)
    assert (found.macs, found.input, found.rate) == (2 * 3 * 5, "integer", (4 / 6, 1 / 6))


def test_real_values_are_multiplied() -> None:
    (found,) = count(SpikingLinear(3, 5, Neuron()), torch.full((2, 1, 4, 3), 0.3))
    assert (found.input, found.macs, found.acs, found.rate) == ("real", 4 * 3 * 5, (), ())


@pytest.mark.parametrize("pixels", [[-1.0, 1.0], [0.0, 1.0]])
def test_black_and_white_pixels_are_no_spikes(tiny_space: SearchSpace, pixels: list[float]) -> None:
    model, counter = build_model(tiny_space.largest(), num_classes=10, in_chans=1).eval(), Counter()
    images = torch.tensor(pixels)[torch.randint(0, 2, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad(), counter.watch(model):
        model(images)
    real = {found.layer for found in counter.counts(images=4) if found.input == "real"}
    assert real == {"stem.stages.0.conv", "head"}


def test_convolution_counts_what_each_spike_reaches() -> None:
    """A brute force: each spike alone, as an impulse through a convolution of ones; the padding's outputs do not exist."""
    layer, x = SpikingConv(2, 3, Neuron()), spikes(2, 1, 2, 4, 5, high=3)
    expected = []
    for step in x[:, 0]:
        reached = 0.0
        for place in step.nonzero().tolist():
            impulse = torch.zeros_like(step)
            impulse[tuple(place)] = 1
            reached += float(step[tuple(place)]) * F.conv2d(impulse[None], torch.ones(3, 2, 3, 3), padding=1).sum().item()
        expected.append(reached)
    (found,) = count(layer, x)
    assert found.acs == tuple(expected)
    assert found.macs == 4 * 5 * 2 * 3 * 9


def test_fan_out_of_a_padded_convolution_is_smaller_at_the_border() -> None:
    fan_out = conv_fan_out(nn.Conv2d(1, 1, 3, padding=1), (3, 4))
    assert fan_out.tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]


def test_attention_counts_the_sparser_of_k_and_v() -> None:
    q, k, v = torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 4), torch.zeros(1, 1, 2, 3, 4)
    q[..., 0, :] = 1  # 2 heads x 4 = 8 spikes
    k[..., :2, 0] = 1  # 4 spikes
    v[..., :, :] = 1  # 24 spikes
    kv, qkv = count(AttentionProduct(), Heads(q, k, v))
    assert (kv.layer, kv.acs, qkv.layer, qkv.acs) == ("layer.kv", (4 * 4,), "layer.qkv", (8 * 4,))
    assert kv.macs == qkv.macs == 2 * 3 * 4 * 4


def test_dense_totals_of_the_published_cifar_model() -> None:
    """Spikformer-4-384 on 32x32 images, in millions of MACs per step (FACTS: stem, then q, k, v and projection, MLP, head)."""
    architecture = Architecture(time_steps=4, stages=(Stage(embed_dim=384, blocks=(Block(num_heads=12),) * 4),))
    model, counter = build_model(architecture, num_classes=10, in_chans=3).eval(), Counter()
    with torch.no_grad(), counter.watch(model):
        model(torch.rand(1, 3, 32, 32))
    macs = {found.layer: found.macs / 1e6 for found in counter.counts(images=1)}
    stem = [macs[f"stem.stages.{i}.conv"] for i in range(4)] + [macs["stem.position.conv"]]
    assert stem == pytest.approx([1.327104, 42.467328, 169.869312, 169.869312, 84.934656], abs=1e-9)
    assert sum(macs[f"blocks.3.attention.{p}.linear"] for p in ("q", "k", "v", "projection")) == pytest.approx(37.748736)
    assert macs["blocks.0.mlp.fc1.linear"] + macs["blocks.0.mlp.fc2.linear"] == pytest.approx(75.497472)
    assert macs["head"] == pytest.approx(0.00384)
    first = next(found for found in counter.counts(images=1) if found.layer == "stem.stages.0.conv")
    assert (first.macs * first.time_steps, first.input) == (5_308_416, "real")


def test_every_synaptic_layer_of_a_model_is_counted(tiny_space: SearchSpace) -> None:
    model, counter = build_model(tiny_space.largest(), num_classes=10, in_chans=1).eval(), Counter()
    with torch.no_grad(), counter.watch(model):
        model(torch.rand(2, 1, 8, 8))
    synaptic = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    products = {f"blocks.{i}.attention.product.{part}" for i in range(2) for part in ("kv", "qkv")}
    assert {found.layer for found in counter.counts(images=1)} == synaptic | products


def test_batches_add_up(tiny_space: SearchSpace) -> None:
    model = build_model(tiny_space.largest(), num_classes=10, in_chans=1)
    model(torch.rand(32, 1, 8, 8))  # statistics under which something fires
    model.eval()
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 4
    whole, parts = Counter(), Counter()
    with torch.no_grad(), whole.watch(model):
        model(images)
    with torch.no_grad(), parts.watch(model):
        for part in images.split([5, 2, 2, 3]):
            model(part)
    assert whole.counts(images=12) == parts.counts(images=12)
    assert any(sum(found.acs) for found in whole.counts(images=12))


def test_a_still_image_counts_once_per_step_though_it_is_convolved_once(tiny_space: SearchSpace) -> None:
    model, still, frames = build_model(tiny_space.smallest(), num_classes=10, in_chans=1).eval(), Counter(), Counter()
    image = torch.ones(2, 1, 8, 8)
    with torch.no_grad(), still.watch(model):
        model(image)
    with torch.no_grad(), frames.watch(model):
        model(image.expand(2, *image.shape))
    first, *rest = still.counts(images=2)
    assert rest == list(frames.counts(images=2)[1:])  # frames' own values are spikes; a still image's pixels are real
    assert (first.input, first.macs, first.time_steps) == ("real", 8 * 8 * 9, 2)


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
    lif = model.stem.stages[0].lif
    handle = lif.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad(), firing.watch(model):
        model(torch.rand(3, 1, 8, 8) * 9)
        model(torch.rand(2, 1, 8, 8) * 9)
    handle.remove()
    assert firing.rates()["stem.stages.0.lif"] == pytest.approx(torch.cat([s.flatten() for s in seen]).mean().item())
    assert len(firing.rates()) == 5 + 7
