"""Scenes: an embedded data set of drawn images with shapes, for segmentation and detection.

Images have 48x48 pixels. They are drawn from back to front: a textured background; up to four shapes, which may cover each other,
each turned, stretched and with a texture of its own; thin lines and dots as clutter, which belong to the background; noise on each
value. Colours and textures do not depend on the class, so only the outline of a shape depends on the class.

Both splits have the same distributions; their samples are disjoint. The random numbers of an image are the raw output of Philox
with a key that is made from (`SEED`, split, index). So an image depends on no other image and not on the number of images. All
operations are ones that IEEE 754 rounds correctly, so images are equal on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autospike.data.objects import Objects, objects_of_masks

Floats = NDArray[np.floating[Any]]
SplitName = Literal["train", "test"]

CLASSES = ("background", "disk", "square", "triangle", "ring", "cross", "star", "half-disk")
COUNTS: dict[SplitName, int] = {"train": 3000, "test": 600}
SIZE = 48
"""Height and width of an image."""
SEED = 0
"""Key of the data set. Another value gives another sample of the same distribution."""
VERSION = 1
"""Changes with every change of the images."""

FEWEST, SHAPES = 2, 4
"""Smallest and largest number of shapes of an image."""
RADIUS = (8.0, 14.0)
"""Range of half the size of a shape, in pixels."""
STRETCH = 0.25
"""Largest relative difference of height and width."""
LINES, DOTS = 3, 4
NOISE = 0.06
"""Standard deviation of the noise, of a range of values from 0 to 1."""
CONTRAST = 0.2
"""Smallest difference in brightness between a shape and the middle of the background."""
SMALLEST = 16
"""Pixels from which a visible part of a shape is an object; fewer belong to what covers them."""
CHUNK = 50
"""Images that are computed at once."""


class Scenes(NamedTuple):
    """Drawn images.

    Attributes:
        pixels: `[images, SIZE, SIZE, 3]`.
        owners: Number of the shape that is visible in each pixel, from 1, or 0 for the background; `[images, SIZE, SIZE]`.
        classes: Class of each shape, `[images, SHAPES]`; 0 for a shape that does not exist.
    """

    pixels: NDArray[np.uint8]
    owners: NDArray[np.uint8]
    classes: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SceneImages:
    """Reads the images of a split. They are drawn on first use, in chunks, and stay in memory: 10 KB each.

    Attributes:
        split: "train" or "test".
    """

    split: SplitName

    def __call__(self, index: int) -> Image.Image:
        """Return the image with an index."""
        scenes, position = _drawn(self.split, index)
        return Image.fromarray(scenes.pixels[position])


@dataclass(frozen=True, kw_only=True)
class SceneMasks:
    """Reads the classes of the pixels of a split; see `SceneImages`.

    Attributes:
        split: "train" or "test".
    """

    split: SplitName

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """Return the class of each pixel of the image with an index, `[SIZE, SIZE]`."""
        scenes, position = _drawn(self.split, index)
        classes = np.concatenate([[0], scenes.classes[position]])
        return classes[scenes.owners[position]].astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class SceneObjects:
    """Reads the visible shapes of a split as objects: class 0 is the first one after the background; see `SceneImages`.

    Attributes:
        split: "train" or "test".
    """

    split: SplitName

    def __call__(self, index: int) -> Objects:
        """Return the objects of the image with an index, from back to front."""
        scenes, position = _drawn(self.split, index)
        shapes = np.flatnonzero(scenes.classes[position])
        masks = (scenes.owners[position] == shapes[:, None, None] + 1).astype(np.uint8)
        return objects_of_masks(masks, scenes.classes[position][shapes] - 1)


def fingerprint() -> str:
    """Return a digest of all that the images depend on: the version of this module, the seed and the number of images."""
    return hashlib.sha256(f"scenes {VERSION} {SEED} {COUNTS}".encode()).hexdigest()[:12]


def _drawn(split: SplitName, index: int) -> tuple[Scenes, int]:
    chunk, position = divmod(index, CHUNK)
    return _chunk(split, chunk), position


@lru_cache(maxsize=sum(count // CHUNK + 1 for count in COUNTS.values()))
def _chunk(split: SplitName, chunk: int) -> Scenes:
    first = chunk * CHUNK
    return draw(split, range(first, min(first + CHUNK, COUNTS[split])))


def draw(split: SplitName, indices: range, *, seed: int = SEED) -> Scenes:
    """Draw images.

    Args:
        split: Part of the key of the random numbers.
        indices: Of the images.
        seed: Part of the key of the random numbers.

    Returns:
        The images with the shapes that are visible in them.
    """
    values = SIZE * SIZE * 3
    raw = np.stack([_raw(seed, split, index, values // 2) for index in indices])
    uniform = _Uniforms(raw[:, : _Uniforms.COUNT])
    # The sum of four bytes has mean 510 and variance 4 (256^2 - 1) / 12; it is nearly normal.
    sums = raw[:, _Uniforms.COUNT :].view(np.uint8).reshape(len(raw), values, 4).sum(axis=2, dtype=np.int32)
    noise = (sums - 510).astype(np.float32) * np.float32(NOISE / 147.8)
    canvas, owners, classes = _scene(uniform)
    pixels = np.clip(canvas + noise.reshape(-1, 3, SIZE, SIZE), 0, 1) * 255 + np.float32(0.5)
    scenes = Scenes(np.ascontiguousarray(pixels.astype(np.uint8).transpose(0, 2, 3, 1)), owners, classes)
    return _without_slivers(scenes)


def _raw(seed: int, split: SplitName, index: int, words: int) -> NDArray[np.uint64]:
    """Random words of an image. The raw output of Philox is the same in every version of NumPy; distributions are not."""
    key = np.frombuffer(hashlib.sha256(repr(("scenes", seed, split, index)).encode()).digest()[:16], dtype="<u8")
    return np.random.Philox(key=key).random_raw(_Uniforms.COUNT + words).astype("<u8")


class _Uniforms:
    """Takes random numbers of all images from left to right."""

    COUNT = 200

    def __init__(self, raw: NDArray[np.uint64]) -> None:
        self._values = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        self._used = 0

    def __call__(self, low: float = 0.0, high: float = 1.0, *, count: int = 1) -> Floats:
        """Take `count` numbers per image from a range, `[images, count]`."""
        start, self._used = self._used, self._used + count
        if self._used > self.COUNT:
            raise ValueError("more random numbers are used than an image has")
        return np.float32(low) + np.float32(high - low) * self._values[:, start : self._used]

    def plane(self, low: float = 0.0, high: float = 1.0) -> Floats:
        """Take a number per image from a range, `[images, 1, 1]`."""
        return self(low, high)[:, :, None]


def _scene(uniform: _Uniforms) -> tuple[Floats, NDArray[np.uint8], NDArray[np.int64]]:
    """Images `[images, 3, SIZE, SIZE]` before noise, and the owners of their pixels with the classes of the owners."""
    axis = np.arange(SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)
    x, y = axis[None, None, :], axis[None, :, None]
    background = uniform(count=3), uniform(count=3)
    canvas = _mixed(*background, _texture(x, y, uniform))
    images = len(canvas)
    owners = np.zeros((images, SIZE, SIZE), dtype=np.uint8)
    number = FEWEST + np.floor(uniform()[:, 0] * np.float32(SHAPES - FEWEST + 1)).astype(np.int64)
    classes = np.zeros((images, SHAPES), dtype=np.int64)
    for i in range(SHAPES):
        exists = i < number
        kind = 1 + np.floor(uniform()[:, 0] * np.float32(len(CLASSES) - 1)).astype(np.int64)
        classes[:, i] = np.where(exists, kind, 0)
        inside = _shape(x, y, kind, uniform) & exists[:, None, None]
        middle = (background[0] + background[1]) * np.float32(0.5)
        colours = [_contrasting(middle, uniform(count=3)) for _ in range(2)]
        shade = np.float32(0.4) * _texture(x, y, uniform)
        canvas = np.where(inside[:, None], _mixed(colours[0], colours[1], shade), canvas)
        owners = np.where(inside, np.uint8(i + 1), owners)
    for _ in range(LINES):
        canvas = _over(canvas, _line(x, y, uniform), uniform(count=3))
    for _ in range(DOTS):
        canvas = _over(canvas, _dot(x, y, uniform), uniform(count=3))
    return canvas, owners, classes


def _mixed(one: Floats, other: Floats, share: Floats) -> Floats:
    """A colour with a share `[images, SIZE, SIZE]` of another one; `[images, 3, SIZE, SIZE]`."""
    first = np.broadcast_to(one[:, :, None, None], (len(one), 3, SIZE, SIZE))
    return _over(first, share, other)


def _over(canvas: Floats, opacity: Floats, colour: Floats) -> Floats:
    """Draw a colour `[images, 3]` over images `[images, 3, SIZE, SIZE]`."""
    return canvas + opacity[:, None] * (colour[:, :, None, None] - canvas)


def _contrasting(behind: Floats, colour: Floats) -> Floats:
    """Move colours that are about as bright as the background towards white, or towards black on a bright background."""
    difference = _brightness(colour) - _brightness(behind)
    moved = np.float32(0.4) * colour + np.where(_brightness(behind) < 0.5, np.float32(0.6), np.float32(0))
    return np.where(abs(difference) < CONTRAST, moved, colour)


def _brightness(colour: Floats) -> Floats:
    return (colour[:, :1] + colour[:, 1:2] + colour[:, 2:]) / np.float32(3)


def _turned(x: Floats, y: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Coordinates that are turned by the angle whose half has this tangent, without calling a trigonometric function."""
    cos, sin = (1 - slope * slope) / (1 + slope * slope), 2 * slope / (1 + slope * slope)
    return cos * x + sin * y, cos * y - sin * x


