"""Motion: an embedded data set of moving and rotating shapes before a simulated event camera, 8 frames of 32x32 pixels.

In one half of the image, upper or lower, a handwritten digit or a shape moves left or right and re-enters at the other side. In
the other half, a shape without rotational symmetry turns clockwise or counterclockwise. The four combinations are the classes.

Each object is brighter or darker than the background, with equal probability. A bright object that moves right and a dark one
that moves left in the same places give the same events in reverse order. Start positions and angles are uniform, and the motion
has begun long before the recording. So a frame has the same distribution in every class, and so has the sum of all frames: only
the order of the frames distinguishes the classes. `experiments/difficulty` measures this.

The random numbers of a sample are the raw output of Philox with a key from (`SEED`, split, index), and only operations that
IEEE 754 rounds correctly are used, so samples are equal on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autospike.data.bilinear import sample_bilinear
from autospike.data.event_camera import Camera, Pixels, record, settle, shot_noise
from autospike.data.events import Frames

Plane = NDArray[np.float32]
"""A value per pixel of a half image, `[samples, SIZE // 2, SIZE]`."""
Uniforms = NDArray[np.float32]
"""A random number from 0 to 1 per sample, `[samples, 1, 1]`."""
SplitName = Literal["train", "test"]

CLASSES = ("left-clockwise", "left-counterclockwise", "right-clockwise", "right-counterclockwise")
COUNTS: dict[SplitName, int] = {"train": 1200 * len(CLASSES), "test": 400 * len(CLASSES)}
SIZE = 32
FRAMES = 8
FRAME_SECONDS = 0.01
SUBFRAMES = 2
"""Rendered images per frame; the camera interpolates between them."""
SEED = 0
VERSION = 1
"""Changes with every change of the samples."""
CAMERA = Camera()

SPEED = (1.0, 2.0)
"""Range of the motion in pixels per frame."""
TURN = (0.07, 0.14)
"""Range of the tangent of half the angle of a subframe: 8 to 16 degrees, 16 to 32 degrees per frame."""
CONTRAST = (0.5, 1.2)
"""Range of the change of log intensity by an object."""
SCALE = (0.7, 0.85)
"""Range of the image pixels per pixel of a mask."""
SETTLING = 16
"""Steps of a full period of the motion before the recording, after which references are where the motion leaves them."""
SETTLING_TURN = 0.198912367379658
"""Tangent of half of 360 / SETTLING degrees."""
BOX = 20
"""Height and width of a mask: 16 pixels and a border."""
CHUNK = 64

# Shapes as rectangles (top, left, bottom, right) in 16x16 pixels, inside a circle; none has a rotational symmetry.
SHAPES = (
    ((2, 4, 14, 7), (11, 4, 14, 12)),  # L
    ((2, 9, 14, 12), (11, 4, 14, 12)),  # mirrored L
    ((3, 3, 6, 13), (3, 7, 14, 9)),  # T
    ((2, 4, 14, 7), (2, 4, 5, 12), (7, 4, 9, 10)),  # F
    ((2, 4, 14, 6), (2, 4, 4, 12), (2, 10, 9, 12), (7, 4, 9, 12)),  # P
    ((1, 6, 8, 10),),  # a bar on one side of the middle
    ((3, 3, 13, 5), (3, 11, 13, 13), (11, 3, 13, 13)),  # U
    ((2, 6, 5, 10), (5, 4, 8, 12), (8, 7, 15, 9)),  # arrow
)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Reads the samples of a split. They are computed on first use, in chunks, and stay in memory: 16 KB each.

    Attributes:
        split: "train" or "test".
    """

    split: SplitName

    def __call__(self, index: int) -> Frames:
        """Return the event frames `[FRAMES, 2, SIZE, SIZE]` with an index, of class `index % 4`; ON events first."""
        chunk, position = divmod(index, CHUNK)
        return _chunk(self.split, chunk)[position].astype(np.float32)


def labels(split: SplitName) -> list[int]:
    """Return the class of each sample of a split. Every class occurs equally often.

    Args:
        split: Name of the split, "train" or "test".
    """
    return [index % len(CLASSES) for index in range(COUNTS[split])]


def fingerprint() -> str:
    """Return a digest of all that the samples depend on: the version of this module, the seed and the camera."""
    return hashlib.sha256(f"motion {VERSION} {SEED} {COUNTS} {CAMERA}".encode()).hexdigest()[:12]


