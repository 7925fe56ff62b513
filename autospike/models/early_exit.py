"""Early exit: an image stops at the first time step at which its prediction is confident enough, after SEENN (NeurIPS 2023).

The confidence margin of a prediction is the difference of its two largest class probabilities, from the softmax of the mean logits
of all steps so far. It is between 0 and 1. An image exits at the first step whose margin is above a threshold, or at the last one.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = 1.0  # no margin is above it


def running_means(logits: Tensor) -> Tensor:
    """Return the outputs at T = 1, 2, ...: the means over the first steps.

    Args:
        logits: Of each single step, `[T, B, num_classes]`.

    Returns:
        `[T, B, num_classes]`.
    """
    return torch.stack([logits[:t].mean(dim=0) for t in range(1, len(logits) + 1)])


def confidence_margins(outputs: Tensor) -> Tensor:
    """Return the confidence margin of each image after each step.

    Args:
        outputs: As `running_means` returns them, `[T, B, num_classes]`.

    Returns:
        `[T, B]`, between 0 and 1; 1 if there is one class only.
    """
    probabilities = outputs.softmax(dim=-1)
    if probabilities.shape[-1] == 1:
        return torch.ones_like(probabilities[..., 0])
    largest = probabilities.topk(2, dim=-1).values
    return largest[..., 0] - largest[..., 1]


def exit_steps(margins: Tensor, threshold: float) -> Tensor:
    """Return the number of steps that each image runs.

    Args:
        margins: As `confidence_margins` returns them, `[T, B]`.
        threshold: An image exits at the first step whose margin is above it. With 1 every image runs all steps.

    Returns:
        Numbers from 1 to T, `[B]`.
    """
    passed = margins > threshold
    passed[-1] = True
    return passed.int().argmax(dim=0) + 1


def exited(logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the output of each image at its exit.

    Args:
        logits: Of each single step, `[T, B, num_classes]`.
        threshold: See `exit_steps`.

    Returns:
        Outputs `[B, num_classes]` and numbers of steps `[B]`.
    """
    outputs = running_means(logits)
    steps = exit_steps(confidence_margins(outputs), threshold)
    return outputs[steps - 1, torch.arange(outputs.shape[1], device=outputs.device)], steps
