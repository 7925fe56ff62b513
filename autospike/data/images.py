"""Datasets with their splits: still images as PIL images, event camera data as frames `[T, C, H, W]`.

Of the three splits, `train` fits and calibrates networks, `search` scores candidates, and `test` is read by the final measurement
only. Splits are stratified samples that depend only on the seed, so all commands of a run and all runs with a seed use the same.

| source                | what                                               | search split drawn from | test split              |
|-----------------------|----------------------------------------------------|-------------------------|-------------------------|
| `digits`              | 1,797 handwritten digits, 8x8, by scikit-learn     | the whole               | drawn from the whole    |
| `glyphs`              | 26,000 letters, 32x32, by `autospike.data.glyphs`  | 20,800 training images  | 5,200 test images       |
| `motion`              | 6,400 event recordings, by `autospike.data.motion` | 4,800 training samples  | 1,600 test samples      |
| `folder`              | `root/CLASS/*.png` (ImageFolder)                   | the whole               | drawn from the whole    |
| `folder`              | `root/train/CLASS/*`, `root/test/CLASS/*`          | `train`                 | `test`, or else `val`   |
| `cifar10`, `cifar100` | torchvision's copy under `root`                    | the training images     | as published            |
| `events`              | `root/CLASS/*.npz` (CIFAR10-DVS by spikingjelly)   | the whole               | drawn from the whole    |
| `events`              | `root/train/CLASS/*.npz` and test (DVS128 Gesture) | `train`                 | `test`, or else `val`   |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split

from autospike.config import DataConfig
from autospike.data import glyphs, motion
from autospike.data.events import FrameFiles, Frames, read_frames
from autospike.errors import UserError
from autospike.randomness import keyed_seed
from autospike.space.architecture import digest

SplitName = Literal["train", "search", "test"]
Read = Callable[[int], Image.Image | Frames]


@dataclass(frozen=True, kw_only=True)
class Split:
    """A subset of a dataset. Images are read on demand.

    Attributes:
        name: Of the split.
        indices: Of the images in the dataset.
        labels: Of the images.
        read: Reads the image with an index.
        time_steps: Number of frames of each sample; None for still images.
    """

    name: SplitName
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    read: Read
    time_steps: int | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, position: int) -> Any:
        """Read the image at a position of the split: a PIL image, or event frames `[T, C, H, W]`."""
        return self.read(self.indices[position])

    def sample(self, count: int, rng: random.Random) -> Split:
        """Sample images without replacement. Folders are sorted by class, so the first images would be of one class.

        Args:
            count: Number of images; all if there are fewer.
            rng: The random generator.

        Returns:
            The sampled images, in random order.
        """
        positions = rng.sample(range(len(self)), min(count, len(self)))
        return replace(self, indices=tuple(self.indices[p] for p in positions), labels=tuple(self.labels[p] for p in positions))


@dataclass(frozen=True, kw_only=True)
class Images:
    """A dataset with its three splits.

    Attributes:
        classes: Names of the classes.
        channels: Number of channels of an image.
        splits: By name.
        files: Names of the files, relative to the root of the dataset.
        time_steps: Number of frames of each sample; None for still images, which a network reads at every time step.
    """

    classes: tuple[str, ...]
    channels: int
    splits: dict[SplitName, Split]
    files: tuple[str, ...] = ()
    time_steps: int | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of the images in each split; it changes if files are added to or removed from a folder."""
        splits = {name: [split.indices, split.labels] for name, split in self.splits.items()}
        frames = {} if self.time_steps is None else {"frames": [self.time_steps, self.channels]}
        return digest({"files": self.files, "classes": self.classes, "splits": splits, **frames})

    def check_time_steps(self, time_steps: int) -> None:
        """Check that samples have enough frames.

        Args:
            time_steps: Largest T of the networks.

        Raises:
            UserError: The samples have fewer frames.
        """
        if self.time_steps is not None and time_steps > self.time_steps:
            raise UserError(
                f"time_steps: {time_steps} steps, but the samples under data.root have {self.time_steps} event frames; "
                f"use at most {self.time_steps}, or create {time_steps} frames with spikingjelly's frames_number"
            )


