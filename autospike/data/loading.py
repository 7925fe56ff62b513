"""Open the data set that an experiment names.

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
| `scenes`              | 3,600 drawings with masks, by `data.scenes`        | 3,000 training images   | 600 test images         |
| `scene_objects`       | the same with boxes                                | 3,000 training images   | 600 test images         |
| `ade20k`, `voc`       | images with masks (see `data.masks`)               | the training images     | the validation images   |
| `coco`                | images with objects (see `data.coco`)              | the training images     | the validation images   |
| `events`              | `root/CLASS/*.npz` (CIFAR10-DVS by spikingjelly)   | the whole               | drawn from the whole    |
| `events`              | `root/train/CLASS/*.npz` and test (DVS128 Gesture) | `train`                 | `test`, or else `val`   |
| `package.module:name` | the user's datasets (see `data.datasets`)          | `train`, or `search`    | `test`                  |
| event data sets       | raw recordings; see `data.recordings`              | by `data.split`         | published, or drawn     |

`data.partition` has the rules of `data.split`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from autospike import import_path
from autospike.config import DataConfig
from autospike.config.data import DATASETS
from autospike.data.dense_sources import open_coco, open_masked_files, open_scene_objects, open_scenes
from autospike.data.event_sources import open_events, open_motion, open_recordings, open_rendered
from autospike.data.events import AddedFrames
from autospike.data.image_sources import open_cifar, open_digits, open_encoded, open_folder, open_glyphs
from autospike.data.images import Images
from autospike.data.mask_folders import find_ade20k, find_voc
from autospike.data.recordings import EVENT_DATASETS
from autospike.errors import UserError


def load_images(config: DataConfig, *, seed: int, datasets: Mapping[str, Any] | None = None) -> Images:
    """Open a dataset and sample its splits.

    Args:
        config: Which dataset.
        seed: Key of the splits.
        datasets: The user's own datasets by split, if `config.name` is `datasets`.

    Returns:
        The dataset.

    Raises:
        UserError: The folder is missing, has no classes, or too few images for the splits.
    """
    images = SOURCES[config.name](config, seed) if config.name in SOURCES else _own(config, seed, datasets)
    if images.time_steps is None and images.channels not in (1, 3):
        raise UserError(f"data.channels: {images.channels} for still images; choose auto, 1 (grey) or 3 (RGB)")
    return images if config.integrate_to is None else _added_up(images, config.integrate_to)


def _added_up(images: Images, time_steps: int) -> Images:
    """The data with the frames of each sample added up to fewer ones."""
    frames = images.time_steps
    if frames is None:
        raise UserError("data.integrate_to: applies to event frames, not to still images; leave it out")
    if frames % time_steps:
        divisors = ", ".join(str(n) for n in range(1, frames + 1) if frames % n == 0)
        raise UserError(f"data.integrate_to: {time_steps} does not divide the {frames} frames of a sample; choose from {divisors}")
    splits = {
        name: replace(
            split,
            read=AddedFrames(read=split.read, time_steps=time_steps),
            read_for_training=split.read_for_training and AddedFrames(read=split.read_for_training, time_steps=time_steps),
            time_steps=time_steps,
        )
        for name, split in images.splits.items()
    }
    return replace(images, splits=splits, time_steps=time_steps, protocol={**images.protocol, "frames added up": frames})


def _own(config: DataConfig, seed: int, datasets: Mapping[str, Any] | None) -> Images:
    """The datasets of the user: objects, or those that the function at an import path returns."""
    from autospike.data.datasets import images_of  # it uses the types of this module

    if config.name != DATASETS:
        function = import_path.load(config.name, source="data.name")
        datasets = import_path.call(function, config, path=config.name, source="data.name")
    if datasets is None:
        raise UserError(
            f"data.name: {DATASETS}: the images are objects in Python; open the run there with "
            "autospike.Run(FOLDER, train=..., test=...), or set data.name to an import path"
        )
    return images_of(datasets, config, seed)


SOURCES: dict[str, Callable[[DataConfig, int], Images]] = {
    "digits": open_digits,
    "glyphs": open_glyphs,
    "motion": open_motion,
    "folder": open_folder,
    "metadata": partial(open_encoded, "metadata"),
    "parquet": partial(open_encoded, "parquet"),
    "tars": partial(open_encoded, "tars"),
    "cifar10": open_cifar,
    "cifar100": open_cifar,
    "events": open_events,
    **dict.fromkeys((name for name in EVENT_DATASETS if name != "events"), open_recordings),
    "har_dvs_images": open_rendered,
    "scenes": open_scenes,
    "scene_objects": open_scene_objects,
    "coco": open_coco,
    "ade20k": partial(open_masked_files, find_ade20k),
    "voc": partial(open_masked_files, find_voc),
}
