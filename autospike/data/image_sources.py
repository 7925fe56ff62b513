"""Data sources of still images with one label each: embedded ones, image folders, tables, archives and CIFAR."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autospike.config import DataConfig
from autospike.data import glyphs
from autospike.data.contents import StoredArrays, StoredBytes
from autospike.data.encoded import EncodedPart, Kind, find_encoded
from autospike.data.folders import FileKind, FoundFolders, scan
from autospike.data.images import (
    Images,
    channels_protocol,
    check_rule,
    chosen_channels,
    data_root,
    generated_contents,
    images_of_folders,
    search_from_train,
    split_all,
)
from autospike.data.pixels import IMAGE_EXTENSIONS, RGB, WHITE, Source, has_grey_mode, has_grey_pixels, is_grey, read_image
from autospike.errors import UserError
from autospike.process import available_cores
from autospike.randomness import keyed

Sample = TypeVar("Sample")

# Files that are examined one after the other for colours, and files in a block that are examined together.
FIRST_FILES, BLOCK = 8, 512
IMAGE_FILES = FileKind(description="image folder", example="image.png", extensions=IMAGE_EXTENSIONS)


def open_digits(config: DataConfig, seed: int) -> Images:
    """Open scikit-learn's digits.

    Args:
        config: The splits, and the number of channels.
        seed: Key of the splits.

    Returns:
        The images, 8 x 8 pixels.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.tolist()
    return Images(
        classes=tuple(str(c) for c in range(10)),
        channels=chosen_channels(config, 1),
        splits=split_all(labels, ArrayImages(arrays=pixels), config, seed, StoredArrays(arrays=pixels, prefix="")),
        protocol=channels_protocol(config, 1),
    )


def open_glyphs(config: DataConfig, seed: int) -> Images:
    """Open the embedded letters (`data.glyphs`).

    Args:
        config: Size of the search split, and number of channels.
        seed: Key of the splits.

    Returns:
        The images.
    """
    train, test = ((glyphs.labels(name), glyphs.Glyphs(split=name), generated_contents(glyphs, name)) for name in ("train", "test"))
    return Images(
        classes=glyphs.CLASSES,
        channels=chosen_channels(config, 3),
        splits=search_from_train(train, test, config, seed),
        files=(glyphs.fingerprint(),),
        protocol=channels_protocol(config, 3),
    )


def open_cifar(config: DataConfig, seed: int) -> Images:
    """Open torchvision's copy of CIFAR-10 or CIFAR-100.

    Args:
        config: The name, the folder, the size of the search split, and the number of channels.
        seed: Key of the splits.

    Returns:
        The images, 32 x 32 pixels.

    Raises:
        UserError: The folder does not contain the data set.
    """
    from torchvision import datasets

    source = datasets.CIFAR10 if config.name == "cifar10" else datasets.CIFAR100
    try:
        train, test = (source(data_root(config), train=train, download=False) for train in (True, False))
    except RuntimeError:
        raise UserError(
            f"data.root: {config.root} does not contain {config.name}; download it there with torchvision.datasets first"
        ) from None
    stored = [StoredArrays(arrays=part.data, prefix=prefix) for part, prefix in ((train, "train/"), (test, "test/"))]
    return Images(
        classes=tuple(train.classes),
        channels=chosen_channels(config, 3),
        splits=search_from_train(
            (train.targets, ArrayImages(arrays=train.data), stored[0]),
            (test.targets, ArrayImages(arrays=test.data), stored[1]),
            config,
            seed,
        ),
        protocol=channels_protocol(config, 3),
    )


def open_folder(config: DataConfig, seed: int) -> Images:
    """Open a folder of images, with one subfolder for each class (`data.folders`).

    Args:
        config: The folder, the splits, and how images are read.
        seed: Key of the splits.

    Returns:
        The images.
    """
    root, found = data_root(config), scan(data_root(config), IMAGE_FILES)
    background = config.background
    channels = _folder_channels(root, found, background) if config.channels == "auto" else config.channels
    reads = [ImageFiles(root=str(root), names=f.names, channels=channels, background=background) for f in found.folders]
    protocol: dict[str, Any] = {} if channels == 3 else {"channels": channels}
    if background != WHITE:
        protocol["background"] = background
    return images_of_folders(found, reads, config, seed, channels=channels, protocol=protocol)


