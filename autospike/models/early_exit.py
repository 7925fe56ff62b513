"""Early exit: an image stops at the first time step at which its prediction is confident enough, after SEENN (NeurIPS 2023).

The confidence margin of a prediction is the difference of its two largest class probabilities, from the softmax of the mean logits
of all steps so far. It is between 0 and 1. An image exits at the first step whose margin is above a threshold, or at the last one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from autospike.nn.neuron import continued


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


def confident_steps(margins: Tensor, threshold: float) -> Tensor:
    """Return the first step at which each image is confident enough.

    Args:
        margins: As `confidence_margins` returns them, `[T, B]`.
        threshold: A step is confident enough if its margin is above it; with 1 none is.

    Returns:
        Numbers from 1 to T, 0 for an image without such a step, `[B]`.
    """
    passed = margins > threshold
    return torch.where(passed.any(dim=0), passed.int().argmax(dim=0) + 1, 0)


def exit_steps(margins: Tensor, threshold: float) -> Tensor:
    """Return the number of steps that each image runs.

    Args:
        margins: As `confidence_margins` returns them, `[T, B]`.
        threshold: An image exits at the first step whose margin is above it. With 1 every image runs all steps.

    Returns:
        Numbers from 1 to T, `[B]`.
    """
    steps = confident_steps(margins, threshold)
    return torch.where(steps > 0, steps, len(margins))


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


def run_until_exit(
    model: nn.Module, forward_steps: Callable[[Tensor, int], Tensor], x: Tensor, *, time_steps: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """Run a model step by step, each image until its exit. No step after the last exit of the batch is computed.

    The output is that of `exited` on all steps, up to the rounding of the head's matrix product. Images that have stopped leave the
    batch. The potentials of the neurons are kept from step to step. A still image is convolved anew in each step.

    Args:
        model: The model, in eval mode.
        forward_steps: Its logits `[1, B, num_classes]` of one step; called with images, or with one frame, and 1.
        x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
        time_steps: T.
        threshold: See `exit_steps`.

    Returns:
        Outputs `[B, num_classes]` and numbers of steps `[B]`, without gradients.
    """
    is_still = x.dim() == 4
    last = time_steps if is_still else min(time_steps, len(x))
    running = torch.arange(x.shape[0 if is_still else 1], device=x.device)
    found: list[tuple[Tensor, Tensor, int]] = []  # images that stop at a step, their outputs, and the step
    logits: list[Tensor] = []  # of the images that run, at each step so far
    with continued(model) as potentials:
        for step in range(1, last + 1):
            logits.append(forward_steps(x if is_still else x[step - 1 : step], 1)[0])
            output = torch.stack(logits).mean(dim=0)
            stops = confidence_margins(output) > threshold if step < last else torch.ones_like(running, dtype=torch.bool)
            found.append((running[stops], output[stops], step))
            if stops.all():
                break
            if stops.any():
                rest = (~stops).nonzero().flatten()
                running, logits = running[rest], [of_step[rest] for of_step in logits]
                x = x[rest] if is_still else x[:, rest]
                potentials.select(rest)
    order = torch.cat([images for images, _, _ in found]).argsort()
    steps = torch.cat([torch.full_like(images, step) for images, _, step in found])
    return torch.cat([output for _, output, _ in found])[order], steps[order]
