"""`python experiments/own_images FOLDER`: write a folder of images such as a user brings, to try `autospike run folder` on.

FOLDER/CLASS/*.png are 3,000 grey images of 28x28 pixels in 10 classes: scikit-learn's digits, moved, rotated, sheared and with
noise. The accuracy of a logistic regression on the pixels is printed, as what anybody reaches in a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

IMAGES, SIZE, SEED = 3000, 28, 1


def distorted(digit: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a digit of 8x8 pixels on 28x28 pixels, with a random affine transformation, contrast and noise."""
    large = Image.fromarray((digit / 16 * 255).astype(np.uint8)).resize((22, 22), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (SIZE, SIZE))
    canvas.paste(large, ((SIZE - 22) // 2,) * 2)
    angle, scale = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.92, 1.1)
    moved_by, shear = rng.uniform(-1.7, 1.7, 2), rng.uniform(-0.1, 0.1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1, shear], [0, 1]]) / scale
    centre = np.full(2, (SIZE - 1) / 2)
    shift = centre - matrix @ (centre + moved_by)
    affine = (*matrix[0], shift[0], *matrix[1], shift[1])
    moved = canvas.transform((SIZE, SIZE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    noisy = np.asarray(moved, dtype=float) * rng.uniform(0.7, 1.1) + rng.normal(0, 25, (SIZE, SIZE))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def main(folder: Path) -> None:
    """Write the images, and print the accuracy of a logistic regression that is trained on three fifths of them."""
    digits, rng = load_digits(), np.random.default_rng(SEED)
    drawn = np.concatenate([rng.permutation(len(digits.target)) for _ in range(2)])[:IMAGES]
    images = np.stack([distorted(digits.images[i], rng) for i in drawn])
    targets = digits.target[drawn]
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        path = folder / str(target) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    split = train_test_split(
        images.reshape(IMAGES, -1) / 255, targets, train_size=0.6, test_size=0.2, random_state=0, stratify=targets
    )
    regression = LogisticRegression(max_iter=1000, C=0.05).fit(split[0], split[2])
    print(f"{folder}: {IMAGES} images; a logistic regression has a test accuracy of {regression.score(split[1], split[3]):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
