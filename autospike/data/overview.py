"""What a command says about its data, and what it writes about them into the folder of a run.

RUN/data/files.csv    every sample with its class, split, size and SHA-256 digest
RUN/data/batch.png    training images as the network receives them, with their classes
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autospike import files
from autospike.console import note, working
from autospike.data.batches import TrainingBatches
from autospike.data.contents import Sample, copies_across_splits, digests
from autospike.data.folders import describe
from autospike.data.images import Images
from autospike.data.picture import draw_batch, draw_masks, draw_objects
from autospike.data.pixels import printable
from autospike.data.rank_slice import WHOLE

COLUMNS = ["path", "class", "split", "bytes", "sha256"]

# Images in batch.png.
SHOWN = 64

# Stored bytes from which the computation of digests is announced: more than a second on most disks.
LARGE = 200_000_000


def show(images: Images, image_size: int) -> None:
    """Print the data of a command: sizes and splits, what was left out, and samples that are in several splits.

    Args:
        images: The data.
        image_size: Height and width of the network's input.
    """
    _show(images, image_size, copies_across_splits(_samples(images)))


def record(images: Images, batches: TrainingBatches, folder: Path) -> None:
    """Print the data of a run as `show` does, and write `files.csv` and `batch.png` unless they are up to date.

    Args:
        images: The data.
        batches: The training batches; at most `SHOWN` of their images are drawn.
        folder: The folder to write to, `RUN/data`.

    Raises:
        UserError: A sample cannot be read, or a file cannot be written.
    """
    samples, stamp = _samples(images), _stamp(images, batches)
    files.check_replaceable(folder, ("files.csv", "batch.png", "batch.json"))
    known = _known_digests(images, samples, folder / "files.csv")
    if known is None:
        known = _compute_digests(samples)
        files.write_text(folder / "files.csv", _table(images, samples, known))
    _show(images, batches.image_size, copies_across_splits(samples, known))
    if not (folder / "batch.png").exists() or _read(folder / "batch.json") != stamp:
        _draw(images, batches, folder / "batch.png")
        files.write_text(folder / "batch.json", stamp)


def summary(images: Images, image_size: int) -> str:
    """Return sizes and splits in one line.

    Args:
        images: The data.
        image_size: Height and width of the network's input.

    Returns:
        For example `data: 3,000 images, 10 classes, 1x28x28; 1,800 train, 600 search, 600 test`.
    """
    count = sum(len(split) for split in images.splits.values())
    shape = f"{images.channels}x{image_size}x{image_size}"
    kind = "images" if images.time_steps is None else "recordings"
    frames = "" if images.time_steps is None else f"{images.time_steps} frames of "
    splits = ", ".join(f"{len(split):,} {name}" for name, split in images.splits.items())
    return f"data: {count:,} {kind}, {len(images.classes):,} classes, {frames}{shape}; {splits}"


def _show(images: Images, image_size: int, copies: Sequence[Sequence[Sample]]) -> None:
    note(summary(images, image_size))
    if images.left_out:
        note(f"data: left out {describe(images.left_out)}")
    if copies:
        first, second = copies[0][0], next(sample for sample in copies[0] if sample.split != copies[0][0].split)
        held_out = sum(sample.split != "train" for group in copies for sample in group)
        note(
            f"data: exact copies across splits: {held_out:,} of the search and test images, for example {printable(first.name)} "
            f"({first.split}) and {printable(second.name)} ({second.split}); remove them, or the accuracy is too high"
        )


def _samples(images: Images) -> list[Sample]:
    return [
        Sample(split=name, contents=split.contents, index=index)
        for name, split in images.splits.items()
        if split.contents is not None
        for index in split.indices
    ]


def _compute_digests(samples: Sequence[Sample]) -> list[str]:
    size = sum(sample.size for sample in samples)
    if size < LARGE:
        return digests(samples, size)
    with working(f"digests of {len(samples):,} files ({size / 1e9:.1f} GB)"):
        return digests(samples, size)


def _rows(images: Images, samples: Sequence[Sample]) -> list[list[str]]:
    """The columns of files.csv before the digest."""
    labels = [label for split in images.splits.values() if split.contents is not None for label in split.labels]
    return [
        [_text(sample.name), "" if images.is_dense else _text(images.classes[label]), sample.split, str(sample.size)]
        for sample, label in zip(samples, labels, strict=True)
    ]


def _text(name: str) -> str:
    """A name with bytes that are not UTF-8 escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _table(images: Images, samples: Sequence[Sample], known: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*row, digest] for row, digest in zip(_rows(images, samples), known, strict=True))
    return text.getvalue()


def _known_digests(images: Images, samples: Sequence[Sample], path: Path) -> list[str] | None:
    """The digests in files.csv, if it lists the same files with the same sizes. A damaged file is written again."""
    text = _read(path)
    try:
        header, *rows = list(csv.reader(io.StringIO(text or "", newline=""))) or [[]]
    except csv.Error:
        return None
    if header != COLUMNS or [row[:-1] for row in rows] != _rows(images, samples):
        return None
    return [row[-1] for row in rows]


def _stamp(images: Images, batches: TrainingBatches) -> str:
    """Everything on which batch.png depends."""
    settings = [
        batches.augmentation.model_dump(mode="json"),
        batches.image_size,
        batches.batch_size,
        batches.smoothing,
        batches.seed,
    ]
    return json.dumps({"fingerprint": images.fingerprint, "channels": images.channels, "settings": settings}, indent=2) + "\n"


def _read(path: Path) -> str | None:
    """The text of a file; None if it does not exist or is damaged."""
    try:
        return path.read_bytes().decode() if path.is_file() else None
    except UnicodeDecodeError:
        return None


def _draw(images: Images, batches: TrainingBatches, path: Path) -> None:
    first = replace(batches, batch_size=min(batches.batch_size, SHOWN), workers=0, device=torch.device("cpu"), rank_slice=WHOLE)
    if len(first.sample_keys(0)) == 0:
        return
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws from the global generator
        batch = next(iter(first(0, 1)))
    with files.replacing(path) as temporary:
        if images.has_objects:
            picture = draw_objects(batch)
        elif images.is_dense:
            picture = draw_masks(batch)
        else:
            picture = draw_batch(batch, images.classes, smoothing=batches.smoothing)
        picture.save(temporary, format="PNG")
