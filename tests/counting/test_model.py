"""Counts of models of other packages: spikingjelly models and ANNs, compared with its counter and with models of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import spikingjelly_models
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import autospike
from autospike.counting.coverage import UnknownOperationError
from autospike.counting.model import count_operations
from autospike.energy.conventions import CONVENTIONS
from autospike.energy.counts import LayerCount
from autospike.energy.operations import Operations
from autospike.models.contract import SpikingModel

aten = torch.ops.aten

# A model with known counts


class KnownCounts(nn.Module):
    """A convolution and two linear layers with neurons between them; four steps of a still image of 2 x 3 pixels.

    Neurons have tau = 2 and a threshold of 1: an input of 2 or more fires at every step, one of 1.5 at every second.
    """

    def __init__(self, step_mode: str) -> None:
        super().__init__()
        self.conv = layer.Conv2d(1, 2, 3, padding=1, bias=False)
        self.lif = neuron.LIFNode(tau=2.0, v_threshold=1.0)
        self.hidden = layer.Linear(12, 3)
        self.hidden_lif = neuron.LIFNode(tau=2.0, v_threshold=1.0)
        self.head = layer.Linear(3, 5)
        functional.set_step_mode(self, step_mode)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            self.conv.weight[:, 0, 1, 1] = torch.tensor([2.0, 1.5])
            self.hidden.bias[:] = torch.tensor([2.0, 1.5, 0.5])

    def network(self, x: Tensor) -> Tensor:
        spikes = self.lif(self.conv(x))
        return self.head(self.hidden_lif(self.hidden(spikes.flatten(-3))))


class MultiStep(KnownCounts):
    def __init__(self) -> None:
        super().__init__("m")

    def forward(self, x: Tensor) -> Tensor:
        frames = x if x.dim() == 5 else x.unsqueeze(0).repeat(4, 1, 1, 1, 1)
        return self.network(frames).mean(dim=0)


class SingleStep(KnownCounts):
    def __init__(self) -> None:
        super().__init__("s")

    def forward(self, x: Tensor) -> Tensor:
        frames = x if x.dim() == 5 else x.unsqueeze(0).expand(4, *x.shape)
        return torch.stack([self.network(frame) for frame in frames]).mean(dim=0)


MODES: dict[str, Callable[[], KnownCounts]] = {"multi-step": MultiStep, "single-step": SingleStep}


def two_images() -> Tensor:
    """Return one image with five pixels of 1 and one of 0, and one with zeros only."""
    images = torch.zeros(2, 1, 2, 3)
    images[0, 0] = torch.tensor([[1.0, 1, 1], [1, 0, 1]])
    return images


# Of the first image five neurons fire at every step and five at every second; of hidden ones, one and one, whatever the image.
HIDDEN = LayerCount(
    layer="hidden",
    input="binary",
    time_steps=4,
    macs=12 * 3,
    acs=(5 * 3 / 2, 10 * 3 / 2, 5 * 3 / 2, 10 * 3 / 2),
    rate=(5 / 24, 10 / 24, 5 / 24, 10 / 24),
)
HEAD = LayerCount(layer="head", input="binary", time_steps=4, macs=3 * 5, acs=(5, 10, 5, 10), rate=(1 / 3, 2 / 3, 1 / 3, 2 / 3))


@pytest.mark.parametrize("mode", MODES)
def test_counts_in_both_step_modes(mode: str) -> None:
    """Multi-step neurons receive all steps at once; with single-step neurons the network loops over the steps."""
    found = count_operations(MODES[mode](), two_images())
    _, hidden, head = found.counts
    assert (hidden, head) == (HIDDEN, HEAD)
    assert found.images == 2
    assert not found.unknown


@pytest.mark.parametrize("mode", MODES)
def test_grey_pixels_are_real(mode: str) -> None:
    image, *_ = count_operations(MODES[mode](), two_images() * 1.25).counts
    assert (image.layer, image.input, image.time_steps, image.macs) == ("conv", "real", 4, 6 * 9 * 2)
    assert image.acs == image.rate == ()


def test_a_still_image_with_integer_pixels_is_recognised() -> None:
    image, *rest = count_operations(MultiStep(), two_images()).counts
    assert (image.input, image.reads, image.acs) == ("real", "image", ())
    assert {count.reads for count in rest} == {"stream"}


@pytest.mark.parametrize("mode", MODES)
def test_integer_frames_are_accumulated(mode: str) -> None:
    """By hand: 2 x 3 pixels of which each is a corner or the middle of a long side, and reaches 4 or 6 outputs in 2 channels."""
    reaches = torch.tensor([[4.0, 6, 4], [4, 6, 4]])
    frames = torch.randint(0, 3, (4, 2, 1, 2, 3), generator=torch.Generator().manual_seed(0)).float()
    image, *_ = count_operations(MODES[mode](), frames).counts
    assert image.acs == tuple((frame[:, 0] * reaches).sum().item() * 2 / 2 for frame in frames)
    assert (image.input, image.reads, image.time_steps, image.macs) == ("integer", "stream", 4, 6 * 9 * 2)


def with_steps(found: Operations) -> list[tuple[Any, ...]]:
    return [(c.layer, c.input, c.time_steps, c.macs, c.acs, c.rate) for c in found.counts]


def test_both_step_modes_give_the_same_counts_for_frames() -> None:
    torch.manual_seed(0)
    nets = [MultiStep(), SingleStep()]
    for parameters in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        nn.init.normal_(parameters[0])
        parameters[1].data.copy_(parameters[0])
    frames = torch.randint(0, 4, (5, 6, 1, 2, 3)).float()
    multi, single = (count_operations(net, frames) for net in nets)
    assert with_steps(multi) == with_steps(single)
    assert multi.counts == single.counts
    assert all(sum(c.acs) > 0 for c in multi.counts)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_both_step_modes_give_the_same_energy_for_a_still_image(convention: str) -> None:
    """The networks and their inputs are equal."""
    multi, single = (count_operations(build(), two_images() * 1.25) for build in MODES.values())
    assert single.energy(convention).energy_mj == pytest.approx(multi.energy(convention).energy_mj, rel=1e-12)


class Repeat(nn.Module):
    """Repeat an image for four steps."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0).repeat(4, *[1] * x.dim())


