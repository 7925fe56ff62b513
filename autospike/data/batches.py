"""Batches of tensors from a split: augmented and keyed by the step for training, without augmentation for measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from timm.data import Mixup
from timm.data.loader import PrefetchLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autospike.config import AugmentationConfig
from autospike.data.images import Split
from autospike.data.objects import collated
from autospike.data.preparation import (
    DEFAULT_PREPARATION,
    ImagePreparation,
    SampleTransforms,
    TrainingTransform,
    sample_transforms,
)
from autospike.data.rank_slice import WHOLE, RankSlice
from autospike.errors import UserError
from autospike.memory.cache import MIB, ByteBudgetCache
from autospike.memory.mmap_tensor import MmapTensor
from autospike.randomness import global_random, keyed, keyed_seed, seed_global_random

CPU = torch.device("cpu")
# Of decoded training images that are cached: 80,000 of 32x32 pixels in colour. Our choice.
DECODED_BYTES = 256 * MIB


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images with their targets.

    Attributes:
        images: `[B, C, H, W]`, or event frames `[T, B, C, H, W]`, in float32.
        targets: Labels `[B]`, or smoothed and mixed probabilities `[B, num_classes]`. For segmentation classes of pixels
            `[B, H, W]`, or for measurement a list of masks in their own sizes. For detection
            `autospike.data.objects.TrainingObjects`, or for measurement a list of `Objects` in the sizes of their images.
    """

    images: Tensor
    targets: Any


# Iterates over a split in batches of a given size.
Batches = Callable[[int], Iterator[Batch]]


