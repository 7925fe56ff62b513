"""Blocks: equations of shortcuts, neurons and layers of blocks, values of the residual stream, and published ablations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import FAMILIES, READS, SHORTCUTS, groups_of
from spikingjelly.activation_based import neuron as spikingjelly_neuron
from torch import Tensor, nn

from autospike.evaluation.calibration import calibrate
from autospike.models import build_model
from autospike.models.contract import SpikingHead, SpikingModel
from autospike.nn.blocks import MLP, ChannelConv, ChannelRepLinear, Residual, SepConv, SpikingBlock
from autospike.nn.layers import ConvNorm, LinearNorm, RepConv, SeparableConvNorm
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride
from autospike.space.published import PUBLISHED

SYNAPSES = (LinearNorm, ConvNorm, SeparableConvNorm, RepConv)

# Every family with each of its shortcuts.
FAMILIES_AND_SHORTCUTS = [(family, shortcut) for family, (shortcuts, *_) in FAMILIES.items() for shortcut in shortcuts]


def block_of(token_mixer: str, channel_mixer: str = "mlp", synapse: str = "linear", **rest: object) -> Block:
    reads = {"qkv": synapse, "projection": synapse} if READS[token_mixer] else {}
    return Block(token_mixer=token_mixer, channel_mixer=channel_mixer, mlp_ratio=2, **reads, **rest)  # type: ignore[arg-type]


def model_of(family: str, shortcut: str, *blocks: Block, stages: int = 1, time_steps: int = 3) -> SpikingModel:
    """A small calibrated model, all of whose stages have these blocks."""
    torch.manual_seed(0)
    mixer_layers = tuple(Stage(embed_dim=16, embedding=Embedding(stride=1), blocks=blocks) for _ in range(stages))
    architecture = Architecture(family=family, shortcut=shortcut, time_steps=time_steps, stages=mixer_layers)  # type: ignore[arg-type]
    model = build_model(architecture, num_classes=4, in_chans=1)
    calibrate(model, [images()], time_steps=time_steps)
    return model


def images() -> Tensor:
    return torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(5)) * 2 - 1


def lif(x: Tensor, neuron: Neuron) -> Tensor:
    """Return the spikes of spikingjelly's LIF neuron."""
    node = spikingjelly_neuron.LIFNode(tau=neuron.tau, v_threshold=neuron.v_threshold, v_reset=0.0, step_mode="m")
    spikes: Tensor = node(x)
    return spikes


SHORTCUT_EQUATIONS: dict[str, Callable[..., Tensor]] = {
    "membrane": lambda x, mixer, fire: x + mixer(fire(x)),
    "sew": lambda x, mixer, fire: x + fire(mixer(x)),
    "vanilla": lambda x, mixer, fire: fire(x + mixer(x)),
}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_residual_branch_equals_the_equation_of_its_shortcut(shortcut: str) -> None:
    torch.manual_seed(0)
    mixer, neuron, x = LinearNorm(8, 8, bias=True), Neuron(v_threshold=0.7, tau=1.5), torch.randn(4, 2, 3, 3, 8) * 2
    with torch.no_grad():
        found = Residual(mixer, shortcut, neuron)(x)
        assert torch.equal(found, SHORTCUT_EQUATIONS[shortcut](x, mixer, lambda current: lif(current, neuron)))


def token_mixer_output(token_mixer: str, layer: nn.Module, x: Tensor, neuron: Callable[[str], Neuron]) -> Tensor:
    """Return the output of a token mixer, computed from its linear layers and its operator."""
    if token_mixer == "sepconv":
        return layer.separable(lif(layer.expand(x), neuron("sepconv")))  # type: ignore[operator]
    fired = [lif(layer.get_submodule(name)(x), neuron(name)) for name in READS[token_mixer]]
    return layer.projection(layer.operator(*fired))  # type: ignore[operator]


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("channel_mixer", ["mlp", "conv"])
@pytest.mark.parametrize("token_mixer", list(READS))
def test_a_block_equals_its_equations(token_mixer: str, channel_mixer: str, shortcut: str) -> None:
    """A token mixer, then a channel mixer, each in a residual branch; all neuron groups have different thresholds."""
    torch.manual_seed(0)
    block = block_with_distinct_neurons(token_mixer, channel_mixer, shortcut)
    layer = SpikingBlock(architecture_with_shortcut(shortcut), 16, 32, block)
    x = torch.randn(3, 4, 4, 4, 16) if shortcut == "membrane" else torch.randint(0, 2, (3, 4, 4, 4, 16)).float()
    outer = ("token_input", "channel_input") if shortcut == "membrane" else ("projection", "fc2")
    with torch.no_grad():
        for _ in range(10):
            layer(x)
        layer.eval()
        expected, equation, neuron = x, SHORTCUT_EQUATIONS[shortcut], block.neuron_of
        if token_mixer != "none":
            mixer = layer.get_submodule("token.mixer")
            expected = equation(
                expected, lambda y: token_mixer_output(token_mixer, mixer, y, neuron), lambda y: lif(y, neuron(outer[0]))
            )
        first, second = channel_layers(layer.get_submodule("channel.mixer"))
        expected = equation(expected, lambda y: second(lif(first(y), neuron("fc1"))), lambda y: lif(y, neuron(outer[1])))
        torch.testing.assert_close(layer(x), expected)


