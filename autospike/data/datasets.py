"""The user's own datasets: objects of `torch.utils.data.Dataset` with labelled images or event frames.

A dataset has a length, and `dataset[i]` is a pair of a sample and its class, a whole number from 0. A sample is one of

| sample                                                         | read as                       |
|----------------------------------------------------------------|-------------------------------|
| PIL image                                                      | still image                   |
| tensor or array `[C, H, W]` or `[H, W]`: 8-bit, or 0 to 1      | still image of 8 bits         |
| tensor or array `[T, C, H, W]` of counts                       | event frames                  |

Samples are resized, augmented and normalised as those of the other sources are, so a dataset of the search or test split must
return the same sample for an index every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from autospike.config import DataConfig
from autospike.console import working
from autospike.data.events import Frames
from autospike.data.images import Images, search_from_train, split_of
from autospike.data.partition import SplitName
from autospike.errors import UserError

SPLITS: tuple[SplitName, ...] = ("train", "search", "test")


def images_of(datasets: Mapping[str, Any], config: DataConfig, seed: int) -> Images:
    """Open datasets of the user.

    Args:
        datasets: `train` and `test`, and optionally `search`. Without it, the search split is sampled from `train`.
        config: Number of channels, and size of the search split.
        seed: Key of the sampled split.

    Returns:
        The data. The fingerprint has the types, lengths and labels of the datasets, and their attribute `fingerprint` if they have
        one: the samples themselves are not read.

    Raises:
        UserError: A dataset is missing, or its samples or classes cannot be used.
    """
    if not isinstance(datasets, Mapping) or not {"train", "test"} <= datasets.keys() <= set(SPLITS):
        given = ", ".join(map(str, datasets)) if isinstance(datasets, Mapping) else type(datasets).__name__
        raise UserError(f"datasets: train and test are required, search is optional; got {given}")
    first = {name: _first_sample(dataset, name) for name, dataset in datasets.items()}
    time_steps, own = _shape(first["train"])
    channels = own if config.channels == "auto" else config.channels
    labels = {name: _checked_labels(dataset, name) for name, dataset in datasets.items()}
    reads = {name: ReadSample(dataset=dataset, name=name) for name, dataset in datasets.items()}
    for name in datasets.keys() - {"train"}:
        _check_repeatable(reads[name], name)
    if "search" in datasets:
        splits = {name: split_of(name, range(len(labels[name])), labels[name], reads[name]) for name in SPLITS}
    else:
        splits = search_from_train((labels["train"], reads["train"], None), (labels["test"], reads["test"], None), config, seed)
    splits["train"] = replace(splits["train"], read_for_training=reads["train"])  # it may augment at random
    return Images(
        classes=_classes(datasets["train"], labels),
        channels=channels,
        splits={name: replace(split, time_steps=time_steps) for name, split in splits.items()},
        time_steps=time_steps,
        protocol={"datasets": {name: _identity(dataset) for name, dataset in datasets.items()}, "channels": channels},
    )


def image_size_of(dataset: Any) -> int:
    """Return the shorter side of the first sample of a dataset, in pixels.

    Args:
        dataset: The user's own dataset, whose samples are pairs of an image or event frames `[T, C, H, W]`, and a label.
    """
    sample = _first_sample(dataset, "train")
    return min(sample.size) if isinstance(sample, Image.Image) else min(sample.shape[-2:])


@dataclass(frozen=True, kw_only=True)
class ReadSample:
    """Reads the samples of a dataset by index, as PIL images or event frames.

    Attributes:
        dataset: The dataset.
        name: Of its split, for error messages.
    """

    dataset: Any
    name: str

    def __call__(self, index: int) -> Image.Image | Frames:
        """Read a sample.

        Raises:
            UserError: It is no image and no event frames.
        """
        sample = _array_or_image(self.dataset[index][0])
        if isinstance(sample, Image.Image):
            return sample
        if sample.ndim == 4:
            return sample.astype(np.float32)
        return Image.fromarray(self._pixels(sample, index))

    def _pixels(self, sample: NDArray[Any], index: int) -> NDArray[np.uint8]:
        """A tensor as 8-bit pixels `[H, W]` or `[H, W, 3]`."""
        pixels = sample if sample.ndim == 2 else sample[0] if sample.shape[0] == 1 else np.moveaxis(sample, 0, -1)
        if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3):
            raise UserError(
                f"{self.name} dataset: sample {index} has the shape {list(sample.shape)}; return a PIL image, [C, H, W] with "
                "1 or 3 channels, or event frames [T, C, H, W]"
            )
        if pixels.dtype == np.uint8:
            return pixels
        low, high = float(pixels.min()), float(pixels.max())
        if not (np.issubdtype(pixels.dtype, np.floating) and low >= 0 and high <= 1):
            raise UserError(
                f"{self.name} dataset: sample {index} has values from {low:g} to {high:g} ({pixels.dtype}); return PIL images, "
                "8-bit values, or floating-point values from 0 to 1 (data.normalisation normalises them)"
            )
        return np.round(pixels * 255).astype(np.uint8)


def _array_or_image(sample: Any) -> Image.Image | NDArray[Any]:
    if isinstance(sample, Image.Image):
        return sample
    return sample.numpy(force=True) if isinstance(sample, torch.Tensor) else np.asarray(sample)


def _first_sample(dataset: Any, name: str) -> Image.Image | NDArray[Any]:
    try:
        count = len(dataset)
        if count == 0:
            raise UserError(f"{name} dataset: it is empty")
        sample, _ = dataset[0]
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{name} dataset: {type(dataset).__name__} cannot be read as a dataset ({error}); it needs a length, and dataset[0] "
            "must be a pair of a sample and its class"
        ) from None
    return _array_or_image(sample)


def _shape(sample: Image.Image | NDArray[Any]) -> tuple[int | None, int]:
    """Number of event frames, or None for a still image; and number of channels."""
    if isinstance(sample, Image.Image):
        return None, 1 if sample.mode in ("1", "L", "I", "I;16", "F") else 3
    if sample.ndim == 4:
        return sample.shape[0], sample.shape[1]
    return None, 1 if sample.ndim == 2 else sample.shape[0]


def _checked_labels(dataset: Any, name: str) -> list[int]:
    with working(f"classes of the {name} dataset"):
        try:
            labels = [int(label) for label in _labels(dataset)]
            first = int(dataset[0][1])
        except (TypeError, ValueError) as error:
            raise UserError(f"{name} dataset: a class is not a whole number ({error}); the second of a pair is its class") from None
    if len(labels) != len(dataset) or labels[0] != first or min(labels) < 0:
        raise UserError(
            f"{name} dataset: its classes are not usable: {len(labels)} for {len(dataset)} samples, the first {labels[0]} in "
            f"the list and {first} in the sample, the smallest {min(labels)}; classes are whole numbers from 0"
        )
    return labels


def _labels(dataset: Any) -> Sequence[Any]:
    """The classes of all samples: from the list of the dataset if it has one, otherwise from the samples."""
    if isinstance(dataset, Subset):
        labels = _labels(dataset.dataset)
        return [labels[index] for index in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [label for part in dataset.datasets for label in _labels(part)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1].tolist()
    targets = getattr(dataset, "targets", None)
    if targets is not None and getattr(dataset, "target_transform", None) is None:
        return targets.tolist() if hasattr(targets, "tolist") else list(targets)
    return [dataset[index][1] for index in range(len(dataset))]


def _classes(train: Any, labels: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Names of the classes: those of the training dataset, or else their numbers."""
    count = 1 + max(max(found) for found in labels.values())
    missing = set(range(count)) - set(labels["train"])
    if missing:
        raise UserError(f"train dataset: no sample of class {min(missing)}, but the classes are 0 to {count - 1}")
    names = getattr(train, "classes", None)
    return tuple(map(str, names)) if names is not None and len(names) == count else tuple(map(str, range(count)))


def _check_repeatable(read: ReadSample, name: str) -> None:
    """Reject a dataset that augments its samples at random."""
    once, again = (np.asarray(read(0)) for _ in range(2))
    if not np.array_equal(once, again):
        raise UserError(
            f"{name} dataset: sample 0 differs when it is read again; leave out random transforms (training.augmentation augments)"
        )


def _identity(dataset: Any) -> list[Any]:
    kind = type(dataset)
    return [f"{kind.__module__}.{kind.__qualname__}", len(dataset), str(getattr(dataset, "fingerprint", ""))]