def _texture(x: Floats, y: Floats, uniform: _Uniforms) -> Floats:
    """Values from 0 to 1: two triangle waves of random directions and lengths, added or multiplied."""
    waves = []
    for _ in range(2):
        along, _across = _turned(x, y, uniform.plane(-1, 1))
        phase = along / uniform.plane(4, 20) + uniform.plane()
        waves.append(abs(2 * (phase - np.floor(phase)) - 1))
    sharp = uniform.plane() < 0.5
    mixed = np.where(uniform.plane() < 0.5, (waves[0] + waves[1]) / 2, waves[0] * waves[1])
    return np.where(sharp, (mixed > 0.4).astype(np.float32), mixed).astype(np.float32)


def _shape(x: Floats, y: Floats, kind: NDArray[np.int64], uniform: _Uniforms) -> NDArray[np.bool_]:
    """The pixels inside a shape of each class, at a random place."""
    edge = SIZE / 2 - 6
    across, down = x - uniform.plane(-edge, edge), y - uniform.plane(-edge, edge)
    u, v = _turned(across, down, uniform.plane(-1, 1))
    radius, stretch = uniform.plane(*RADIUS), uniform.plane(-STRETCH, STRETCH)
    width, height = radius * (1 + stretch), radius * (1 - stretch)
    u, v = u / width, v / height
    distance = u * u + v * v
    a, b = abs(u), abs(v)
    larger, smaller = np.maximum(a, b), np.minimum(a, b)
    by_class = [
        distance <= 1,  # disk
        larger <= 0.85,  # square
        (v <= 0.6) & (a * np.float32(1.7320508) <= v + 1),  # triangle
        (distance <= 1) & (distance >= 0.3),  # ring
        (larger <= 1) & (smaller <= 0.28),  # cross
        np.sqrt(a) + np.sqrt(b) <= np.float32(1.08),  # star
        (distance <= 1.1) & (v >= -0.05),  # half-disk
    ]
    return np.choose(kind[:, None, None] - 1, by_class)


