"""Counting correct predictions, for one model and for the nodes of a trie alike."""

from __future__ import annotations

import torch
from torch import Tensor


def correct_predictions(logits: Tensor, targets: Tensor) -> Tensor:
    """Count correct predictions at every T. The prediction at T = t is the class of the largest mean over the first t steps.

    Args:
        logits: Of each single step, `[T, B, num_classes]`.
        targets: Labels, `[B]`.

    Returns:
        Number of correct predictions at T = 1, 2, ..., `[T]`.
    """
    steps = range(1, len(logits) + 1)
    return torch.stack([(logits[:t].mean(dim=0).argmax(dim=1) == targets).sum() for t in steps])
