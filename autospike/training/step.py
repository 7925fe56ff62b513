"""One training step: what a lesson teaches some subnets, as gradients of the shared parameters.

It draws nothing and updates nothing: the trainer says which subnets, and moves the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.architecture import Architecture
from autospike.supernet import Logits

# A supernet, or what wraps one: images and architectures to the logits of each.
Network = Callable[[Tensor, Sequence[Architecture]], list[Logits]]


# What a pass runs in whose gradients are not the last of the step: several ranks need not exchange them yet.
Alone = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a network is shown and should answer.

    Images `[B, C, H, W]` or event frames `[T, B, C, H, W]`; labels `[B]` or probabilities `[B, classes]`, as `targets` for the
    first head and as `taught` for a second one, where there are two.
    """

    images: Tensor
    targets: Tensor
    taught: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def parts(self, number: int) -> list[Lesson]:
        """In so many parts, in order; itself if it is one."""
        along = self.images.dim() - 4  # frames have time before the batch
        size = -(-len(self) // number)
        split = zip(self.images.split(size, dim=along), self.targets.split(size), self.taught.split(size), strict=True)
        return [Lesson(images=images, targets=targets, taught=taught) for images, targets, taught in split]


def learn(
    network: Network, lesson: Lesson, architectures: Sequence[Architecture], *, accumulate: int, alone: Alone = nullcontext
) -> Tensor:
    """Add the gradients of the mean loss of some subnets; returns what each subnet and part adds to it, `[subnets, parts]`.

    The lesson goes through in `accumulate` parts, each normalised by itself. One backward pass for each subnet and part: memory for
    one subnet at a time.
    """
    parts, losses = lesson.parts(accumulate), []
    passes = [(architecture, part) for architecture in architectures for part in parts]
    for i, (architecture, part) in enumerate(passes, start=1):
        with alone() if i < len(passes) else nullcontext():
            (logits,) = network(part.images, [architecture])
            loss = cross_entropy(logits, part) * (len(part) / len(lesson) / len(architectures))
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).view(len(architectures), len(parts))


def cross_entropy(logits: Logits, lesson: Lesson) -> Tensor:
    """Cross-entropy; with two heads the mean of the first on the targets and the second on what a teacher says."""
    if isinstance(logits, Tensor):
        return F.cross_entropy(logits, lesson.targets)
    first, second = logits
    return (F.cross_entropy(first, lesson.targets) + F.cross_entropy(second, lesson.taught)) / 2
