"""One training step: what a lesson teaches some subnets, as gradients of the shared parameters.

It draws nothing and updates nothing: the trainer says which subnets, and moves the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.architecture import Architecture
from autospike.supernet import Logits

# A supernet, or what wraps one: images and architectures to the logits of each.
Network = Callable[[Tensor, Sequence[Architecture]], list[Logits]]


class NonFiniteLossError(ArithmeticError):
    """A subnet's loss is infinite or no number; nothing of it was added to the gradients."""

    def __init__(self, *, loss: float, architecture: Architecture) -> None:
        super().__init__(f"the loss is {loss}, subnet {architecture.id}")
        self.loss, self.architecture = loss, architecture


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


def learn(network: Network, lesson: Lesson, architectures: Sequence[Architecture], *, accumulate: int) -> float:
    """Add the gradients of the mean loss of some subnets; returns the loss.

    The lesson goes through in `accumulate` parts, each normalised by itself. One backward pass for each subnet and part: memory for
    one subnet at a time.

    Raises:
        NonFiniteLossError: the gradients are then those of the subnets and parts before.
    """
    total = 0.0
    for architecture in architectures:
        for part in lesson.parts(accumulate):
            (logits,) = network(part.images, [architecture])
            loss = cross_entropy(logits, part) * (len(part) / len(lesson) / len(architectures))
            if not torch.isfinite(loss):
                raise NonFiniteLossError(loss=loss.item(), architecture=architecture)
            total += loss.item()
            loss.backward()
    return total


def cross_entropy(logits: Logits, lesson: Lesson) -> Tensor:
    """Cross-entropy; with two heads the mean of the first on the targets and the second on what a teacher says."""
    if isinstance(logits, Tensor):
        return F.cross_entropy(logits, lesson.targets)
    first, second = logits
    return (F.cross_entropy(first, lesson.targets) + F.cross_entropy(second, lesson.taught)) / 2
