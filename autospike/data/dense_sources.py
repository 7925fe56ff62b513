"""Data sources of images with masks or objects, for segmentation and detection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from autospike.config import DataConfig
from autospike.data import scenes
from autospike.data.coco import find_coco
from autospike.data.contents import StoredFiles
from autospike.data.image_sources import ImageFiles
from autospike.data.images import (
    Images,
    Readable,
    Split,
    channels_protocol,
    chosen_channels,
    data_root,
    generated_contents,
    search_from_train,
)
from autospike.data.mask_folders import MaskedFolders
from autospike.data.masks import MaskFiles
from autospike.data.partition import SplitName


def open_scenes(config: DataConfig, seed: int) -> Images:
    """Open the embedded scenes with masks (`data.scenes`).

    Args:
        config: Size of the search split, and number of channels.
        seed: Key of the splits.

    Returns:
        The images, with a mask for each.
    """
    parts: list[Readable] = [
        ([0] * count, scenes.SceneImages(split=name), generated_contents(scenes, name)) for name, count in scenes.COUNTS.items()
    ]
    masks = [scenes.SceneMasks(split=name) for name in scenes.COUNTS]
    return Images(
        classes=scenes.CLASSES,
        channels=chosen_channels(config, 3),
        splits=_with_targets(search_from_train(parts[0], parts[1], config, seed), *masks),
        files=(scenes.fingerprint(),),
        protocol=channels_protocol(config, 3),
    )


def open_scene_objects(config: DataConfig, seed: int) -> Images:
    """Open the embedded scenes with objects.

    Args:
        config: Size of the search split, and number of channels.
        seed: Key of the splits.

    Returns:
        The images, with their objects.
    """
    images = open_scenes(config, seed)
    objects = [scenes.SceneObjects(split=name) for name in scenes.COUNTS]
    return replace(
        images,
        classes=scenes.CLASSES[1:],
        splits=_with_targets(images.splits, *objects, has_objects=True),
        protocol={"objects": config.name, **images.protocol},
    )


def open_coco(config: DataConfig, seed: int) -> Images:
    """Open a folder in the format of COCO (`data.coco`).

    Args:
        config: The folder, the size of the search split, and how images are read.
        seed: Key of the splits.

    Returns:
        The images, with their objects.
    """
    root = data_root(config)
    classes, *both = find_coco(root)
    channels, parts = chosen_channels(config, 3), []
    for part in both:
        read = ImageFiles(root=str(root), names=part.images, channels=channels, background=config.background)
        parts.append(([0] * len(part.images), read, StoredFiles(root=str(root), names=part.images, sizes=part.file_sizes)))
    left_out: dict[str, tuple[int, str]] = {}
    for reason, (count, first) in (item for part in both for item in part.left_out.items()):
        left_out[reason] = (left_out[reason][0] + count, left_out[reason][1]) if reason in left_out else (count, first)
    return Images(
        classes=classes,
        channels=channels,
        splits=_with_targets(search_from_train(parts[0], parts[1], config, seed), *both, has_objects=True),
        files=tuple(name for part in both for name in part.images),
        left_out=left_out,
        protocol={"objects": [part.digest for part in both], **channels_protocol(config, 3)},
    )


def open_masked_files(find: Callable[[Path], MaskedFolders], config: DataConfig, seed: int) -> Images:
    """Open a folder with masks, which `find` finds (`data.mask_folders`).

    Args:
        find: Returns the images and masks of a folder.
        config: The folder, the size of the search split, and how images are read.
        seed: Key of the splits.

    Returns:
        The images, with a mask for each.
    """
    root = data_root(config)
    found = find(root)
    channels, parts, targets = chosen_channels(config, 3), [], []
    for part in (found.train, found.test):
        read = ImageFiles(root=str(root), names=part.images, channels=channels, background=config.background)
        parts.append(([0] * len(part.images), read, StoredFiles(root=str(root), names=part.images, sizes=part.sizes)))
        targets.append(
            MaskFiles(
                paths=tuple(f"{root}/{name}" for name in part.masks),
                image=read,
                classes=len(found.classes),
                zero_is_ignored=found.zero_is_ignored,
            )
        )
    return Images(
        classes=found.classes,
        channels=channels,
        splits=_with_targets(search_from_train(parts[0], parts[1], config, seed), *targets),
        files=(*found.train.images, *found.test.images),
        protocol={"masks": config.name, **channels_protocol(config, 3)},
    )


def _with_targets(
    splits: dict[SplitName, Split], train: Callable[[int], Any], test: Callable[[int], Any], *, has_objects: bool = False
) -> dict[SplitName, Split]:
    targets = {"train": train, "search": train, "test": test}
    return {name: replace(split, target=targets[name], has_objects=has_objects) for name, split in splits.items()}
