"""Transforms from a sample to a network's input: with augmentation for training, deterministic for measurement.

|              | still images    | event frames                                                                |
|--------------|-----------------|-----------------------------------------------------------------------------|
| sample       | `[C, H, W]`     | `[T, C, H, W]`                                                              |
| values       | normalised      | counts, unchanged: integers unless they are resized                         |
| augmentation | timm's          | `min_scale`, `flip`, `erasing` (to zero events); the same for all frames;   |
|              |                 | those of `data.event_augmentation`                                          |

Images with masks or objects are transformed together with them (`DenseTransforms`). For measurement the whole image is resized so
that its longer side is `image_size`, and padded at the right or at the bottom. For training, the longer side is `image_size` times
a random factor, and a random part of `image_size` x `image_size` is taken; padding is ignored. Objects whose box is less than a
pixel wide or high in this part are dropped.

Other samples are resized for measurement so that the shorter side is `image_size` (of images: `image_size / crop_pct`), and then
cropped at the centre. `ImagePreparation` has the crop, the interpolation and the normalisation of images. Mixup and cutmix are
applied to batches (`data.batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import v2

from autospike.config import AugmentationConfig
from autospike.data.event_augmentation import EventDrop, Roll, SnnAugment
from autospike.data.events import Frames
from autospike.data.images import Split
from autospike.data.masks import IGNORED, Mask, fitted_size
from autospike.data.objects import Objects
from autospike.errors import UserError

# Maps pixels 0..1 to -1..1 on every channel, unless a network was trained otherwise: the first BatchNorm learns the rest.
MEAN = STD = 0.5

# Types in which event frames are cached, from small to large. Interpolated counts are not integers and need the last one.
CACHED_TYPES = (torch.uint8, torch.int16, torch.float32)

# Attempts to find a part of an image in which no class covers more than `category_max_ratio`, as in mmsegmentation.
ATTEMPTS = 10

# Called with a sample, and in a dense task with its target; returns the input, and then the target as well.
TrainingTransform = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class ImagePreparation:
    """How an image is resized for measurement, and how its pixels are normalised: `(pixel - mean) / std` for pixels in 0..1.

    The defaults are those with which this package trains. Event frames are prepared without it.

    Attributes:
        crop_pct: Side of the central crop, divided by the shorter side of the resized image; as in timm.
        interpolation: timm's name of the interpolation by which images are resized for measurement.
        mean: Of each channel, or a single value for all.
        std: Of each channel, or a single value for all.
    """

    crop_pct: float = 1.0
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (MEAN,)
    std: tuple[float, ...] = (STD,)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise pixels in 0..1.

        Args:
            pixels: `[..., C, H, W]` in float32.

        Returns:
            A tensor of the same shape.
        """
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def restore(self, normalised: Tensor) -> Tensor:
        """Compute the pixels in 0..1 that `normalise` was given, up to rounding.

        Args:
            normalised: `[..., C, H, W]`.

        Returns:
            The pixels, of the same shape.
        """
        mean, std = (torch.tensor(values, device=normalised.device)[:, None, None] for values in (self.mean, self.std))
        return normalised * std + mean


# How this package prepares images unless a network was trained otherwise.
DEFAULT_PREPARATION = ImagePreparation()


class SampleTransforms(Protocol):
    """The transforms of one kind of sample."""

    def training(self, augmentation: AugmentationConfig) -> TrainingTransform:
        """Build the transform for training, which uses the global random generators of torch, numpy and Python.

        Args:
            augmentation: The configuration.

        Returns:
            A function from a sample to a tensor; it can be sent to worker processes. The tensor is not normalised yet, because
            `normalise` takes less time for a batch; with `erasing` it is.

        Raises:
            UserError: The augmentation does not exist for this kind of sample.
        """

    def resize(self, sample: Any) -> Tensor:
        """Resize a sample for measurement.

        Args:
            sample: A PIL image, or event frames.

        Returns:
            A tensor of the smallest type that represents it exactly.
        """

    def normalise(self, samples: Tensor) -> Tensor:
        """Convert a batch of samples to the input of a network.

        Args:
            samples: Results of `resize`, or of the transform for training, `[B, ...]`.

        Returns:
            The batch in float32.
        """


