"""Event frames on disk: `.npz` archives with an array `frames` `[T, C, H, W]`, the number of events of each pixel in each frame.

spikingjelly's datasets write them in this form, with C = 2 for the two polarities, into `frames_number_T_split_by_...`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autospike.errors import UserError

Frames = NDArray[np.float32]

KEY = "frames"

# Event cameras have two polarities, and some also give colour or brightness. More channels are usually height or time.
MOST_CHANNELS, POLARITIES = 4, 2
REMEDY = "create it again with spikingjelly's datasets and frames_number"


@dataclass(frozen=True, kw_only=True)
class FrameFiles:
    """Files of event frames, read on demand, all with the same number of frames and channels.

    Attributes:
        paths: The files.
        time_steps: Number of frames of each.
        channels: Number of channels of each.
    """

    paths: tuple[Path, ...]
    time_steps: int
    channels: int

    def __call__(self, index: int) -> Frames:
        """Read a file.

        Args:
            index: Of the file in `paths`.

        Returns:
            Event frames `[time_steps, channels, H, W]`.

        Raises:
            UserError: The file cannot be read, contains no event frames, or another number of frames or channels.
        """
        path = self.paths[index]
        frames = read_frames(path)
        if frames.shape[:2] != (self.time_steps, self.channels):
            raise UserError(
                f"{path}: {frames.shape[0]} frames with {frames.shape[1]} channels, but the first file has {self.time_steps} "
                f"frames with {self.channels}; create all files with the same number of frames"
            )
        return frames


@dataclass(frozen=True, kw_only=True)
class AddedFrames:
    """Event frames of which groups of equal length are added up.

    Attributes:
        read: Reads the frames of a sample, `[time_steps * group, C, H, W]`.
        time_steps: Number of frames afterwards.
    """

    read: Callable[[int], Any]
    time_steps: int

    def __call__(self, index: int) -> Frames:
        """Return the frames of a sample, `[time_steps, C, H, W]`: frame t is the sum of the t-th group."""
        frames: Frames = self.read(index)
        return frames.reshape(self.time_steps, -1, *frames.shape[1:]).sum(axis=1)


def check_channels(path: Path, shape: Sequence[int], expected: int | Literal["auto"]) -> None:
    """Check the number of channels of event frames.

    Args:
        path: The file, for the message.
        shape: Of its frames.
        expected: The number of channels; "auto" for up to `MOST_CHANNELS`, but up to `POLARITIES` for as few frames.

    Raises:
        UserError: They have another number. Arrays `[T, H, W, C]` have H channels, which is too many, and arrays `[C, T, H, W]`
            have two frames or one, and T channels.
    """
    channels = shape[1]
    swapped = shape[0] <= POLARITIES < channels  # probably [C, T, H, W]
    if channels == expected or (expected == "auto" and channels <= MOST_CHANNELS and not swapped):
        return
    given = f"{path}: `{KEY}` of shape {list(shape)} has {channels} channels ([T, C, H, W])"
    if expected == "auto" and swapped and shape[-1] > MOST_CHANNELS:
        raise UserError(
            f"{given}; if it is [C, T, H, W], write frames.transpose(1, 0, 2, 3), otherwise set data.channels to {channels}"
        )
    if channels > MOST_CHANNELS and shape[-1] <= MOST_CHANNELS:
        raise UserError(
            f"{given}; if it is [T, H, W, C], write frames.transpose(0, 3, 1, 2), otherwise set data.channels to {channels}"
        )
    if expected == "auto":
        raise UserError(f"{given}, more than {MOST_CHANNELS}; if this is right, set data.channels to {channels}")
    raise UserError(f"{given}, but data.channels is {expected}; set it to auto or {channels}")


def read_frames(path: Path) -> Frames:
    """Read event frames. Pickled objects in the file are never loaded.

    Args:
        path: The `.npz` file.

    Returns:
        Event frames `[T, C, H, W]`.

    Raises:
        UserError: The file cannot be read, or has no array `frames` of finite numbers.
    """
    written = _read_array(path)
    if written.dtype.kind not in "buif" or written.ndim != 4 or 0 in written.shape:
        raise UserError(
            f"{path}: `{KEY}` must be numbers of shape [T, C, H, W], got {written.dtype} of shape {list(written.shape)}; {REMEDY}"
        )
    with np.errstate(over="ignore"):
        frames = np.array(written, dtype=np.float32, order="C")
    if not np.isfinite(frames).all():
        raise UserError(f"{path}: `{KEY}` contains numbers that are not finite; {REMEDY}")
    return frames


def _read_array(path: Path) -> NDArray[np.generic]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if KEY in archive:
                written: NDArray[np.generic] = archive[KEY]
                return written
            names = ", ".join(map(repr, archive)) or "nothing"
    except Exception as error:  # numpy, zipfile, zlib and tokenize raise a dozen kinds of errors for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: event frames cannot be read ({reason}); {REMEDY}, or remove it") from None
    raise UserError(
        f"{path}: no array `{KEY}`, only {names}; set data.root to a folder of frames (frames_number_...), not events (events_np)"
    )
