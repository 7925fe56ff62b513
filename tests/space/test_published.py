"""Published networks: numbers of parameters, input and output shapes, and their entries in timm."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from builders import one_line_error
from slow_parameters import slow_except

import autospike  # noqa: F401  (registers the models with timm)
from autospike.models.contract import SpikingModel
from autospike.space.architecture import Architecture
from autospike.space.published import PUBLISHED

# Counted in the published code, without modules that never run (8 x 8 talking heads in each block of the Spike-driven Transformer).
COUNTS = {
    "spikformer_8_384": 16_816_024,
    "spikformer_8_512": 29_689_384,
    "spikformer_10_512": 36_005_416,
    "spikformer_8_768": 66_338_632,
    "spikformer_cifar_4_256": 4_155_178,
    "spikformer_cifar_2_384": 5_765_050,
    "spikformer_cifar_4_384": 9_324_730,
    "spike_driven_8_384": 16_816_536 - 8 * 64,
    "spike_driven_8_512": 29_689_896 - 8 * 64,
    "spike_driven_8_768": 66_339_144 - 8 * 64,
    "meta_spikeformer_15m": 15_112_208,
    "meta_spikeformer_31m": 31_333_864,
    "meta_spikeformer_55m": 55_350_248,
    "meta_spikeformer_hardvs": 18_262_980,
    "qkformer_10_384": 16_473_688,
    "qkformer_10_512": 29_079_336,
    "qkformer_10_768": 64_962_760,
    "qkformer_cifar10dvs": 1_504_138,
    "qkformer_gesture": 1_999_371,
    "e_spikeformer_t": 2_702_048,
    "e_spikeformer_s": 5_105_608,
    "e_spikeformer_m": 10_023_112,
    "e_spikeformer_l": 18_987_504,
    "e_spikeformer_83m_distilled": 83_015_952,
    "e_spikeformer_172m_distilled": 171_740_714,
    "e_spikeformer_hardvs": 18_740_004,
    "e_spikeformer_gesture": 5_604_315,
    "e_spikeformer_hardvs_integrating": 18_740_004,
    "e_spikeformer_gesture_integrating": 5_604_315,
    "max_former_10_384": 16_237_240,
    "max_former_10_512": 28_653_480,
    "max_former_10_768": 63_992_200,
    "max_former_cifar10": 6_568_282,
    "max_former_cifar100": 6_602_932,
    "max_former_cifar10dvs": 1_455_626,
    "max_former_gesture": 1_455_883,
}
ONE_STAGE = {
    name: tuple(map(int, name.split("_")[-2:])) for name in PUBLISHED if name.startswith("spik") and "qkformer" not in name
}
# Classes, channels and side of an image.
INPUTS = dict.fromkeys(PUBLISHED, (1000, 3, 224)) | {
    "spikformer_cifar_4_256": (10, 3, 32),
    "spikformer_cifar_2_384": (10, 3, 32),
    "spikformer_cifar_4_384": (10, 3, 32),
    "spike_driven_cifar_2_512": (10, 3, 32),
    "qkformer_cifar_4_384": (10, 3, 32),
    "spikformer_events_2_256": (10, 2, 128),
    "spike_driven_events_2_256": (11, 2, 128),
    "meta_spikeformer_hardvs": (300, 2, 224),
    "meta_spikeformer_15m_semantic_fpn": (150, 3, 512),
    "meta_spikeformer_55m_semantic_fpn": (150, 3, 512),
    "meta_spikeformer_15m_mask_rcnn": (80, 3, 1344),
    "meta_spikeformer_55m_mask_rcnn": (80, 3, 1344),
    "qkformer_cifar10dvs": (10, 2, 128),
    "qkformer_gesture": (11, 2, 128),
    "e_spikeformer_hardvs": (300, 2, 224),
    "e_spikeformer_gesture": (11, 2, 128),
    "e_spikeformer_hardvs_integrating": (300, 2, 224),
    "e_spikeformer_gesture_integrating": (11, 2, 128),
    "max_former_cifar10": (10, 3, 32),
    "max_former_cifar100": (100, 3, 32),
    "max_former_cifar10dvs": (10, 2, 128),
    "max_former_gesture": (11, 2, 128),
}
# Time steps: 4 except in event forms and E-SpikeFormer.
STEPS = dict.fromkeys(PUBLISHED, 4) | {name: 1 for name in PUBLISHED if name.startswith("e_spikeformer")}
STEPS |= {name: 1 for name in PUBLISHED if name.endswith("mask_rcnn")}
STEPS |= {name: 16 for name in PUBLISHED if "events" in name or "dvs" in name or "gesture" in name}
STEPS |= dict.fromkeys(("meta_spikeformer_hardvs", "e_spikeformer_hardvs", "e_spikeformer_gesture"), 8)
STEPS |= dict.fromkeys(("e_spikeformer_hardvs_integrating", "e_spikeformer_gesture_integrating"), 8)
# Stride of each stage.
STRIDES: dict[str, tuple[int, ...]] = {name: (4,) if "cifar" in name else (16,) for name in ONE_STAGE}
STRIDES["spike_driven_events_2_256"] = (8,)
STRIDES |= {name: (2, 2, 2, 2, 1) for name in PUBLISHED if name.startswith(("meta", "e_spikeformer"))}
STRIDES |= {name: (2, 2, 2, 2) for name in PUBLISHED if "83m" in name or "172m" in name}
STRIDES |= {name: (4, 2, 2) for name in PUBLISHED if name.startswith(("qkformer", "max_former"))}
STRIDES |= dict.fromkeys(("qkformer_cifar_4_384", "max_former_cifar10", "max_former_cifar100"), (1, 2, 2))
STRIDES |= {f"{family}_{data}": (8, 2) for family in ("qkformer", "max_former") for data in ("cifar10dvs", "gesture")}

every_network = pytest.mark.parametrize("name", PUBLISHED)


@cache
def on_meta(name: str) -> SpikingModel:
    """Return the model on the meta device, without memory for its parameters."""
    with torch.device("meta"):
        return timm.create_model(name).eval()


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_parameters(name: str) -> None:
    assert count_parameters(on_meta(name)) == COUNTS[name]


def block_parameters(width: int, projections: int = 4, *, bias: bool = False) -> int:
    """Return the parameters of attention (projections with norm, the last with a bias) and an MLP of ratio 4 (biases, norm)."""
    attention = projections * (width * width + 2 * width) + width + (projections - 1) * width * bias
    return attention + 2 * 4 * width * width + 3 * (4 * width + width)


def convolutions(*widths: int, size: int = 3) -> int:
    return sum(size * size * i * o + 2 * o for i, o in pairwise(widths))


def one_stage_parameters(depth: int, width: int, *, in_chans: int, classes: int, bias: bool) -> int:
    """Return the parameters of five convolutions, the blocks and a head."""
    stem = convolutions(in_chans, width // 8, width // 4, width // 2, width, width)
    return stem + depth * block_parameters(width, bias=bias) + width * classes + classes


def qkformer_parameters(depths: tuple[int, int, int], width: int, *, classes: int, first: tuple[int, ...]) -> int:
    """Return the parameters. The convolutions of the first embedding have the widths `first`; token attention has no v."""
    small, middle = width // 4, width // 2
    stem = convolutions(3, *first) + convolutions(small // 2, small, size=1)
    between = convolutions(small, middle, middle) + convolutions(small, middle, size=1)
    between += convolutions(middle, width, width) + convolutions(middle, width, size=1)
    blocks = depths[0] * block_parameters(small, 3) + depths[1] * block_parameters(middle, 3) + depths[2] * block_parameters(width)
    return stem + between + blocks + width * classes + classes


@pytest.mark.parametrize("name", ONE_STAGE)
def test_number_of_parameters_of_one_stage_networks(name: str) -> None:
    classes, in_chans, _ = INPUTS[name]
    bias = name.startswith("spikformer_cifar")
    expected = one_stage_parameters(*ONE_STAGE[name], in_chans=in_chans, classes=classes, bias=bias)
    assert count_parameters(on_meta(name)) == expected == COUNTS.get(name, expected)


@pytest.mark.parametrize("width", [384, 512, 768])
def test_number_of_parameters_of_qkformer(width: int) -> None:
    first = (width // 8, width // 4, width // 4)
    expected = qkformer_parameters((1, 2, 7), width, classes=1000, first=first)
    assert count_parameters(on_meta(f"qkformer_10_{width}")) == expected == COUNTS[f"qkformer_10_{width}"]


def test_number_of_parameters_of_the_compact_qkformer() -> None:
    """The first embedding has one convolution less."""
    expected = qkformer_parameters((1, 1, 2), 384, classes=10, first=(48, 96))
    assert count_parameters(on_meta("qkformer_cifar_4_384")) == expected


@pytest.mark.parametrize("name", [name for name in PUBLISHED if f"{name}_distilled" in PUBLISHED])
def test_distillation_adds_only_a_second_head(name: str) -> None:
    plain, distilled = PUBLISHED[name].architecture, PUBLISHED[f"{name}_distilled"].architecture
    assert distilled == replace(plain, distilled=True)
    second_head = plain.stages[-1].embed_dim * 1000 + 1000
    assert count_parameters(on_meta(f"{name}_distilled")) == count_parameters(on_meta(name)) + second_head


def large_parameters(first: int, second: int, width: int, *, replinear: bool) -> int:
    """Return the parameters of a large E-SpikeFormer with two heads: convolutions with biases, 12 blocks, two heads."""

    def with_bias(*widths: int, size: int = 3) -> int:
        return convolutions(*widths, size=size) + sum(widths[1:])

    half = first // 2
    stem = with_bias(3, half, size=7) + with_bias(half, first, second, width)
    blocks = sum(with_bias(w, 4 * w, w) for w in (half, first, second, second))
    wide = width * 3 // 2
    projection = convolutions(width, wide, width, size=1) + 2 * width
    mlp = 8 * width * width + 3 * (4 * width + width)
    transformer = 4 * projection + mlp + 2 * width + (convolutions(width, width, width, size=1) if replinear else 0)
    return stem + blocks + 12 * transformer + 2 * (width * 1000 + 1000)


@pytest.mark.parametrize(("name", "widths"), [("83m", (128, 256, 512)), ("172m", (196, 384, 768))])
def test_number_of_parameters_of_large_e_spikeformers(name: str, widths: tuple[int, int, int]) -> None:
    assert large_parameters(*widths, replinear=name == "83m") == COUNTS[f"e_spikeformer_{name}_distilled"]


@every_network
def test_timm_lists_and_creates_every_network(name: str) -> None:
    assert timm.is_model(name)
    assert timm.list_models(name) == [name]
    assert name not in timm.list_models(pretrained=True)
    assert on_meta(name).architecture == PUBLISHED[name].architecture


@every_network
def test_input_and_output_of_the_timm_configuration(name: str) -> None:
    classes, channels, side = INPUTS[name]
    config: Any = on_meta(name).pretrained_cfg
    assert (on_meta(name).num_classes, config["num_classes"]) == (classes, classes)
    assert config["input_size"] == (channels, side, side)
    assert len(config["mean"]) == len(config["std"]) == channels
    assert on_meta(name).get_submodule(config["first_conv"]).in_channels == channels
    if name.endswith("mask_rcnn"):  # tests/models/test_mask_rcnn.py has its heads
        return
    heads = config["classifier"] if PUBLISHED[name].architecture.distilled else (config["classifier"],)
    assert len(heads) == 1 + PUBLISHED[name].architecture.distilled
    assert all(len(on_meta(name).get_parameter(f"{head}.weight")) == classes for head in heads)


@every_network
def test_strides_of_the_stages(name: str) -> None:
    assert tuple(stage.embedding.stride for stage in PUBLISHED[name].architecture.stages) == STRIDES[name]
    assert [info["reduction"] for info in on_meta(name).feature_info][-1] == PUBLISHED[name].architecture.stride


# One form of each family.
FORMS = [
    *("spikformer_cifar_2_384", "spike_driven_events_2_256", "meta_spikeformer_15m_distilled"),
    *("qkformer_cifar10dvs", "e_spikeformer_t", "max_former_cifar10"),
]


@pytest.mark.parametrize("name", slow_except(FORMS, PUBLISHED))
def test_output_shapes_of_an_image_of_another_size(name: str) -> None:
    """The image is not square, and its sides are no multiples of a stride."""
    classes, channels, _ = INPUTS[name]
    model, stride = on_meta(name), PUBLISHED[name].architecture.stride
    stream = model.forward_features(torch.empty(2, channels, 70, 90, device="meta"))
    assert stream.shape == (STEPS[name], 2, -(-70 // stride), -(-90 // stride), model.num_features)
    if model.architecture.decoder is None:
        assert model.forward_head(stream).shape == (2, classes)
    elif not name.endswith("mask_rcnn"):
        assert model(torch.empty(2, channels, 70, 90, device="meta")).shape == (2, classes, 70, 90)


# D / 64 in ImageNet forms, D / 32 in Spikformer's CIFAR form, D / 16 in its event form; 8 in Meta-SpikeFormer, in QKFormer's CIFAR
# form, and in the Spike-driven Transformer's event form, the only form of that family in which heads have an effect.
HEADS = {
    "spikformer_8_384": 6,
    "spikformer_8_512": 8,
    "spikformer_8_768": 12,
    "spikformer_cifar_4_384": 12,
    "spikformer_cifar_4_256": 8,
    "spikformer_events_2_256": 16,
    "spike_driven_events_2_256": 8,
    "meta_spikeformer_15m": 8,
    "qkformer_10_384": 6,
    "qkformer_10_768": 12,
    "qkformer_cifar_4_384": 8,
    "qkformer_gesture": 16,
    "e_spikeformer_s": 8,
    "max_former_10_384": 6,
    "max_former_10_768": 12,
    "max_former_cifar100": 8,
    "max_former_gesture": 16,
}


@pytest.mark.parametrize("name", HEADS)
def test_number_of_heads(name: str) -> None:
    blocks = [block for stage in PUBLISHED[name].architecture.stages for block in stage.blocks]
    assert {block.num_heads for block in blocks} - {None} == {HEADS[name]}
    assert all(block.mlp_ratio == 4 for block in blocks if block.channel_mixer in ("mlp", "conv"))


def test_attention_scale() -> None:
    scales = {name: published.architecture.attention_scale for name, published in PUBLISHED.items()}
    assert scales.pop("spikformer_events_2_256") == 0.25
    assert set(scales.values()) == {0.125}


@pytest.mark.parametrize(
    ("name", "size"),
    slow_except(
        [("e_spikeformer_t", (64, 96)), ("spikformer_cifar_2_384", (32, 32))],
        [
            ("spikformer_8_384", (64, 96)),
            ("spike_driven_8_384", (64, 96)),
            ("meta_spikeformer_15m", (64, 96)),
            ("qkformer_10_384", (64, 96)),
            ("e_spikeformer_t", (64, 96)),
            ("max_former_10_384", (64, 96)),
            ("spikformer_cifar_2_384", (32, 32)),
        ],
    ),
)
def test_a_forward_pass_gives_finite_logits(name: str, size: tuple[int, int]) -> None:
    model = timm.create_model(name, time_steps=1).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, INPUTS[name][0])
    assert logits.isfinite().all()


@every_network
def test_pretrained_weights_are_a_one_line_error(name: str) -> None:
    message = one_line_error(lambda: timm.create_model(name, pretrained=True))
    assert message.startswith(f"{name}: this package contains no weights")
    assert "autospike import" in message


@pytest.mark.parametrize("arguments", [{"num_classes": 7}, {"in_chans": 1}, {"time_steps": 1}, {"num_classes": 0, "in_chans": 2}])
@pytest.mark.parametrize(
    "name", slow_except(["spikformer_cifar_2_384"], ["spikformer_cifar_2_384", "meta_spikeformer_hardvs", "qkformer_10_384"])
)
def test_arguments_of_create_model(name: str, arguments: dict[str, int]) -> None:
    classes, channels, _ = INPUTS[name]
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
        stream = model.forward_features(torch.empty(1, arguments.get("in_chans", channels), 32, 32))
    assert model.num_classes == arguments.get("num_classes", classes)
    assert len(stream) == arguments.get("time_steps", PUBLISHED[name].architecture.time_steps)


@every_network
def test_the_architecture_round_trips_through_json(name: str) -> None:
    architecture = PUBLISHED[name].architecture
    assert Architecture.from_json(architecture.to_json()) == architecture