@dataclass(frozen=True, kw_only=True)
class TrainingBatches:
    """An endless sequence of augmented batches. The batch of a step depends only on (seed, step).

    Each epoch is a permutation of the split. A smaller batch at its end is dropped, unless it is the only one. A rank decodes only
    its own slice of a batch.

    Attributes:
        split: The images.
        num_classes: Number of classes.
        channels: Number of channels of an image.
        image_size: Height and width of the images of a batch.
        batch_size: Over all ranks.
        augmentation: Transforms of single images, mixup and cutmix.
        smoothing: Label smoothing.
        workers: Number of processes that load images; 0 to load them in this one.
        seed: Key of the order, the augmentation and the mixing.
        device: Where batches are mixed.
        rank_slice: The images of each batch that belong to this rank.
        preparation: Normalisation of still images.
        images_per_epoch: Number of images of an epoch, the first ones of its permutation; all if None.
        cache: Holds decoded still images, which are as large as their files say. A loading process has a copy of its own.

    Raises:
        UserError: A batch cannot be divided among the ranks, or an augmentation does not apply to the images.
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
    rank_slice: RankSlice = WHOLE
    preparation: ImagePreparation = DEFAULT_PREPARATION
    images_per_epoch: int | None = None
    cache: ByteBudgetCache = field(default_factory=lambda: ByteBudgetCache(budget_bytes=DECODED_BYTES), repr=False)

    def __post_init__(self) -> None:
        self.sample_keys(0)
        self._transforms().training(self.augmentation)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        images = len(self.split) if self.images_per_epoch is None else min(self.images_per_epoch, len(self.split))
        return max(1, images // self.batch_size)

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Iterate over the batches of some steps.

        Args:
            start: The first step.
            stop: The step after the last one.

        Yields:
            The batch of each step, or the slice of this rank.
        """
        transforms = self._transforms()
        dataset = _AugmentedDataset(self.split, transforms.training(self.augmentation), self.cache)
        keys = (self.sample_keys(step) for step in range(start, stop))
        collate = collated if self.split.has_objects else None
        loader: Any = DataLoader(
            dataset,
            batch_sampler=keys,
            num_workers=self.workers,
            persistent_workers=False,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda" and torch.cuda.is_available(),
        )
        if self.split.target is not None:
            for images, targets in _load(loader):
                yield Batch(images=images.to(self.device), targets=targets.to(self.device))
            return
        mixing, plain = self._mixup(self.augmentation), self._mixup(AugmentationConfig())
        unmixed_from = float("inf") if self.augmentation.mix_epochs is None else self.augmentation.mix_epochs * self.per_epoch
        for step, (samples, labels) in zip(range(start, stop), _load(on_device(loader, self.device)), strict=True):
            images = samples if self.augmentation.erasing else transforms.normalise(samples)  # erasing needs normalised ones
            channels = images.flatten(1, -3)  # cutmix replaces the same rectangle in all frames
            with global_random(self.seed, "mixup", step):
                mixup = mixing if step < unmixed_from else plain
                mixed_images, mixed_labels = mixup(channels, labels)
            yield Batch(images=_time_first(mixed_images.view(images.shape)), targets=mixed_labels)

    def _transforms(self) -> SampleTransforms:
        return sample_transforms(self.split, channels=self.channels, image_size=self.image_size, preparation=self.preparation)

    def _mixup(self, augmentation: AugmentationConfig) -> Any:
        """Mixup and cutmix of timm; without either, it only smooths the labels."""
        mixup, cutmix = augmentation.mixup, augmentation.cutmix
        probability = augmentation.mix_probability if mixup or cutmix else 0.0
        return Mixup(mixup, cutmix, prob=probability, label_smoothing=self.smoothing, num_classes=self.num_classes)

    def sample_keys(self, step: int) -> list[tuple[int, int]]:
        """Return what determines the samples of a step.

        Args:
            step: The step.

        Returns:
            Position in the split and seed of the augmentation of each sample of this rank.
        """
        epoch, index = divmod(step, self.per_epoch)
        order = _permutation(len(self.split), self.seed, epoch)
        batch = order[index * self.batch_size : (index + 1) * self.batch_size]
        # timm's mixup needs an even number of images, which a batch of a small split may not have
        local = self.rank_slice.of(batch[: len(batch) // 2 * 2])
        return [(position, keyed_seed(self.seed, "augment", step, position)) for position in local]


@lru_cache(maxsize=2)
def _permutation(images: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(images))
    keyed(seed, "epoch", epoch).shuffle(order)
    return tuple(order)


def on_device(loader: Any, device: torch.device) -> Any:
    """Return a loader whose batches are on a device.

    On CUDA, timm's `PrefetchLoader` copies the next batch on a stream of its own while the current one is used. Its normalisation
    is that of samples which are normalised already: mean 0, standard deviation 1.

    Args:
        loader: Yields images in float32, `[B, C, H, W]` or `[B, T, C, H, W]`, and labels.
        device: The device.

    Returns:
        An iterable of the same batches.
    """
    if device.type == "cpu":
        return loader
    return PrefetchLoader(loader, mean=(0.0,), std=(1 / 255,), channels=1, device=device)  # it multiplies both by 255


def _load(loader: Any) -> Iterator[Any]:
    """Iterate over a DataLoader. Its workers report a UserError as a traceback, whose last line is the message.

    The traceback of the original error is dropped: it would keep the iterator of the DataLoader alive until a garbage collection,
    which would then wait up to five seconds for workers that no longer receive the message to end.
    """
    try:
        yield from loader
        return
    except UserError as error:
        message = str(error).splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
        error.with_traceback(None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split())
        message = f"training.workers: a process that loads images ended ({reason}); use fewer, or 0"
        error.with_traceback(None)
    raise UserError(message)


def _time_first(batch: Tensor) -> Tensor:
    """Event frames `[B, T, C, H, W]` to `[T, B, C, H, W]`; still images `[B, C, H, W]` are unchanged."""
    return batch.transpose(0, 1) if batch.dim() == 5 else batch


class _AugmentedDataset(Dataset[tuple[Tensor, Any]]):
    """A dataset indexed by (position, seed): the same pair gives the same pixels in every worker."""

    def __init__(self, split: Split, transform: TrainingTransform, cache: ByteBudgetCache) -> None:
        self.split, self.transform, self.cache = split, transform, cache

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Any]]:
        """The samples of a batch, as a DataLoader asks for them. The states of the generators are saved once for all of them."""
        with global_random(0), torch.random.fork_rng(devices=[]):
            return [self._sample(*key) for key in keys]

    def _sample(self, position: int, seed: int) -> tuple[Tensor, Any]:
        seed_global_random(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every CUDA device
        if self.split.target is not None:
            return self.transform(self.split.training_image(position), self.split.target_at(position))
        return self.transform(self._image(position)), self.split.labels[position]

    def _image(self, position: int) -> Any:
        """An image for training; a still image that is always the same is decoded once, as long as the cache has space."""
        if self.split.time_steps is not None or self.split.read_for_training is not None:
            return self.split.training_image(position)
        image: Image.Image | None = self.cache.get((position,))
        if image is None:
            image = self.split.training_image(position)
            self.cache.put((position,), image, image.width * image.height * len(image.getbands()))
        return image


# The images from one position of a split to before another.
Span = tuple[int, int]


def spans(images: int, batch_size: int) -> list[Span]:
    """Divide a split into batches, none of which has a single image unless the split has.

    Args:
        images: Number of images of the split.
        batch_size: Of all batches but the last one, which may have one image more.

    Returns:
        The batches, in order.
    """
    starts = list(range(0, max(1, images - 1), max(2, batch_size)))
    return list(zip(starts, [*starts[1:], images], strict=True))


@dataclass
class FixedBatches:
    """Batches of a split for measurement: resized, without augmentation, in the order of the split.

    A sample is decoded once and then cached. Images are cached as 8-bit integers, as are event frames whose counts are at most 255
    and need no resizing; larger counts take 16 bits, and means of counts 32: 16 frames of 2 x 128 x 128 take 0.5, 1 or 2 MB.

    No batch has a single sample unless the split has, because convolutions compute a single sample by another algorithm, whose
    last bits differ.

    Attributes:
        split: The images.
        channels: Number of channels of an image.
        image_size: Height and width of the images of a batch.
        device: Where batches are.
        cache: Holds decoded samples.
        preparation: Crop, interpolation and normalisation of still images.
    """

    split: Split
    channels: int
    image_size: int
    device: torch.device = CPU
    cache: ByteBudgetCache = field(default_factory=ByteBudgetCache, repr=False)
    preparation: ImagePreparation = DEFAULT_PREPARATION

    def __len__(self) -> int:
        return len(self.split)

    def __call__(self, batch_size: int) -> Iterator[Batch]:
        """Iterate over the whole split in batches of `batch_size` images; see `spans`."""
        for span in spans(len(self), batch_size):
            yield self.batch(span)

    def batch(self, span: Span) -> Batch:
        """Return the images from one position of the split to before another.

        Args:
            span: The two positions.

        Returns:
            The batch, on the device.
        """
        transforms = sample_transforms(self.split, channels=self.channels, image_size=self.image_size, preparation=self.preparation)
        images = transforms.normalise(torch.stack([self._sample(transforms, i) for i in range(*span)]).to(self.device))
        return Batch(images=_time_first(images), targets=self.targets(span))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images of a batch."""
        return self.image_size, self.image_size

    def targets(self, span: Span) -> Any:
        """Return the labels `[B]` of the images of a span, on the device; in a dense task a list of their targets.

        Args:
            span: First position of the split, and the one after the last.
        """
        if self.split.target is not None:
            return [self._target(position) for position in range(*span)]
        return torch.tensor(self.split.labels[slice(*span)], device=self.device)

    def _target(self, position: int) -> Any:
        if self.split.has_objects:
            return self.split.target_at(position)
        key = ("target", self.split.name, self.split.indices[position])
        target: MmapTensor | None = self.cache.get(key)
        if target is None:
            target = MmapTensor.of(torch.from_numpy(self.split.target_at(position)))
            self.cache.put(key, target, target.nbytes)
        return target.tensor()

    def _sample(self, transforms: SampleTransforms, position: int) -> Tensor:
        resizing = (self.image_size, self.preparation.crop_pct, self.preparation.interpolation)
        key = ("sample", self.split.name, self.split.indices[position], *resizing)
        sample: MmapTensor | None = self.cache.get(key)
        if sample is None:
            sample = MmapTensor.of(transforms.resize(self.split.image(position)))
            self.cache.put(key, sample, sample.nbytes)
        return sample.tensor()
