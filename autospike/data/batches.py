"""Batches of tensors from splits: augmented and keyed by step for training, fixed for measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from timm.data import Mixup, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autospike.config import AugmentationConfig
from autospike.data.images import Split
from autospike.errors import UserError
from autospike.randomness import global_random, keyed, keyed_seed

# Pixels 0..1 become -1..1 on every channel, whatever the source: the first normalisation of a network learns the rest.
MEAN = STD = 0.5

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images `[B, C, H, W]` float32 and targets: labels `[B]`, or smoothed and mixed probabilities `[B, classes]`."""

    images: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingBatches:
    """An endless sequence of augmented batches. Batch number `step` depends on (seed, step) alone.

    Every epoch is a permutation of the split; a last, smaller batch is dropped, unless it is the only one.
    """

    split: Split
    num_classes: int
    channels: int
    image_size: int
    batch_size: int
    augmentation: AugmentationConfig
    smoothing: float
    workers: int
    seed: int
    device: torch.device = CPU

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` to `stop - 1`."""
        dataset = _Augmented(self.split, _transform(self.augmentation, self.image_size), self.channels)
        keys = (self._keys(step) for step in range(start, stop))
        loader: Any = DataLoader(dataset, batch_sampler=keys, num_workers=self.workers, persistent_workers=False)
        alpha = self.augmentation.mixup
        mixup = Mixup(alpha or 1.0, prob=float(alpha > 0), label_smoothing=self.smoothing, num_classes=self.num_classes)
        for step, (images, labels) in zip(range(start, stop), loader, strict=True):
            with global_random(self.seed, "mixup", step):
                mixed_images, mixed_labels = mixup(images.to(self.device), labels.to(self.device))
            yield Batch(images=mixed_images, targets=mixed_labels)

    def _keys(self, step: int) -> list[tuple[int, int]]:
        """The positions in the split, and the seeds of their augmentation, of one step's images."""
        epoch, place = divmod(step, self.per_epoch)
        order = _order(len(self.split), self.seed, epoch)
        # timm's mixup pairs images, so a split smaller than a batch gives an even number of them
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        return [(position, keyed_seed(self.seed, "augment", step, position)) for position in chosen[: len(chosen) // 2 * 2]]


@lru_cache(maxsize=2)
def _order(images: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(images))
    keyed(seed, "epoch", epoch).shuffle(order)
    return tuple(order)


class _Augmented(Dataset[tuple[Tensor, int]]):
    """Items are addressed by (position, seed): the same pair gives the same pixels in any worker."""

    def __init__(self, split: Split, transform: Any, channels: int) -> None:
        self.split, self.transform, self.channels = split, transform, channels

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        position, seed = key
        with global_random(seed), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would queue a call for every CUDA device, each time
            image: Tensor = self.transform(self.split.image(position).convert("RGB"))
        return image[: self.channels], self.split.labels[position]


def _transform(augmentation: AugmentationConfig, image_size: int) -> Any:
    """timm's training transform.

    Raises:
        UserError: timm does not know the policy.
    """
    try:
        return _timm_transform(augmentation, image_size)
    except (AssertionError, ValueError, KeyError) as error:
        policy = augmentation.auto_augment
        raise UserError(
            f"training.augmentation.auto_augment: timm does not take {policy!r} ({error}); write it as rand-m9-n2-mstd0.5-inc1"
        ) from None


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


@dataclass
class FixedBatches:
    """A split, resized and unaugmented, in the split's order. Decoded once, kept as bytes.

    No batch holds a single image, unless the split does: convolutions take another path for one, and its last bits differ.
    """

    split: Split
    channels: int
    image_size: int
    device: torch.device = CPU
    _pixels: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.split)

    def __call__(self, batch_size: int) -> Iterator[Batch]:
        if self._pixels is None:
            self._pixels = torch.stack([self._decode(i) for i in range(len(self))])
        labels = torch.tensor(self.split.labels)
        starts = list(range(0, max(1, len(self) - 1), max(2, batch_size)))
        for start, stop in zip(starts, [*starts[1:], len(self)], strict=True):
            pixels = self._pixels[start:stop].to(self.device)
            yield Batch(images=(pixels.float() / 255 - MEAN) / STD, targets=labels[start:stop].to(self.device))

    def _decode(self, position: int) -> Tensor:
        """Shorter side to `image_size`, then the centre: `[C, image_size, image_size]` bytes."""
        transform = create_transform(self.image_size, is_training=False, crop_pct=1.0, interpolation="bilinear", normalize=False)
        pixels: Tensor = transform(self.split.image(position).convert("RGB"))
        return pixels[: self.channels]