def open_encoded(kind: Kind, config: DataConfig, seed: int) -> Images:
    """Open images of tables or archives (`data.encoded`).

    Args:
        kind: The format of the files.
        config: The folder, the splits, and how images are read.
        seed: Key of the splits.

    Returns:
        The images.
    """
    found, background = find_encoded(data_root(config), kind, config.label_column), config.background
    samples = [(part, index) for part in found.parts for index in range(len(part.names))]
    channels = (
        _grey_or_rgb(samples, lambda sample: sample[0](sample[1]), background) if config.channels == "auto" else config.channels
    )
    reads = [EncodedImages(part=part, channels=channels, background=background) for part in found.parts]
    contents = [StoredBytes(names=part.names, content=part.content) for part in found.parts]
    first, *rest = list(zip(found.labels, reads, contents, strict=True))
    if rest:
        check_rule(config)
        splits = search_from_train(first, rest[0], config, seed)
    else:
        splits = split_all(first[0], first[1], config, seed, first[2], found.parts[0].names)
    return Images(
        classes=found.classes,
        channels=channels,
        splits=splits,
        files=tuple(name for part in found.parts for name in part.names),
        protocol={"stored as": kind, "channels": channels, "background": background},
    )


def _folder_channels(root: Path, found: FoundFolders, background: RGB) -> int:
    """1 if every image is grey, else 3."""
    return _channels_of_files(tuple(_file_state(root / name) for folder in found.folders for name in folder.names), background)


# Path, size and time of the last change of a file.
FileState = tuple[str, int, int]


def _file_state(path: Path) -> FileState:
    try:
        stat = path.stat()
    except OSError:  # reading it says why
        return str(path), 0, 0
    return str(path), stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=1)
def _channels_of_files(files: tuple[FileState, ...], background: RGB) -> int:
    """1 if every image is grey, else 3. Cached, because each phase of a run opens the same folder again."""
    return _grey_or_rgb([name for name, _, _ in files], lambda name: name, background)


def _grey_or_rgb(samples: list[Sample], source: Callable[[Sample], Source], background: RGB) -> int:
    """1 if every image is grey, else 3. Images are read in random order, because the first coloured one decides.

    Headers are read by one thread, because several would wait for each other, and images that have to be decoded by several.
    """
    keyed(0, "order in which colours are looked for").shuffle(samples)

    if not all(is_grey(source(sample), background=background) for sample in samples[:FIRST_FILES]):
        return 3
    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(FIRST_FILES, len(samples), BLOCK):
            block = samples[start : start + BLOCK]
            undecided = [sample for sample in block if not has_grey_mode(source(sample), background=background)]
            if not all(pool.map(lambda sample: has_grey_pixels(source(sample), background=background), undecided)):
                return 3
    return 1


@dataclass(frozen=True, kw_only=True)
class ArrayImages:
    """Images in memory, `[images, H, W]` or `[images, H, W, 3]`.

    Attributes:
        arrays: The images, values from 0 to 255.
    """

    arrays: NDArray[np.uint8]

    def __call__(self, index: int) -> Image.Image:
        """Return an image."""
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


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """Images of a table or an archive, read on demand; see `data.pixels`.

    Attributes:
        part: The images.
        channels: 1 for grey images, 3 for RGB.
        background: Colour behind transparent pixels.
    """

    part: EncodedPart
    channels: int
    background: RGB

    def __call__(self, index: int) -> Image.Image:
        """Read an image.

        Raises:
            UserError: It cannot be read or decoded.
        """
        return read_image(self.part(index), channels=1 if self.channels == 1 else 3, background=self.background)
