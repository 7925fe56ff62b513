"""Datasets with their splits: still images as PIL images, event camera data as frames `[T, C, H, W]`.

Of the three splits, `train` fits and calibrates networks, `search` scores candidates, and `test` is read by the final measurement
only. Splits are stratified samples that depend only on the seed, so all commands of a run and all runs with a seed use the same.

| source                | what                                               | search split drawn from | test split              |
|-----------------------|----------------------------------------------------|-------------------------|-------------------------|
| `digits`              | 1,797 handwritten digits, 8x8, by scikit-learn     | the whole               | drawn from the whole    |
| `glyphs`              | 26,000 letters, 32x32, by `autospike.data.glyphs`  | 20,800 training images  | 5,200 test images       |
| `motion`              | 6,400 event recordings, by `autospike.data.motion` | 4,800 training samples  | 1,600 test samples      |
| `folder`              | `root/CLASS/*.png` (see `data.folders`)            | the whole               | drawn from the whole    |
| `folder`              | `root/train/CLASS/*`, `root/test/CLASS/*`          | `train`                 | `test`, or else `val`   |
| `cifar10`, `cifar100` | torchvision's copy under `root`                    | the training images     | as published            |
| `events`              | `root/CLASS/*.npz` (CIFAR10-DVS by spikingjelly)   | the whole               | drawn from the whole    |
| `events`              | `root/train/CLASS/*.npz` and test (DVS128 Gesture) | `train`                 | `test`, or else `val`   |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split

from autospike.config import DataConfig
from autospike.data import glyphs, motion
from autospike.data.contents import Contents, GeneratedSamples, StoredArrays, StoredFiles
from autospike.data.events import FrameFiles, Frames, check_channels, read_frames
from autospike.data.folders import ClassFolder, FileKind, FoundFolders, scan
from autospike.data.pixels import RGB, WHITE, is_grey, read_image
from autospike.errors import UserError
from autospike.process import available_cores
from autospike.randomness import keyed, keyed_seed
from autospike.space.architecture import digest

SplitName = Literal["train", "search", "test"]
Read = Callable[[int], Image.Image | Frames]

# The files of an image folder; torchvision's IMG_EXTENSIONS.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Files that are examined one after the other for colours, and by several threads in a block.
FIRST_FILES, BLOCK = 8, 512
IMAGE_FILES = FileKind(description="image folder", example="image.png", extensions=IMAGE_EXTENSIONS)
FRAME_FILES = FileKind(description="folder of event frames", example="frames.npz", extensions=(".npz",))


@dataclass(frozen=True, kw_only=True)
class Split:
    """A subset of a dataset. Images are read on demand.

    Attributes:
        name: Of the split.
        indices: Of the images in the dataset.
        labels: Of the images.
        read: Reads the image with an index.
        time_steps: Number of frames of each sample; None for still images.
        contents: What the samples are read from, by index; None if it is not known.
    """

    name: SplitName
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    read: Read
    time_steps: int | None = None
    contents: Contents | None = None

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
        left_out: What the folder contains besides: for each reason, the number of files and the first name.
        protocol: Other settings on which the pixels depend, for the fingerprint; empty by default.
    """

    classes: tuple[str, ...]
    channels: int
    splits: dict[SplitName, Split]
    files: tuple[str, ...] = ()
    time_steps: int | None = None
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Digest of the images in each split; it changes if files are added to or removed from a folder."""
        splits = {name: [split.indices, split.labels] for name, split in self.splits.items()}
        frames = {} if self.time_steps is None else {"frames": [self.time_steps, self.channels]}
        return digest({"files": self.files, "classes": self.classes, "splits": splits, **frames, **self.protocol})

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
    images = SOURCES[config.name](config, seed)
    if images.time_steps is None and images.channels not in (1, 3):
        raise UserError(f"data.channels: {images.channels} for still images; choose auto, 1 (grey) or 3 (RGB)")
    return images


def _digits(config: DataConfig, seed: int) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.tolist()
    return Images(
        classes=tuple(str(c) for c in range(10)),
        channels=_channels(config, 1),
        splits=_split_all(labels, _Pixels(arrays=pixels), config, seed, StoredArrays(arrays=pixels, prefix="")),
        protocol=_protocol(config, 1),
    )


def _glyphs(config: DataConfig, seed: int) -> Images:
    train, test = ((glyphs.labels(name), glyphs.Glyphs(split=name), _generated(glyphs, name)) for name in ("train", "test"))
    return Images(
        classes=glyphs.CLASSES,
        channels=_channels(config, 3),
        splits=_search_from_train(train, test, config, seed),
        files=(glyphs.fingerprint(),),
        protocol=_protocol(config, 3),
    )


def _motion(config: DataConfig, seed: int) -> Images:
    train, test = ((motion.labels(name), motion.Motion(split=name), _generated(motion, name)) for name in ("train", "test"))
    splits = _search_from_train(train, test, config, seed)
    return Images(
        classes=motion.CLASSES,
        channels=2,
        splits={name: replace(split, time_steps=motion.FRAMES) for name, split in splits.items()},
        files=(motion.fingerprint(),),
        time_steps=motion.FRAMES,
    )


def _generated(source: ModuleType, split: str) -> GeneratedSamples:
    return GeneratedSamples(generator=source.fingerprint(), prefix=f"{split}/")


def _cifar(config: DataConfig, seed: int) -> Images:
    from torchvision import datasets

    source = datasets.CIFAR10 if config.name == "cifar10" else datasets.CIFAR100
    try:
        train, test = (source(_root(config), train=train, download=False) for train in (True, False))
    except RuntimeError:
        raise UserError(
            f"data.root: {config.root} does not contain {config.name}; download it there with torchvision.datasets first"
        ) from None
    stored = [StoredArrays(arrays=part.data, prefix=prefix) for part, prefix in ((train, "train/"), (test, "test/"))]
    return Images(
        classes=tuple(train.classes),
        channels=_channels(config, 3),
        splits=_search_from_train(
            (train.targets, _Pixels(arrays=train.data), stored[0]),
            (test.targets, _Pixels(arrays=test.data), stored[1]),
            config,
            seed,
        ),
        protocol=_protocol(config, 3),
    )


def _channels(config: DataConfig, own: int) -> int:
    return own if config.channels == "auto" else config.channels


def _protocol(config: DataConfig, usual: int) -> dict[str, Any]:
    """What the fingerprint adds for another number of channels than usual, so that fingerprints of older runs stay valid."""
    channels = _channels(config, usual)
    return {} if channels == usual else {"channels": channels}


def _folder(config: DataConfig, seed: int) -> Images:
    root, found = _root(config), scan(_root(config), IMAGE_FILES)
    background = config.background
    channels = _folder_channels(root, found, background) if config.channels == "auto" else config.channels
    reads = [ImageFiles(root=str(root), names=f.names, channels=channels, background=background) for f in found.folders]
    protocol: dict[str, Any] = {} if channels == 3 else {"channels": channels}
    if background != WHITE:
        protocol["background"] = background
    return _from_folders(found, reads, config, seed, channels=channels, protocol=protocol)


def _folder_channels(root: Path, found: FoundFolders, background: RGB) -> int:
    """1 if every image is grey, else 3. Files are read in random order, because the first coloured one decides."""
    names = [f"{root}/{name}" for folder in found.folders for name in folder.names]
    keyed(0, "order in which colours are looked for").shuffle(names)

    def grey(name: str) -> bool:
        return is_grey(name, background=background)

    if not all(map(grey, names[:FIRST_FILES])):
        return 3
    with ThreadPoolExecutor(available_cores()) as pool:
        blocks = (names[start : start + BLOCK] for start in range(FIRST_FILES, len(names), BLOCK))
        return 1 if all(all(pool.map(grey, block)) for block in blocks) else 3


def _events(config: DataConfig, seed: int) -> Images:
    root, found = _root(config), scan(_root(config), FRAME_FILES)
    first = root / found.folders[0].names[0]
    shape = read_frames(first).shape
    time_steps, channels = shape[:2]
    check_channels(first, shape, config.channels)
    reads = [
        FrameFiles(paths=tuple(root / name for name in folder.names), time_steps=time_steps, channels=channels)
        for folder in found.folders
    ]
    return _from_folders(found, reads, config, seed, channels=channels, time_steps=time_steps)


def _from_folders(
    found: FoundFolders,
    reads: Sequence[Read],
    config: DataConfig,
    seed: int,
    *,
    channels: int,
    time_steps: int | None = None,
    protocol: dict[str, Any] | None = None,
) -> Images:
    """Splits of one folder, or of one for training and one for testing."""
    first, *rest = [(folder.labels, read, _stored(config, folder)) for folder, read in zip(found.folders, reads, strict=True)]
    labels, read, stored = first
    splits = _search_from_train(first, rest[0], config, seed) if rest else _split_all(labels, read, config, seed, stored)
    return Images(
        classes=found.folders[0].classes,
        channels=channels,
        splits={name: replace(split, time_steps=time_steps) for name, split in splits.items()},
        files=tuple(name for folder in found.folders for name in folder.names),
        time_steps=time_steps,
        left_out=found.left_out,
        protocol=protocol or {},
    )


def _stored(config: DataConfig, folder: ClassFolder) -> StoredFiles:
    return StoredFiles(root=str(config.root), names=folder.names, sizes=folder.sizes)


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """Images in memory, `[images, H, W]` or `[images, H, W, 3]`."""

    arrays: NDArray[np.uint8]

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.arrays[index])


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Image files, read on demand; see `data.pixels`.

    Attributes:
        root: The folder of the dataset.
        names: Of the files, relative to it.
        channels: 1 for grey images, 3 for RGB.
        background: Colour behind transparent pixels.
    """

    root: str
    names: tuple[str, ...]
    channels: int
    background: RGB

    def __call__(self, index: int) -> Image.Image:
        """Read an image.

        Raises:
            UserError: The file is not a readable image.
        """
        return read_image(f"{self.root}/{self.names[index]}", channels=1 if self.channels == 1 else 3, background=self.background)


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise UserError(f"data.root: required for data.name {config.name}; set it to the folder of the images")
    if not config.root.is_dir():
        raise UserError(f"data.root: {config.root} is not a folder; check the path (in an experiment it is relative to its file)")
    return config.root


Readable = tuple[Sequence[int], Read, Contents]


def _split_all(labels: Sequence[int], read: Read, config: DataConfig, seed: int, contents: Contents) -> dict[SplitName, Split]:
    rest, test = _stratified_split(range(len(labels)), labels, config.test_share, seed=seed, name="test")
    train, search = _stratified_split(rest, labels, config.search_share / (1 - config.test_share), seed=seed, name="search")
    return {
        "train": _split("train", train, labels, read, contents),
        "search": _split("search", search, labels, read, contents),
        "test": _split("test", test, labels, read, contents),
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


def _split(name: SplitName, indices: Sequence[int], labels: Sequence[int], read: Read, contents: Contents) -> Split:
    chosen = tuple(int(labels[i]) for i in indices)
    return Split(name=name, indices=tuple(indices), labels=chosen, read=read, contents=contents)


SOURCES: dict[str, Callable[[DataConfig, int], Images]] = {
    "digits": _digits,
    "glyphs": _glyphs,
    "motion": _motion,
    "folder": _folder,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "events": _events,
}