def load_images(config: DataConfig, *, seed: int) -> Images:
    """Open a dataset and sample its splits.

    Args:
        config: Which dataset.
        seed: Key of the splits.

    Returns:
        The dataset.

    Raises:
        UserError: The folder is missing, has no classes, or too few images for the splits.
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
        splits=_split_all(labels, _Pixels(arrays=pixels), config, seed),
    )


def _glyphs(config: DataConfig, seed: int) -> Images:
    train, test = ((glyphs.labels(name), glyphs.Glyphs(split=name)) for name in ("train", "test"))
    return Images(
        classes=glyphs.CLASSES,
        channels=3,
        splits=_search_from_train(train, test, config, seed),
        files=(glyphs.fingerprint(),),
    )


def _motion(config: DataConfig, seed: int) -> Images:
    train, test = ((motion.labels(name), motion.Motion(split=name)) for name in ("train", "test"))
    splits = _search_from_train(train, test, config, seed)
    return Images(
        classes=motion.CLASSES,
        channels=2,
        splits={name: replace(split, time_steps=motion.FRAMES) for name, split in splits.items()},
        files=(motion.fingerprint(),),
        time_steps=motion.FRAMES,
    )


def _cifar(config: DataConfig, seed: int) -> Images:
    from torchvision import datasets

    source = datasets.CIFAR10 if config.name == "cifar10" else datasets.CIFAR100
    try:
        train, test = (source(_root(config), train=train, download=False) for train in (True, False))
    except RuntimeError:
        raise UserError(
            f"data.root: {config.root} does not contain {config.name}; download it there with torchvision.datasets first"
        ) from None
    return Images(
        classes=tuple(train.classes),
        channels=3,
        splits=_search_from_train(
            (train.targets, _Pixels(arrays=train.data)),
            (test.targets, _Pixels(arrays=test.data)),
            config,
            seed,
        ),
    )


def _folder(config: DataConfig, seed: int) -> Images:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folders = _class_folders(_root(config), _FileKind(description="image folder", example="image.png", extensions=IMG_EXTENSIONS))
    return _from_folders(folders, [_Files(paths=folder.paths) for folder in folders], config, seed, channels=3)


def _events(config: DataConfig, seed: int) -> Images:
    kind = _FileKind(description="folder of event frames", example="frames.npz", extensions=(".npz",))
    folders = _class_folders(_root(config), kind)
    time_steps, channels = read_frames(folders[0].paths[0]).shape[:2]
    reads = [FrameFiles(paths=folder.paths, time_steps=time_steps, channels=channels) for folder in folders]
    return _from_folders(folders, reads, config, seed, channels=channels, time_steps=time_steps)


def _from_folders(
    folders: Sequence[_ClassFolder],
    reads: Sequence[Read],
    config: DataConfig,
    seed: int,
    *,
    channels: int,
    time_steps: int | None = None,
) -> Images:
    """Splits of one folder, or of one for training and one for testing."""
    first, *rest = [(folder.labels, read) for folder, read in zip(folders, reads, strict=True)]
    splits = _search_from_train(first, rest[0], config, seed) if rest else _split_all(*first, config, seed)
    return Images(
        classes=folders[0].classes,
        channels=channels,
        splits={name: replace(split, time_steps=time_steps) for name, split in splits.items()},
        files=tuple(name for folder in folders for name in folder.names),
        time_steps=time_steps,
    )


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """Images in memory, `[images, H, W]` or `[images, H, W, 3]`."""

    arrays: NDArray[np.uint8]

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.arrays[index])


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Image files, read on demand."""

    paths: tuple[Path, ...]

    def __call__(self, index: int) -> Image.Image:
        """Read an image.

        Raises:
            UserError: The file is not a readable image.
        """
        try:
            return Image.open(self.paths[index]).convert("RGB")
        except OSError as error:
            raise UserError(f"{self.paths[index]}: not a readable image ({error}); repair or remove it") from None