class TwoProducts(nn.Module):
    """Apply two linear maps of different sizes in one module, at each of three steps."""

    def __init__(self, step_mode: str) -> None:
        super().__init__()
        self.lif = neuron.LIFNode(step_mode=step_mode)
        self.narrow, self.wide = nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.full((9, 2), 0.5))

    def both(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.narrow), self.wide)

    def forward(self, x: Tensor) -> Tensor:
        if self.lif.step_mode == "m":
            return self.both(self.lif(x))
        return torch.stack([self.both(self.lif(step)) for step in x])


@pytest.mark.parametrize("weight", [1.0, 0.3], ids=["integers", "real values"])
def test_totals_do_not_depend_on_the_step_mode(weight: float) -> None:
    """Also if the module runs several operations per step. Each input of 9 causes a spike."""
    frames = torch.randint(0, 2, (3, 2, 1, 1, 4), generator=torch.Generator().manual_seed(0)).float() * 9
    fired = frames.count_nonzero().item() / 2
    for mode in ("m", "s"):
        net = TwoProducts(mode)
        nn.init.constant_(net.narrow, weight)
        found = count_operations(net, frames)
        assert found.energy("exact").acs == fired * 2 + (fired * 2 * 9 if weight == 1 else 0)
        assert found.energy("exact").macs == (0 if weight == 1 else 3 * 2 * 9)
        assert sum(c.macs * c.time_steps for c in found.counts) == 3 * (4 * 2 + 2 * 9)


def test_constant_spikes_are_not_a_still_image() -> None:
    """Some neurons receive 1 and spike at every step, the others never."""
    net = nn.Sequential(Repeat(), neuron.IFNode(step_mode="m"), layer.Linear(3, 5, step_mode="m"))
    (found,) = count_operations(net, torch.tensor([[1.0, 0, 1], [0, 0, 1]])).counts
    assert (found.input, found.reads, found.acs) == ("binary", "stream", (3 * 5 / 2,) * 4)


