"""Counting correct predictions."""

from __future__ import annotations

import torch

from autospike.evaluation.accuracy import correct_predictions


def test_the_prediction_at_t_is_of_the_mean_of_the_first_t_steps() -> None:
    """By hand: two images of class 1. The first is right at step 1 only by itself, the second from T = 2 on."""
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0]], [[3.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 0.0]]])
    assert correct_predictions(logits, torch.tensor([1, 1])).tolist() == [1, 1, 1]
    assert correct_predictions(logits, torch.tensor([0, 1])).tolist() == [0, 2, 2]
