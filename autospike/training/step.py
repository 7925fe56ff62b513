"""One training step: what a lesson teaches some subnets, as gradients of the shared parameters.

It draws nothing and updates nothing: the trainer says which subnets, and moves the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.space.architecture import Architecture
from autospike.supernet import Logits

# A supernet, or what wraps one: images and architectures to the logits of each, `[B, classes]`, or at several T `[S, B, classes]`.
Network = Callable[[Tensor, Sequence[Architecture]], list[Logits]]


# What a pass runs in whose gradients are not the last of the step: several ranks need not exchange them yet.
Alone = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """What a network is shown and should answer.

    Images `[B, C, H, W]` or event frames `[T, B, C, H, W]`; labels `[B]` or probabilities `[B, classes]`, as `targets` for the
    first head and as `taught` for a second one, where there are two.
    """

    images: Tensor
    targets: Tensor
    taught: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def parts(self, number: int) -> list[LabelledBatch]:
        """In so many parts, in order; itself if it is one."""
        along = self.images.dim() - 4  # frames have time before the batch
        size = -(-len(self) // number)
        split = zip(self.images.split(size, dim=along), self.targets.split(size), self.taught.split(size), strict=True)
        return [LabelledBatch(images=images, targets=targets, taught=taught) for images, targets, taught in split]


# What the other subnets of a step learn, after the first one gave its logits.
TargetTransform = Callable[[LabelledBatch, Logits], LabelledBatch]


def labels(lesson: LabelledBatch, _logits: Logits) -> LabelledBatch:
    """The same."""
    return lesson


def in_place(lesson: LabelledBatch, logits: Logits) -> LabelledBatch:
    """The first one's soft answers, at its last T (in-place distillation: universally slimmable networks, ICCV 2019).

    Each of two heads learns from the same head of the first subnet.
    """
    first, second = (logits, logits) if isinstance(logits, Tensor) else logits
    return replace(lesson, targets=_soft(first), taught=_soft(second))


TARGETS: dict[str, TargetTransform] = {"labels": labels, "in-place": in_place}


def learn(
    network: Network,
    lesson: LabelledBatch,
    architectures: Sequence[Architecture],
    *,
    accumulate: int = 1,
    target_transform: TargetTransform = labels,
    alone: Alone = nullcontext,
) -> Tensor:
    """Add the gradients of the mean loss of some subnets; returns what each subnet and part adds to it, `[subnets, parts]`.

    The lesson goes through in `accumulate` parts, each normalised by itself. One backward pass for each subnet and part: memory for
    one subnet at a time.

    Args:
        architectures: the first of them is the one that others may learn from.
        alone: every pass but the last one is made in it.
    """
    parts = lesson.parts(accumulate)
    losses: list[Tensor] = []
    for architecture in architectures:
        for i, part in enumerate(parts):
            last = len(losses) == len(architectures) * len(parts) - 1
            with nullcontext() if last else alone():
                (logits,) = network(part.images, [architecture])
                loss = cross_entropy(logits, part) * (len(part) / len(lesson) / len(architectures))
                loss.backward()
            losses.append(loss.detach())
            if architecture is architectures[0]:
                parts[i] = target_transform(part, logits)
    return torch.stack(losses).view(len(architectures), len(parts))


def cross_entropy(logits: Logits, lesson: LabelledBatch) -> Tensor:
    """Cross-entropy, mean over every T that there are logits of; with two heads the mean of the first on the targets and the second
    on what a teacher says."""
    if isinstance(logits, Tensor):
        return _of_head(logits, lesson.targets)
    first, second = logits
    return (_of_head(first, lesson.targets) + _of_head(second, lesson.taught)) / 2


def _of_head(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(at_one, targets) for at_one in _at_each(logits)]).mean()


def _soft(logits: Tensor) -> Tensor:
    """Probabilities at the last T, without a gradient."""
    return _at_each(logits)[-1].detach().softmax(dim=-1)


def _at_each(logits: Tensor) -> Tensor:
    """`[S, B, classes]`, of one T or several."""
    return logits.view(-1, *logits.shape[-2:])
