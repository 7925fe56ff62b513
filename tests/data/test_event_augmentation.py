"""Augmentations of event frames: which operations there are, how far they go, and that all frames are changed alike."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from autospike.config import AugmentationConfig
from autospike.data.event_augmentation import EventDrop, Roll, SnnAugment
from autospike.data.preparation import EventFrameTransforms, ImageTransforms
from autospike.errors import UserError

STEPS, SIZE = 3, 32


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def markers() -> Tensor:
    """Equal frames in which every pixel has its own positive number, exact in float32."""
    return torch.arange(1, 2 * SIZE * SIZE + 1, dtype=torch.float32).view(1, 2, SIZE, SIZE).expand(STEPS, -1, -1, -1).clone()


def displaced(frames: Tensor, row: int, column: int) -> tuple[int, int]:
    """How far the pixel at a place has moved, down and to the right."""
    y, x = ((frames[0, 0] - markers()[0, 0, row, column]).abs() < 0.5).nonzero()[0].tolist()
    return y - row, x - column


def operation(frames: Tensor) -> str:
    """The operation of the SNN policy that gave these frames: how far pixels of `markers` have moved."""
    if torch.equal(frames, markers()):
        return "none"
    y, x = frames[0, 0].nonzero(as_tuple=True)
    before = frames[0, 0][y, x].long() - 1
    down, right = set((y - before // SIZE).tolist()), set((x - before % SIZE).tolist())
    if down == right == {0}:
        return "cutout"
    if down == {0}:
        return "right" if len(right) == 1 else "shear"
    return "down" if right == {0} and len(down) == 1 else "rotation"


def test_the_policy_draws_one_of_six_operations_equally_often() -> None:
    found = Counter[str]()
    for _ in range(600):
        frames = SnnAugment()(markers())
        assert torch.equal(frames, frames[:1].expand_as(frames))  # all frames alike
        assert set(frames.unique().tolist()) <= {0.0, *markers().unique().tolist()}  # nearest pixels, nothing in between
        found[operation(frames)] += 1
    # of 31 magnitudes, 7 move by less than a pixel, 5 shear and 3 rotate by less than half a pixel at the border
    expected = {"cutout": 100, "rotation": 100 * 28 / 31, "shear": 100 * 26 / 31, "right": 100 * 24 / 31, "down": 100 * 24 / 31}
    assert all(abs(found[name] - count) < 32 for name, count in expected.items()), found
    assert found.keys() == {"none", *expected}


def test_limits_of_the_policy() -> None:
    """Shifts of up to 5 pixels, shear of up to 0.3 per row, squares of up to 11 % of the frame."""
    shifts, squares, sheared = set[int](), list[int](), list[float]()
    for _ in range(500):
        frames = SnnAugment()(markers())
        kind = operation(frames)
        if kind == "right":
            shifts.add(displaced(frames, 15, 15)[1])
        elif kind == "cutout":
            gone = frames[0, 0] == 0
            assert gone.any(dim=0).sum() == gone.any(dim=1).sum()
            squares.append(int(gone.sum()))
        elif kind == "shear":
            sheared.append(abs(displaced(frames, 8, 15)[1] - displaced(frames, 24, 15)[1]) / 16)
    assert shifts == set(range(-5, 6)) - {0}
    assert 0.08 < max(squares) / SIZE**2 < 0.13
    assert 0.2 < max(sheared) < 0.38


def test_roll_moves_cyclically_in_both_directions() -> None:
    found = set()
    for _ in range(200):
        frames = Roll(pixels=2)(markers())
        down, right = displaced(frames, 15, 15)
        assert torch.equal(frames, markers().roll((down, right), dims=(2, 3)))
        found.add((down, right))
    assert found == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def dropped(frames: Tensor, counts: Tensor) -> str:
    if torch.equal(frames, counts):
        return "nothing"
    whole = (frames == counts).flatten(1).all(dim=1) | (frames == 0).flatten(1).all(dim=1)
    if whole.all():
        return "time"
    gone = (frames == 0).all(dim=(0, 1)) if frames.dim() == 4 else frames == 0
    rows, columns = gone.any(dim=1).nonzero(), gone.any(dim=0).nonzero()
    inside = torch.zeros_like(gone)
    if len(rows):
        inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return "area" if torch.equal(frames, counts * ~inside) and len(rows) else "events"


def test_event_drop_removes_nothing_a_time_an_area_or_random_events() -> None:
    counts = torch.full((10, 2, 20, 20), 40.0)
    found, kept, lengths, sides = Counter[str](), set[int](), set[int](), set[int]()
    for _ in range(400):
        frames = EventDrop(probability=1.0)(counts)
        kind = dropped(frames, counts)
        found[kind] += 1
        if kind == "time":
            lengths.add(int((frames == 0).flatten(1).all(dim=1).sum()))
        elif kind == "area":
            sides.add(int((frames[0, 0] == 0).any(dim=0).sum()))
        elif kind == "events":
            assert torch.equal(frames, frames.round())
            kept.add(round(10 * float(frames.mean()) / 40))
    assert all(found[name] in range(65, 140) for name in ("nothing", "time", "area", "events"))
    assert kept == set(range(1, 10))
    assert lengths == set(range(1, 10))
    assert sides <= set(range(1, 6))
    assert max(sides) == 5


def test_event_drop_is_applied_with_its_probability_and_never_empties_a_sample() -> None:
    counts = torch.ones(1, 2, 4, 4)  # a time drops the only frame
    frames = [EventDrop(probability=0.5)(counts) for _ in range(200)]
    assert all(f.any() for f in frames)
    assert sum(not torch.equal(f, counts) for f in frames) in range(20, 80)  # half of the areas and events, at most
    with pytest.raises(UserError, match="needs frames of whole counts"):
        for _ in range(50):
            EventDrop(probability=1.0)(counts / 2)


def test_the_augmentations_are_part_of_the_training_transform() -> None:
    frames = markers().numpy()
    for changes in ({"event_policy": "snn"}, {"roll": 3}, {"event_drop": 1.0}):
        transform = EventFrameTransforms(image_size=SIZE).training(AugmentationConfig.model_validate(changes))
        assert any(not torch.equal(transform(frames), markers()) for _ in range(30))
        with pytest.raises(UserError, match=f"augmentation.{next(iter(changes))}: not available for still images"):
            ImageTransforms(channels=3, image_size=SIZE).training(AugmentationConfig.model_validate(changes))
    plain = EventFrameTransforms(image_size=SIZE).training(AugmentationConfig())
    assert torch.equal(plain(frames), markers())