class MultiStepRun(nn.Module):
    """Run a multi-step network for three steps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        functional.set_step_mode(net, "m")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unsqueeze(0).repeat(3, 1, 1, 1, 1)).mean(dim=0)


class SingleStepLoop(MultiStepRun):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        functional.set_step_mode(net, "s")

    def forward(self, x: Tensor) -> Tensor:
        return sum(self.net(x) for _ in range(3)) / 3


RESIDUAL: dict[str, Callable[[], nn.Module]] = {
    "spikes": lambda: spiking_resnet.spiking_resnet18(spiking_neuron=neuron.LIFNode, num_classes=5),
    "sums of spikes": lambda: sew_resnet.sew_resnet18(cnf="ADD", spiking_neuron=neuron.LIFNode, num_classes=5),
}


def with_spikes(net: nn.Module, images: Tensor) -> nn.Module:
    """Return the network in multi-step mode with normalisations that lead to spikes."""
    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 1, 3)
            nn.init.uniform_(module.bias, 0, 1.5)
            module.momentum = None
    with torch.no_grad():
        net.train()(images.unsqueeze(0).repeat(3, 1, 1, 1, 1))
    return net.eval()


@pytest.mark.parametrize("name", RESIDUAL)
def test_both_step_modes_give_the_same_counts_for_a_residual_network(name: str) -> None:
    """Compared layer by layer; the dense operations equal those of torch's counter."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16)
    net = with_spikes(RESIDUAL[name](), images)
    single, multi = (count_operations(build(net), images) for build in (SingleStepLoop, MultiStepRun))
    assert single.counts == multi.counts
    assert (single.unknown, multi.unknown) == ({}, {})
    image, *stage_blocks = multi.counts
    assert (image.reads, len(stage_blocks)) == ("image", 20)
    assert {c.input for c in stage_blocks} == ({"binary"} if name == "spikes" else {"binary", "integer"})
    assert all(sum(c.acs) > 0 for c in stage_blocks)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        MultiStepRun(net)(images)
    assert counter.get_total_flops() == 2 * 2 * sum(c.macs * c.time_steps for c in multi.counts)


@pytest.mark.parametrize("kind", [neuron.SimpleIFNode, neuron.SimpleLIFNode])
def test_simple_neurons_of_spikingjelly_are_recognised(kind: type[nn.Module]) -> None:
    """They have no common base class."""
    constants = {"tau": 2.0, "decay_input": True} if kind is neuron.SimpleLIFNode else {}
    net = nn.Sequential(
        Repeat(), layer.Linear(3, 3, step_mode="m"), kind(**constants, step_mode="m"), layer.Linear(3, 5, step_mode="m")
    )
    found = count_operations(net, torch.rand(2, 3) * 9)
    assert [(c.layer, c.time_steps) for c in found.counts] == [("1", 4), ("3", 4)]
    assert found.free["neurons"] == 1


# The counter of spikingjelly, with additional rules for integers


def is_whole(x: Tensor) -> bool:
    return bool((x == x.round()).all()) and bool((x >= 0).all())


def conv_accumulations(args: Any, _kwargs: Any, _out: Any) -> int:
    """Return the sum of all outputs of a convolution with weights of one."""
    x, weight, _, *settings = args
    return int(aten.convolution.default(x, torch.ones_like(weight), None, *settings).sum()) if is_whole(x) else 0


def bmm_accumulations(args: Any, _kwargs: Any, _out: Any) -> int:
    """Return the accumulations of a product of `[T * rest, n, k]` and `[T * rest, k, m]`, at least one of them spikes."""
    a, b = args
    steps = (
        a.reshape(STEPS, -1).sum(dim=1) * b.shape[2],
        b.reshape(STEPS, -1).sum(dim=1) * a.shape[1],
    )
    drivers = [total for x, total in zip((a, b), steps, strict=True) if is_whole(x) and x.max() <= 1]
    return int(torch.stack(drivers).min(dim=0).values.sum())


def dense_conv(args: Any, _kwargs: Any, out: Any) -> int:
    x, weight = args[:2]
    return 0 if is_whole(x) else out.numel() * weight[0].numel()


def dense_linear(args: Any, _kwargs: Any, _out: Any) -> int:
    _, x, weight = args
    return 0 if is_whole(x) else x.numel() * weight.shape[1]


ACCUMULATIONS = {aten.convolution.default: conv_accumulations, aten.bmm.default: bmm_accumulations}
DENSE = {aten.convolution.default: dense_conv, aten.addmm.default: dense_linear, aten.bmm.default: lambda *_: 0}


