"""`python experiments/own_images FOLDER [KIND]`: write images such as a user brings, for `autospike run folder`.

`digits`, the default: 3,000 grey images of 28x28 pixels in 10 classes, scikit-learn's digits, moved, rotated, sheared and with
noise. `textures`: 2,400 colour images of 32x32 pixels in 8 classes, gratings of four orientations and two frequencies in random
colours, with another grating over them, noise and a rectangle in front. `letters`: 1,560 images of the embedded data set `glyphs`,
260 of each of six letters. `mnist`, `fashion`: 3,000 of the training images of MNIST or Fashion-MNIST, which torchvision downloads
to data/ in the current folder. `mnist-all`: all 70,000 images of MNIST, in FOLDER/train and FOLDER/test.

They are written to FOLDER/CLASS/*.png. The accuracy of a logistic regression on the pixels of at most 3,000 images is printed, as
what anybody reaches in a second.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torchvision import datasets

from autospike.data import glyphs

Images = tuple[NDArray[np.uint8], list[str]]

DIGITS, DIGIT_SIZE, DIGITS_SEED = 3000, 28, 1
TEXTURES_OF_A_CLASS, TEXTURE_SIZE, TEXTURES_SEED = 300, 32, 5
LETTERS, OF_A_LETTER = range(0, 26, 5), 260
DOWNLOADS, OF_TORCHVISION, TORCHVISION_SEED = "data", 3000, 0
LARGEST_REGRESSION = 3000
ORIENTATIONS, FREQUENCIES = 4, (0.1, 0.2)  # in cycles a pixel


def digits() -> Images:
    """Return images `[N, height, width]` of digits, and their classes."""
    loaded, rng = load_digits(), np.random.default_rng(DIGITS_SEED)
    drawn = np.concatenate([rng.permutation(len(loaded.target)) for _ in range(2)])[:DIGITS]
    images = np.stack([_distorted(loaded.images[i], rng) for i in drawn])
    return images, [str(label) for label in loaded.target[drawn]]


def _distorted(digit: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a digit of 8x8 pixels on 28x28 pixels, with a random affine transformation, contrast and noise."""
    large = Image.fromarray((digit / 16 * 255).astype(np.uint8)).resize((22, 22), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (DIGIT_SIZE, DIGIT_SIZE))
    canvas.paste(large, ((DIGIT_SIZE - 22) // 2,) * 2)
    angle, scale = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.92, 1.1)
    moved_by, shear = rng.uniform(-1.7, 1.7, 2), rng.uniform(-0.1, 0.1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, shear], [0, 1]]) / scale
    centre = np.full(2, (DIGIT_SIZE - 1) / 2)
    shift = centre - matrix @ (centre + moved_by)
    affine = (*matrix[0], shift[0], *matrix[1], shift[1])
    moved = canvas.transform((DIGIT_SIZE, DIGIT_SIZE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    noisy = np.asarray(moved, dtype=float) * rng.uniform(0.7, 1.1) + rng.normal(0, 25, (DIGIT_SIZE, DIGIT_SIZE))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def textures() -> Images:
    """Return images `[N, height, width, 3]` of textures, and their classes."""
    rng = np.random.default_rng(TEXTURES_SEED)
    labels = np.repeat(np.arange(ORIENTATIONS * len(FREQUENCIES)), TEXTURES_OF_A_CLASS)
    return np.stack([_texture(int(label), rng) for label in labels]), [f"texture{label}" for label in labels]


def _texture(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the grating of a class between two random colours, with another one, a rectangle of one colour and noise."""
    angle = np.pi * (label % ORIENTATIONS) / ORIENTATIONS + rng.normal(0, 0.16)
    frequency = FREQUENCIES[label // ORIENTATIONS] * np.exp(rng.normal(0, 0.12))
    own = _grating(angle, frequency, rng)
    other = _grating(rng.uniform(0, np.pi), rng.uniform(0.05, 0.3), rng)
    low, high = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    mixed = (0.5 + 0.5 * (0.65 * own + 0.35 * other))[..., None]
    image = high * mixed + low * (1 - mixed) + rng.normal(0, 0.12, (TEXTURE_SIZE, TEXTURE_SIZE, 3))
    x, y, side = rng.integers(0, 24), rng.integers(0, 24), rng.integers(4, 12)
    image[y : y + side, x : x + side] = rng.uniform(0, 1, 3)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def _grating(angle: float, frequency: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A sine from -1 to 1 along a direction, with a random phase."""
    y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE]
    phase = rng.uniform(0, 2 * np.pi)
    waves: NDArray[np.float64] = np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return waves


def letters() -> Images:
    """Return images `[N, 32, 32, 3]` of some letters of the glyphs' training split, and the letters."""
    labels = np.array(glyphs.labels("train"))
    indices = np.sort(np.concatenate([np.flatnonzero(labels == letter)[:OF_A_LETTER] for letter in LETTERS]))
    images = glyphs.images("train", range(int(indices[-1]) + 1), masks=glyphs.letter_masks())
    return images[indices], [glyphs.CLASSES[label] for label in labels[indices]]


def of_torchvision(source: Callable[..., Any]) -> Images:
    """Return images `[N, 28, 28]` from the training split of a data set of torchvision, and their classes."""
    loaded = source(DOWNLOADS, train=True, download=True)
    chosen = np.random.default_rng(TORCHVISION_SEED).permutation(len(loaded.targets))[:OF_TORCHVISION]
    return loaded.data.numpy()[chosen], [str(label) for label in loaded.targets.numpy()[chosen]]


def all_of_mnist() -> Images:
    """Return all images `[N, 28, 28]` of MNIST, and their splits and classes as folders."""
    images, folders = [], []
    for split, train in (("train", True), ("test", False)):
        loaded = datasets.MNIST(DOWNLOADS, train=train, download=True)
        images.append(loaded.data.numpy())
        folders += [f"{split}/{label}" for label in loaded.targets.numpy()]
    return np.concatenate(images), folders


KINDS: dict[str, Callable[[], Images]] = {
    "digits": digits,
    "textures": textures,
    "letters": letters,
    "mnist": partial(of_torchvision, datasets.MNIST),
    "fashion": partial(of_torchvision, datasets.FashionMNIST),
    "mnist-all": all_of_mnist,
}


def main(folder: Path, kind: str) -> None:
    """Write the images, and print the accuracy of a logistic regression that is trained on three fifths of them."""
    images, targets = KINDS[kind]()
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        path = folder / target / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    images, targets = images[:LARGEST_REGRESSION], [target.rpartition("/")[2] for target in targets[:LARGEST_REGRESSION]]
    split = train_test_split(
        images.reshape(len(images), -1) / 255, targets, train_size=0.6, test_size=0.2, random_state=0, stratify=targets
    )
    regression = LogisticRegression(max_iter=1000, C=0.05).fit(split[0], split[2])
    accuracy = regression.score(split[1], split[3])
    print(f"{folder}: written; on {len(images):,} of the images, a logistic regression has a test accuracy of {accuracy:.3f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) not in (1, 2) or arguments[1:] not in ([], *([kind] for kind in KINDS)):
        raise SystemExit(f"usage: python experiments/own_images FOLDER [{'|'.join(KINDS)}]")
    main(Path(arguments[0]), arguments[1] if len(arguments) > 1 else "digits")
