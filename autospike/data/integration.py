"""Integrate events to frames: the number of events of each pixel and polarity in each of T consecutive parts of a recording.

Equal to spikingjelly's `integrate_events_by_fixed_frames_number`, except that a frame without events is empty; spikingjelly raises.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autospike.data.event_files import Events

By = Literal["number", "time"]


def integrate(events: Events, *, frames: int, by: By, height: int, width: int) -> NDArray[np.int64]:
    """Count the events of each frame.

    Args:
        events: At least one event.
        frames: Number of frames T.
        by: `number`: `N // T` events for each frame, the last one has the rest. `time`: equal durations of
            `(t_last - t_first) // T` microseconds, the last frame has the rest.
        height: Rows of the sensor.
        width: Columns of the sensor.

    Returns:
        Counts `[T, 2, height, width]`, polarity 0 first.

    Raises:
        ValueError: There are no events, or one is outside the sensor.
    """
    if len(events) == 0:
        raise ValueError("it has no events")
    highest, widest = int(events.y.max()), int(events.x.max())
    if highest >= height or widest >= width or events.x.min() < 0 or events.y.min() < 0:
        raise ValueError(f"events in rows up to {highest} and columns up to {widest}, outside a sensor of {height}x{width}")
    position = (events.p * height + events.y) * width + events.x
    spans = _spans_by_number(len(events), frames) if by == "number" else _spans_by_time(events.t, frames)
    counts = [np.bincount(position[start:stop], minlength=2 * height * width) for start, stop in spans]
    return np.stack(counts).reshape(frames, 2, height, width)


def _spans_by_number(count: int, frames: int) -> list[tuple[int, int]]:
    """Indices of the first event of each frame, and of the one after its last event."""
    each = count // frames
    return [(i * each, (i + 1) * each if i < frames - 1 else count) for i in range(frames)]


def _spans_by_time(t: NDArray[np.int64], frames: int) -> list[tuple[int, int]]:
    if (np.diff(t) < 0).any():
        return _spans_of_unsorted(t, frames)
    starts = t[0] + np.arange(frames) * ((t[-1] - t[0]) // frames)
    first = [*np.searchsorted(t, starts).tolist(), len(t)]
    return list(pairwise(first))


def _spans_of_unsorted(t: NDArray[np.int64], frames: int) -> list[tuple[int, int]]:
    """For times that are not sorted: from the first to the last event in the time of a frame, as spikingjelly does.

    Some events may then be in two frames or in none.
    """
    duration, spans = (int(t[-1]) - int(t[0])) // frames, []
    for frame in range(frames):
        start = int(t[0]) + frame * duration
        inside = np.flatnonzero((t >= start) & (t < start + duration))
        spans.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0))
    spans[-1] = (spans[-1][0] if spans[-1][1] else len(t), len(t))
    return spans
