"""Batches of tensors from splits: augmented and keyed by step for training, fixed for measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from timm.data import Mixup
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autospike.config import AugmentationConfig
from autospike.data.images import Split
from autospike.data.preparation import MEAN, STD, Augmented, Preparation, preparation
from autospike.data.rank_slice import WHOLE, RankSlice
from autospike.errors import UserError
from autospike.memory.cache import ByteBudgetCache
from autospike.memory.mmap_tensor import MmapTensor
from autospike.randomness import global_random, keyed, keyed_seed

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a network takes and should answer.

    Images `[B, C, H, W]` or event frames `[T, B, C, H, W]`, float32; labels `[B]`, or smoothed and mixed probabilities
    `[B, classes]`.
    """

    images: Tensor
    targets: Tensor


# A split for measurement, in batches of a size.
Batches = Callable[[int], Iterator[Batch]]


@dataclass(frozen=True, kw_only=True)
class TrainingBatches:
    """An endless sequence of augmented batches. Batch number `step` depends on (seed, step) alone.

    Every epoch is a permutation of the split; a last, smaller batch is dropped, unless it is the only one. Of each, a rank
    decodes its share and no more.

    Raises:
        UserError: a batch cannot be shared.
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
    share: RankSlice = WHOLE

    def __post_init__(self) -> None:
        self._keys(0)

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` to `stop - 1`."""
        samples = preparation(self.split, channels=self.channels, image_size=self.image_size)
        dataset = _Augmented(self.split, samples.augmented(self.augmentation))
        keys = (self._keys(step) for step in range(start, stop))
        loader: Any = DataLoader(dataset, batch_sampler=keys, num_workers=self.workers, persistent_workers=False)
        mixup = self._mixup()
        for step, (images, labels) in zip(range(start, stop), _loaded(loader), strict=True):
            channels = images.flatten(1, -3)  # of all frames together: one rectangle is cut from all of them
            with global_random(self.seed, "mixup", step):
                mixed_images, mixed_labels = mixup(channels.to(self.device), labels.to(self.device))
            yield Batch(images=_time_first(mixed_images.view(images.shape)), targets=mixed_labels)

    def _mixup(self) -> Any:
        """timm's mixup and cutmix; with neither, it smooths the labels alone."""
        mixup, cutmix = self.augmentation.mixup, self.augmentation.cutmix
        share = self.augmentation.mix_probability if mixup or cutmix else 0.0
        return Mixup(mixup, cutmix, prob=share, label_smoothing=self.smoothing, num_classes=self.num_classes)

    def _keys(self, step: int) -> list[tuple[int, int]]:
        """The positions in the split, and the seeds of their augmentation, of one step's samples."""
        epoch, place = divmod(step, self.per_epoch)
        order = _order(len(self.split), self.seed, epoch)
        # timm's mixup pairs images, so a split smaller than a batch gives an even number of them
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        shared = self.share.of(chosen[: len(chosen) // 2 * 2])
        return [(position, keyed_seed(self.seed, "augment", step, position)) for position in shared]


@lru_cache(maxsize=2)
def _order(images: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(images))
    keyed(seed, "epoch", epoch).shuffle(order)
    return tuple(order)


def _loaded(loader: Any) -> Iterator[Any]:
    """What a loader gives. A worker reports a user's error as a traceback, of which the last line says what is wrong."""
    try:
        yield from loader
    except UserError as error:
        raise UserError(str(error).splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")) from None


def _time_first(batch: Tensor) -> Tensor:
    """Frames `[B, T, C, H, W]` to `[T, B, C, H, W]`; still images `[B, C, H, W]` stay as they are."""
    return batch.transpose(0, 1) if batch.dim() == 5 else batch


class _Augmented(Dataset[tuple[Tensor, int]]):
    """Items are addressed by (position, seed): the same pair gives the same pixels in any worker."""

    def __init__(self, split: Split, augmented: Augmented) -> None:
        self.split, self.augmented = split, augmented

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        position, seed = key
        with global_random(seed), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would queue a call for every CUDA device, each time
            image = self.augmented(self.split.image(position))
        return image, self.split.labels[position]


# The images from one position of a split to before another.
Span = tuple[int, int]


def spans(images: int, batch_size: int) -> list[Span]:
    """A split in batches of a size. None holds a single image, unless the split does."""
    starts = list(range(0, max(1, images - 1), max(2, batch_size)))
    return list(zip(starts, [*starts[1:], images], strict=True))


@dataclass
class FixedBatches:
    """A split, resized and unaugmented, in the split's order. Each sample is decoded once, then kept in memory while there is room.

    An image is kept as bytes. So are frames of whole counts up to 255 that need no resizing; larger counts take 16 bits, means of
    counts 32: 16 frames of 2 x 128 x 128 are half a megabyte, 1 or 2.

    No batch holds a single sample, unless the split does: convolutions take another path for one, and its last bits differ.
    """

    split: Split
    channels: int
    image_size: int
    device: torch.device = CPU
    kept: ByteBudgetCache = field(default_factory=ByteBudgetCache, repr=False)

    def __len__(self) -> int:
        return len(self.split)

    def __call__(self, batch_size: int) -> Iterator[Batch]:
        for span in spans(len(self), batch_size):
            yield self.batch(span)

    def batch(self, span: Span) -> Batch:
        """The images from one position to before another."""
        samples = preparation(self.split, channels=self.channels, image_size=self.image_size)
        images = samples.measured(torch.stack([self._sample(samples, i) for i in range(*span)]).to(self.device))
        return Batch(images=_time_first(images), targets=self.targets(span))

    def targets(self, span: Span) -> Tensor:
        return torch.tensor(self.split.labels[slice(*span)], device=self.device)

    def _sample(self, samples: Preparation, position: int) -> Tensor:
        key = ("sample", self.split.name, self.split.indices[position], self.image_size)
        sample: MmapTensor | None = self.kept.get(key)
        if sample is None:
            sample = MmapTensor.of(samples.kept(self.split.image(position)))
            self.kept.keep(key, sample, sample.nbytes)
        return sample.tensor()


@dataclass(frozen=True, kw_only=True)
class Renormalised:
    """Still images as a network from elsewhere wants them: each channel normalised by its own mean and standard deviation."""

    batches: FixedBatches
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, batch_size: int) -> Iterator[Batch]:
        ours = self.batches.split.time_steps is not None or {*self.mean, *self.std} == {MEAN, STD}
        for batch in self.batches(batch_size):
            if not ours:
                mean, std = (torch.tensor(x, device=batch.images.device)[:, None, None] for x in (self.mean, self.std))
                batch = replace(batch, images=(batch.images * STD + MEAN - mean) / std)
            yield batch
