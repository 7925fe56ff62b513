"""Operations of models, compared with calculations by hand, the flop counter of torch and published totals."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
from builders import FAMILIES, READS, WITH_HEADS, few_examples
from hypothesis import given
from hypothesis import strategies as st
from slow_parameters import slow_except
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autospike.counting.counter import Counter
from autospike.counting.coverage import UnknownOperationError
from autospike.counting.firing import FiringRates
from autospike.counting.model import count_operations
from autospike.energy.counts import LayerCount, from_rows, to_rows
from autospike.energy.operations import Operations
from autospike.errors import UserError
from autospike.evaluation.calibration import calibrate
from autospike.models import build_model
from autospike.models.contract import SpikingHead, SpikingModel
from autospike.nn.layers import Norm
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron
from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace


def counted(model: nn.Module, images: Tensor) -> tuple[LayerCount, ...]:
    return count_operations(model, images, strict=True).counts


def in_batches(model: SpikingModel, batches: Sequence[Tensor]) -> Operations:
    counter = Counter()
    for batch in batches:
        with torch.no_grad(), counter.watch(model, images=len(batch), time_steps=model.architecture.time_steps):
            model(batch)
    return counter.operations()


@pytest.mark.parametrize("pixels", [[-1.0, 1.0], [0.0, 1.0]])
def test_black_and_white_pixels_are_real(tiny_space: SearchSpace, pixels: list[float]) -> None:
    model = build_model(tiny_space.largest(), num_classes=10, in_chans=1).eval()
    images = torch.tensor(pixels)[torch.randint(0, 2, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))]
    real = {found.layer for found in counted(model, images) if found.input == "real"}
    assert real == {"stages.0.embedding.convs.0.conv", "head"}


# Models with known counts


def model_with_constant_neurons(architecture: Architecture, *, fire: bool) -> SpikingModel:
    """Return a model whose neurons all spike at every step, or never."""
    model = build_model(architecture, num_classes=5, in_chans=3).eval()
    for module in model.modules():
        if isinstance(module, Norm):
            nn.init.zeros_(module.weight)
            nn.init.constant_(module.bias, 9.0 if fire else -9.0)
    return model


HEIGHT, WIDTH = 5, 6
N = HEIGHT * WIDTH
# Pairs of an image position and a kernel position of a 3x3 convolution that are inside the image.
INSIDE = (3 * HEIGHT - 2) * (3 * WIDTH - 2)


def one_block(family: str, block: Block) -> Architecture:
    shortcut = "membrane" if family == "spike_driven" else "sew"
    return Architecture(family=family, shortcut=shortcut, time_steps=2, stages=(Stage(embed_dim=16, blocks=(block,)),))


# Accumulations of each layer in one step, where all neurons fire. The stream of a SEW shortcut grows by 1 at each addition.
STEM = {"convs.1.conv": INSIDE * 2 * 4, "convs.2.conv": INSIDE * 4 * 8, "convs.3.conv": INSIDE * 8 * 16}
STEM |= {"position.mixer.conv": INSIDE * 16 * 16}
SPIKFORMER = {f"embedding.{name}": acs for name, acs in STEM.items()} | {
    **{f"blocks.0.token.mixer.{name}.linear": 2 * N * 16 * 16 for name in "qkv"},
    "blocks.0.token.mixer.operator.product.kv": N * 16 * 8,
    "blocks.0.token.mixer.operator.product.qkv": N * 16 * 8,
    "blocks.0.token.mixer.projection.linear": N * 16 * 16,
    "blocks.0.channel.mixer.fc1.linear": 3 * N * 16 * 32,
    "blocks.0.channel.mixer.fc2.linear": N * 32 * 16,
}
SPIKE_DRIVEN = {f"embedding.{name}": acs for name, acs in STEM.items()} | {
    **{f"blocks.0.token.mixer.{name}.linear": N * 16 * 16 for name in "qkv"},
    **{f"blocks.0.token.mixer.operator.{name}": N * 16 for name in ("coincidence", "sum", "gate")},
    "blocks.0.token.mixer.projection.linear": N * 16 * 16,
    "blocks.0.channel.mixer.fc1.linear": N * 16 * 32,
    "blocks.0.channel.mixer.fc2.linear": N * 32 * 16,
}
ALWAYS_SPIKING = {
    "spikformer": (Block(num_heads=2, mlp_ratio=2), SPIKFORMER),
    "spike_driven": (Block(token_mixer="sdsa_1", mlp_ratio=2), SPIKE_DRIVEN),
}


@pytest.mark.parametrize("family", ALWAYS_SPIKING)
def test_counts_of_a_model_whose_neurons_always_spike(family: str) -> None:
    block, expected = ALWAYS_SPIKING[family]
    image, *found = counted(model_with_constant_neurons(one_block(family, block), fire=True), torch.rand(3, 3, HEIGHT, WIDTH))
    *inside, head = found
    assert {c.layer.removeprefix("stages.0."): c.acs for c in inside} == {name: (acs, acs) for name, acs in expected.items()}
    assert (image.layer, image.reads, image.macs) == ("stages.0.embedding.convs.0.conv", "image", N * 9 * 3 * 2)
    assert (head.reads, head.acs) == (("mean", ()) if family == "spikformer" else ("stream", (16 * 5, 16 * 5)))
    assert {c.reads for c in inside} == {"stream"}


@pytest.mark.parametrize("family", ALWAYS_SPIKING)
def test_counts_of_a_model_whose_neurons_never_spike(family: str) -> None:
    block, expected = ALWAYS_SPIKING[family]
    _, *inside, _ = counted(model_with_constant_neurons(one_block(family, block), fire=False), torch.rand(3, 3, HEIGHT, WIDTH))
    assert len(inside) == len(expected)
    assert {(c.acs, c.rate, c.input) for c in inside} == {((0.0, 0.0), (0.0, 0.0), "binary")}


def small(shortcut: str, *blocks: Block, distilled: bool = False) -> SpikingModel:
    """Return a model whose neurons spike, including those before the head."""
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


ONLY_MLP = Block(token_mixer="none", neuron=Neuron(v_threshold=0.5))


@pytest.mark.parametrize(("shortcut", "kind"), [("membrane", "binary"), ("sew", "real"), ("vanilla", "real")])
def test_a_head_has_acs_after_neurons_and_macs_after_a_mean(shortcut: str, kind: str) -> None:
    model, inputs = small(shortcut, ONLY_MLP, distilled=True), []
    model.head.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    found = {c.layer: c for c in counted(model, torch.rand(4, 1, 8, 8))}
    assert isinstance(model.head, SpikingHead) == (kind == "binary")
    for head in (found["head"], found["head_dist"]):
        assert (head.input, head.macs, head.time_steps, head.form) == (kind, 8 * 5, 3, "always")
        assert head.reads == ("stream" if kind == "binary" else "mean")
        fired = [step.sum().item() for step in inputs[0]]
        assert sum(fired) > 0
        assert head.acs == (pytest.approx([n * 5 / 4 for n in fired], rel=1e-12) if kind == "binary" else ())
        assert head.rate == (pytest.approx([n / (4 * 8) for n in fired], rel=1e-12) if kind == "binary" else ())


@pytest.mark.parametrize("shortcut", ["membrane", "sew", "vanilla"])
def test_layers_that_read_the_image_or_a_mean(shortcut: str) -> None:
    found = counted(small(shortcut, ONLY_MLP, distilled=True), torch.rand(4, 1, 8, 8))
    assert [c.layer for c in found if c.reads == "image"] == ["stages.0.embedding.conv.conv"]
    assert [c.layer for c in found if c.reads == "mean"] == ([] if shortcut == "membrane" else ["head", "head_dist"])


def test_an_integer_mean_is_real() -> None:
    model = small("sew", ONLY_MLP)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bn.bias"):
                parameter.fill_(-99)
        assert not model.forward_features(torch.rand(2, 1, 8, 8)).any()
    assert counted(model, torch.rand(2, 1, 8, 8))[-1].input == "real"


def all_blocks() -> tuple[Block, ...]:
    """Return blocks with every token mixer, channel mixer and kind of linear layer."""
    return tuple(
        Block(token_mixer=mixer, channel_mixer=channel, **({"num_heads": 2} if mixer in WITH_HEADS else {}), **synapses)  # type: ignore[arg-type]
        for mixer in READS
        for channel, synapses in (("mlp", {"qkv": "repconv"} if READS[mixer] else {}), ("conv", {}))
    )


def operations_of(block: Block) -> set[str]:
    """Return the names of the operations of a block that are no layers: products, sums and gates of attention, and fused layers."""
    match block.token_mixer:
        case "none":
            found = set()
        case "sepconv":
            found = {"separable.fused"}
        case "sdsa_3" | "sdsa_4":
            found = {"operator.product.kv", "operator.product.qkv"}
        case "sdsa_1" | "sdsa_1_dilated":
            found = {"operator.coincidence", "operator.sum", "operator.gate"}
        case _:
            found = {"operator.sum", "operator.gate"}
    return found | ({f"{name}.fused" for name in READS[block.token_mixer]} if block.qkv == "repconv" else set())


def test_every_weighted_layer_and_product_is_counted_once() -> None:
    """Linear layers, convolutions, products, sums and gates of attention, and fused layers."""
    blocks = all_blocks()
    model = small("membrane", *blocks)
    expected = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    for stage in range(2):
        for i, block in enumerate(blocks):
            expected |= {f"stages.{stage}.blocks.{i}.token.mixer.{name}" for name in operations_of(block)}
    found = [c.layer for c in counted(model, torch.rand(2, 1, 8, 8))]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_still_image_and_repeated_frames(tiny_space: SearchSpace) -> None:
    """Binary frames are spikes; the pixels of a still image are real."""
    model = build_model(tiny_space.smallest(), num_classes=10, in_chans=1).eval()
    image = torch.ones(2, 1, 8, 8)
    first, *rest = counted(model, image)
    of_frames, *after = counted(model, image.expand(2, *image.shape))
    assert rest == after
    assert (first.input, first.macs, first.time_steps, first.reads) == ("real", 8 * 8 * 9, 2, "image")
    assert (of_frames.input, of_frames.macs, of_frames.time_steps, of_frames.reads) == ("binary", 8 * 8 * 9, 2, "stream")


def test_frames_beyond_the_last_step_are_not_counted(tiny_space: SearchSpace) -> None:
    model = build_model(tiny_space.smallest(), num_classes=10, in_chans=1).eval()
    frames = torch.randint(0, 2, (5, 3, 1, 8, 8), generator=torch.Generator().manual_seed(7)).float()
    assert model.architecture.time_steps == 2
    assert counted(model, frames) == counted(model, frames[:2])


# Batches, steps


FAMILIES_AND_SHORTCUTS = slow_except(
    [("spikformer", "sew"), ("spike_driven", "membrane")],
    [(family, shortcut) for family, (shortcuts, *_) in FAMILIES.items() for shortcut in shortcuts],
)


@cache
def spiking_model(family: str, shortcut: str) -> SpikingModel:
    """Return a calibrated model with every token mixer, in which most neurons spike at some steps."""
    torch.manual_seed(0)
    neuron = Neuron(v_threshold=0.6)
    blocks = tuple(replace(block, mlp_ratio=1.0, neuron=neuron) for block in all_blocks())
    stages = [Stage(embed_dim=16, embedding=Embedding(stride=2), blocks=blocks)]  # 16 tokens
    if FAMILIES[family][2]:
        stages.append(Stage(embed_dim=24, blocks=blocks[:2]))
    model = build_model(
        Architecture(family=family, shortcut=shortcut, time_steps=3, stages=tuple(stages)),  # type: ignore[arg-type]
        num_classes=4,
        in_chans=2,
    )
    for module in model.modules():
        if isinstance(module, Norm):
            nn.init.normal_(module.weight, 1, 0.5)
            nn.init.normal_(module.bias, 0.4, 0.5)
    calibrate(model, [random_images(24)], time_steps=3)
    return model


def random_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@cache
def small_spiking_model(shortcut: str) -> SpikingModel:
    neuron = Neuron(v_threshold=0.4)
    attention = Block(num_heads=2, qkv="repconv", mlp_ratio=1, neuron=neuron)
    gates = Block(token_mixer="sdsa_1", mlp_ratio=1, neuron=neuron)
    return small(shortcut, attention, gates, Block(token_mixer="sepconv", channel_mixer="conv", mlp_ratio=1, neuron=neuron))


@pytest.mark.slow
@few_examples
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99), st.sampled_from(["membrane", "sew"]))
def test_counts_are_bit_identical_for_any_batch_size_and_order(sizes: list[int], seed: int, shortcut: str) -> None:
    model = small_spiking_model(shortcut)
    images = torch.rand(sum(sizes), 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 4
    order = list(range(len(images)))
    random.Random(seed).shuffle(order)
    whole, parts = in_batches(model, [images]), in_batches(model, images[order].split(sizes))
    assert parts.counts == whole.counts
    assert parts.images == whole.images == len(images)
    assert parts.free == whole.free
    assert not parts.unknown


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_most_layers_of_the_test_models_receive_spikes(family: str, shortcut: str) -> None:
    """A precondition of the other tests."""
    spiking = [c for c in counted(spiking_model(family, shortcut), random_images(4)) if c.input != "real"]
    assert sum(sum(c.acs) > 0 for c in spiking) > 0.9 * len(spiking)
    assert sum(c.acs[0] != c.acs[-1] for c in spiking) > len(spiking) / 2


def counts_of_run(model: SpikingModel, x: Tensor, steps: int) -> tuple[LayerCount, ...]:
    """Return the counts of a run with a number of steps."""
    counter = Counter()
    with torch.no_grad(), counter.watch(model, images=x.shape[-4], time_steps=steps):
        model.forward_head(model.forward_features(x, steps))
    return counter.operations().counts


def growing_frames() -> Tensor:
    """Return frames of spikes, then integers, then real values."""
    return torch.stack([random_images(4, seed).clamp(0) * scale for seed, scale in ((0, 1.0), (1, 4.0), (2, 1.0))])


INPUTS: dict[str, Callable[[], Tensor]] = {
    "images": lambda: random_images(4),
    "frames": lambda: growing_frames().round(),
    "frames that become real": lambda: torch.cat([growing_frames()[:2].round(), growing_frames()[2:]]),
}


@pytest.mark.parametrize("inputs", ["images", "frames", pytest.param("frames that become real", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_counts_of_the_first_steps_do_not_depend_on_later_steps(family: str, shortcut: str, inputs: str) -> None:
    model, x = spiking_model(family, shortcut), INPUTS[inputs]()
    whole = counts_of_run(model, x, 3)
    for steps in (1, 2, 3):
        assert counts_of_run(model, x, steps) == tuple(found.first(steps) for found in whole)


def test_counts_survive_a_round_trip_through_rows() -> None:
    found = counted(spiking_model("spikformer", "sew"), random_images(2))
    assert {c.reads for c in found} == {"image", "stream", "mean"}
    assert from_rows(to_rows(found)) == found


# Totals


def dense(counts: Sequence[LayerCount], *forms: str) -> int:
    """Return the MACs of all steps; a still image is convolved once."""
    selected = [c for c in counts if c.form in forms]
    return sum(c.macs * (1 if c.reads == "image" else c.time_steps) for c in selected)


def is_gate_or_sum(count: LayerCount) -> bool:
    return count.layer.rpartition(".")[2] in ("coincidence", "sum", "gate")


def flops(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_dense_totals_match_the_flop_counter_of_torch(family: str, shortcut: str) -> None:
    """It counts two operations per MAC, none for sums and gates, and the separate layers that run.

    There are more tokens than channels per head, so attention runs in the order in which it is counted.
    """
    model, images = spiking_model(family, shortcut), random_images(3)
    found = [c for c in counted(model, images) if not is_gate_or_sum(c)]
    assert flops(model, images) == 2 * 3 * dense(found, "always", "separate")


@pytest.mark.parametrize("name", ["spikformer_cifar_4_256", "spike_driven_cifar_2_512", "qkformer_cifar_4_384"])
def test_dense_totals_of_published_models_match_the_flop_counter_of_torch(name: str) -> None:
    model = build_model(replace(PUBLISHED[name].architecture, time_steps=2), num_classes=10, in_chans=3).eval()
    images = torch.rand(1, 3, 32, 32)
    found = [c for c in counted(model, images) if not is_gate_or_sum(c)]
    assert flops(model, images) == 2 * dense(found, "always", "separate")


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


def meta_spikeformer_macs(widths: Sequence[int], *, repconv_fused: bool, sepconv_fused: bool) -> int:
    """Return the MACs per step of a published network on 224 x 224 pixels, without the first convolution."""
    total = 0
    for i, (width, size, blocks) in enumerate(zip(widths, (112, 56, 28, 14, 14), (1, 1, 2, 6, 2), strict=True)):
        positions = size * size
        total += positions * 9 * widths[i - 1] * width if i else 0
        if i < 3:
            sepconv = 2 * width * (49 * width if sepconv_fused else 49 + width)
            block = 2 * width * width + sepconv + 2 * 9 * 4 * width * width
        else:
            repconv = 9 * width * width if repconv_fused else 2 * width * width + 9 * width
            attention = 2 * width * width // 8
            block = 4 * repconv + attention + 2 * 4 * width * width
        total += positions * block * blocks
    return total + widths[-1] * 1000


FORMS = {"separate": (False, False, 6.414), "RepConv fused": (True, False, 9.98), "fused": (True, True, 14.832)}


@pytest.mark.parametrize("form", FORMS)
def test_dense_totals_of_meta_spikeformer(form: str) -> None:
    """The smallest published network: equal to the calculated number, and within rounding of the published one in 10^9."""
    repconv_fused, sepconv_fused, published = FORMS[form]
    first, *found = counts_of_meta_spikeformer_15m()
    sepconv = [c for c in found if ".separable." in c.layer]
    others = [c for c in found if ".separable." not in c.layer]
    total = dense(others, "always", "fused" if repconv_fused else "separate")
    total += dense(sepconv, "fused" if sepconv_fused else "separate")
    assert total == meta_spikeformer_macs((32, 64, 128, 256, 360), repconv_fused=repconv_fused, sepconv_fused=sepconv_fused)
    assert total / 1e9 == pytest.approx(published, abs=0.01)
    assert (first.reads, first.macs) == ("image", 112 * 112 * 49 * 3 * 32)


@cache
def counts_of_meta_spikeformer_15m() -> tuple[LayerCount, ...]:
    architecture = replace(PUBLISHED["meta_spikeformer_15m"].architecture, time_steps=1)
    return counted(build_model(architecture, num_classes=1000, in_chans=3), torch.zeros(1, 3, 224, 224))


# Counting does not change the model, the state of torch or the output


def assert_not_counted(model: nn.Module, counter: Counter, images: Tensor) -> None:
    """Assert that a run of the model after the counting is not counted, and that operators without a rule raise no error."""
    before = [total.count(1) for total in counter.totals()]
    with torch.no_grad():
        model(images * 9).exp()
    assert [total.count(1) for total in counter.totals()] == before


class Failing(nn.Module):
    def forward(self, _x: Tensor) -> Tensor:
        raise FloatingPointError("inside the model")


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x)


@contextmanager
def counting(model: SpikingModel) -> Iterator[None]:
    with Counter().watch(model, images=2, time_steps=3):
        yield


def test_counting_ends_with_the_block() -> None:
    model, counter, images = small("sew", ONLY_MLP), Counter(), torch.rand(2, 1, 8, 8)
    with torch.no_grad(), counter.watch(model, images=2, time_steps=3):
        model(images)
    counted_before = counter.operations()
    assert_not_counted(model, counter, images)
    assert counter.operations() == counted_before


@pytest.mark.parametrize(("layer", "error"), [(Failing(), FloatingPointError), (Unknown(), UnknownOperationError)])
def test_counting_ends_with_an_error_in_the_model(layer: nn.Module, error: type[Exception]) -> None:
    model, counter, images = small("sew", ONLY_MLP), Counter(), torch.rand(2, 1, 8, 8)
    original = model.stages[1].embedding.after
    model.stages[1].embedding.after = layer
    with pytest.raises(error), counter.watch(model, images=2, time_steps=3):
        model(images)
    model.stages[1].embedding.after = original
    assert_not_counted(model, counter, images)


def test_counting_ends_with_an_error_outside_the_model() -> None:
    model, counter = small("sew", ONLY_MLP), Counter()
    with pytest.raises(KeyboardInterrupt), counter.watch(model, images=2, time_steps=3):
        raise KeyboardInterrupt
    assert_not_counted(model, counter, torch.rand(2, 1, 8, 8))


def test_a_failed_batch_does_not_count_as_a_coverage_check() -> None:
    model, counter, images = small("sew", ONLY_MLP), Counter(), torch.rand(2, 1, 8, 8)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), counter.watch(model, images=2, time_steps=3):
            raise KeyboardInterrupt
    with pytest.raises(ValueError, match="no batch was counted"):
        counter.operations()
    model.stages[1].embedding.after = Unknown()
    with pytest.raises(UnknownOperationError), counter.watch(model, images=2, time_steps=3):
        model(images)


@pytest.mark.parametrize(("family", "shortcut"), FAMILIES_AND_SHORTCUTS)
def test_counting_does_not_change_the_output(family: str, shortcut: str) -> None:
    model, counter, images = spiking_model(family, shortcut), Counter(), random_images(4)
    with torch.no_grad():
        expected = model(images)
        for _ in range(2):
            with counter.watch(model, images=4, time_steps=3):
                output = model(images)
            assert torch.equal(output, expected)
    assert counter.operations().counts == counted(model, images)


def test_gradients_pass_through_a_counted_model() -> None:
    model, images = small("sew", ONLY_MLP), torch.rand(2, 1, 8, 8)
    model(images).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with counting(model):
        output = model(images)
    output.sum().backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), expected, strict=True))


def test_counts_are_the_same_in_inference_mode() -> None:
    model, images = spiking_model("spikformer", "sew"), torch.rand(2, 2, 10, 12)
    with torch.inference_mode():
        found = counted(model, images)
    assert found == counted(model, images)


# Results of counting


def test_hooks_of_other_code_are_not_counted() -> None:
    """Operations in hooks of other code, inside layers with rules and in neurons, are not operations of the model."""
    model, images, counter, firing = small("sew", ONLY_MLP), torch.rand(2, 1, 8, 8), Counter(), FiringRates()
    lif, linear = (model.get_submodule(f"stages.0.blocks.0.channel.mixer.{name}") for name in ("lif", "fc2"))
    inputs: list[Tensor] = []
    lif.register_forward_hook(lambda _m, _a, out: inputs.append(out.exp().sum()))
    linear.register_forward_pre_hook(lambda _m, args: inputs.append((args[0] @ args[0].transpose(-1, -2)).sum()))
    with torch.no_grad(), firing.watch(model), counter.watch(model, images=2, time_steps=3):
        model(images)
    assert len(inputs) == 2
    assert counter.operations() == in_batches(small("sew", ONLY_MLP), [images])
    assert len(firing.rates()) == 2 * 3


def test_time_steps_of_a_model_of_this_package_can_be_given() -> None:
    model, images = spiking_model("spikformer", "sew"), random_images(3)
    found = count_operations(model, images, time_steps=2, strict=True)
    assert found.counts == tuple(c.first(2) for c in counted(model, images))


def test_energy_warns_of_unknown_operations() -> None:
    found = Operations(images=1, counts=(), unknown={"head: _softmax": 2})
    with pytest.warns(UserWarning, match="a lower bound.*head: _softmax"):
        assert found.energy().energy_mj == 0


def test_operations_without_a_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch was counted"):
        Counter().operations()


def test_free_operations_are_counted_for_one_forward_pass() -> None:
    """A network of 2 stages, each with an embedding and a block without token mixer, in 2 batches."""
    model, counter, images = small("sew", ONLY_MLP), Counter(), torch.rand(2, 1, 8, 8)
    for _ in range(2):
        with torch.no_grad(), counter.watch(model, images=2, time_steps=3):
            model(images)
    found = counter.operations()
    assert found.free["neurons"] == 2 * 3
    assert found.free["additions of residuals and biases"] == 2
    assert found.free["means, and sums of real values"] == 2  # over positions, over time
    assert not found.unknown


def test_energy_of_operations() -> None:
    """4.6 pJ per MAC, with 1,000 MACs of the image once, and 0.9 pJ per AC."""
    image = LayerCount(layer="stem", input="real", reads="image", time_steps=2, macs=1000, acs=(), rate=())
    layer = LayerCount(layer="q", input="binary", time_steps=2, macs=800, acs=(10.0, 20.0), rate=(0.1, 0.2))
    found = Operations(images=1, counts=(image, layer)).energy()
    assert (found.convention, found.macs, found.acs) == ("exact", 1000, 30)
    assert found.energy_mj == pytest.approx((4.6 * 1000 + 0.9 * 30) * 1e-9, rel=1e-12)
    every = Operations(images=1, counts=(image, layer)).energy("exact/image-every-step")
    assert (every.macs, every.acs) == (2000, 30)
    with pytest.raises(UserError, match="no energy convention 'joules'"):
        Operations(images=1, counts=()).energy("joules")