def sample_transforms(
    split: Split, *, channels: int, image_size: int, preparation: ImagePreparation = DEFAULT_PREPARATION
) -> SampleTransforms:
    """Return the transforms for the samples of a split.

    Args:
        split: Still images or event frames.
        channels: Number of channels of an image.
        image_size: Height and width of the result.
        preparation: Crop, interpolation and normalisation of still images.

    Returns:
        The transforms.
    """
    if split.target is not None:
        return DenseTransforms(channels=channels, image_size=image_size, preparation=preparation)
    if split.time_steps is None:
        return ImageTransforms(channels=channels, image_size=image_size, preparation=preparation)
    return EventFrameTransforms(image_size=image_size)


@dataclass(frozen=True, kw_only=True)
class ImageTransforms:
    """Transforms of PIL images to `[channels, image_size, image_size]`; see `SampleTransforms`.

    Attributes:
        channels: 1 for luma, 3 for RGB.
        image_size: Height and width of the result.
        preparation: Crop and interpolation for measurement, and normalisation.
    """

    channels: int
    image_size: int
    preparation: ImagePreparation = DEFAULT_PREPARATION

    def training(self, augmentation: AugmentationConfig) -> TrainingTransform:
        """Build timm's training transform.

        Args:
            augmentation: The configuration.

        Returns:
            The transform.

        Raises:
            UserError: timm does not know the augmentation policy, or the configuration has an augmentation of event frames.
        """
        for name in ("event_policy", "roll", "event_drop"):
            if getattr(augmentation, name):
                raise UserError(f"training.augmentation.{name}: not available for still images; remove it")
        try:
            # timm's policies need three channels, and so does the normalisation that erasing follows. The other transforms give the
            # same values for a grey image with one channel.
            mode = "L" if self.channels == 1 and not augmentation.auto_augment and not augmentation.erasing else "RGB"
            transform = _timm_transform(augmentation, self.image_size, self.preparation)
            return partial(_transform_image, transform, self.channels, mode=mode)
        except (AssertionError, ValueError, KeyError) as error:
            policy = augmentation.auto_augment
            raise UserError(
                f"training.augmentation.auto_augment: timm does not accept {policy!r} ({error}); write for example "
                "rand-m9-n2-mstd0.5-inc1"
            ) from None

    def resize(self, sample: Image.Image) -> Tensor:
        """Resize and crop an image, to 8-bit integers."""
        return _transform_image(_measuring_transform(self.image_size, self.preparation), self.channels, sample)

    def normalise(self, samples: Tensor) -> Tensor:
        """Normalise values in 0..255; by default to -1..1."""
        return self.preparation.normalise(samples.float() / 255)


def _transform_image(transform: Any, channels: int, image: Image.Image, mode: str = "RGB") -> Tensor:
    """Apply a transform of timm to an image in a mode. A coloured image for one channel is converted to luma (ITU-R 601)."""
    if channels == 1 and image.mode != "L":
        image = image.convert("L")
    pixels: Tensor = transform(image if image.mode == mode else image.convert(mode))
    return pixels[:channels]


@lru_cache(maxsize=4)
def _measuring_transform(image_size: int, preparation: ImagePreparation) -> Any:
    return create_transform(
        image_size,
        is_training=False,
        crop_pct=preparation.crop_pct,
        interpolation=preparation.interpolation,
        normalize=False,
    )


def _timm_transform(augmentation: AugmentationConfig, image_size: int, preparation: ImagePreparation) -> Any:
    # With three channels for timm; those that the network does not read are dropped afterwards.
    mean, std = ((*values, *values[-1:] * 3)[:3] for values in (preparation.mean, preparation.std))
    return create_transform(
        image_size,
        is_training=True,
        scale=(augmentation.min_scale, 1.0),
        # without random scaling, resize the shorter side as for measurement and crop at random
        train_crop_mode="rrc" if augmentation.min_scale < 1 else "rkrc",
        hflip=augmentation.flip,
        color_jitter=augmentation.color_jitter or None,
        auto_augment=augmentation.auto_augment,
        re_prob=augmentation.erasing,
        normalize=augmentation.erasing > 0,  # timm erases normalised images
        interpolation="bilinear",
        mean=mean,
        std=std,
    )