def _line(x: Floats, y: Floats, uniform: _Uniforms) -> Floats:
    along, across = _turned(x, y, uniform.plane(-1, 1))
    distance = abs(across - uniform.plane(-SIZE / 2, SIZE / 2))
    start = uniform.plane(-SIZE / 2, SIZE / 4)
    part = (along >= start) & (along <= start + uniform.plane(8, 30))
    return np.clip(np.float32(1.0) - distance, 0, 1) * part


def _dot(x: Floats, y: Floats, uniform: _Uniforms) -> Floats:
    u, v = x - uniform.plane(-SIZE / 2, SIZE / 2), y - uniform.plane(-SIZE / 2, SIZE / 2)
    return np.clip(uniform.plane(1, 2.5) - np.sqrt(u * u + v * v), 0, 1)


def _without_slivers(scenes: Scenes) -> Scenes:
    """Give shapes of which almost nothing is visible to the background."""
    owners, classes = scenes.owners.copy(), scenes.classes.copy()
    for i in range(SHAPES):
        visible = (owners == i + 1).sum(axis=(1, 2))
        hidden = visible < SMALLEST
        owners[hidden[:, None, None] & (owners == i + 1)] = 0
        classes[hidden, i] = 0
    return scenes._replace(owners=owners, classes=classes)
