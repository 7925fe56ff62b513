"""Event frames on disk: `.npz` archives that hold an array `frames` `[T, C, H, W]`, how often each pixel fired in each frame.

spikingjelly's datasets write them so, with C = 2 for the two polarities, into `frames_number_T_split_by_...`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autospike.errors import UserError

Frames = NDArray[np.float32]

KEY = "frames"
REMEDY = "prepare it again, with spikingjelly's datasets and frames_number"


@dataclass(frozen=True, kw_only=True)
class FrameFiles:
    """Samples that are read when they are asked for, all of as many frames and channels."""

    paths: tuple[Path, ...]
    time_steps: int
    channels: int

    def __call__(self, index: int) -> Frames:
        """Shape: `[time_steps, channels, H, W]`.

        Raises:
            UserError: the file cannot be read, holds no frames, or is of another number of frames or channels.
        """
        path = self.paths[index]
        frames = read_frames(path)
        if frames.shape[:2] != (self.time_steps, self.channels):
            raise UserError(
                f"{path}: {frames.shape[0]} frames of {frames.shape[1]} channels, where the first file of the source has "
                f"{self.time_steps} of {self.channels}; prepare all files with the same number of frames"
            )
        return frames


def read_frames(path: Path) -> Frames:
    """The frames of one file, `[T, C, H, W]`. Nothing in it is ever unpickled.

    Raises:
        UserError: the file cannot be read, or holds no such array of finite numbers.
    """
    written = _written(path)
    if written.dtype.kind not in "buif" or written.ndim != 4 or 0 in written.shape:
        raise UserError(
            f"{path}: `{KEY}` must be numbers of shape [T, C, H, W], got {written.dtype} of shape {list(written.shape)}; {REMEDY}"
        )
    with np.errstate(over="ignore"):
        frames = np.array(written, dtype=np.float32, order="C")
    if not np.isfinite(frames).all():
        raise UserError(f"{path}: `{KEY}` holds numbers that are not finite; {REMEDY}")
    return frames


def _written(path: Path) -> NDArray[np.generic]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if KEY in archive:
                written: NDArray[np.generic] = archive[KEY]
                return written
            held = ", ".join(map(repr, archive)) or "nothing"
    except Exception as error:  # damage to a file makes numpy, zipfile, zlib and tokenize raise a dozen kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: no event frames that can be read ({reason}); {REMEDY}, or take it away") from None
    raise UserError(
        f"{path}: no array `{KEY}`, but {held}; give data.root a folder of frames, not of events (frames_number_..., not events_np)"
    )
