"""Read every sample of a dataset once, and report sizes, modes, values and problems, each with what an experiment does about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from autospike.config import DataConfig
from autospike.data.contents import Sample, StoredFiles, copies_across_splits
from autospike.data.images import Images, Split
from autospike.data.objects import Objects
from autospike.data.pixels import GREY_MODES, printable, reason_of
from autospike.errors import UserError
from autospike.process import available_cores

# A class with fewer training samples is reported, as is a ratio between the largest and the smallest class. Our choice.
FEW, RATIO = 10, 10

# What happens to images by their mode in the file; see `data.pixels`.
MODES = {
    "CMYK": "converted to RGB by Pillow; ICC profiles are ignored",
    "YCbCr": "converted to RGB by Pillow",
    "LAB": "converted to RGB by Pillow",
    "HSV": "converted to RGB by Pillow",
    "RGBA": "composited on data.background",
    "RGBa": "composited on data.background",
    "LA": "composited on data.background",
    "La": "composited on data.background",
    "PA": "composited on data.background",
    "I;16": "16 bits: divided by the largest number of the type, 65535 unless the file declares fewer bits",
    "I": "integers of more than 8 bits: read as 16-bit values",
    "F": "floating point: 0 to 1 times 255",
}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What reading one sample gave.

    Attributes:
        name: Of the sample.
        split: Name of the split.
        size: Height and width; None if the sample cannot be read.
        mode: Of a stored image, as Pillow calls it; `frames` for events.
        low: Smallest value.
        high: Largest value.
        uniform: Whether all pixels, or all counts of event frames, are equal.
        pages: Number of frames of an animation or pages.
        error: Why it cannot be read.
    """

    name: str
    split: str
    size: tuple[int, int] | None = None
    mode: str = ""
    low: float = 0.0
    high: float = 0.0
    uniform: bool = False
    pages: int = 1
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something about the data that a user should know.

    Attributes:
        what: The problem, with the number of samples and the first of them.
        consequence: What the experiment does about it.
        stops: Whether training or measurement stops at it.
    """

    what: str
    consequence: str
    stops: bool = False


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The result of reading all samples.

    Attributes:
        readings: Of each sample, by split, in the order of the split.
        counts: Number of samples of each class, by split.
        problems: What was found.
    """

    readings: tuple[Reading, ...]
    counts: dict[str, Counter[int]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def inspect(images: Images, config: DataConfig) -> Inspection:
    """Read every sample.

    Args:
        images: The dataset.
        config: How the experiment reads it.

    Returns:
        What was found.
    """
    jobs = [(split, position) for split in images.splits.values() for position in range(len(split))]
    with ThreadPoolExecutor(available_cores()) as pool:
        readings = tuple(pool.map(lambda job: _read(*job), jobs))
    counts: dict[str, Counter[int]] = {name: Counter(split.labels) for name, split in images.splits.items()}
    problems = [
        *_unreadable(readings),
        *([] if images.is_dense else _classes(images, counts)),
        *_copies(images),
        *_modes(readings, config, images),
        *_sizes(readings, config.image_size),
        *_empty(readings, images),
        *_left_out(images),
    ]
    return Inspection(readings=readings, counts=counts, problems=tuple(problems))


def _read(split: Split, position: int) -> Reading:
    index = split.indices[position]
    name = str(index) if split.contents is None else split.contents.name(index)
    try:
        mode, pages = _header(split, index)
        sample: Any = split.image(position)
        if split.target is not None:
            check_target(split.target_at(position), sample)
    except UserError as error:
        return Reading(name=name, split=split.name, error=str(error))
    values = np.asarray(sample)
    size = (int(values.shape[-2]), int(values.shape[-1])) if split.time_steps else (sample.height, sample.width)
    low, high = float(values.min()), float(values.max())
    uniform = low == high if split.time_steps or values.ndim == 2 else bool((values == values[0, 0]).all())
    return Reading(
        name=name, split=split.name, size=size, mode=mode or sample.mode, pages=pages, low=low, high=high, uniform=uniform
    )


def check_target(target: Any, image: Image.Image) -> None:
    """Check a target of a dense task that was read.

    Args:
        target: A mask, or objects.
        image: Its image.

    Raises:
        UserError: It belongs to an image of another size.
    """
    if isinstance(target, Objects) and target.size != (image.height, image.width):
        height, width = target.size
        raise UserError(f"its annotations are of {width} x {height} pixels, but it has {image.width} x {image.height}")


def _header(split: Split, index: int) -> tuple[str, int]:
    """Mode and number of pages that an image file declares; none for other samples."""
    if split.time_steps is not None:
        return "frames", 1
    if not isinstance(split.contents, StoredFiles):
        return "", 1
    path = f"{split.contents.root}/{split.contents.names[index]}"
    try:
        with Image.open(path) as opened:
            mode = "I;16" if opened.mode.startswith("I;16") else opened.mode
            return mode, int(getattr(opened, "n_frames", 1))
    except Exception as error:  # a decoder may raise anything
        raise UserError(f"{printable(path)}: not a readable image ({reason_of(error)}); repair or remove it") from None


def _named(names: Iterable[str], what: str) -> str:
    """For example `3 images in mode CMYK (a/1.jpg, a/2.jpg, ...)`."""
    listed = list(names)
    shown = ", ".join(map(printable, listed[:2])) + (", ..." if len(listed) > 2 else "")
    return f"{len(listed):,} {what} ({shown})"


def _unreadable(readings: Sequence[Reading]) -> list[Problem]:
    failed = [reading for reading in readings if reading.error is not None]
    reasons: dict[str, list[str]] = {}
    for reading in failed:
        reasons.setdefault(str(reading.error).partition(": ")[2] or str(reading.error), []).append(reading.name)
    return [
        Problem(what=f"{_named(names, 'cannot be read')}: {reason}", consequence="the command that reads it stops", stops=True)
        for reason, names in reasons.items()
    ]


def _classes(images: Images, counts: dict[str, Counter[int]]) -> list[Problem]:
    train, found = counts["train"], []
    few = [name for label, name in enumerate(images.classes) if train[label] < FEW]
    if few:
        found.append(
            Problem(
                what=_named(few, f"classes with fewer than {FEW} samples for training"),
                consequence="they are trained as they are; add samples, or leave the classes out",
            )
        )
    missing = [name for label, name in enumerate(images.classes) if not counts["search"][label] or not counts["test"][label]]
    if missing:
        found.append(
            Problem(
                what=_named(missing, "classes without a sample for search or test"), consequence="their accuracy is not measured"
            )
        )
    if train and max(train.values()) >= RATIO * max(1, min(train[label] for label in range(len(images.classes)))):
        smallest, largest = (choose(range(len(images.classes)), key=lambda c: train[c]) for choose in (min, max))
        found.append(
            Problem(
                what=f"classes of {train[smallest]:,} ({printable(images.classes[smallest])}) to {train[largest]:,} "
                f"({printable(images.classes[largest])}) samples for training",
                consequence="every sample has the same weight, so accuracy is mostly that of the large classes",
            )
        )
    return found


def _copies(images: Images) -> list[Problem]:
    samples = [
        Sample(split=name, contents=split.contents, index=index)
        for name, split in images.splits.items()
        if split.contents is not None
        for index in split.indices
    ]
    try:
        groups = copies_across_splits(samples)
    except UserError as error:
        return [Problem(what=f"copies cannot be looked for: {error}", consequence="none are reported")]
    if not groups:
        return []
    first, second = groups[0][0], next(sample for sample in groups[0] if sample.split != groups[0][0].split)
    held_out = sum(sample.split != "train" for group in groups for sample in group)
    return [
        Problem(
            what=f"{held_out:,} samples for search or test with equal content in another split ({printable(first.name)} in "
            f"{first.split}, {printable(second.name)} in {second.split})",
            consequence="the measured accuracy is too high; remove them",
        )
    ]


def _modes(readings: Sequence[Reading], config: DataConfig, images: Images) -> list[Problem]:
    found = [
        Problem(
            what=_named(names, f"images in mode {mode}"), consequence=MODES[mode].replace("data.background", f"{config.background}")
        )
        for mode in MODES
        if (names := [reading.name for reading in readings if reading.mode == mode])
    ]
    stored = [reading for reading in readings if reading.size is not None and reading.mode != "frames"]
    grey = [reading.name for reading in stored if reading.mode in GREY_MODES]
    if images.time_steps is None and images.channels == 3 and 0 < len(grey) < len(stored):
        found.append(Problem(what=_named(grey, "grey images among coloured ones"), consequence="read with three equal channels"))
    if images.time_steps is None and images.channels == 1 and 0 < len(grey) < len(stored):
        coloured = [reading.name for reading in stored if reading.mode not in GREY_MODES]
        found.append(Problem(what=_named(coloured, "images that are stored in colour"), consequence="converted to luma"))
    pages = [reading.name for reading in readings if reading.pages > 1]
    if pages:
        found.append(Problem(what=_named(pages, "animations or images of several pages"), consequence="the first one is read"))
    return found


def _sizes(readings: Sequence[Reading], image_size: int) -> list[Problem]:
    sizes = {reading.size for reading in readings if reading.size is not None}
    found = []
    if len(sizes) > 1:
        found.append(
            Problem(
                what=f"{len(sizes):,} different sizes of images",
                consequence=f"the shorter side is resized to {image_size}, the longer one cropped to it",
            )
        )
    small = [reading.name for reading in readings if reading.size is not None and min(reading.size) < image_size]
    if small:
        found.append(
            Problem(what=_named(small, f"images with a side below {image_size} pixels"), consequence="enlarged to data.image_size")
        )
    long = [reading.name for reading in readings if reading.size is not None and max(reading.size) > 2 * min(reading.size)]
    if long:
        found.append(
            Problem(what=_named(long, "images more than twice as long as wide"), consequence="half or less of them is in the crop")
        )
    return found


def _empty(readings: Sequence[Reading], images: Images) -> list[Problem]:
    uniform = [reading.name for reading in readings if reading.uniform]
    if not uniform:
        return []
    what = "recordings whose frames are all equal" if images.time_steps else "images of a single colour"
    return [Problem(what=_named(uniform, what), consequence="read as they are; they say nothing about their class")]


def _left_out(images: Images) -> list[Problem]:
    return [
        Problem(
            what=f"{count:,} files or folders that no reader takes: {reason} ({printable(first)}{', ...' if count > 1 else ''})",
            consequence="left out",
        )
        for reason, (count, first) in images.left_out.items()
    ]
