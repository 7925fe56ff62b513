"""Simulated event camera: pixels that emit an event when the logarithm of their intensity has changed by a threshold.

The pixel model is that of ESIM (Rebecq et al., CoRL 2018). Between two rendered images the log intensity L(t) is linear. When
it reaches a level that is one threshold away from the reference R, the reference moves to this level and an event is emitted,
unless the previous event is less than the refractory period ago. Non-idealities are those of v2e (Hu et al., CVPR workshops
2021): the thresholds of each pixel differ (mismatch), the reference leaks, which gives ON events at a constant rate, and shot
noise gives events of both polarities. Simplifications: shot noise does not depend on the intensity and moves no reference, and
the photoreceptor has no low-pass filter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
"""A value per pixel, `[..., H, W]`."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Constants of a camera. Thresholds, mismatch, leak and shot noise: v2e's `set_dvs_params`, between its "clean" and "noisy".

    Attributes:
        threshold: Mean change of log intensity (natural logarithm) per event, both polarities.
        mismatch: Standard deviation of the thresholds over pixels and polarities.
        refractory: Shortest time between two events of a pixel, in seconds.
        leak_rate: ON events of a pixel by the leak of its reference, per second.
        shot_rate: Events of a pixel by shot noise, both polarities together, per second.
    """

    threshold: float = 0.2
    mismatch: float = 0.03
    refractory: float = 0.5e-3
    leak_rate: float = 0.1
    shot_rate: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """State of the pixels of a camera.

    Attributes:
        on: Threshold of ON events, positive.
        off: Threshold of OFF events, positive.
        level: Log intensity L.
        change: L - R, between -off and on.
        age: Time since the last event, in seconds.
    """

    on: Plane
    off: Plane
    level: Plane
    change: Plane
    age: Plane

    @classmethod
    def start(cls, camera: Camera, level: Plane, *, on: Plane, off: Plane) -> Pixels:
        """Return pixels whose reference is the log intensity, and that are not refractory.

        Args:
            camera: Its constants.
            level: Log intensity.
            on: Standard normal values for the mismatch of the ON thresholds.
            off: Of the OFF thresholds.
        """
        smallest = np.float32(0.01)  # as in v2e
        thresholds = [
            np.maximum(np.float32(camera.threshold) + np.float32(camera.mismatch) * values.astype(np.float32), smallest)
            for values in (on, off)
        ]
        rested = np.full(level.shape, max(camera.refractory, 1.0), dtype=np.float32)
        return cls(on=thresholds[0], off=thresholds[1], level=level, change=np.zeros_like(level), age=rested)


def settle(pixels: Pixels, level: Plane) -> Pixels:
    """Move the references as a change to another log intensity does, without events and noise.

    Used to start a recording in the middle of a motion: what a pixel has seen before decides where its reference is.

    Args:
        pixels: The pixels before.
        level: Log intensity after.

    Returns:
        The pixels after.
    """
    change = pixels.change + (level - pixels.level)
    distance, crossings = _crossings(pixels, change)
    return replace(pixels, level=level, change=change - crossings * distance)


def record(camera: Camera, pixels: Pixels, level: Plane, duration: float) -> tuple[Pixels, NDArray[np.int32]]:
    """Record the events while the log intensity changes linearly. Shot noise is not included.

    Args:
        camera: Its constants.
        pixels: The pixels before.
        level: Log intensity after.
        duration: Of the change, in seconds.

    Returns:
        The pixels after, and the number of events of each, positive for ON and negative for OFF. All events of a pixel have the
        same polarity, because the change is monotone.
    """
    change = pixels.change + (level - pixels.level) + np.float32(camera.leak_rate * duration) * pixels.on
    distance, crossings = _crossings(pixels, change)
    per_second = np.where(crossings == 0, np.float32(1), (change - pixels.change) / np.float32(duration))
    last, emitted = -pixels.age, np.zeros(level.shape, dtype=np.int32)
    for k in range(1, int(crossings.max(initial=0)) + 1):
        time = (k * distance - pixels.change) / per_second
        emits = (k <= crossings) & (time - last >= np.float32(camera.refractory))
        last = np.where(emits, time, last)
        emitted += emits
    after = replace(pixels, level=level, change=change - crossings * distance, age=np.float32(duration) - last)
    return after, np.where(change > 0, emitted, -emitted)


def _crossings(pixels: Pixels, change: Plane) -> tuple[Plane, Plane]:
    """Signed distance between two levels, positive for a rise, and the number of levels up to a change of L - R."""
    distance = np.where(change > 0, pixels.on, -pixels.off)
    return distance, np.floor(change / distance)


def shot_noise(camera: Camera, uniform: Plane, duration: float) -> NDArray[np.int32]:
    """Events by shot noise: in each pixel at most one, with probability `shot_rate * duration`, ON or OFF equally often.

    Args:
        camera: Its constants.
        uniform: Random numbers from 0 to 1.
        duration: In seconds; short enough that two events of a pixel are rare.

    Returns:
        1 for ON, -1 for OFF, else 0.
    """
    half = np.float32(camera.shot_rate * duration / 2)
    return (uniform < half).astype(np.int32) - (uniform >= 1 - half).astype(np.int32)
