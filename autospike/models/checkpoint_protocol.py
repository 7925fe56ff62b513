"""The images on which published checkpoints are evaluated: size, crop, interpolation and normalisation of the published code.

| network                  | images       | crop                      | source                                                   |
|--------------------------|--------------|---------------------------|----------------------------------------------------------|
| Spikformer               | ImageNet     | none                      | `imagenet/imagenet.yml`                                  |
| Spike-driven Transformer | ImageNet     | 0.95 (224 of 235 pixels)  | `crop_pct` in `conf/imagenet/*.yml`                      |
| Meta-SpikeFormer         | ImageNet     | 0.875 (224 of 256 pixels) | `util/datasets.py`; none above 224 pixels                |
| E-SpikeFormer            | ImageNet     | 224 of 232 pixels         | evaluation of the base and large models                  |
| QKFormer                 | ImageNet     | 0.875 (224 of 256 pixels) | `util/datasets.py`; none above 224 pixels                |
| all                      | CIFAR        | none                      | `cifar10.yml`, `cifar100.yml`, `conf/cifar10*/*.yml`     |
| all                      | event frames | none; not normalised      |                                                          |

All of them resize images by bicubic interpolation. Files are those of the repositories ZK-Zhou/spikformer,
BICLab/Spike-Driven-Transformer, BICLab/Spike-Driven-Transformer-V2 and zhouchenlin2096/QKFormer.
"""

from __future__ import annotations

from dataclasses import dataclass

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from autospike.data.preparation import ImagePreparation
from autospike.space.architecture import Architecture

# From the CIFAR-10 recipes of Spikformer, Spike-driven Transformer and QKFormer; QKFormer uses them for CIFAR-100 as well.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
# From the CIFAR-100 recipe of the Spike-driven Transformer.
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)

HARDVS_CLASSES = 300

# Side of the central crop, divided by the shorter side of the resized image, for ImageNet at 224 pixels or fewer.
# The code of Max-Former was not checked: its data loaders are taken to be those of QKFormer, whose code it builds on.
IMAGENET_CROPS = {
    "spikformer": 1.0,
    "spike_driven": 0.95,
    "meta_spikeformer": 224 / 256,
    "qkformer": 224 / 256,
    "e_spikeformer": 224 / 232,
    "max_former": 224 / 256,
}


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """The images on which a checkpoint is evaluated.

    Attributes:
        image_size: Height and width in pixels.
        preparation: Crop, interpolation and normalisation.
    """

    image_size: int
    preparation: ImagePreparation


def evaluation_protocol(
    architecture: Architecture, *, channels: int, num_classes: int, image_size: int | None = None
) -> EvaluationProtocol:
    """Return the protocol by which the authors of a network evaluate it.

    A network for RGB images with a total stride of at most 4 is one for CIFAR, any other one is for ImageNet.

    Args:
        architecture: The architecture.
        channels: Number of channels of an image; 3 for RGB, otherwise event frames.
        num_classes: Number of classes.
        image_size: Height and width in pixels; by default as published: 224, for CIFAR 32, for event frames 128, but 224 for the
            300 classes of HAR-DVS.

    Returns:
        The protocol.
    """
    if channels != 3:
        preparation = ImagePreparation(mean=(0.0,) * channels, std=(1.0,) * channels)
        published_size = 224 if num_classes == HARDVS_CLASSES else 128
        return EvaluationProtocol(image_size=image_size or published_size, preparation=preparation)
    if architecture.stride <= 4:
        cifar100 = architecture.family == "spike_driven" and num_classes == 100
        mean, std = (CIFAR100_MEAN, CIFAR100_STD) if cifar100 else (CIFAR_MEAN, CIFAR_STD)
        return EvaluationProtocol(
            image_size=image_size or 32, preparation=ImagePreparation(interpolation="bicubic", mean=mean, std=std)
        )
    size = image_size or 224
    return EvaluationProtocol(
        image_size=size,
        preparation=ImagePreparation(
            crop_pct=IMAGENET_CROPS[architecture.family] if size <= 224 else 1.0,
            interpolation="bicubic",
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
        ),
    )
