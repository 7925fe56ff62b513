"""HAR-DVS as rendered grey frames: a folder of PNG files for each sample, as the authors publish beside the events.

The representation is that of the published recipe of Spike-driven Transformer V3 (`DVS/Hardvs`), which also trains
Meta-SpikeFormer: T consecutive frames, resized to 256 and cropped to 224 pixels, then two maps of zeros and ones: where the grey
value is below 0.12, and where it is above 0.3 and at most 0.78. Missing frames at the end are zeros in both.

Training takes the T frames from a random start, as the recipe does. Measurement takes those in the middle; the recipe draws a
random start in the test as well, so that its result is not reproducible.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from autospike import files
from autospike.data.events import Frames
from autospike.data.pixels import printable, read_image
from autospike.data.recordings import Recording, Recordings, har_samples
from autospike.errors import UserError

DARK = 0.12
BRIGHT = (0.3, 0.78)
"""Bounds of grey values in 0..1: below the first one channel 0 is 1, between the two others channel 1."""
CROP = 224 / 256
"""Side of the central crop, divided by the shorter side of the resized frame."""


def find_rendered(root: Path) -> Recordings:
    """Find the samples of HAR-DVS by its lists; each is a folder of frames.

    Args:
        root: The folder with the lists and the folders `action_001`.

    Returns:
        The samples.

    Raises:
        UserError: A list is missing or invalid, or a listed folder does not exist.
    """
    return har_samples(root, lambda folder, name: folder / name)


@dataclass(frozen=True, kw_only=True)
class RenderedFrames:
    """Reads T consecutive frames of a sample as maps of zeros and ones.

    Attributes:
        samples: Folders of PNG files.
        frames: T.
        image_size: Height and width of the maps.
        random_start: Whether the first frame is drawn from Python's global random generator; else the frames in the middle.
    """

    samples: tuple[Recording, ...]
    frames: int
    image_size: int
    random_start: bool

    def __call__(self, index: int) -> Frames:
        """Return the maps `[T, 2, image_size, image_size]` of a sample.

        Raises:
            UserError: The folder has no frames, or one cannot be read.
        """
        paths = frame_files(self.samples[index].path)
        spare = max(0, len(paths) - self.frames)
        start = random.randint(0, spare) if self.random_start else spare // 2
        maps = np.zeros((self.frames, 2, self.image_size, self.image_size), dtype=np.float32)
        for frame, path in zip(maps, paths[start : start + self.frames], strict=False):
            grey = np.asarray(self._resized(read_image(path, channels=1)), dtype=np.float32) / 255
            frame[0], frame[1] = grey < DARK, (grey > BRIGHT[0]) & (grey <= BRIGHT[1])
        return maps

    def _resized(self, image: Image.Image) -> Image.Image:
        """Resize the shorter side bicubically, and crop at the centre, as torchvision's `Resize` and `CenterCrop` do."""
        side = round(self.image_size / CROP)
        width, height = image.size
        scaled = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        resized = image.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (round((length - self.image_size) / 2) for length in scaled)
        return resized.crop((left, top, left + self.image_size, top + self.image_size))


def frame_files(folder: Path) -> list[Path]:
    """Return the frames of a sample, sorted by name.

    Args:
        folder: Of the sample.

    Raises:
        UserError: It has none.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png" and not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{printable(folder)}: cannot be read ({error.strerror}); extract it again") from None
    if not found:
        raise UserError(f"{printable(folder)}: no frames (*.png); extract it again, or remove it from the list")
    return found


@dataclass(frozen=True, kw_only=True)
class StoredFolders:
    """Samples in folders of files; see `data.contents.Contents`. They are listed when they are needed.

    Attributes:
        names: Of the samples.
        samples: Their folders.
    """

    names: tuple[str, ...]
    samples: tuple[Recording, ...]

    def name(self, index: int) -> str:
        """Return the folder relative to the root of the data set."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Return the size of all frames."""
        return sum(path.stat().st_size for path in frame_files(self.samples[index].path))

    def head(self, index: int) -> bytes:
        """Return the digest."""
        return self.digest(index).encode()

    def digest(self, index: int) -> str:
        """Return the SHA-256 digest of the digests of the frames, in order."""
        frames = frame_files(self.samples[index].path)
        return hashlib.sha256(" ".join(files.sha256(path) for path in frames).encode()).hexdigest()
