"""Imported checkpoints are evaluated as the published code does: size, crop, interpolation, mean and standard deviation."""

from __future__ import annotations

import pytest

from autospike.models.checkpoint_protocol import EvaluationProtocol, evaluation_protocol
from autospike.space.published import PUBLISHED

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def protocol(name: str, num_classes: int | None = None, image_size: int | None = None) -> EvaluationProtocol:
    published = PUBLISHED[name]
    return evaluation_protocol(
        published.architecture,
        channels=published.in_chans,
        num_classes=num_classes or published.num_classes,
        image_size=image_size,
    )


# From the configuration files and evaluation scripts of the published code.
@pytest.mark.parametrize(
    ("name", "crop_pct"),
    [
        ("spikformer_8_512", 1.0),
        ("spike_driven_8_768", 0.95),
        ("meta_spikeformer_55m", 0.875),
        ("qkformer_10_384", 0.875),
        ("e_spikeformer_172m", 224 / 232),
    ],
)
def test_imagenet(name: str, crop_pct: float) -> None:
    found = protocol(name)
    assert (found.image_size, found.preparation.crop_pct, found.preparation.interpolation) == (224, crop_pct, "bicubic")
    assert (found.preparation.mean, found.preparation.std) == IMAGENET


@pytest.mark.parametrize("name", ["spikformer_8_512", "spike_driven_8_768", "meta_spikeformer_55m", "qkformer_10_384"])
@pytest.mark.parametrize("image_size", [288, 384])
def test_no_crop_above_224_pixels(name: str, image_size: int) -> None:
    found = protocol(name, image_size=image_size)
    assert (found.image_size, found.preparation.crop_pct, found.preparation.interpolation) == (image_size, 1.0, "bicubic")


@pytest.mark.parametrize("name", ["meta_spikeformer_15m", "qkformer_10_768"])
def test_the_crop_is_the_same_below_224_pixels(name: str) -> None:
    assert protocol(name, image_size=192).preparation.crop_pct == 224 / 256


@pytest.mark.parametrize(
    ("name", "num_classes", "normalisation"),
    [
        ("spikformer_cifar_4_384", 10, CIFAR10),
        ("qkformer_cifar_4_384", 10, CIFAR10),
        ("qkformer_cifar_4_384", 100, CIFAR10),
        ("spike_driven_cifar_2_512", 10, CIFAR10),
        ("spike_driven_cifar_2_512", 100, CIFAR100),
    ],
)
def test_cifar(name: str, num_classes: int, normalisation: object) -> None:
    found = protocol(name, num_classes)
    assert (found.image_size, found.preparation.crop_pct, found.preparation.interpolation) == (32, 1.0, "bicubic")
    assert (found.preparation.mean, found.preparation.std) == normalisation


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("spikformer_events_2_256", 128),
        ("spike_driven_events_2_256", 128),
        ("meta_spikeformer_hardvs", 224),
        ("e_spikeformer_hardvs", 224),
        ("e_spikeformer_gesture", 128),
    ],
)
def test_event_frames_are_not_normalised(name: str, size: int) -> None:
    found = protocol(name)
    assert (found.image_size, found.preparation.crop_pct) == (size, 1.0)
    assert (found.preparation.mean, found.preparation.std) == ((0.0, 0.0), (1.0, 1.0))
