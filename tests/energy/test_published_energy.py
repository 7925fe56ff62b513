"""Published energies from published counts, and the differences between conventions on counted networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autospike.counting.model import count_operations
from autospike.energy.conventions import BINARY_ONLY, EXACT, FUSED, RATE, SPIKFORMER, Convention, energy
from autospike.energy.counts import LayerCount
from autospike.models import build_model
from autospike.models.contract import SpikingModel
from autospike.nn.layers import ConvNorm, RepConv, SeparableConvNorm
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron

# In mJ, by the rule of the logs from unrounded numbers.
PUBLISHED_MJ = {"energy_spikingformer_8_512": 7.463503, "energy_spikingformer_8_768": 13.658865}
TOKENS = 14 * 14


def log(vectors: Path, name: str) -> dict[str, Any]:
    """A published log: for each layer, dense operations over all time steps and the rate of the input."""
    path = vectors / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


def logged_layers(published: dict[str, Any]) -> list[LayerCount]:
    """Rows of a log as counts. An input rate of 100 % is a real input: the image at each time step, or the mean, counted once."""
    steps, rows = published["ssa_info"]["Tsteps"], published["layers"]
    counts = []
    for row in rows:
        real, head = row["input_rate_percent"] == 100, row["layer"] == "head"
        counts.append(
            LayerCount(
                layer=row["layer"],
                input="real" if real else "binary",
                reads="mean" if head else "image" if real else "stream",
                time_steps=steps,
                macs=round(row["ops_all_T"] / (1 if head else steps)),
                acs=() if real else (row["acs"] / steps,) * steps,
                rate=() if real else (row["input_rate_percent"] / 100,) * steps,
            )
        )
    assert [count.layer for count in counts if count.input == "real"] == [rows[0]["layer"], "head"]
    return counts


def logged_attention(published: dict[str, Any]) -> list[LayerCount]:
    """k^T v, and q times it: `T * heads * N * (d / h)^2` dense operations each, at the rate of the sparser of k, v and of q."""
    info = published["ssa_info"]
    steps, dense = info["Tsteps"], info["Nheads"] * TOKENS * (info["embSize"] // info["Nheads"]) ** 2
    found = []
    for i, (q, k, v) in enumerate(published["qkv_rates"]):
        for name, rate in (("kv", min(k, v)), ("qkv", q)):
            rates = (rate,) * steps
            acs = tuple(dense * r for r in rates)
            count = LayerCount(layer=f"{i}.{name}", input="binary", time_steps=steps, macs=dense, acs=acs, rate=rates)
            found.append(count)
    return found


@pytest.mark.parametrize(("name", "published_mj"), PUBLISHED_MJ.items())
def test_energies_of_published_logs_from_accumulations(vectors: Path, name: str, published_mj: float) -> None:
    """The published energy was computed from accumulations. The printed rates give it approximately: see the next test."""
    published = log(vectors, name)
    by_counts = replace(BINARY_ONLY, accumulations="true fan-out")
    total = energy([*logged_layers(published), *logged_attention(published)], by_counts)
    assert total.energy_mj == pytest.approx(published_mj, abs=1e-6)
    assert total.macs == pytest.approx(published["total_GMACs"] * 1e9, abs=1)
    assert total.acs == pytest.approx(published["total_GACs"] * 1e9, rel=1e-8)


# In the larger log, accumulations differ from dense operations times rate by up to 2e-5 of a row, in the smaller one by 1e-8.
@pytest.mark.parametrize(("name", "tolerance"), [("energy_spikingformer_8_512", 1e-6), ("energy_spikingformer_8_768", 5e-5)])
def test_energies_of_published_logs_from_rates(vectors: Path, name: str, tolerance: float) -> None:
    """`binary-only` without changes: dense operations times rates, with the precision that the logs print."""
    published = log(vectors, name)
    total = energy([*logged_layers(published), *logged_attention(published)], BINARY_ONLY)
    assert total.convention == "binary-only"
    assert total.energy_mj == pytest.approx(PUBLISHED_MJ[name], abs=tolerance)


@pytest.mark.parametrize(("giga_operations", "published_mj"), [(6.82, 7.734), (11.09, 11.577), (22.09, 21.477)])
def test_energies_of_the_published_table(giga_operations: float, published_mj: float) -> None:
    """Spikformer 8-384, 8-512 and 8-768 at T = 4; every row has the first convolution of D = 512: 3 to 64 channels, 224 x 224."""
    first = LayerCount(layer="first", input="real", reads="image", time_steps=4, macs=3 * 64 * 9 * 224**2, acs=(), rate=())
    dense = round(giga_operations * 1e9)
    rest = LayerCount(layer="rest", input="integer", time_steps=4, macs=dense, acs=(0.0,) * 4, rate=(0.4, 0.3, 0.2, 0.1))
    assert energy([first, rest], SPIKFORMER).energy_mj == pytest.approx(published_mj, abs=0.001)


FIRING = Neuron(v_threshold=0.5)

# Elements and images are powers of two, so rates are exact numbers.
SPIKFORMER_NET = Architecture(
    time_steps=3,
    stages=(
        Stage(
            embed_dim=16,
            embedding=Embedding(stride=2, neuron=FIRING),
            blocks=(Block(num_heads=2, mlp_ratio=2, neuron=FIRING), Block(token_mixer="channel_qk", mlp_ratio=2, neuron=FIRING)),
        ),
    ),
)
META_NET = Architecture(
    family="meta_spikeformer",
    shortcut="sew",
    time_steps=3,
    stages=(
        Stage(
            embed_dim=8,
            embedding=Embedding(neuron=FIRING),
            blocks=(Block(token_mixer="sepconv", channel_mixer="conv", mlp_ratio=2, neuron=FIRING),),
        ),
        Stage(
            embed_dim=16,
            embedding=Embedding(neuron=FIRING),
            blocks=(Block(num_heads=2, qkv="repconv", mlp_ratio=2, neuron=FIRING),),
        ),
    ),
)
NETS = {"spikformer": SPIKFORMER_NET, "meta_spikeformer": META_NET}
IMAGES = 4

each_net = pytest.mark.parametrize("net", NETS)


def firing_model(architecture: Architecture) -> tuple[SpikingModel, Tensor]:
    """A network with random weights whose neurons fire, and images for it."""
    torch.manual_seed(0)
    model = build_model(architecture, num_classes=8, in_chans=1)
    for name, parameter in model.named_parameters():
        if name.endswith("bn.bias"):
            nn.init.constant_(parameter, 0.6)
    images = torch.rand(IMAGES, 1, 8, 8)
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(images)
    return model.eval(), images


def counts_of(model: SpikingModel, images: Tensor) -> tuple[LayerCount, ...]:
    return count_operations(model, images, strict=True).counts


def into_padding(x: Tensor, size: int) -> float:
    """Return the sum of `x` `[T, B, H, W, C]` times the kernel positions whose outputs are outside of the image, at stride 1."""
    height, width = x.shape[2:4]
    reach = range(-(size // 2), size // 2 + 1)
    total = 0.0
    for row in range(height):
        for column in range(width):
            taps = [(row + down, column + right) for down in reach for right in reach]
            outside = sum(not (0 <= r < height and 0 <= c < width) for r, c in taps)
            total += outside * x[:, :, row, column].sum().item()
    return total


def inputs_of_convolutions(model: SpikingModel) -> dict[str, tuple[Tensor, int, int]]:
    """Input, kernel size and output channels of each padded convolution, by its name in the counts; filled by a forward pass."""
    seen: dict[str, tuple[Tensor, int, int]] = {}

    def record(name: str, size: int, outputs: int) -> Any:
        return lambda _module, args: seen.update({name: (args[0], size, outputs)})

    for name, module in model.named_modules():
        if isinstance(module, ConvNorm):
            size = module.conv.kernel_size[0]
            module.register_forward_pre_hook(record(f"{name}.conv", size, module.conv.out_channels))
        if isinstance(module, SeparableConvNorm):
            size = module.depthwise.kernel_size[0]
            module.register_forward_pre_hook(record(f"{name}.fused", size, module.pointwise.out_features))
        if isinstance(module, RepConv):
            module.register_forward_pre_hook(record(f"{name}.fused", 3, module.last.out_features))
    return seen


@each_net
def test_rates_differ_from_accumulations_only_in_the_padding(net: str) -> None:
    """A firing rate times dense operations counts the whole kernel for every spike. At the border a part of it has no output."""
    model, images = firing_model(NETS[net])
    seen, counts = inputs_of_convolutions(model), counts_of(model, images)
    padded = 0
    for count in counts:
        if count.input == "real" or not RATE.includes(count):
            continue
        excess = RATE.acs(count) - EXACT.acs(count)
        if count.layer in seen:
            x, size, outputs = seen[count.layer]
            assert excess == into_padding(x, size) * outputs / IMAGES
            padded += excess > 0
        else:
            assert excess == 0
    assert padded >= 4
    assert energy(counts, RATE).acs > energy(counts, EXACT).acs
    assert energy(counts, RATE).macs == energy(counts, EXACT).macs


@each_net
def test_spikformer_and_binary_only_differ_only_in_sums_of_spikes(net: str) -> None:
    counts = counts_of(*firing_model(NETS[net]))
    integers = [count for count in counts if count.input == "integer" and SPIKFORMER.includes(count)]
    assert integers
    for count in counts:
        by_convention = {c.name: (c.macs(count), c.acs(count)) for c in (SPIKFORMER, BINARY_ONLY)}
        if count in integers:
            dense = count.macs * count.time_steps
            assert by_convention == {"spikformer": (0, count.macs * sum(count.rate)), "binary-only": (dense, 0)}
        else:
            assert by_convention["spikformer"] == by_convention["binary-only"]
    dense = sum(count.macs * count.time_steps for count in integers)
    spikformer, binary_only = (energy(counts, convention) for convention in (SPIKFORMER, BINARY_ONLY))
    assert binary_only.macs - spikformer.macs == dense
    assert spikformer.acs - binary_only.acs == sum(count.macs * sum(count.rate) for count in integers)


def test_conventions_with_rates_differ_only_in_fused_layers_and_the_image() -> None:
    """In a network with RepConv and SepConv: separate or fused layers, and the first convolution at one or at three time steps."""
    counts = counts_of(*firing_model(META_NET))
    first = counts[0]
    assert (first.reads, first.input) == ("image", "real")
    rate, fused, separate = (energy(counts, convention) for convention in (RATE, FUSED, SPIKFORMER))
    assert fused.acs == rate.acs
    assert fused.macs - rate.macs == 2 * first.macs
    after_first = sum(count.macs * count.time_steps for count in counts if count.form == "separate" and count.input == "real")
    assert after_first > 0
    assert separate.macs - fused.macs == after_first


def keep_kernel_centres(model: SpikingModel) -> None:
    """Make weights positive, remove biases and all of a kernel but its centre, so that spikes do not spread over positions."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            centre_only = torch.zeros_like(module.weight)
            middle = module.kernel_size[0] // 2
            centre_only[:, :, middle, middle] = module.weight[:, :, middle, middle].abs() * 4
            module.weight.data = centre_only
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.abs() * 40
            nn.init.zeros_(module.bias) if module.bias is not None else None


