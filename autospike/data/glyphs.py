"""Glyphs: an embedded data set of the 26 capital letters in the fonts of matplotlib, coloured, distorted and cluttered.

Images have 32x32 pixels. They are drawn from back to front: a background with a linear gradient; ellipses; parts of other
letters at the border; the letter of the class in the middle, with an affine and a quadratic distortion; lines in front of it;
noise on each value. All colours are random, so the letter may be darker or brighter than what is behind it.

Both splits have the same fonts and the same distributions; their samples are disjoint. The random numbers of an image are the
raw output of Philox with a key that is made from (`SEED`, split, index). So an image depends on no other image and not on the
number of images.

Everything after the letter masks is computed with operations that IEEE 754 rounds correctly (no sines, exponentials or matrix
products), so equal masks give equal images on every machine. The masks are rendered by the FreeType library in Pillow, and may
differ between versions of it in the grey levels of edges; `fingerprint` covers them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from autospike.data.bilinear import sample_bilinear

Masks = NDArray[np.float32]
"""Opacities from 0 to 1, `[fonts, letters, BOX, BOX]`, with a border of zeros."""
Uniforms = NDArray[np.float32]
"""Random numbers from 0 (included) to 1 (excluded), `[images, numbers]`."""
Planes = NDArray[np.float32]
"""One value per pixel, `[images, SIZE, SIZE]`."""
SplitName = Literal["train", "test"]

CLASSES = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
COUNTS: dict[SplitName, int] = {"train": 800 * len(CLASSES), "test": 200 * len(CLASSES)}
SIZE = 32
"""Height and width of an image."""
SEED = 0
"""Key of the data set. Another value gives another sample of the same distribution."""
VERSION = 1
"""Changes with every change of the images."""

# The fonts of matplotlib that have capital letters at their ASCII codes; cmsy10 has calligraphic ones. The others are symbols, or
# parts of these fonts.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmsy10", "cmti10", "cmtt10"),
)
EM = 40
"""Font size in pixels at which masks are rendered; a capital letter is then about 28 pixels high."""
BOX = 64
"""Height and width of a mask."""

LETTERS_BEHIND = 3
ELLIPSES = 2
LINES = 2
NOISE = 0.05
"""Standard deviation of the noise, of a range of values from 0 to 1."""
SHIFT = 3.5
"""Largest distance of the letter from the middle, in pixels along each axis."""
SCALE = (0.45, 0.85)
"""Range of the scale along each axis: capital letters are 13 to 24 pixels high."""
ROTATION = 0.22
"""Largest tangent of half the angle of rotation: 25 degrees."""
SHEAR = 0.3
BEND = 0.015
"""Largest coefficient of the quadratic distortion, per pixel."""
CONTRAST = 0.25
"""Smallest difference in brightness between the letter and the middle of the background; ellipses may reduce it."""
CHUNK = 64
"""Images that are computed at once."""


@dataclass(frozen=True, kw_only=True)
class Glyphs:
    """Reads the images of a split. They are computed on first use, in chunks, and stay in memory: 3 KB each.

    Attributes:
        split: "train" or "test".
    """

    split: SplitName

    def __call__(self, index: int) -> Image.Image:
        """Return the image with an index, which has class `index % 26`."""
        chunk, position = divmod(index, CHUNK)
        return Image.fromarray(_chunk(self.split, chunk)[position])


def labels(split: SplitName) -> list[int]:
    """Return the class of each image of a split. Every class occurs equally often.

    Args:
        split: Name of the split, "train" or "test".
    """
    return [index % len(CLASSES) for index in range(COUNTS[split])]


def fingerprint() -> str:
    """Return a digest of all that the images depend on: the version of this module, the seed and the letter masks."""
    masks = np.rint(letter_masks() * 255).astype(np.uint8)
    return hashlib.sha256(f"glyphs {VERSION} {SEED} {COUNTS}".encode() + masks.tobytes()).hexdigest()[:12]


@lru_cache(maxsize=sum(count // CHUNK + 1 for count in COUNTS.values()))
def _chunk(split: SplitName, chunk: int) -> NDArray[np.uint8]:
    first = chunk * CHUNK
    return images(split, range(first, min(first + CHUNK, COUNTS[split])), masks=letter_masks())


@lru_cache(maxsize=1)
def letter_masks() -> Masks:
    """Render every letter in every font, centred in its box by its bounding box.

    Returns:
        Coverage of each pixel between 0 and 1, `[fonts, letters, BOX, BOX]`.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    masks = np.zeros((len(FONTS), len(CLASSES), BOX, BOX), dtype=np.float32)
    for f, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), EM, layout_engine=ImageFont.Layout.BASIC)
        for c, letter in enumerate(CLASSES):
            left, top, right, bottom = font.getbbox(letter)
            image = Image.new("L", (BOX, BOX))
            origin = (int(BOX - left - right) // 2, int(BOX - top - bottom) // 2)
            ImageDraw.Draw(image).text(origin, letter, fill=255, font=font)
            masks[f, c] = np.asarray(image, dtype=np.float32) / 255
    return masks


def images(split: SplitName, indices: range, *, masks: Masks, seed: int = SEED) -> NDArray[np.uint8]:
    """Draw images.

    Args:
        split: Part of the key of the random numbers.
        indices: Of the images. Each has class `index % 26`.
        masks: The letters.
        seed: Part of the key of the random numbers.

    Returns:
        Pixels `[images, SIZE, SIZE, 3]`.
    """
    values = SIZE * SIZE * 3
    raw = np.stack([_raw(seed, split, index, values // 2) for index in indices])
    uniforms = _Uniforms(raw[:, : _Uniforms.COUNT])
    # The sum of four bytes has mean 510 and variance 4 (256^2 - 1) / 12; it is nearly normal.
    sums = raw[:, _Uniforms.COUNT :].view(np.uint8).reshape(len(raw), values, 4).sum(axis=2, dtype=np.int32)
    noise = (sums - 510).astype(np.float32) * np.float32(NOISE / 147.8)
    classes = np.asarray(indices) % len(CLASSES)
    canvas = _draw(classes, uniforms, masks) + noise.reshape(-1, 3, SIZE, SIZE)
    pixels = (np.clip(canvas, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _raw(seed: int, split: SplitName, index: int, words: int) -> NDArray[np.uint64]:
    """Random words of an image. The raw output of Philox is the same in every version of NumPy; distributions are not."""
    key = np.frombuffer(hashlib.sha256(repr(("glyphs", seed, split, index)).encode()).digest()[:16], dtype="<u8")
    return np.random.Philox(key=key).random_raw(_Uniforms.COUNT + words).astype("<u8")


class _Uniforms:
    """Takes random numbers of all images from left to right."""

    COUNT = 96

    def __init__(self, raw: NDArray[np.uint64]) -> None:
        self._values = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        self._used = 0

    def __call__(self, low: float = 0.0, high: float = 1.0, *, count: int = 1) -> Uniforms:
        """Take `count` numbers per image from a range, `[images, count]`."""
        start, self._used = self._used, self._used + count
        return np.float32(low) + np.float32(high - low) * self._values[:, start : self._used]


def _draw(classes: NDArray[np.int64], uniform: _Uniforms, masks: Masks) -> NDArray[np.float32]:
    """Images `[images, 3, SIZE, SIZE]` with values from 0 to 1, before noise."""
    axis = np.arange(SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)
    x, y = axis[None, None, :], axis[None, :, None]
    one, other = uniform(count=3), uniform(count=3)
    canvas = _over(np.broadcast_to(one[:, :, None, None], (len(one), 3, SIZE, SIZE)), _gradient(x, y, uniform), other)
    for _ in range(ELLIPSES):
        canvas = _over(canvas, _ellipse(x, y, uniform), uniform(count=3))
    for _ in range(LETTERS_BEHIND):
        shift = 1 + np.floor(uniform()[:, 0] * np.float32(len(CLASSES) - 1)).astype(np.int64)
        canvas = _over(
            canvas, _letter(x, y, masks, (classes + shift) % len(CLASSES), _at_border(uniform), uniform), uniform(count=3)
        )
    position = (uniform(-SHIFT, SHIFT), uniform(-SHIFT, SHIFT))
    colour = _contrasting((one + other) * np.float32(0.5), uniform(count=3))
    canvas = _over(canvas, _letter(x, y, masks, classes, position, uniform), colour)
    for _ in range(LINES):
        canvas = _over(canvas, _line(x, y, uniform), uniform(count=3))
    return canvas


def _over(canvas: NDArray[np.float32], opacity: Planes, colour: Uniforms) -> NDArray[np.float32]:
    """Draw a colour `[images, 3]` over images `[images, 3, SIZE, SIZE]`."""
    return canvas + opacity[:, None] * (colour[:, :, None, None] - canvas)


def _contrasting(behind: Uniforms, colour: Uniforms) -> Uniforms:
    """Move colours that are about as bright as the background towards white, or towards black on a bright background."""
    difference = _brightness(colour) - _brightness(behind)
    moved = np.float32(0.3) * colour + np.where(_brightness(behind) < 0.5, np.float32(0.7), np.float32(0))
    return np.where(abs(difference) < CONTRAST, moved, colour)


def _brightness(colour: Uniforms) -> Uniforms:
    return (colour[:, :1] + colour[:, 1:2] + colour[:, 2:]) / np.float32(3)


def _at_border(uniform: _Uniforms) -> tuple[Uniforms, Uniforms]:
    """A position near one of the four borders, from which a letter is visible in part."""
    along, across = uniform(-SIZE / 2, SIZE / 2), uniform(0.42 * SIZE, 0.58 * SIZE)
    across = np.where(uniform() < 0.5, across, -across)
    swap = uniform() < 0.5
    return np.where(swap, across, along), np.where(swap, along, across)


def _direction(slope: Uniforms) -> tuple[Uniforms, Uniforms]:
    """Cosine and sine `[images, 1, 1]` of the angle whose half has this tangent, without calling a trigonometric function."""
    t = slope[:, :, None]
    return (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)


def _gradient(x: Planes, y: Planes, uniform: _Uniforms) -> Planes:
    cos, sin = _direction(uniform(-1, 1))
    return np.clip(np.float32(0.5) + (x * cos + y * sin) / SIZE, 0, 1)


def _ellipse(x: Planes, y: Planes, uniform: _Uniforms) -> Planes:
    u, v = (axis - uniform(-SIZE / 2, SIZE / 2)[:, :, None] for axis in (x, y))
    a, b = (uniform(3, 10)[:, :, None] for _ in range(2))
    return np.clip((1 - (u / a) * (u / a) - (v / b) * (v / b)) * 3, 0, 1) * uniform(0.3, 0.8)[:, :, None]


def _line(x: Planes, y: Planes, uniform: _Uniforms) -> Planes:
    cos, sin = _direction(uniform(-1, 1))
    distance = abs(x * cos + y * sin - uniform(-SIZE / 2, SIZE / 2)[:, :, None])
    return np.clip(uniform(0.6, 1.4)[:, :, None] - distance, 0, 1)


def _letter(
    x: Planes, y: Planes, masks: Masks, letters: NDArray[np.int64], position: tuple[Uniforms, Uniforms], uniform: _Uniforms
) -> Planes:
    """Opacity of a letter in a random font: shifted, rotated, sheared, scaled and bent."""
    cos, sin = _direction(uniform(-ROTATION, ROTATION))
    u, v = x - position[0][:, :, None], y - position[1][:, :, None]
    u, v = cos * u + sin * v, cos * v - sin * u
    u = u + uniform(-SHEAR, SHEAR)[:, :, None] * v
    bend_u, bend_v = (uniform(-BEND, BEND)[:, :, None] for _ in range(2))
    u, v = u + bend_u * v * v, v + bend_v * u * u
    width, height = (uniform(*SCALE)[:, :, None] for _ in range(2))
    fonts = np.floor(uniform()[:, 0] * np.float32(len(masks))).astype(np.int64)
    return sample_bilinear(masks[fonts, letters], u / width, v / height)
