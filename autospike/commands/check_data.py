"""`autospike check-data`: read the data of an experiment once, before hours are spent on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from autospike import files
from autospike.config import Experiment
from autospike.console import note, table, working
from autospike.data import overview
from autospike.data.batches import Batch, FixedBatches
from autospike.data.images import Images
from autospike.data.inspection import Inspection, Reading, inspect
from autospike.data.loading import load_images
from autospike.data.picture import draw_batch, draw_targets
from autospike.data.pixels import printable
from autospike.errors import UserError
from autospike.training.setup import preparation_of

# Classes in the table and tiles in the picture, at most.
MOST_CLASSES, MOST_TILES = 30, 64


def check_data(experiment: Experiment, picture: Path) -> None:
    """Print classes, counts, sizes, modes, values and problems of the data, and write a labelled picture of samples.

    Args:
        experiment: The experiment.
        picture: The PNG file to write.

    Raises:
        UserError: The data cannot be opened, or a sample cannot be read. Everything is printed before.
    """
    images = _opened(experiment)
    with working("reading every sample"):
        found = inspect(images, experiment.data)
    note(overview.summary(images, experiment.data.image_size))
    if not images.is_dense:
        _show_classes(images, found)
    _show_samples(found)
    for number, problem in enumerate(found.problems, start=1):
        print(f"{number}. {problem.what}: {problem.consequence}")
    if not found.problems:
        print("no problems found")
    for line in _treatment(experiment, images):
        note(line)
    _draw(experiment, images, found, picture)
    failed = [reading for reading in found.readings if reading.error is not None]
    if failed:
        raise UserError(f"{len(failed):,} of {len(found.readings):,} samples cannot be read, the first one: {failed[0].error}")


def _opened(experiment: Experiment) -> Images:
    """The data; with three channels if a file that cannot be read prevents that colours are looked for."""
    try:
        return load_images(experiment.data, seed=experiment.seed)
    except UserError:
        if experiment.data.name != "folder" or experiment.data.channels != "auto":
            raise
        return load_images(experiment.data.model_copy(update={"channels": 3}), seed=experiment.seed)


def _show_classes(images: Images, found: Inspection) -> None:
    totals = {label: sum(counts[label] for counts in found.counts.values()) for label in range(len(images.classes))}
    shown = sorted(totals, key=lambda label: (totals[label], label))[:MOST_CLASSES] if len(totals) > MOST_CLASSES else list(totals)
    rows = [
        [printable(images.classes[label]), *(f"{counts[label]:,}" for counts in found.counts.values()), f"{totals[label]:,}"]
        for label in sorted(shown)
    ]
    left = f"the {len(rows)} smallest of {len(totals):,} classes" if len(rows) < len(totals) else f"{len(rows)} classes"
    table("classes", ["class", *found.counts, "all"], rows, left)


def _show_samples(found: Inspection) -> None:
    readable = [reading for reading in found.readings if reading.size is not None]
    if not readable:
        return
    rows = []
    for name, axis in (("height", 0), ("width", 1)):
        values = sorted(reading.size[axis] for reading in readable if reading.size is not None)
        rows.append([name, f"{values[0]:,}", f"{median(values):g}", f"{values[-1]:,}"])
    for name, of in (("smallest value", _low), ("largest value", _high)):
        levels = sorted(map(of, readable))
        rows.append([name, f"{levels[0]:g}", f"{median(levels):g}", f"{levels[-1]:g}"])
    modes = Counter(reading.mode for reading in readable)
    caption = "modes: " + ", ".join(f"{mode} {count:,}" for mode, count in modes.most_common())
    table("samples as they are read", ["", "least", "median", "most"], rows, caption)


def _low(reading: Reading) -> float:
    return reading.low


def _high(reading: Reading) -> float:
    return reading.high


def _treatment(experiment: Experiment, images: Images) -> list[str]:
    """What the experiment does with every sample."""
    size = experiment.data.image_size
    fitted = (
        "longer side is resized to {size} pixels, then padded"
        if images.is_dense
        else "shorter side is resized to {size} pixels, then cropped"
    )
    lines = [f"every sample: the {fitted.format(size=size)} to {size}x{size}; {images.channels} channels"]
    if images.time_steps is None:
        preparation = preparation_of(experiment)
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (preparation.mean, preparation.std))
        lines.append(f"values: 0..1, then (value - {mean}) / {std}")
    else:
        lines.append(f"values: event counts, unchanged; a network with T below {images.time_steps} reads the first T frames")
    used = experiment.training.augmentation.model_dump(exclude_defaults=True)
    lines.append("augmentation: " + (", ".join(f"{name} {value}" for name, value in used.items()) or "none"))
    return lines


def _draw(experiment: Experiment, images: Images, found: Inspection, path: Path) -> None:
    """Draw training samples as measurement sees them, equally many of each class."""
    split, by_class = images.splits["train"], dict[int, list[int]]()
    readings = [reading for reading in found.readings if reading.split == "train"]
    for position, (label, reading) in enumerate(zip(split.labels, readings, strict=True)):
        if reading.error is None:
            by_class.setdefault(label, []).append(position)
    each = max(1, MOST_TILES // max(1, len(by_class)))
    chosen = [position for label in sorted(by_class)[:MOST_TILES] for position in by_class[label][:each]]
    if not chosen:
        return
    subset = replace(split, indices=tuple(split.indices[p] for p in chosen), labels=tuple(split.labels[p] for p in chosen))
    batches = FixedBatches(split=subset, channels=images.channels, image_size=experiment.data.image_size)
    batch = batches.batch((0, len(chosen)))
    if images.is_dense:
        with files.replacing(path) as temporary:
            draw_targets(batch).save(temporary, format="PNG")
        note(f"{path}: {len(chosen)} training samples with their targets")
        return
    labelled = Batch(images=batch.images, targets=torch.eye(len(images.classes))[batch.targets])
    with files.replacing(path) as temporary:
        draw_batch(labelled, images.classes, smoothing=0.0).save(temporary, format="PNG")
    note(f"{path}: {len(chosen)} training samples with their classes")
