"""What a training step computes: the sampled architectures, their losses on a batch, and the gradients of the shared parameters.

The loop around it, which also updates the parameters, is `training.trainer.train`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.supernet import Logits
from autospike.tasks.classification import cross_entropy

# Chooses the architectures of a step from a space, by a random generator of the step and the finished part of the training, 0 to 1.
# If the largest architecture is among them, it is the first; no architecture comes twice.
Sampling = Callable[[SearchSpace, random.Random, float], tuple[Architecture, ...]]

# The part of a training after which `small_first` samples from the whole space. Our choice.
WIDENING = 0.5


def single_path(space: SearchSpace, rng: random.Random, _progress: float) -> tuple[Architecture, ...]:
    """Sample one architecture uniformly.

    Source: Auto-Spikformer (arXiv 2306.00807), after SPOS and AutoFormer.

    Args:
        space: The search space.
        rng: Random generator of the step.

    Returns:
        The architecture.
    """
    return (space.sample(rng),)


def sandwich(space: SearchSpace, rng: random.Random, _progress: float) -> tuple[Architecture, ...]:
    """Take the largest, the smallest and two uniform samples.

    Source: the sandwich rule of universally slimmable networks (ICCV 2019).

    Args:
        space: The search space.
        rng: Random generator of the step.

    Returns:
        The architectures in this order, each once.
    """
    return tuple(dict.fromkeys((space.largest(), space.smallest(), space.sample(rng), space.sample(rng))))


def small_first(space: SearchSpace, rng: random.Random, progress: float) -> tuple[Architecture, ...]:
    """Sample one architecture from a space that grows during the first half of the training.

    Each gene that is a size starts with its smallest value and gains the larger ones at equal intervals. Other genes are sampled
    from all their values. This reverses progressive shrinking (Once-for-All, ICLR 2020); the schedule is ours.

    Args:
        space: The search space.
        rng: Random generator of the step.
        progress: Finished share of the training, between 0 and 1.

    Returns:
        The architecture.
    """
    return (space.sample(rng, size_fraction=min(1.0, progress / WIDENING)),)


SAMPLING: dict[str, Sampling] = {"single-path": single_path, "sandwich": sandwich, "small-first": small_first}


def with_single_time_step(architectures: Sequence[Architecture]) -> tuple[Architecture, ...]:
    """Return the architectures with T = 1, each once.

    Args:
        architectures: The architectures of a step.
    """
    return tuple(dict.fromkeys(replace(architecture, time_steps=1) for architecture in architectures))


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """Images with their targets; of a network with two classification heads, those of both.

    Attributes:
        images: `[B, C, H, W]`, or event frames `[T, B, C, H, W]`.
        targets: Of the head, or of the first of two: labels `[B]` or probabilities `[B, num_classes]`; classes of pixels
            `[B, H, W]` for segmentation; `autospike.data.objects.TrainingObjects` for detection.
        teacher_targets: Of the distillation head, where there are two heads; as `targets`.
    """

    images: Tensor
    targets: Any
    teacher_targets: Any

    def __len__(self) -> int:
        return len(self.targets)

    def split(self, parts: int) -> list[LabelledBatch]:
        """Split the batch into parts of equal size, in order. The last one may be smaller.

        Args:
            parts: Number of parts.

        Returns:
            The parts.
        """
        batch_dim = self.images.dim() - 4  # event frames have the time dimension before it
        size = -(-len(self) // parts)
        tensors = zip(
            self.images.split(size, dim=batch_dim), self.targets.split(size), self.teacher_targets.split(size), strict=True
        )
        return [LabelledBatch(images=images, targets=targets, teacher_targets=teacher) for images, targets, teacher in tensors]


# Changes the targets for the remaining architectures of a step, given the logits of the first one.
TargetTransform = Callable[[LabelledBatch, Logits], LabelledBatch]


def labels(batch: LabelledBatch, _logits: Logits) -> LabelledBatch:
    """Return the batch with its own targets.

    Args:
        batch: The labelled batch.
    """
    return batch


def in_place(batch: LabelledBatch, logits: Logits) -> LabelledBatch:
    """Replace the targets by the softmax of the first architecture at its last T.

    This is in-place distillation (universally slimmable networks, ICCV 2019). Each of two heads learns from the same head.

    Args:
        batch: The labelled batch.
        logits: Logits of the first architecture at its last T, `[B, num_classes]`; of both heads, if there are two.

    Returns:
        The batch with class probabilities as targets.
    """
    first, second = (logits, logits) if isinstance(logits, Tensor) else logits
    return replace(batch, targets=_probabilities(first), teacher_targets=_probabilities(second))


TARGETS: dict[str, TargetTransform] = {"labels": labels, "in-place": in_place}


# Called with the output of a subnet, the targets, and those of a distillation head; see `autospike.tasks.contract.Task.loss`.
LossFunction = Callable[[Any, Any, Any], Tensor]


class SubnetForward(Protocol):
    """Forward pass of several subnets on one batch: a supernet, or a module that wraps one.

    It returns the logits of each architecture, `[B, num_classes]`, or for several values of T `[len(at), B, num_classes]`; a pair
    of them if the architecture has two heads; of detectors, which are called with targets, the losses.
    """

    def __call__(self, images: Tensor, architectures: Sequence[Architecture], /, *, at: Sequence[int]) -> list[Logits]:
        """Return the logits of each architecture."""


@dataclass(frozen=True, kw_only=True)
class Tet:
    """Loss of temporal efficient training (Deng et al., ICLR 2022), as Spike-driven Transformer computes it.

    `(1 - weight) * mean over t of CE(o_t, y) + weight * mean of (o - mean) ** 2`, with the outputs o_t of the single time steps.

    Attributes:
        weight: Of the second term.
        mean: The value that outputs are drawn to.
    """

    weight: float
    mean: float

    def __call__(self, logits: Logits, targets: Tensor, teacher_targets: Tensor) -> Tensor:
        """Compute the loss, as a mean over the heads.

        Args:
            logits: At T = 1, 2, ..., each the mean over the time steps so far, `[T, B, num_classes]`; a pair of them if there are
                two heads.
            targets: Of the first head.
            teacher_targets: Of the second head, if there is one.

        Returns:
            The loss, a scalar.
        """
        if isinstance(logits, Tensor):
            return self._head_loss(logits, targets)
        first, second = logits
        return (self._head_loss(first, targets) + self._head_loss(second, teacher_targets)) / 2

    def _head_loss(self, means: Tensor, targets: Tensor) -> Tensor:
        counts = torch.arange(1, len(means) + 1, device=means.device, dtype=means.dtype).view(-1, 1, 1)
        sums = means * counts
        outputs = sums.diff(dim=0, prepend=torch.zeros_like(sums[:1]))
        cross_entropies = torch.stack([F.cross_entropy(output, targets) for output in outputs])
        return (1 - self.weight) * cross_entropies.mean() + self.weight * (outputs - self.mean).square().mean()


def accumulate_gradients(
    network: SubnetForward,
    batch: LabelledBatch,
    architectures: Sequence[Architecture],
    *,
    parts: int = 1,
    at: Sequence[int] = (),
    loss_function: LossFunction = cross_entropy,
    target_transform: TargetTransform = labels,
    bfloat16: bool = False,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    tet: Tet | None = None,
    reads_targets: bool = False,
) -> Tensor:
    """Add the gradients of the mean loss over some architectures to `.grad` of the parameters.

    Runs one forward and one backward pass for each architecture and part, so that the activations of one of them are in memory at
    a time. Each part is normalised by its own BatchNorm statistics.

    Args:
        network: The forward pass.
        batch: Images and targets.
        architectures: The subnets. The logits of the first one are given to `target_transform`.
        parts: Number of parts in which the batch is processed.
        at: Values of T at which the loss is computed; the architecture's own T if empty.
        loss_function: Compares the output of a subnet with the targets, and with those of a distillation head.
        target_transform: Gives the targets of all architectures but the first.
        bfloat16: Run linear layers, convolutions and products of attention in bfloat16, by autocast. Parameters, their updates,
            normalisation statistics, membrane potentials and the loss stay in float32.
        no_sync: Context of all passes but the last one: ranks exchange gradients once a step.
        tet: Replaces `loss_function` and `at`: every architecture runs for its own T.
        reads_targets: Whether the network is called with the targets; see `autospike.tasks.contract.Task.reads_targets`.

    Returns:
        Contribution of each architecture and part to the loss, `[len(architectures), parts]`.
    """
    batches = batch.split(parts)
    losses: list[Tensor] = []
    loss_of: LossFunction = tet or loss_function
    for architecture in architectures:
        steps = at if tet is None else range(1, architecture.time_steps + 1)
        for i, part in enumerate(batches):
            is_last = len(losses) == len(architectures) * len(batches) - 1
            with nullcontext() if is_last else no_sync():
                with torch.autocast(part.images.device.type, dtype=torch.bfloat16) if bfloat16 else nullcontext():
                    read = {"targets": part.targets} if reads_targets else {}
                    (logits,) = network(part.images, [architecture], at=steps, **read)
                if bfloat16:
                    logits = logits.float() if isinstance(logits, Tensor) else (logits[0].float(), logits[1].float())
                loss = loss_of(logits, part.targets, part.teacher_targets) * (len(part) / len(batch) / len(architectures))
                loss.backward()
            losses.append(loss.detach())
            if architecture is architectures[0]:
                batches[i] = target_transform(part, logits)
    return torch.stack(losses).view(len(architectures), len(batches))


def _probabilities(logits: Tensor) -> Tensor:
    """Softmax at the last T, without a gradient."""
    return _by_time_steps(logits)[-1].detach().softmax(dim=-1)


def _by_time_steps(logits: Tensor) -> Tensor:
    """`[S, B, num_classes]` for one value of T or several."""
    return logits.view(-1, *logits.shape[-2:])