def count_with_spikingjelly(net: nn.Module, x: Tensor, rules: dict[Any, Any]) -> SynOpCounter:
    """Return the operations of a batch by module."""
    counter = SynOpCounter(extra_rules=rules)
    functional.reset_net(net)
    with torch.no_grad(), DispatchCounterMode([counter]):
        net(x)
    return counter


@dataclass(frozen=True)
class Pair:
    """A spikingjelly network and the same network of this package, their input, and their counts."""

    net: nn.Module
    model: SpikingModel
    images: Tensor
    reference: Operations
    own: Operations

    @classmethod
    def of(cls, net: nn.Module, model: SpikingModel, images: Tensor) -> Pair:
        counted = [count_operations(each, images) for each in (net, model)]
        return cls(net, model, images, *counted)


STEPS = spikingjelly_models.T
SMALL = spikingjelly_models.IMAGES[..., :12, :8]


@cache
def spikformers() -> Pair:
    """Without pools, which spikingjelly has before the neurons and this package after them."""
    net = spikingjelly_models.spikingjelly_spikformer(stride=4)
    spikingjelly_models.remove_pools(net)
    spikingjelly_models.calibrated(net)
    return Pair.of(net, spikingjelly_models.autospike_spikformer(net, stride=1)[0], SMALL)


@cache
def spike_driven() -> Pair:
    net = spikingjelly_models.calibrated(spikingjelly_models.spikingjelly_spike_driven("0011", mlp_ratio=2), shift=-0.5)
    return Pair.of(net, spikingjelly_models.autospike_spike_driven(net, 4, mlp_ratio=2)[0], spikingjelly_models.IMAGES)


@cache
def qkformers(qka_type: str) -> Pair:
    net = spikingjelly_models.calibrated(spikingjelly_models.spikingjelly_qkformer(qka_type))
    return Pair.of(net, spikingjelly_models.autospike_qkformer(net, qka_type)[0], spikingjelly_models.IMAGES)