def has_zero_border(x: Tensor) -> bool:
    """Whether `x: [T, B, H, W, C]` is zero at the border."""
    border = x.clone()
    border[:, :, 1:-1, 1:-1] = 0
    return not border.any()


@pytest.mark.parametrize("convention", [EXACT, replace(SPIKFORMER, name="separate", accumulations="true fan-out")])
def test_rates_are_exact_without_spikes_at_the_border(convention: Convention) -> None:
    """Event frames with a zero border, and kernels that do not spread spikes."""
    torch.manual_seed(0)
    stage = replace(SPIKFORMER_NET.stages[0], embedding=Embedding(stride=1, neuron=FIRING))
    model = build_model(replace(SPIKFORMER_NET, stages=(stage,)), num_classes=8, in_chans=2).eval()
    keep_kernel_centres(model)
    frames = torch.zeros(3, IMAGES, 2, 8, 8)
    frames[..., 1:-1, 1:-1] = torch.randint(0, 4, (3, IMAGES, 2, 6, 6)).float()
    seen, counts = inputs_of_convolutions(model), counts_of(model, frames)
    assert len(seen) == 5
    assert all(x.any() and has_zero_border(x) for x, _, _ in seen.values())
    assert all(sum(count.acs) > 0 for count in counts if count.input != "real")
    by_rate = replace(convention, accumulations="rate")
    for count in counts:
        assert by_rate.acs(count) == convention.acs(count)
    assert energy(counts, by_rate).energy_mj == energy(counts, convention).energy_mj
