"""Augmentation of event frames `[T, C, H, W]`. All frames of a sample are changed alike.

The transforms draw from torch's global random generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from autospike.errors import UserError

# SNNAugmentWide of Spikformer and QKFormer: numbers of magnitudes, and the largest of each operation.
MAGNITUDES = 31
SHEAR = 0.3  # radians
SHIFT = 5.0  # pixels
ANGLE = 30.0  # degrees
CUTOUT_AREA = (0.001, 0.11)  # of the frame

# EventDrop: tenths of the time or of the events, and twentieths of the sides of the area (of the authors' code).
TENTHS, TWENTIETHS = (1, 9), (1, 5)


@dataclass(frozen=True, kw_only=True)
class SnnAugment:
    """One operation for each sample: the policy SNNAugmentWide of Spikformer and QKFormer for CIFAR10-DVS.

    Equally probable are: nothing, horizontal shear, horizontal shift, vertical shift, rotation, and one erased square. The
    magnitude is one of 31 equal steps from the negative to the positive limit, and its sign is drawn once more. Pixels are moved to
    the nearest ones; what enters is empty.
    """

    def __call__(self, frames: Tensor) -> Tensor:
        """Change the frames `[T, C, H, W]` of a sample."""
        operation = _drawn(6)
        magnitude = float(torch.linspace(-1, 1, MAGNITUDES)[_drawn(MAGNITUDES)]) * (1 if _drawn(2) else -1)
        if operation == 0:
            return frames
        if operation == 5:
            erased: Tensor = v2.RandomErasing(p=1.0, scale=CUTOUT_AREA, ratio=(1.0, 1.0))(frames)
            return erased
        moved = partial(F.affine, frames, scale=1.0, interpolation=InterpolationMode.NEAREST)
        if operation == 1:
            return moved(angle=0.0, translate=[0, 0], shear=[math.degrees(SHEAR * magnitude), 0.0])
        if operation == 4:
            return F.rotate(frames, ANGLE * magnitude, interpolation=InterpolationMode.NEAREST)
        shift = int(SHIFT * magnitude)
        return moved(angle=0.0, translate=[shift, 0] if operation == 2 else [0, shift], shear=[0.0, 0.0])


@dataclass(frozen=True, kw_only=True)
class Roll:
    """Shift a sample in both directions; what leaves at one side enters at the other.

    Attributes:
        pixels: Largest shift.
    """

    pixels: int

    def __call__(self, frames: Tensor) -> Tensor:
        """Shift the frames `[T, C, H, W]` of a sample."""
        return frames.roll([_drawn(2 * self.pixels + 1) - self.pixels for _ in range(2)], dims=(-2, -1))


@dataclass(frozen=True, kw_only=True)
class EventDrop:
    """Remove events (Gu et al., EventDrop, IJCAI 2021): nothing, a time, an area or random events, with equal probability.

    It acts on frames instead of single events. A time of a tenth to nine tenths of the recording begins at a random frame; a later
    part of it lies after the end. An area has a twentieth to a quarter of each side. Of the events, a tenth to nine tenths are
    removed, each by itself. Frames that would all become empty are left as they are.

    Attributes:
        probability: Of applying it to a sample.
    """

    probability: float

    def __call__(self, frames: Tensor) -> Tensor:
        """Remove events from the frames `[T, C, H, W]` of a sample."""
        if float(torch.rand(())) >= self.probability:
            return frames
        dropped = (self._nothing, self._time, self._area, self._events)[_drawn(4)](frames)
        return dropped if dropped.any() else frames

    def _nothing(self, frames: Tensor) -> Tensor:
        return frames

    def _time(self, frames: Tensor) -> Tensor:
        start, count = _drawn(len(frames)), math.ceil(_between(*TENTHS) / 10 * len(frames))
        kept = frames.clone()
        kept[start : start + count] = 0
        return kept

    def _area(self, frames: Tensor) -> Tensor:
        share = _between(*TWENTIETHS) / 20
        kept, rows, columns = frames.clone(), *(_span(length, share) for length in frames.shape[-2:])
        kept[..., rows, columns] = 0
        return kept

    def _events(self, frames: Tensor) -> Tensor:
        if (frames < 0).any() or not torch.equal(frames, frames.round()):
            raise UserError("training.augmentation.event_drop: needs frames of whole counts, which are not negative; remove it")
        return torch.binomial(frames, torch.full_like(frames, 1 - _between(*TENTHS) / 10))


def _span(length: int, share: float) -> slice:
    """A part of a side around a random position, cut at the border."""
    start = max(0, int(float(torch.rand(())) * length - share * length / 2))
    return slice(start, start + max(1, round(share * length)))


def _drawn(count: int) -> int:
    """A random number from 0 to count - 1."""
    return int(torch.randint(count, ()))


def _between(low: int, high: int) -> int:
    return low + _drawn(high - low + 1)
