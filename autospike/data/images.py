"""Still images by source and split, as PIL images.

| source                | what                                             | search split drawn from | test split              |
|-----------------------|--------------------------------------------------|-------------------------|-------------------------|
| `digits`              | 1,797 handwritten digits, 8x8, by scikit-learn   | the whole               | drawn from the whole    |
| `folder`              | `root/CLASS/*.png` (ImageFolder)                 | the whole               | drawn from the whole    |
| `folder`              | `root/train/CLASS/*`, `root/test/CLASS/*`        | `train`                 | `test`, or else `val`   |
| `cifar10`, `cifar100` | torchvision's copy under `root`                  | the training images     | as published            |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autospike.architecture import digest
from autospike.config import DataConfig
from autospike.data.splits import carve
from autospike.errors import UserError

SplitName = Literal["train", "search", "test"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Some images of a source. `read(index)` opens an image; nothing is read before."""

    name: SplitName
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, position: int) -> Image.Image:
        return self.read(self.indices[position])

    def drawn(self, count: int, rng: random.Random) -> Split:
        """At most `count` of the images, drawn at random: folders come sorted by class, so the first ones would be of one kind."""
        positions = rng.sample(range(len(self)), min(count, len(self)))
        return replace(self, indices=tuple(self.indices[p] for p in positions), labels=tuple(self.labels[p] for p in positions))


@dataclass(frozen=True, kw_only=True)
class Images:
    """A source with its three splits."""

    classes: tuple[str, ...]
    channels: int
    splits: dict[SplitName, Split]
    files: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Digest of which image is in which split: it changes when a folder's content does."""
        splits = {name: [split.indices, split.labels] for name, split in self.splits.items()}
        return digest({"files": self.files, "classes": self.classes, "splits": splits})


def load_images(config: DataConfig, *, seed: int) -> Images:
    """Open a source and draw its splits.

    Raises:
        UserError: the folder is missing, holds no classes, or is too small to be split.
    """
    return SOURCES[config.name](config, seed)


def _digits(config: DataConfig, seed: int) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.tolist()
    return Images(
        classes=tuple(str(c) for c in range(10)),
        channels=1,
        splits=_drawn_from_one(labels, _Pixels(arrays=pixels), config, seed),
    )


def _cifar(config: DataConfig, seed: int) -> Images:
    from torchvision import datasets

    source = datasets.CIFAR10 if config.name == "cifar10" else datasets.CIFAR100
    try:
        train, test = (source(_root(config), train=train, download=False) for train in (True, False))
    except RuntimeError:
        raise UserError(
            f"data.root: no {config.name} in {config.root}; download it there with torchvision.datasets first"
        ) from None
    return Images(
        classes=tuple(train.classes),
        channels=3,
        splits=_search_from_train(
            (train.targets, lambda i: Image.fromarray(train.data[i])),
            (test.targets, lambda i: Image.fromarray(test.data[i])),
            config,
            seed,
        ),
    )


def _folder(config: DataConfig, seed: int) -> Images:
    root = _root(config)
    if not (root / "train").is_dir():
        whole = _image_folder(root)
        return Images(
            classes=whole.classes,
            channels=3,
            splits=_drawn_from_one(whole.labels, whole.read, config, seed),
            files=_names(root, whole),
        )
    held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if held_out is None:
        raise UserError(f"data.root: {root} has train/ but neither test/ nor val/ beside it")
    train, test = _image_folder(root / "train"), _image_folder(held_out)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(f"data.root: train/ and {held_out.name}/ must hold the same classes; only one of them has {odd[0]!r}")
    return Images(
        classes=train.classes,
        channels=3,
        splits=_search_from_train((train.labels, train.read), (test.labels, test.read), config, seed),
        files=_names(root, train, test),
    )


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """Images that lie in memory: `[images, H, W]` or `[images, H, W, 3]` bytes."""

    arrays: NDArray[np.uint8]

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.arrays[index])


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Images that are opened when they are asked for."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> Image.Image:
        """Raises:
        UserError: the file is no image that can be read.
        """
        try:
            return Image.open(self.paths[index]).convert("RGB")
        except OSError as error:
            raise UserError(f"{self.paths[index]}: no image that can be read ({error}); mend it, or take it away") from None


@dataclass(frozen=True, kw_only=True)
class _ImageFolder:
    classes: tuple[str, ...]
    labels: list[int]
    read: _Files


def _image_folder(root: Path) -> _ImageFolder:
    from torchvision.datasets import ImageFolder

    try:
        folder = ImageFolder(str(root))
    except FileNotFoundError as error:
        raise UserError(f"data.root: {root} is no image folder (root/CLASS/image.png): {str(error).splitlines()[0]}") from None
    files = tuple(Path(path) for path, _ in folder.samples)
    return _ImageFolder(classes=tuple(folder.classes), labels=list(folder.targets), read=_Files(paths=files))


def _names(root: Path, *folders: _ImageFolder) -> tuple[str, ...]:
    return tuple(path.relative_to(root).as_posix() for folder in folders for path in folder.read.paths)


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise UserError(f"data.root: required for data.name {config.name}; give the folder that holds the images")
    if not config.root.is_dir():
        raise UserError(f"data.root: {config.root} is no folder; check the path")
    return config.root


Readable = tuple[Sequence[int], Callable[[int], Image.Image]]


def _drawn_from_one(
    labels: Sequence[int], read: Callable[[int], Image.Image], config: DataConfig, seed: int
) -> dict[SplitName, Split]:
    rest, test = carve(range(len(labels)), labels, config.test_share, seed=seed, name="test")
    train, search = carve(rest, labels, config.search_share / (1 - config.test_share), seed=seed, name="search")
    return {
        "train": _split("train", train, labels, read),
        "search": _split("search", search, labels, read),
        "test": _split("test", test, labels, read),
    }


def _search_from_train(train: Readable, test: Readable, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    kept, search = carve(range(len(train[0])), train[0], config.search_share, seed=seed, name="search")
    return {
        "train": _split("train", kept, *train),
        "search": _split("search", search, *train),
        "test": _split("test", range(len(test[0])), *test),
    }


def _split(name: SplitName, indices: Sequence[int], labels: Sequence[int], read: Callable[[int], Image.Image]) -> Split:
    return Split(name=name, indices=tuple(indices), labels=tuple(int(labels[i]) for i in indices), read=read)


SOURCES: dict[str, Callable[[DataConfig, int], Images]] = {
    "digits": _digits,
    "folder": _folder,
    "cifar10": _cifar,
    "cifar100": _cifar,
}