PAIRS: dict[str, Callable[[], Pair]] = {
    "Spikformer": spikformers,
    "Spike-driven Transformer": spike_driven,
    "QKFormer": lambda: qkformers("token"),
    "QKFormer, channels": lambda: qkformers("channel"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_no_operator_of_a_spikingjelly_transformer_is_unknown(name: str) -> None:
    pair = PAIRS[name]()
    assert not pair.reference.unknown
    assert count_operations(pair.net, pair.images, strict=True) == pair.reference


@pytest.mark.parametrize("name", PAIRS)
def test_layers_and_products_match_the_counter_of_spikingjelly(name: str) -> None:
    """Compared layer by layer over all images and steps; its counter has no rules for masks and sums."""
    pair = PAIRS[name]()
    adds, dense = (count_with_spikingjelly(pair.net, pair.images, rules) for rules in (ACCUMULATIONS, DENSE))
    found: dict[tuple[str, Any], float] = {}
    for c in pair.reference.counts:
        module, product, _ = c.layer.partition(".bmm")
        if not module.rpartition(".")[2].startswith(("mul", "sum")):
            key = module, aten.bmm.default if product else aten.addmm.default if module == "head" else aten.convolution.default
            total = c.macs * c.time_steps if c.input == "real" else sum(c.acs)
            found[key] = found.get(key, 0) + total * len(pair.images)
    for (module, operation), total in found.items():
        scope = f"{type(pair.net).__name__}.{module}"
        assert total == adds.records[scope][operation] + dense.records[scope][operation]
        assert total > 0
    assert sum(found.values()) == adds.get_total() + dense.get_total()


@pytest.mark.parametrize("name", PAIRS)
def test_layers_that_read_spikes_match_the_default_rules_of_spikingjelly(name: str) -> None:
    """Without additional rules; covers the fan-out of convolutions."""
    pair = PAIRS[name]()
    counter, root = count_with_spikingjelly(pair.net, pair.images, {}), type(pair.net).__name__
    modules = dict(pair.net.named_modules())
    binary = [c for c in pair.reference.counts if c.input == "binary" and c.layer in modules]
    assert len(binary) > 5
    for c in binary:
        assert sum(c.acs) * len(pair.images) == counter.records[f"{root}.{c.layer}"][aten.convolution.default]


# Layers of spikingjelly by name, and the corresponding layers of this package, whose operations add up

LayerNames = dict[str, Sequence[str]]


def linear_layers(reference: str, found: str, *, fc1: str = "mlp.fc1.0", fc2: str = "mlp.fc2.0") -> LayerNames:
    return {
        f"{reference}.{fc1}": [f"{found}.channel.mixer.fc1.linear"],
        f"{reference}.{fc2}": [f"{found}.channel.mixer.fc2.linear"],
        f"{reference}.attn.proj_conv_bn.0": [f"{found}.token.mixer.projection.linear"],
    }


def matrix_attention(reference: str, found: str) -> LayerNames:
    product = f"{found}.token.mixer.operator.product"
    stacked = [f"{found}.token.mixer.{name}.linear" for name in "qkv"]
    return {
        f"{reference}.attn.qkv_conv_bn.0": stacked,
        f"{reference}.attn.bmm": [f"{product}.kv"],
        f"{reference}.attn.bmm#2": [f"{product}.qkv"],
    }


def spikformer_layer_names() -> LayerNames:
    embedding = "stages.0.embedding"
    layer_names: LayerNames = {f"patch_embed.stages.{i}.conv_bn.block.0": [f"{embedding}.convs.{i}.conv"] for i in range(4)}
    layer_names["patch_embed.positional_encoding.conv_bn.block.0"] = [f"{embedding}.position.mixer.conv"]
    for i in range(2):
        reference, found = f"blocks.{i}", f"stages.0.blocks.{i}"
        layer_names |= matrix_attention(reference, found) | linear_layers(reference, found)
    return layer_names


def spike_driven_layer_names() -> LayerNames:
    embedding = "stages.0.embedding"
    layer_names: LayerNames = {f"patch_embed.stages.{i}.0": [f"{embedding}.convs.{i}.conv"] for i in range(3)}
    layer_names["patch_embed.final_stage.0"] = [f"{embedding}.convs.3.conv"]
    layer_names["patch_embed.rpe_conv"] = [f"{embedding}.position.mixer.conv"]
    for i in range(2):
        attention, mixer, channel = f"blocks.{i}.attn", f"stages.0.blocks.{i}.token.mixer", f"stages.0.blocks.{i}.channel.mixer"
        layer_names |= {f"{attention}.{name}_conv": [f"{mixer}.{name}.linear"] for name in "qkv"}
        operations = {"mul": "coincidence", "sum": "sum", "mul#2": "gate"}
        layer_names |= {f"{attention}.{reference}": [f"{mixer}.operator.{found}"] for reference, found in operations.items()}
        layer_names[f"{attention}.proj_conv"] = [f"{mixer}.projection.linear"]
        layer_names |= {f"blocks.{i}.mlp.{name}": [f"{channel}.{name}.linear"] for name in ("fc1", "fc2")}
    return layer_names


def qkformer_layer_names() -> LayerNames:
    first = "stages.0.embedding"
    layer_names: LayerNames = {
        "patch_embed1.conv1": [f"{first}.conv.conv.conv"],
        "patch_embed1.conv2": [f"{first}.rest.conv1.conv.conv"],
        "patch_embed1.conv3": [f"{first}.rest.conv2.conv.conv"],
        "patch_embed1.shortcut.0": [f"{first}.rest.residual.conv"],
    }
    for i in (1, 2):
        reference, found = f"patch_embed{i + 1}", f"stages.{i}.embedding"
        layer_names |= {f"{reference}.conv{n}": [f"{found}.conv{n}.conv.conv"] for n in (1, 2)}
        layer_names[f"{reference}.shortcut.0"] = [f"{found}.residual.conv"]
    for stage, depth in enumerate((1, 2, 1)):
        for i in range(depth):
            reference, found = f"stage{stage + 1}.{i}", f"stages.{stage}.blocks.{i}"
            layer_names |= linear_layers(reference, found, fc1="mlp.fc1", fc2="mlp.fc2")
            layer_names |= matrix_attention(reference, found) if stage == 2 else query_gates(reference, found)
    return layer_names


def query_gates(reference: str, found: str) -> LayerNames:
    mixer = f"{found}.token.mixer"
    return {
        f"{reference}.attn.qk_conv_bn.0": [f"{mixer}.{name}.linear" for name in "qk"],
        f"{reference}.attn.sum": [f"{mixer}.operator.sum"],
        f"{reference}.attn.mul": [f"{mixer}.operator.gate"],
    }


LAYER_NAMES: dict[str, Callable[[], LayerNames]] = {
    "Spikformer": spikformer_layer_names,
    "Spike-driven Transformer": spike_driven_layer_names,
    "QKFormer": qkformer_layer_names,
    "QKFormer, channels": qkformer_layer_names,
}


@pytest.mark.parametrize("name", PAIRS)
def test_layer_counts_of_spikingjelly_models_equal_those_of_this_package(name: str) -> None:
    """Operator rules and layer rules give equal counts at every step, except for the head, which has another position."""
    pair, layer_names = PAIRS[name](), LAYER_NAMES[name]()
    reference = {c.layer: c for c in pair.reference.counts if c.layer != "head"}
    found = {c.layer: c for c in pair.own.counts if c.layer != "head"}
    assert reference.keys() == layer_names.keys()
    assert found.keys() == {layer for layers in layer_names.values() for layer in layers}
    for layer_name, names in layer_names.items():
        one, several = reference[layer_name], [found[each] for each in names]
        assert one.macs == sum(c.macs for c in several)
        assert one.acs == pytest.approx([sum(acs) for acs in zip(*(c.acs for c in several), strict=True)], rel=1e-12)
        assert {(one.input, one.reads, one.rate, one.time_steps)} == {(c.input, c.reads, c.rate, c.time_steps) for c in several}


@pytest.mark.parametrize(
    "convention", ["exact/head-every-step", "rate/head-every-step", "spikformer/int8/head-every-step", "fused/sram"]
)
def test_energy_of_spikingjelly_models_equals_that_of_this_package(convention: str) -> None:
    """The conventions count the head at every step, because only this package knows that it reads a mean."""
    pair = spikformers()
    found, expected = (
        each.energy(convention.replace("fused/sram", "fused/sram/head-every-step")) for each in (pair.reference, pair.own)
    )
    assert (found.macs, found.acs) == pytest.approx((expected.macs, expected.acs), rel=1e-12)
    assert found.energy_mj == pytest.approx(expected.energy_mj, rel=1e-12)


def test_a_head_after_a_mean_over_time_is_counted_once() -> None:
    """In the Spike-driven Transformer and QKFormer of spikingjelly."""
    for pair in (spike_driven(), qkformers("token")):
        head = pair.reference.counts[-1]
        assert (head.layer, head.input, head.time_steps, head.macs) == ("head", "real", 1, 32 * spikingjelly_models.CLASSES)


def test_a_still_image_repeated_as_frames() -> None:
    """Frames that repeat an image have the counts of the image in a spikingjelly model."""
    pair = spikformers()
    frames = SMALL.expand(spikingjelly_models.T, *SMALL.shape)
    repeated = count_operations(pair.net, frames)
    assert repeated.counts == pair.reference.counts


# State of the model after counting


class Nested(nn.Module):
    """A multi-step network with normalisation and dropout; one part is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(layer.Conv2d(1, 2, 3, padding=1), layer.BatchNorm2d(2), layer.Dropout(0.5))
        self.lif = neuron.LIFNode(step_mode="m")
        self.head = nn.Linear(2 * 6, 3)
        functional.set_step_mode(self, "m")
        self.frozen.eval()

    def forward(self, x: Tensor) -> Tensor:
        frames = x.unsqueeze(0).repeat(3, 1, 1, 1, 1)
        return self.head(self.lif(self.frozen(frames)).flatten(2)).mean(dim=0)


def training_flags(net: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in net.named_modules()}


def test_counting_restores_the_model() -> None:
    net, images = Nested(), torch.rand(4, 1, 2, 3) * 9
    with torch.no_grad():
        before, weights = net.eval()(images), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    net.frozen.eval()
    flags = training_flags(net)
    assert set(flags.values()) == {True, False}
    net.lif.v = torch.full((4, 2, 2, 3), 99.0)
    first, second = (count_operations(net, images) for _ in range(2))
    assert first == second
    assert training_flags(net) == flags
    assert isinstance(net.lif.v, float)
    assert net.lif.v == 0
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    with torch.no_grad():
        assert torch.equal(net.eval()(images), before)


@contextmanager
def failing(net: nn.Module) -> Iterator[None]:
    handle = net.head.register_forward_pre_hook(lambda *_: 1 / 0)
    yield
    handle.remove()


def test_counting_restores_a_model_that_raises() -> None:
    net, images = Nested(), torch.rand(4, 1, 2, 3)
    flags, expected = training_flags(net), count_operations(net, images)
    with failing(net), pytest.raises(ZeroDivisionError):
        count_operations(net, images)
    assert training_flags(net) == flags
    assert isinstance(net.lif.v, float)
    assert count_operations(net, images) == expected


def test_counting_restores_a_model_with_an_unknown_operator() -> None:
    net = Nested()
    net.head = nn.Sequential(net.head, nn.Softmax(dim=-1))
    flags = training_flags(net)
    with pytest.raises(UnknownOperationError, match=r"head\.1: _softmax"):
        count_operations(net, torch.rand(4, 1, 2, 3), strict=True)
    assert training_flags(net) == flags
    assert isinstance(net.lif.v, float)


def test_mixed_step_modes_are_rejected() -> None:
    net = Nested()
    net.head_lif = neuron.IFNode(step_mode="s")
    with pytest.raises(ValueError, match="single-step and multi-step"):
        count_operations(net, torch.rand(4, 1, 2, 3))


def test_number_of_images_is_read_from_the_neurons() -> None:
    """The input is `[T, B, features]`."""
    net = nn.Sequential(layer.Linear(3, 4, step_mode="m"), neuron.IFNode(step_mode="m"), layer.Linear(4, 5, step_mode="m"))
    nn.init.constant_(net[0].weight, 0.5)
    nn.init.zeros_(net[0].bias)
    spikes = torch.randint(0, 2, (6, 2, 3), generator=torch.Generator().manual_seed(0)).float()
    first, second = count_operations(net, spikes).counts
    assert first.acs == tuple(step.sum().item() * 4 / 2 for step in spikes)
    assert (first.time_steps, first.macs, second.time_steps, second.macs) == (6, 12, 6, 20)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lif = neuron.IFNode(step_mode="m")
        self.head = layer.Linear(3, 5, step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lif(x_seq=x))


def test_neurons_called_with_keyword_arguments() -> None:
    """With a threshold of 1 and inputs of 0 and 1, the spikes equal the inputs."""
    spikes = torch.randint(0, 2, (4, 2, 3), generator=torch.Generator().manual_seed(0)).float()
    (found,) = count_operations(ByKeyword(), spikes).counts
    assert found.acs == tuple(step.sum().item() * 5 / 2 for step in spikes)


def test_neurons_in_a_multi_step_container() -> None:
    """Only the neurons inside the container receive one step at a time."""

    def net(neurons: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(Repeat(), layer.Linear(3, 4, step_mode="m"), neurons, layer.Linear(4, 5, step_mode="m"))

    x = torch.rand(2, 3) * 9
    in_container = count_operations(net(layer.MultiStepContainer(neuron.IFNode())), x)
    multi_step = count_operations(net(neuron.IFNode(step_mode="m")), x)
    assert in_container.counts == multi_step.counts
    assert [c.time_steps for c in in_container.counts] == [4, 4]
    assert not in_container.unknown


def test_time_steps_of_a_network_without_neurons_can_be_given() -> None:
    """The frames consist of spikes."""
    net = nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(1, 2, 1))
    frames = torch.randint(0, 2, (3, 4, 1, 2, 3), generator=torch.Generator().manual_seed(0)).float()
    (with_steps,) = count_operations(net, frames, time_steps=3, neurons=[]).counts
    assert with_steps.acs == tuple(frame.sum().item() * 2 / 4 for frame in frames)
    (without_steps,) = count_operations(net, frames, neurons=[]).counts
    assert sum(without_steps.acs) == pytest.approx(sum(with_steps.acs), rel=1e-12)
    assert without_steps.macs * without_steps.time_steps == with_steps.macs * with_steps.time_steps == 3 * 6 * 2


# Conventional networks


class NeuronsAndAttention(nn.Module):
    """Neurons, then an attention with softmax."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.lif = neuron.LIFNode(step_mode="m")
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif(x.unsqueeze(0).repeat(2, 1, 1, 1)).flatten(0, 1)
        return self.attention(spikes)


class TorchAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x)[0]


class FusedAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


class ExplicitAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.transpose(-1, -2), dim=-1) @ x