def channel_layers(mixer: nn.Module) -> tuple[nn.Module, nn.Module]:
    return (mixer.conv1, mixer.conv2) if isinstance(mixer, ChannelConv) else (mixer.fc1, mixer.fc2)  # type: ignore[return-value]


def architecture_with_shortcut(shortcut: str) -> Architecture:
    stage = Stage(embed_dim=16, blocks=(Block(token_mixer="none"),))
    return Architecture(family="meta_spikeformer", shortcut=shortcut, stages=(stage,))  # type: ignore[arg-type]


def block_with_distinct_neurons(token_mixer: str, channel_mixer: str, shortcut: str) -> Block:
    """Return a block whose neuron groups have different thresholds."""
    names = sorted(groups_of(token_mixer, shortcut))
    groups = {name: NeuronOverride(v_threshold=0.1 + 0.05 * i, tau=1.5 + 0.1 * i) for i, name in enumerate(names)}
    return block_of(token_mixer, channel_mixer, groups=NeuronGroups(**groups))


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("channel_mixer", ["mlp", "conv"])
@pytest.mark.parametrize("token_mixer", list(READS))
def test_each_lif_layer_has_the_neuron_of_its_group(token_mixer: str, channel_mixer: str, shortcut: str) -> None:
    block = block_with_distinct_neurons(token_mixer, channel_mixer, shortcut)
    layer = SpikingBlock(architecture_with_shortcut(shortcut), 16, 32, block)
    token, channel = ("token_input", "channel_input") if shortcut == "membrane" else ("projection", "fc2")
    group_of_layer = {"channel.lif": channel, "channel.mixer.lif": "fc1"}
    if token_mixer != "none":
        mixer_layers = {f"token.mixer.{name}_lif": name for name in READS[token_mixer]} | {"token.mixer.operator.lif": "attention"}
        group_of_layer |= {"token.lif": token} | (mixer_layers if READS[token_mixer] else {"token.mixer.lif": "sepconv"})
    found = {name: module.neuron for name, module in layer.named_modules() if isinstance(module, LIF)}
    overrides = {place: getattr(block.groups, group) for place, group in group_of_layer.items()}
    assert found == {place: Neuron(v_threshold=o.v_threshold, tau=o.tau) for place, o in overrides.items()}


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("token_mixer", list(READS))
def test_the_neuron_of_a_block_applies_to_every_group(token_mixer: str, shortcut: str) -> None:
    """Attention has half the threshold."""
    layer = SpikingBlock(
        architecture_with_shortcut(shortcut), 16, 32, block_of(token_mixer, neuron=Neuron(v_threshold=0.6, tau=3.0))
    )
    found = {name: module.neuron for name, module in layer.named_modules() if isinstance(module, LIF)}
    assert len(found) == len(groups_of(token_mixer, shortcut))
    assert all(n == Neuron(v_threshold=0.3 if name.endswith("operator.lif") else 0.6, tau=3.0) for name, n in found.items())


def test_parameter_shapes_of_the_mixers() -> None:
    """Published shapes: SepConv has a ratio of 2 and a 7x7 kernel, the convolutional mixer 3x3 kernels without bias."""
    block = block_of("sepconv")
    shapes = {
        SepConv(16, block): {"expand.linear.weight": (32, 16), "separable.depthwise.weight": (32, 1, 7, 7)}
        | {"separable.pointwise.weight": (16, 32)},
        ChannelConv(16, 24, block, bias=False): {"conv1.conv.weight": (24, 16, 3, 3), "conv2.conv.weight": (16, 24, 3, 3)},
        ChannelConv(16, 24, block, bias=True): {"conv1.conv.weight": (24, 16, 3, 3), "conv1.conv.bias": (24,)}
        | {"conv2.conv.weight": (16, 24, 3, 3), "conv2.conv.bias": (16,)},
        ChannelRepLinear(16): {"replinear.first.weight": (16, 16), "replinear.last.weight": (16, 16)},
        MLP(16, 24, block): {"fc1.linear.weight": (24, 16), "fc1.linear.bias": (24,)}
        | {"fc2.linear.weight": (16, 24), "fc2.linear.bias": (16,)},
    }
    for layer, expected in shapes.items():
        assert {name: tuple(p.shape) for name, p in layer.named_parameters() if "bn." not in name} == expected


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("channel_mixer", ["mlp", "conv"])
@pytest.mark.parametrize("token_mixer", list(READS))
def test_gradients_reach_every_parameter_of_a_block(token_mixer: str, channel_mixer: str, shortcut: str) -> None:
    torch.manual_seed(0)
    layer = SpikingBlock(
        architecture_with_shortcut(shortcut),
        16,
        32,
        block_of(token_mixer, channel_mixer, "repconv", neuron=Neuron(v_threshold=0.1)),
    )
    x = torch.randint(0, 3, (3, 4, 4, 4, 16)).float()
    for _ in range(10):
        layer(x)
    out = layer.eval()(x)  # in training mode, normalisation cancels the scales and biases before it
    (out * torch.randn(out.shape)).sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


