"""Correct predictions at every T, and the loss of two heads."""

from __future__ import annotations

import torch

from autospike.tasks.classification import CLASSIFICATION, classified_at_every_step, cross_entropy


def test_the_prediction_at_t_is_of_the_mean_of_the_first_t_steps() -> None:
    """By hand: two images of class 1. The first is right at step 1 only by itself, the second from T = 2 on."""
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0]], [[3.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 0.0]]])
    found = classified_at_every_step(logits, torch.tensor([1, 1]), 0)
    assert [found[t].mask for t in (1, 2, 3)] == [b"\1\0", b"\0\1", b"\0\1"]
    found = classified_at_every_step(logits, torch.tensor([0, 1]), 0)
    assert [found[t].mask for t in (1, 2, 3)] == [b"\0\0", b"\1\1", b"\1\1"]


def test_tallies_of_shards_add_up_in_any_order() -> None:
    logits = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]])
    first, second = (
        classified_at_every_step(logits[:, part], torch.tensor([1, 1, 1])[part], part.start)[1]
        for part in (slice(0, 2), slice(2, 3))
    )
    for state in (first + second, second + first):
        quality = CLASSIFICATION.quality(state)
        assert (quality.correct, quality.correct_mask, quality.score) == (2, bytes([0b10100000]), None)


def test_distillation_loss_of_two_heads() -> None:
    """The mean of two cross-entropies, with the label and with the class of the teacher."""
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    expected = (-torch.log_softmax(first, 1)[0, 0] - torch.log_softmax(second, 1)[0, 1]) / 2
    torch.testing.assert_close(cross_entropy((first, second), torch.tensor([0]), torch.tensor([1])), expected)