ATTENTIONS: dict[type[nn.Module], tuple[str, str]] = {
    TorchAttention: ("attention.mha: ", "_softmax"),
    FusedAttention: ("attention: ", "_scaled_dot_product_flash_attention_for_cpu"),
    ExplicitAttention: ("attention: ", "_softmax"),
}


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_softmax_attention_is_unknown(kind: type[nn.Module]) -> None:
    """In eval mode torch computes attention by single operators."""
    prefix, operation = ATTENTIONS[kind]
    net, x = NeuronsAndAttention(kind()), torch.rand(3, 5, 8) * 4
    found = count_operations(net, x)
    assert found.unknown == {f"{prefix}{operation}": 1}
    with pytest.raises(UnknownOperationError, match=f"{prefix}{operation}"):
        count_operations(net, x, strict=True)


def test_products_of_softmax_attention_are_counted() -> None:
    """First spikes times spikes, then real attention weights times spikes; each spike reaches five tokens."""
    net, x = NeuronsAndAttention(ExplicitAttention()), torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0)) * 4
    functional.reset_net(net)
    with torch.no_grad():
        spikes = net.lif(x.unsqueeze(0).repeat(2, 1, 1, 1))
    first, second = count_operations(net, x).counts
    assert first.acs == second.acs == tuple(step.sum().item() * 5 / 3 for step in spikes)
    assert (first.macs, second.macs, first.input, second.input) == (5 * 8 * 5, 5 * 5 * 8, "binary", "binary")
    assert sum(first.acs) > 0