@dataclass(frozen=True, kw_only=True)
class EventFrameTransforms:
    """Transforms of event frames to `[T, C, image_size, image_size]`, with bilinear resizing; see `SampleTransforms`.

    Attributes:
        image_size: Height and width of the result.
    """

    image_size: int

    def training(self, augmentation: AugmentationConfig) -> TrainingTransform:
        """Build the geometric transforms, with the same random values for all frames.

        Args:
            augmentation: The configuration.

        Returns:
            The transform.

        Raises:
            UserError: The configuration has an augmentation that only exists for still images.
        """
        for name in ("auto_augment", "color_jitter"):
            if getattr(augmentation, name):
                raise UserError(
                    f"training.augmentation.{name}: not available for event frames; remove it "
                    "(min_scale, flip, erasing, roll, event_policy, event_drop, mixup and cutmix are available)"
                )
        steps = [
            *([EventDrop(probability=augmentation.event_drop)] if augmentation.event_drop else []),
            *self._random_crop(augmentation.min_scale),
            v2.RandomHorizontalFlip(augmentation.flip),
            *([Roll(pixels=augmentation.roll)] if augmentation.roll else []),
            *([SnnAugment()] if augmentation.event_policy else []),
            v2.RandomErasing(augmentation.erasing),
        ]
        return partial(_transform_frames, v2.Compose(steps))

    def resize(self, sample: Frames) -> Tensor:
        """Resize and crop event frames, to the smallest type that represents the counts exactly."""
        frames = _transform_frames(v2.Compose([v2.Resize(self.image_size), v2.CenterCrop(self.image_size)]), sample)
        return next(cached for cached in map(frames.to, CACHED_TYPES) if torch.equal(cached.float(), frames))

    def normalise(self, samples: Tensor) -> Tensor:
        """Convert counts to float32."""
        return samples.float()

    def _random_crop(self, min_scale: float) -> list[Any]:
        if min_scale < 1:
            return [v2.RandomResizedCrop(self.image_size, scale=(min_scale, 1.0))]
        return [v2.Resize(self.image_size), v2.RandomCrop(self.image_size)]


def _transform_frames(transform: Any, sample: Frames) -> Tensor:
    frames: Tensor = transform(torch.from_numpy(sample))
    return frames


@dataclass(frozen=True, kw_only=True)
class DenseTransforms:
    """Transforms of PIL images, and for training of their masks or objects, to `image_size` x `image_size`; see `SampleTransforms`.

    Attributes:
        channels: 1 for luma, 3 for RGB.
        image_size: Height and width of the result.
        preparation: Normalisation.
    """

    channels: int
    image_size: int
    preparation: ImagePreparation = DEFAULT_PREPARATION

    def training(self, augmentation: AugmentationConfig) -> DenseTrainingTransform:
        """Build the transform for training, which uses the global random generator of torch.

        Args:
            augmentation: The configuration.

        Returns:
            The transform.

        Raises:
            UserError: The configuration has an augmentation that does not exist for masks.
        """
        check_augmentation(augmentation)
        jitter = v2.ColorJitter(*[augmentation.color_jitter] * 3) if augmentation.color_jitter else v2.Identity()
        return DenseTrainingTransform(transforms=self, augmentation=augmentation, jitter=jitter)

    def pixels(self, image: Image.Image, size: Sequence[int]) -> Tensor:
        """Resize an image.

        Args:
            image: The image.
            size: Height and width of the result.

        Returns:
            `[C, height, width]` uint8.
        """
        converted = image.convert("L" if self.channels == 1 else "RGB")
        if converted.size != (size[1], size[0]):
            converted = converted.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(converted))
        return values[None] if values.dim() == 2 else values.permute(2, 0, 1).contiguous()

    def resize(self, sample: Image.Image) -> Tensor:
        """Resize the whole image and pad it, to 8-bit integers."""
        pixels = self.pixels(sample, fitted_size((sample.height, sample.width), self.image_size))
        return self.padded(pixels)

    def padded(self, pixels: Tensor) -> Tensor:
        """Pad an image `[C, H, W]` at the right and at the bottom, with the mean of the normalisation.

        Args:
            pixels: `[C, H, W]`, at most `image_size` high and wide.

        Returns:
            `[C, image_size, image_size]`.
        """
        missing = (self.image_size - pixels.shape[2], self.image_size - pixels.shape[1])
        if not any(missing):
            return pixels
        means = (*self.preparation.mean, *self.preparation.mean[-1:] * self.channels)[: self.channels]
        return torch.stack(
            [
                F.pad(plane, (0, missing[0], 0, missing[1]), value=round(mean * 255))
                for plane, mean in zip(pixels, means, strict=True)
            ]
        )

    def normalise(self, samples: Tensor) -> Tensor:
        """Normalise values in 0..255."""
        return self.preparation.normalise(samples.float() / 255)


def check_augmentation(augmentation: AugmentationConfig) -> None:
    """Check that an augmentation exists for images with masks or boxes.

    Args:
        augmentation: The configuration.

    Raises:
        UserError: It has one that only exists for classification.
    """
    default = AugmentationConfig()
    for name in ("min_scale", "auto_augment", "erasing", "mixup", "cutmix"):
        if getattr(augmentation, name) != getattr(default, name):
            raise UserError(
                f"training.augmentation.{name}: only for classification; remove it (resize, category_max_ratio, flip and "
                "color_jitter are available)"
            )


