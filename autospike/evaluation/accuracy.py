"""Counting correct predictions, for one model and for the nodes of a trie alike."""

from __future__ import annotations

from torch import Tensor


def correct_predictions(logits: Tensor, targets: Tensor) -> tuple[bytes, ...]:
    """Find the correct predictions at every T. The prediction at T = t is the class of the largest mean over the first t steps.

    Args:
        logits: Of each single step, `[T, B, num_classes]`.
        targets: Labels, `[B]`.

    Returns:
        At T = 1, 2, ..., one byte for each image: 1 if it is classified correctly, else 0.
    """
    steps = range(1, len(logits) + 1)
    masks = [logits[:t].mean(dim=0).argmax(dim=1) == targets for t in steps]
    return tuple(mask.cpu().numpy().tobytes() for mask in masks)
