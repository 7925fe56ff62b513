"""Data sources of event frames: simulated recordings, stored frames, recordings that are integrated, and rendered frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from autospike.config import DataConfig
from autospike.data import motion
from autospike.data.contents import Contents
from autospike.data.events import FrameFiles, check_channels, read_frames
from autospike.data.folders import FileKind, scan
from autospike.data.frame_cache import Integration, RecordedFrames
from autospike.data.images import (
    Images,
    Read,
    Split,
    data_root,
    generated_contents,
    images_of_folders,
    search_from_train,
    splits_by_rule,
)
from autospike.data.partition import Samples, SplitName
from autospike.data.recordings import EVENT_DATASETS, Recordings, StoredRecordings
from autospike.data.rendered_frames import RenderedFrames, StoredFolders, find_rendered
from autospike.errors import UserError
from autospike.files import cache_folder

FRAME_FILES = FileKind(description="folder of event frames", example="frames.npz", extensions=(".npz",))


def open_motion(config: DataConfig, seed: int) -> Images:
    """Open the embedded event recordings (`data.motion`).

    Args:
        config: Size of the search split.
        seed: Key of the splits.

    Returns:
        The recordings as frames `[T, 2, H, W]`.
    """
    train, test = ((motion.labels(name), motion.Motion(split=name), generated_contents(motion, name)) for name in ("train", "test"))
    splits = search_from_train(train, test, config, seed)
    return Images(
        classes=motion.CLASSES,
        channels=2,
        splits={name: replace(split, time_steps=motion.FRAMES) for name, split in splits.items()},
        files=(motion.fingerprint(),),
        time_steps=motion.FRAMES,
    )


def open_events(config: DataConfig, seed: int) -> Images:
    """Open a folder of stored frames, or of recordings if `config.frames` is given.

    Args:
        config: The folder, the splits, and how recordings become frames.
        seed: Key of the splits.

    Returns:
        The samples as frames `[T, C, H, W]`.
    """
    if config.frames is not None:
        return open_recordings(config, seed)
    root, found = data_root(config), scan(data_root(config), FRAME_FILES)
    first = root / found.folders[0].names[0]
    shape = read_frames(first).shape
    time_steps, channels = shape[:2]
    check_channels(first, shape, config.channels)
    reads = [
        FrameFiles(paths=tuple(root / name for name in folder.names), time_steps=time_steps, channels=channels)
        for folder in found.folders
    ]
    return images_of_folders(found, reads, config, seed, channels=channels, time_steps=time_steps)


def open_recordings(config: DataConfig, seed: int) -> Images:
    """Open recordings, which are integrated to frames when they are read.

    Args:
        config: The folder, the format, the splits, and how recordings become frames.
        seed: Key of the splits.

    Returns:
        The recordings as frames `[T, 2, H, W]`.

    Raises:
        UserError: The size of the sensor is not known, or the folder has no such recordings.
    """
    root, dataset, frames = data_root(config), EVENT_DATASETS[config.name], _frames(config)
    sensor = config.sensor or dataset.sensor
    if sensor is None:
        raise UserError(
            "data.sensor: required for recordings; set it to the rows and columns of the sensor, for example [128, 128]"
        )
    found = dataset.find(root)
    integration = Integration(frames=frames, by=config.frames_by, height=sensor[0], width=sensor[1])
    read = RecordedFrames.of(found.samples, integration, _frame_cache(config))
    contents = StoredRecordings(names=found.names, samples=found.samples)
    protocol = {"frames": frames, "by": config.frames_by, "sensor": sensor}
    return _from_recordings(found, _from_samples(found, read, contents, config, seed), time_steps=frames, protocol=protocol)


def open_rendered(config: DataConfig, seed: int) -> Images:
    """Open HAR-DVS, whose recordings are rendered as grey images.

    Args:
        config: The folder, the splits and the number of frames.
        seed: Key of the splits.

    Returns:
        The clips as frames `[T, 2, H, W]`. Those for training start at a random frame.
    """
    found, frames = find_rendered(data_root(config)), _frames(config)
    measured, training = (
        RenderedFrames(samples=found.samples, frames=frames, image_size=config.image_size, random_start=random_start)
        for random_start in (False, True)
    )
    contents = StoredFolders(names=found.names, samples=found.samples)
    splits = _from_samples(found, measured, contents, config, seed)
    splits["train"] = replace(splits["train"], read_for_training=training)
    return _from_recordings(found, splits, time_steps=frames, protocol={"frames": frames})


def _from_samples(found: Recordings, read: Read, contents: Contents, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    samples = Samples(labels=found.labels, names=found.names, parts=found.parts, subjects=found.subjects)
    return splits_by_rule(samples, read, contents, config, seed)


def _from_recordings(found: Recordings, splits: dict[SplitName, Split], *, time_steps: int, protocol: dict[str, Any]) -> Images:
    return Images(
        classes=found.classes,
        channels=2,
        splits={name: replace(split, time_steps=time_steps) for name, split in splits.items()},
        files=found.names,
        time_steps=time_steps,
        left_out=found.left_out,
        protocol={"recordings": protocol},
    )


def _frames(config: DataConfig) -> int:
    if config.frames is None:
        raise UserError(
            f"data.frames: required for data.name {config.name}; set it to the number of frames of a sample, for example 16"
        )
    return config.frames


def _frame_cache(config: DataConfig) -> Path | None:
    if config.cache == "none":
        return None
    return cache_folder() / "frames" if config.cache is None else Path(config.cache)
