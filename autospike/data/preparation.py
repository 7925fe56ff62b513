"""How a sample becomes what a network sees: augmented in training, always the same in measurement.

|              | still images    | event frames                                                           |
|--------------|-----------------|------------------------------------------------------------------------|
| a sample     | `[C, H, W]`     | `[T, C, H, W]`                                                         |
| values       | 0..1 to -1..1   | counts as they are: whole numbers, unless the size has to change       |
| augmentation | timm's          | `min_scale`, `flip`, `erasing` to no events; drawn once for all frames |

The geometry of measurement is the same for both: the shorter side is brought to `image_size`, then the centre is taken. Mixup and
cutmix come later, where there are batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import v2

from autospike.config import AugmentationConfig
from autospike.data.events import Frames
from autospike.data.images import Split
from autospike.errors import UserError

# Pixels 0..1 become -1..1 on every channel, whatever the source: the first normalisation of a network learns the rest.
MEAN = STD = 0.5

# Tried in turn for frames that are kept. The last one takes whatever is left: an interpolated count is no whole number.
KEPT_TYPES = (torch.uint8, torch.int16, torch.float32)

Augmented = Callable[[Any], Tensor]


class Preparation(Protocol):
    """What one kind of sample needs."""

    def augmented(self, augmentation: AugmentationConfig) -> Augmented:
        """From a sample to a tensor, by torch's, numpy's and Python's global generators. Any worker can be given it.

        Raises:
            UserError: the augmentation cannot be had for such samples.
        """

    def kept(self, sample: Any) -> Tensor:
        """A sample for measurement, in the fewest bytes that lose nothing."""

    def measured(self, kept: Tensor) -> Tensor:
        """A batch of kept samples, as float32 and normalised."""


def preparation(split: Split, *, channels: int, image_size: int) -> Preparation:
    if split.time_steps is None:
        return StillImages(channels=channels, image_size=image_size)
    return EventFrames(image_size=image_size)


@dataclass(frozen=True, kw_only=True)
class StillImages:
    """PIL images to `[channels, image_size, image_size]`."""

    channels: int
    image_size: int

    def augmented(self, augmentation: AugmentationConfig) -> Augmented:
        """timm's training transform.

        Raises:
            UserError: timm does not know the policy.
        """
        try:
            return partial(_transformed, _timm_transform(augmentation, self.image_size), self.channels)
        except (AssertionError, ValueError, KeyError) as error:
            policy = augmentation.auto_augment
            raise UserError(
                f"training.augmentation.auto_augment: timm does not take {policy!r} ({error}); write it as rand-m9-n2-mstd0.5-inc1"
            ) from None

    def kept(self, sample: Image.Image) -> Tensor:
        """Bytes."""
        transform = create_transform(self.image_size, is_training=False, crop_pct=1.0, interpolation="bilinear", normalize=False)
        return _transformed(transform, self.channels, sample)

    def measured(self, kept: Tensor) -> Tensor:
        return (kept.float() / 255 - MEAN) / STD


def _transformed(transform: Any, channels: int, image: Image.Image) -> Tensor:
    pixels: Tensor = transform(image.convert("RGB"))
    return pixels[:channels]


def _timm_transform(augmentation: AugmentationConfig, image_size: int) -> Any:
    return create_transform(
        image_size,
        is_training=True,
        scale=(augmentation.min_scale, 1.0),
        # at full scale the geometry of measurement: the shorter side fits, a window of the longer one is taken
        train_crop_mode="rrc" if augmentation.min_scale < 1 else "rkrc",
        hflip=augmentation.flip,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.auto_augment,
        re_prob=augmentation.erasing,
        interpolation="bilinear",
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
    )


@dataclass(frozen=True, kw_only=True)
class EventFrames:
    """Frames to `[T, C, image_size, image_size]`. A smaller frame's pixel is the mean of those it covers, by bilinear weights."""

    image_size: int

    def augmented(self, augmentation: AugmentationConfig) -> Augmented:
        """Geometry alone.

        Raises:
            UserError: a policy for pictures is asked for.
        """
        for name in ("auto_augment", "color_jitter"):
            if getattr(augmentation, name):
                raise UserError(
                    f"training.augmentation.{name}: made for pictures, not for event frames; "
                    "leave it out (min_scale, flip, erasing, mixup and cutmix apply)"
                )
        steps = [
            *self._window(augmentation.min_scale),
            v2.RandomHorizontalFlip(augmentation.flip),
            v2.RandomErasing(augmentation.erasing),
        ]
        return partial(_framed, v2.Compose(steps))

    def kept(self, sample: Frames) -> Tensor:
        frames = _framed(v2.Compose([v2.Resize(self.image_size), v2.CenterCrop(self.image_size)]), sample)
        return next(kept for kept in map(frames.to, KEPT_TYPES) if torch.equal(kept.float(), frames))

    def measured(self, kept: Tensor) -> Tensor:
        return kept.float()

    def _window(self, min_scale: float) -> list[Any]:
        if min_scale < 1:
            return [v2.RandomResizedCrop(self.image_size, scale=(min_scale, 1.0))]
        return [v2.Resize(self.image_size), v2.RandomCrop(self.image_size)]


def _framed(transform: Any, sample: Frames) -> Tensor:
    frames: Tensor = transform(torch.from_numpy(sample))
    return frames