@contextmanager
def recorded_inputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the input of each layer with weights and of each spiking head."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _m, args, name=name: inputs.__setitem__(name, args[0]))
        for name, module in model.named_modules()
        if isinstance(module, (*SYNAPSES, SpikingHead))
    ]
    yield inputs
    for hook in hooks:
        hook.remove()


def is_binary(x: Tensor) -> bool:
    return set(x.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("synapse", ["linear", "repconv"])
@pytest.mark.parametrize("channel_mixer", ["mlp", "conv"])
@pytest.mark.parametrize("token_mixer", list(READS))
@pytest.mark.parametrize("family", ["spike_driven", "meta_spikeformer"])
def test_with_membrane_shortcuts_every_layer_but_the_first_reads_spikes(
    family: str, token_mixer: str, channel_mixer: str, synapse: str
) -> None:
    block = block_of(token_mixer, channel_mixer, synapse, neuron=Neuron(v_threshold=0.4))
    model = model_of(family, "membrane", block, block, stages=1 if family == "spike_driven" else 2)
    with torch.no_grad(), recorded_inputs(model) as inputs:
        model(images())
    first, *rest = inputs
    assert first.startswith("stages.0.embedding.conv")
    assert not is_binary(inputs[first])
    assert "head" in rest
    assert [name for name in rest if not is_binary(inputs[name])] == []
    assert [name for name in rest if name != "head" and not inputs[name].any()] == []


@pytest.mark.parametrize("synapse", ["linear", "repconv"])
@pytest.mark.parametrize("token_mixer", list(READS))
@pytest.mark.parametrize("family", [family for family, shortcut in FAMILIES_AND_SHORTCUTS if shortcut == "vanilla"])
def test_with_vanilla_shortcuts_the_stream_consists_of_spikes(family: str, token_mixer: str, synapse: str) -> None:
    block = block_of(token_mixer, "conv", synapse, neuron=Neuron(v_threshold=0.4))  # at threshold 1, a single spike causes no spike
    model = model_of(family, "vanilla", block, block, stages=1 if family == "spikformer" else 2)
    with torch.no_grad(), recorded_inputs(model) as inputs:
        streams = model.forward_stages(images())
    assert all(is_binary(stream) and stream.any() for stream in streams)
    assert [name for name in list(inputs)[1:] if not is_binary(inputs[name])] == []


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("token_mixer", list(READS))
@pytest.mark.parametrize("family", ["spikformer", "qkformer"])
def test_with_sew_shortcuts_the_stream_consists_of_sums_of_spikes(family: str, token_mixer: str, depth: int) -> None:
    """The embedding outputs at most 2, and each branch adds at most 1."""
    block = block_of(token_mixer, neuron=Neuron(v_threshold=0.1))
    model = model_of(family, "sew", *(block,) * depth)
    with torch.no_grad():
        (stream,) = model.forward_stages(images())
    branches = depth if token_mixer == "none" else 2 * depth
    assert torch.equal(stream, stream.round())
    assert stream.min() >= 0
    assert 2 < stream.max() <= 2 + branches


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_only_membrane_streams_have_neurons_before_the_head(family: str, shortcut: str) -> None:
    """The other streams already consist of spikes."""
    model = model_of(family, shortcut, block_of("sdsa_3"))
    assert isinstance(model.head, SpikingHead) == isinstance(model.head_lif, LIF) == (shortcut == "membrane")


# Number of LIF layers in the embedding of the first and of a later stage: four convolutions and the position code. Embeddings
# of a membrane stream end with a convolution without neurons. QKFormer has two convolutions and a shortcut, and one more at first.
EMBEDDING_NEURONS = {
    ("spikformer", "sew"): (5,),
    ("spikformer", "vanilla"): (5,),
    ("spike_driven", "membrane"): (4,),
    ("meta_spikeformer", "membrane"): (0, 1),
    ("meta_spikeformer", "sew"): (1, 1),
    ("meta_spikeformer", "vanilla"): (1, 1),
    ("qkformer", "sew"): (4, 3),
}


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_all_lif_layers_of_an_embedding_have_its_neuron(family: str, shortcut: str) -> None:
    expected, neurons = EMBEDDING_NEURONS[family, shortcut], (Neuron(v_threshold=0.7, tau=3.0), Neuron(v_threshold=0.6, tau=1.5))
    if expected[0] == 0:
        neurons = (Neuron(), neurons[1])
    stages = tuple(
        Stage(embed_dim=16, embedding=Embedding(neuron=neuron), blocks=(Block(),)) for neuron in neurons[: len(expected)]
    )
    model = build_model(Architecture(family=family, shortcut=shortcut, stages=stages), num_classes=4, in_chans=1)  # type: ignore[arg-type]
    for stage, count, neuron in zip(model.stages, expected, neurons, strict=False):
        assert [m.neuron for m in stage.embedding.modules() if isinstance(m, LIF)] == [neuron] * count


# The published ablations, in millions (15.1, 31.3 and 55.4 M models), and what is changed in convolutional and transformer blocks.
ABLATIONS: dict[str, tuple[tuple[float, float, float], dict[str, Any], dict[str, Any]]] = {
    "no SepConv": ((14.92, 30.94, 54.67), {"token_mixer": "none"}, {}),
    "1x1 channel convolutions": ((12.69, 25.88, 45.65), {"channel_mixer": "mlp"}, {}),
    "q, k, v without RepConv": ((13.07, 27.17, 48.00), {}, {"qkv": "linear"}),
    "projection without RepConv": ((14.43, 29.95, 52.90), {}, {"projection": "linear"}),
    "SDSA-2": ((13.77, 28.59, 50.50), {}, {"token_mixer": "sdsa_2", "num_heads": None}),
}
MODELS = ("15m", "31m", "55m")
PARAMETERS = dict(zip(MODELS, (15_112_208, 31_333_864, 55_350_248), strict=True))


def saved_parameters(ablation: str, widths: tuple[int, ...]) -> int:
    """Return the number of parameters that an ablation saves.

    RepConv has 2 C^2 + 9 C + 3 x 2 C, a linear layer with normalisation C^2 + 2 C (and C biases);
    SepConv 2 x 2 C^2 + 49 x 2 C + 2 x 2 C + 2 C; two 3x3 convolutions 2 x 9 x 4 C^2, two linear layers 2 x 4 C^2 and 5 C biases.
    """
    one, two, three, four, five = widths
    convolutional, transformer = (one, two, three, three), (four,) * 6 + (five,) * 2
    each: dict[str, tuple[tuple[int, ...], Callable[[int], int]]] = {
        "no SepConv": (convolutional, lambda c: 4 * c**2 + 104 * c),
        "1x1 channel convolutions": (convolutional, lambda c: 64 * c**2 - 5 * c),
        "q, k, v without RepConv": (transformer, lambda c: 3 * (c**2 + 13 * c)),
        "projection without RepConv": (transformer, lambda c: c**2 + 12 * c),
        "SDSA-2": (transformer, lambda c: 2 * c**2 + 15 * c),
    }
    blocks, saving = each[ablation]
    return sum(saving(width) for width in blocks)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("size", range(3), ids=MODELS)
def test_number_of_parameters_of_the_published_ablations(ablation: str, size: int) -> None:
    """Equal to the calculated number, and within rounding of the published one.

    The tolerance is half of the published last digit, and biases, which the published ablations lack: 5 C a
    block in the 1x1 channel convolutions of this package, C a block in its linear projection, in total up to 0.0044 M.
    """
    published, convolutional, transformer = ABLATIONS[ablation]
    architecture = PUBLISHED[f"meta_spikeformer_{MODELS[size]}"].architecture
    stages = tuple(
        replace(stage, blocks=tuple(replace(block, **(convolutional if i < 3 else transformer)) for block in stage.blocks))
        for i, stage in enumerate(architecture.stages)
    )
    with torch.device("meta"):
        model = build_model(replace(architecture, stages=stages), num_classes=1000, in_chans=3)
    found = sum(p.numel() for p in model.parameters())
    assert found == PARAMETERS[MODELS[size]] - saved_parameters(ablation, tuple(stage.embed_dim for stage in architecture.stages))
    assert found / 1e6 == pytest.approx(published[size], abs=0.0094)