@dataclass(frozen=True, kw_only=True)
class DenseTrainingTransform:
    """Random resizing, cropping, flipping and colours of an image with its targets; see `DenseTransforms.training`.

    Attributes:
        transforms: Size and normalisation.
        augmentation: The configuration.
        jitter: Changes brightness, contrast and saturation.
    """

    transforms: DenseTransforms
    augmentation: AugmentationConfig
    jitter: Any

    def __call__(self, image: Image.Image, target: Mask | Objects) -> tuple[Tensor, Any]:
        """Transform an image.

        Args:
            image: The image.
            target: Its mask, or its objects.

        Returns:
            The image `[C, S, S]` in float32, normalised; and the classes `[S, S]` int64, or the objects as
            `autospike.data.objects.TrainingObjects` has them.
        """
        return self._with_objects(image, target) if isinstance(target, Objects) else self._with_mask(image, target)

    def _with_objects(self, image: Image.Image, objects: Objects) -> tuple[Tensor, dict[str, Tensor]]:
        if objects.size != (image.height, image.width):
            raise UserError(
                f"an image of {image.width} x {image.height} pixels has annotations of {objects.size[1]} x {objects.size[0]} "
                "pixels; autospike check-data names it"
            )
        side, size = self.transforms.image_size, self._size(objects.size)
        pixels = self.transforms.pixels(image, size)
        top, left = (int(torch.randint(max(0, length - side) + 1, ())) for length in size)
        pixels = self.transforms.padded(self.jitter(pixels[..., top : top + side, left : left + side]))
        kept = ~objects.crowd
        boxes, labels = torch.from_numpy(objects.boxes[kept]), torch.from_numpy(objects.labels[kept])
        masks = torch.zeros((len(labels), side, side), dtype=torch.uint8)
        for placed, mask in zip(masks, objects.decoded()[kept], strict=True):
            part = _resized_mask(mask, size)[top : top + side, left : left + side]
            placed[: part.shape[0], : part.shape[1]] = part
        height, width = (new / old for new, old in zip(size, objects.size, strict=True))
        boxes = boxes * torch.tensor([width, height, width, height]) - torch.tensor([left, top, left, top])
        boxes = boxes.clamp(0, side)
        if float(torch.rand(())) < self.augmentation.flip:
            pixels, masks = pixels.flip(-1), masks.flip(-1)
            boxes = torch.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], dim=1)
        visible = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
        target = {"boxes": boxes[visible], "labels": labels[visible], "masks": masks[visible]}
        return self.transforms.normalise(pixels), target

    def _size(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width to which an image is resized, by a random factor."""
        low, high = self.augmentation.resize
        factor = low + (high - low) * float(torch.rand(()))
        return fitted_size(size, max(1, round(self.transforms.image_size * factor)))

    def _with_mask(self, image: Image.Image, mask: Mask) -> tuple[Tensor, Tensor]:
        side, size = self.transforms.image_size, self._size(mask.shape)
        pixels, classes = self.transforms.pixels(image, size), _resized_mask(mask, size)
        top, left = self._corner(classes)
        pixels, classes = (x[..., top : top + side, left : left + side] for x in (pixels, classes))
        classes = F.pad(classes, (0, side - classes.shape[1], 0, side - classes.shape[0]), value=IGNORED)
        pixels = self.transforms.padded(self.jitter(pixels))
        if float(torch.rand(())) < self.augmentation.flip:
            pixels, classes = pixels.flip(-1), classes.flip(-1)
        return self.transforms.normalise(pixels), classes.long()

    def _corner(self, classes: Tensor) -> tuple[int, int]:
        """A random corner of the part that is taken, where possible without one class almost everywhere."""
        side, limit = self.transforms.image_size, self.augmentation.category_max_ratio
        free = [max(0, length - side) for length in classes.shape]
        for _ in range(ATTEMPTS):
            top, left = (int(torch.randint(length + 1, ())) for length in free)
            part = classes[top : top + side, left : left + side]
            counts = torch.bincount(part[part != IGNORED].long())
            if limit == 1 or not any(free) or (len(counts.nonzero()) > 1 and counts.max() < limit * counts.sum()):
                break
        return top, left


def _resized_mask(mask: Mask, size: Sequence[int]) -> Tensor:
    if mask.shape == tuple(size):
        return torch.from_numpy(np.array(mask))
    resized = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))
