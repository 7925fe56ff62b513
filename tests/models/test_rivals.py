"""Networks without spikes: their size, their input, and the count of their operations by hand."""

from __future__ import annotations

import pytest
import torch
from builders import small

from autospike.config import RivalName
from autospike.models.rivals import RivalInput, build_rival, dense_counts
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.space.parameters import count_parameters

DIGITS = RivalInput(channels=1, frames=0, image_size=8, classes=10)
IMAGES = RivalInput(channels=3, frames=0, image_size=28, classes=10)
EVENTS = RivalInput(channels=2, frames=4, image_size=16, classes=5)
REFERENCE = Architecture(stages=(Stage(embed_dim=64, embedding=Embedding(stride=4), blocks=(Block(num_heads=4),) * 2),))


def parameters(rival: torch.nn.Module) -> int:
    return sum(p.numel() for p in rival.parameters())


@pytest.mark.parametrize("reads", [DIGITS, IMAGES, EVENTS])
@pytest.mark.parametrize(("name", "share"), [("cnn", 1.0), ("cnn-small", 0.25), ("vit", 1.0)])
def test_a_rival_has_about_as_many_parameters_as_the_reference_network(name: RivalName, share: float, reads: RivalInput) -> None:
    target = share * count_parameters(REFERENCE, in_chans=reads.channels, num_classes=reads.classes)
    assert parameters(build_rival(name, reads, REFERENCE)) == pytest.approx(target, rel=0.15)


def test_operations_of_a_cnn_by_hand() -> None:
    """8x8 pixels: strides 1, 2 and 2 with widths w, 2 w and 4 w; 9 weights and a position for each pair of channels."""
    rival = build_rival("cnn-small", DIGITS, REFERENCE)
    width = next(rival.parameters()).shape[0]
    counts = dense_counts(rival, DIGITS)
    convolutions = [64 * 9 * width, 16 * 9 * width * 2 * width, 4 * 9 * 2 * width * 4 * width]
    assert [count.macs for count in counts] == [*convolutions, 4 * width * 10]
    assert all((count.input, count.acs, count.time_steps) == ("real", (), 1) for count in counts)


def test_operations_of_a_vit_by_hand() -> None:
    """28x28 pixels in patches of 4x4 are 49 tokens. For each, a block has 8 d^2 MACs in linear layers, and 2 * 49 d in products."""
    rival = build_rival("vit", IMAGES, REFERENCE)
    width = rival.network.embed_dim
    blocks = 2 * (49 * 8 * width**2 + 2 * 49 * 49 * width)
    assert sum(count.macs for count in dense_counts(rival, IMAGES)) == 49 * 48 * width + blocks + 10 * width


def test_event_frames_are_channels_in_their_order() -> None:
    """The frames beyond those that the reference network reads have no effect; exchanged frames do."""
    torch.manual_seed(0)
    rival = build_rival("cnn-small", EVENTS, REFERENCE).eval()
    assert next(rival.parameters()).shape[1] == 4 * 2
    frames = torch.rand(6, 3, 2, 16, 16)
    logits = rival(frames)
    assert logits.shape == (3, 5)
    assert torch.equal(logits, rival(frames[:4]))
    assert not torch.allclose(logits, rival(frames.flip(0)))


def test_images_are_padded_to_whole_patches() -> None:
    odd = RivalInput(channels=1, frames=0, image_size=10, classes=3)
    assert build_rival("vit", odd, REFERENCE)(torch.rand(2, 1, 10, 10)).shape == (2, 3)


def test_a_tiny_reference_network_has_a_rival() -> None:
    assert parameters(build_rival("vit", DIGITS, small())) > 0