@dataclass(frozen=True, kw_only=True)
class _FileKind:
    """File extensions that a dataset consists of, with a description for error messages."""

    description: str
    example: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _ClassFolder:
    """A folder with a subfolder for each class; `names` are paths relative to the root of the dataset."""

    classes: tuple[str, ...]
    labels: list[int]
    paths: tuple[Path, ...]
    names: tuple[str, ...]


def _class_folders(root: Path, kind: _FileKind) -> list[_ClassFolder]:
    """The root itself, or its subfolders for training and testing."""
    if not (root / "train").is_dir():
        return [_class_folder(root, root, kind)]
    held_out = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if held_out is None:
        raise UserError(f"data.root: {root} has train/ but neither test/ nor val/; add one of them")
    train, test = _class_folder(root / "train", root, kind), _class_folder(held_out, root, kind)
    if train.classes != test.classes:
        unmatched = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(f"data.root: train/ and {held_out.name}/ must have the same classes; only one of them has {unmatched[0]!r}")
    return [train, test]


def _class_folder(folder: Path, root: Path, kind: _FileKind) -> _ClassFolder:
    from torchvision.datasets import DatasetFolder

    try:
        found = DatasetFolder(str(folder), loader=Path, extensions=kind.extensions)
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data.root: {folder} is not a valid {kind.description} (root/CLASS/{kind.example}): {reason}") from None
    paths = tuple(Path(path) for path, _ in found.samples)
    return _ClassFolder(
        classes=tuple(found.classes),
        labels=list(found.targets),
        paths=paths,
        names=tuple(path.relative_to(root).as_posix() for path in paths),
    )


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise UserError(f"data.root: required for data.name {config.name}; set it to the folder of the images")
    if not config.root.is_dir():
        raise UserError(f"data.root: {config.root} is not a folder; check the path")
    return config.root


Readable = tuple[Sequence[int], Read]


def _split_all(labels: Sequence[int], read: Read, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    rest, test = _stratified_split(range(len(labels)), labels, config.test_share, seed=seed, name="test")
    train, search = _stratified_split(rest, labels, config.search_share / (1 - config.test_share), seed=seed, name="search")
    return {
        "train": _split("train", train, labels, read),
        "search": _split("search", search, labels, read),
        "test": _split("test", test, labels, read),
    }


def _search_from_train(train: Readable, test: Readable, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    kept, search = _stratified_split(range(len(train[0])), train[0], config.search_share, seed=seed, name="search")
    return {
        "train": _split("train", kept, *train),
        "search": _split("search", search, *train),
        "test": _split("test", range(len(test[0])), *test),
    }


def _stratified_split(
    indices: Sequence[int], labels: Sequence[int], share: float, *, seed: int, name: SplitName
) -> tuple[list[int], list[int]]:
    """Divide indices into the remaining ones and a stratified sample, both sorted.

    Raises:
        UserError: A class has too few images to be in both.
    """
    try:
        rest, sampled = train_test_split(
            np.asarray(indices),
            test_size=share,
            random_state=keyed_seed(seed, "split", name),
            stratify=np.asarray(labels)[list(indices)],
        )
    except ValueError as error:
        raise UserError(f"data: the {name} split of {share:g} cannot be sampled from {len(indices)} images: {error}") from None
    return sorted(rest.tolist()), sorted(sampled.tolist())


def _split(name: SplitName, indices: Sequence[int], labels: Sequence[int], read: Read) -> Split:
    return Split(name=name, indices=tuple(indices), labels=tuple(int(labels[i]) for i in indices), read=read)


SOURCES: dict[str, Callable[[DataConfig, int], Images]] = {
    "digits": _digits,
    "glyphs": _glyphs,
    "motion": _motion,
    "folder": _folder,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "events": _events,
}