@lru_cache(maxsize=sum(count // CHUNK + 1 for count in COUNTS.values()))
def _chunk(split: SplitName, chunk: int) -> NDArray[np.uint8]:
    first = chunk * CHUNK
    return frames(split, range(first, min(first + CHUNK, COUNTS[split])))


def frames(split: SplitName, indices: range, *, seed: int = SEED, camera: Camera = CAMERA) -> NDArray[np.uint8]:
    """Simulate samples.

    Args:
        split: Part of the key of the random numbers. Training and test samples also have different handwritten digits.
        indices: Of the samples. Each has class `index % 4`.
        seed: Part of the key of the random numbers.
        camera: Its constants.

    Returns:
        Numbers of events `[samples, FRAMES, 2, SIZE, SIZE]`, ON first.
    """
    random = _Random(seed, split, indices)
    classes = np.asarray(indices)[:, None, None] % len(CLASSES)
    right, counterclockwise = classes // 2 == 1, classes % 2 == 1
    halves = [
        _simulate(_Moving.draw(random, split, np.where(right, 1, -1).astype(np.float32)), random, camera),
        _simulate(_Turning.draw(random, np.where(counterclockwise, -1, 1).astype(np.float32)), random, camera),
    ]
    upper = (random.uniform() < 0.5)[:, None, None]
    return np.concatenate([np.where(upper, *halves), np.where(upper, *halves[::-1])], axis=3)


class _Random:
    """Random numbers of samples, taken from left to right."""

    NUMBERS = 32
    _PLANES = 2 * (2 + FRAMES)  # for each half: the mismatch of two thresholds, and the shot noise of each frame

    def __init__(self, seed: int, split: SplitName, indices: range) -> None:
        pixels = SIZE * SIZE // 2
        raw = np.stack([self._raw(seed, split, index, self.NUMBERS + self._PLANES * pixels // 2) for index in indices])
        self._numbers = (raw[:, : self.NUMBERS] >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        self._bytes = raw[:, self.NUMBERS :].view(np.uint8).reshape(len(raw), self._PLANES, SIZE // 2, SIZE, 4)
        self._used = self._planes = 0

    @staticmethod
    def _raw(seed: int, split: SplitName, index: int, words: int) -> NDArray[np.uint64]:
        key = np.frombuffer(hashlib.sha256(repr(("motion", seed, split, index)).encode()).digest()[:16], dtype="<u8")
        return np.random.Philox(key=key).random_raw(words).astype("<u8")

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Uniforms:
        self._used += 1
        return np.float32(low) + np.float32(high - low) * self._numbers[:, self._used - 1, None, None]

    def uniform_plane(self) -> Plane:
        values = self._next_plane().astype(np.uint32)
        return (values[..., 0] * 65536 + values[..., 1] * 256 + values[..., 2]).astype(np.float32) * np.float32(2**-24)

    def normal_plane(self) -> Plane:
        """The sum of four bytes, which is nearly normal: mean 510, variance 4 (256^2 - 1) / 12."""
        return (self._next_plane().sum(axis=3, dtype=np.int32) - 510).astype(np.float32) * np.float32(1 / 147.8)

    def _next_plane(self) -> NDArray[np.uint8]:
        self._planes += 1
        return self._bytes[:, self._planes - 1]


@dataclass(frozen=True, kw_only=True)
class _Moving:
    """An object that moves horizontally; `direction` is 1 for right and -1 for left."""

    masks: Plane
    direction: Uniforms
    speed: Uniforms
    scale: Uniforms
    contrast: Uniforms
    start: Uniforms
    row: Uniforms

    @classmethod
    def draw(cls, random: _Random, split: SplitName, direction: Uniforms) -> _Moving:
        shapes, digits = _shape_masks(), _digit_masks(split)
        shape = shapes[_choice(random.uniform(), len(shapes))]
        digit = digits[_choice(random.uniform(), len(digits))]
        return cls(
            masks=np.where(random.uniform() < 0.5, digit, shape),
            direction=direction,
            speed=random.uniform(*SPEED),
            scale=random.uniform(*SCALE),
            contrast=_contrast(random),
            start=random.uniform(0, SIZE),
            row=random.uniform(-1, 1),
        )

    def before(self) -> list[Plane]:
        return [self._at(np.float32(-SIZE * step / SETTLING)) for step in range(SETTLING, -1, -1)]

    def during(self) -> list[Plane]:
        return [self._at(self.speed * np.float32(step / SUBFRAMES)) for step in range(1, FRAMES * SUBFRAMES + 1)]

    def _at(self, path: Uniforms | np.float32) -> Plane:
        x, y = _axes()
        return self.contrast * sample_bilinear(
            self.masks, _wrapped(x - self.start - self.direction * path) / self.scale, (y - self.row) / self.scale
        )


@dataclass(frozen=True, kw_only=True)
class _Turning:
    """An object that turns; `direction` is 1 for clockwise on the screen, whose y axis points down, and -1 for counterclockwise."""

    masks: Plane
    direction: Uniforms
    turn: Uniforms
    scale: Uniforms
    contrast: Uniforms
    column: Uniforms
    start: tuple[Uniforms, Uniforms]

    @classmethod
    def draw(cls, random: _Random, direction: Uniforms) -> _Turning:
        shapes = _shape_masks()
        cos, sin = _direction(random.uniform(-1, 1))
        flip = np.where(random.uniform() < 0.5, np.float32(1), np.float32(-1))
        return cls(
            masks=shapes[_choice(random.uniform(), len(shapes))],
            direction=direction,
            turn=random.uniform(*TURN),
            scale=random.uniform(*SCALE),
            contrast=_contrast(random),
            column=random.uniform(0, SIZE),
            start=(flip * cos, flip * sin),
        )

    def before(self) -> list[Plane]:
        """A full turn that ends at the start."""
        step = _direction(self.direction * np.float32(SETTLING_TURN))
        return self._turned(self.start, step, SETTLING + 1)

    def during(self) -> list[Plane]:
        step = _direction(self.direction * self.turn)
        return self._turned(_product(self.start, step), step, FRAMES * SUBFRAMES)

    def _turned(self, angle: tuple[Plane, Plane], step: tuple[Plane, Plane], count: int) -> list[Plane]:
        found = []
        for _ in range(count):
            found.append(self._at(angle))
            angle = _product(angle, step)
        return found

    def _at(self, angle: tuple[Plane, Plane]) -> Plane:
        x, y = _axes()
        u, v = _product((_wrapped(x - self.column), y), (angle[0], -angle[1]))
        return self.contrast * sample_bilinear(self.masks, u / self.scale, v / self.scale)


def _simulate(scene: _Moving | _Turning, random: _Random, camera: Camera) -> NDArray[np.uint8]:
    """Record the events of a half image, `[samples, FRAMES, 2, SIZE // 2, SIZE]`."""
    first, *before = scene.before()
    pixels = Pixels.start(camera, first, on=random.normal_plane(), off=random.normal_plane())
    for level in before:
        pixels = settle(pixels, level)
    recorded, levels = [], iter(scene.during())
    for _ in range(FRAMES):
        noise = shot_noise(camera, random.uniform_plane(), FRAME_SECONDS)
        on, off = np.maximum(noise, 0), np.maximum(-noise, 0)
        for _ in range(SUBFRAMES):
            pixels, events = record(camera, pixels, next(levels), FRAME_SECONDS / SUBFRAMES)
            on, off = on + np.maximum(events, 0), off + np.maximum(-events, 0)
        recorded.append(np.stack([on, off], axis=1).astype(np.uint8))
    return np.stack(recorded, axis=1)


def _contrast(random: _Random) -> Uniforms:
    sign = np.where(random.uniform() < 0.5, np.float32(1), np.float32(-1))
    return sign * random.uniform(*CONTRAST)


def _choice(uniform: Uniforms, count: int) -> NDArray[np.int64]:
    return np.floor(uniform[:, 0, 0] * np.float32(count)).astype(np.int64)


def _direction(half_tangent: Uniforms) -> tuple[Uniforms, Uniforms]:
    """Cosine and sine of the angle whose half has this tangent, without calling a trigonometric function."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def _product(a: tuple[Plane, Plane], b: tuple[Plane, Plane]) -> tuple[Plane, Plane]:
    """Cosine and sine of the sum of two angles."""
    return a[0] * b[0] - a[1] * b[1], a[1] * b[0] + a[0] * b[1]


def _axes() -> tuple[Plane, Plane]:
    """Columns from 0, and rows relative to the middle of a half image."""
    rows = np.arange(SIZE // 2, dtype=np.float32) - np.float32((SIZE // 2 - 1) / 2)
    return np.arange(SIZE, dtype=np.float32)[None, None, :], rows[None, :, None]


def _wrapped(x: Plane) -> Plane:
    """Move coordinates by multiples of SIZE into -SIZE/2 .. SIZE/2."""
    width = np.float32(SIZE)
    return x - np.floor(x / width + np.float32(0.5)) * width


@lru_cache(maxsize=1)
def _shape_masks() -> Plane:
    masks = np.zeros((len(SHAPES), BOX, BOX), dtype=np.float32)
    for mask, rectangles in zip(masks, SHAPES, strict=True):
        for top, left, bottom, right in rectangles:
            mask[2 + top : 2 + bottom, 2 + left : 2 + right] = 1
    return masks


@lru_cache(maxsize=2)
def _digit_masks(split: SplitName) -> Plane:
    """scikit-learn's handwritten digits, twice as large: the even ones for training, the odd ones for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits().images[0 if split == "train" else 1 :: 2].astype(np.float32) / 16
    return np.pad(digits.repeat(2, axis=1).repeat(2, axis=2), ((0, 0), (2, 2), (2, 2)))
