"""The law of an event camera: events for a known change of log intensity, refractory period, leak, noise, mismatch."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor

import numpy as np
import pytest

from autospike.data.event_camera import Camera, Pixels, Plane, record, settle, shot_noise

IDEAL = Camera(threshold=0.25, mismatch=0, refractory=0, leak_rate=0, shot_rate=0)
SHAPE = (4, 5)


def plane(value: float) -> Plane:
    return np.full(SHAPE, value, dtype=np.float32)


def pixels(camera: Camera) -> Pixels:
    return Pixels.start(camera, plane(0), on=plane(0), off=plane(0))


def ramp(camera: Camera, change: float, *, steps: int = 1, seconds: float = 1.0) -> tuple[Pixels, int]:
    """The pixels after a linear ramp, and the number of events of each pixel, which is the same for all."""
    state, total = pixels(camera), np.zeros(SHAPE, dtype=np.int32)
    for step in range(1, steps + 1):
        state, events = record(camera, state, plane(change * step / steps), seconds / steps)
        total += events
    assert (total == total[0, 0]).all()
    return state, int(total[0, 0])


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("change", [0.1, 0.26, 0.9, 2.6, -0.1, -0.26, -2.6])
def test_a_ramp_gives_the_change_over_the_threshold_rounded_down(change: float, steps: int) -> None:
    state, events = ramp(IDEAL, change, steps=steps)
    expected = floor(abs(change) / 0.25)
    assert events == (expected if change > 0 else -expected)
    assert np.allclose(state.change, change - events * 0.25, atol=1e-5)


def test_a_return_gives_the_same_number_of_events_only_if_the_change_is_a_multiple_of_the_threshold() -> None:
    """Up by 0.9: ON at 0.25, 0.5, 0.75. Down to 0: OFF at 0.5, 0.25 and 0. Up again: ON at 0.25, 0.5, 0.75."""
    state, found = pixels(IDEAL), []
    for level in (0.9, -0.01, 0.9):
        state, events = record(IDEAL, state, plane(level), 1.0)
        found.append(int(events[0, 0]))
    assert found == [3, -3, 3]


@pytest.mark.parametrize("refractory", [0.03, 0.12, 0.31])
def test_events_are_at_least_the_refractory_period_apart(refractory: float) -> None:
    """A ramp of 10.1 thresholds in 1.01 s crosses every 0.1 s; every ceil(refractory / 0.1)-th crossing emits."""
    camera = replace(IDEAL, refractory=refractory)
    for steps in (1, 7):
        _, events = ramp(camera, 2.525, steps=steps, seconds=1.01)
        assert events == ceil(10 / ceil(refractory / 0.1))


def test_a_constant_scene_gives_on_events_at_the_leak_rate() -> None:
    camera = replace(IDEAL, leak_rate=2.0)
    _, events = ramp(camera, 0.0, steps=50, seconds=5.2)
    assert events == floor(2.0 * 5.2)


def test_shot_noise_has_its_rate_and_both_polarities() -> None:
    rng = np.random.default_rng(0)
    camera = replace(IDEAL, shot_rate=5.0)
    events = shot_noise(camera, rng.random((500, 400), dtype=np.float32), 0.01)
    expected = 5.0 * 0.01 * events.size  # Poisson: the standard deviation is the square root
    assert abs(int(abs(events).sum()) - expected) < 4 * expected**0.5
    assert abs(int(events.sum())) < 4 * expected**0.5


def test_thresholds_have_the_mismatch_of_the_camera() -> None:
    rng = np.random.default_rng(0)
    on, off = rng.normal(size=(2, 200, 200))
    state = Pixels.start(Camera(), np.zeros((200, 200), np.float32), on=on, off=off)
    for thresholds in (state.on, state.off):
        assert thresholds.mean() == pytest.approx(0.2, abs=0.001)
        assert thresholds.std() == pytest.approx(0.03, rel=0.03)


def test_a_pixel_with_a_lower_threshold_has_more_events() -> None:
    camera = replace(IDEAL, mismatch=0.1)
    values = np.array([[-1.0, 0.0, 1.0]])
    state = Pixels.start(camera, np.zeros((1, 3), np.float32), on=values, off=values)
    _, events = record(camera, state, np.full((1, 3), 2.2, np.float32), 1.0)
    assert events.tolist() == [[14, 8, 6]]  # 2.2 over 0.15, 0.25 and 0.35: 14.7, 8.8 and 6.3


def test_settling_moves_the_references_as_a_recording_does() -> None:
    settled, recorded = pixels(IDEAL), pixels(IDEAL)
    for level in (0.9, -0.4, 0.3):
        settled = settle(settled, plane(level))
        recorded, _ = record(IDEAL, recorded, plane(level), 1.0)
    assert np.array_equal(settled.change, recorded.change)
