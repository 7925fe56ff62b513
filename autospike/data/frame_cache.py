"""Frames of recordings: integrated when they are first read, then read from a cache on disk.

A file of the cache is a compressed `.npz` with an array `frames`, under a digest of everything that the frames depend on: path,
size and modification time of the recording, its window, and how it is integrated. It is replaced atomically, so several processes
may use one cache. A damaged file is integrated and written again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autospike import files
from autospike.data.event_files import Events, read_events
from autospike.data.events import Frames, read_frames
from autospike.data.integration import By, integrate
from autospike.data.pixels import printable
from autospike.data.recordings import Recording
from autospike.errors import UserError

VERSION = 2
"""Changes with every change of readers or integration."""


@dataclass(frozen=True, kw_only=True)
class Integration:
    """How recordings become frames.

    Attributes:
        frames: Number of frames.
        by: Whether each frame has the same number of events or the same duration.
        height: Rows of the sensor.
        width: Columns of the sensor.
    """

    frames: int
    by: By
    height: int
    width: int

    def __call__(self, recording: Recording, events: Events) -> NDArray[np.integer]:
        """Integrate the events of a recording to counts `[frames, 2, height, width]` of the smallest type that holds them.

        Raises:
            UserError: It has no events, or events outside the sensor.
        """
        chosen = events if recording.window is None else events.between(*recording.window)
        try:
            counts = integrate(chosen, frames=self.frames, by=self.by, height=self.height, width=self.width)
        except ValueError as error:
            where = "" if recording.window is None else f" from {recording.window[0]} to {recording.window[1]} us"
            raise UserError(
                f"{printable(recording.path)}{where}: {error}; remove it, or correct data.sensor if the sensor is larger"
            ) from None
        return counts.astype(np.min_scalar_type(int(counts.max())))


@dataclass(frozen=True, kw_only=True)
class RecordedFrames:
    """Reads recordings as frames.

    Attributes:
        samples: The recordings.
        integration: How they become frames.
        cache: The folder of the cache; None to integrate at every access.
        windows: Indices of the samples of each file that has several, which are integrated together.
    """

    samples: tuple[Recording, ...]
    integration: Integration
    cache: Path | None
    windows: dict[Path, tuple[int, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, samples: tuple[Recording, ...], integration: Integration, cache: Path | None) -> RecordedFrames:
        """Return the reader of some recordings.

        Args:
            samples: The recordings.
            integration: How they become frames.
            cache: The folder of the cache; None to integrate at every access.
        """
        windows: dict[Path, tuple[int, ...]] = {}
        for index, sample in enumerate(samples):
            if sample.window is not None:
                windows[sample.path] = (*windows.get(sample.path, ()), index)
        return cls(samples=samples, integration=integration, cache=cache, windows=windows)

    def __call__(self, index: int) -> Frames:
        """Return the frames `[T, 2, H, W]` of a recording.

        Raises:
            UserError: The recording cannot be read, or the cache cannot be written.
        """
        sample = self.samples[index]
        path = self._cached(sample)
        if path is not None and path.is_file():
            try:
                return read_frames(path)
            except UserError:  # damaged
                path.unlink(missing_ok=True)
        events = read_events(sample.path)
        counts = self.integration(sample, events)
        if path is not None:
            self._store(path, counts)
            for other in self.windows.get(sample.path, ()):
                self._store_missing(self.samples[other], events)
        return counts.astype(np.float32)

    def _store_missing(self, sample: Recording, events: Events) -> None:
        """Store another part of a file that was read. A part that cannot be integrated is reported when it is read."""
        path = self._cached(sample)
        if path is None or path.is_file():
            return
        try:
            counts = self.integration(sample, events)
        except UserError:
            return
        self._store(path, counts)

    def _cached(self, sample: Recording) -> Path | None:
        if self.cache is None:
            return None
        try:
            status = sample.path.stat()
        except OSError as error:
            raise UserError(f"{printable(sample.path)}: cannot be read ({error.strerror}); restore it") from None
        source = (str(sample.path.resolve()), status.st_size, status.st_mtime_ns, sample.window)
        key = hashlib.sha256(repr((VERSION, source, self.integration)).encode()).hexdigest()
        return self.cache / key[:2] / f"{key[2:40]}.npz"

    def _store(self, path: Path, counts: NDArray[np.integer]) -> None:
        try:
            with files.replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, frames=counts)
        except UserError as error:
            raise UserError(f"{error}; set data.cache to another folder, or to none to integrate at every access") from None