def test_layers_of_conventional_transformers_are_unknown() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4), nn.Softmax(dim=-1))
    found = count_operations(net, torch.randn(3, 5, 8), neurons=[])
    assert found.unknown == {"1: native_layer_norm": 1, "2: gelu": 1, "4: _softmax": 1}
    assert [c.layer for c in found.counts] == ["0", "3"]


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(12, 7),
    )


def test_a_network_without_neurons_has_only_macs() -> None:
    """The MACs are half of the floating-point operations that torch counts."""
    net, images = convolutional(), torch.randn(3, 3, 16, 16)
    found = count_operations(net, images, neurons=[])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(images)
    assert {(c.input, c.time_steps) for c in found.counts} == {("real", 1)}
    assert [c.layer for c in found.counts] == ["0", "3", "5", "9"]
    assert sum(c.macs for c in found.counts) * 2 * 3 == counter.get_total_flops()
    energy = found.energy("spikformer")
    assert (energy.macs, energy.acs) == (sum(c.macs for c in found.counts), 0)
    assert not found.unknown
    assert found.free["normalisation, which folds into weights"] == 1
    assert found.free["comparisons of max-pooling"] == 1


@pytest.mark.parametrize("build", [convolutional, Nested, MultiStep], ids=["ANN", "nested", "multi-step"])
def test_counts_do_not_depend_on_the_batch_size(build: Callable[[], nn.Module]) -> None:
    """Counts are per image."""
    torch.manual_seed(0)
    net = build()
    size = (3, 16, 16) if build is convolutional else (1, 2, 3)
    images = torch.rand(4, *size) * 3
    whole, *parts = (count_operations(net, x, neurons=[]) for x in (images, *images.split(1)))
    for i, found in enumerate(whole.counts):
        each = [part.counts[i] for part in parts]
        assert {(c.layer, c.macs, c.time_steps) for c in each} == {(found.layer, found.macs, found.time_steps)}
        assert found.acs == pytest.approx([sum(acs) / 4 for acs in zip(*(c.acs for c in each), strict=True)], rel=1e-12)


def test_counts_are_the_same_in_inference_mode() -> None:
    net, images = Nested(), torch.rand(4, 1, 2, 3) * 9
    with torch.inference_mode():
        found = count_operations(net, images)
    assert found == count_operations(net, images)


def test_count_operations_is_a_public_name() -> None:
    assert autospike.count_operations is count_operations
