"""A dataset with its splits: still images as PIL images, event camera data as frames `[T, C, H, W]`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from autospike.config import DataConfig
from autospike.data.contents import Contents, GeneratedSamples, StoredFiles
from autospike.data.events import Frames
from autospike.data.folders import ClassFolder, FoundFolders
from autospike.data.partition import Samples, SplitName, partition, stratified_split
from autospike.errors import UserError
from autospike.space.architecture import digest

Read = Callable[[int], Image.Image | Frames]
Readable = tuple[Sequence[int], Read, Contents | None]


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
        read_for_training: Reads an image with choices of the global random generators; `read` if None.
        target: Reads the target of the sample with an index in a dense task, such as a mask; None for classification, whose
            targets are the labels. In a dense task all labels are 0.
        has_objects: Whether the targets are objects (`autospike.data.objects`) instead of masks.
    """

    name: SplitName
    indices: tuple[int, ...]
    labels: tuple[int, ...]
    read: Read
    time_steps: int | None = None
    contents: Contents | None = None
    read_for_training: Read | None = None
    target: Callable[[int], Any] | None = None
    has_objects: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, position: int) -> Any:
        """Read an image: a PIL image, or event frames `[T, C, H, W]`.

        Args:
            position: Position in the split.

        Returns:
            The image.
        """
        return self.read(self.indices[position])

    def training_image(self, position: int) -> Any:
        """Read an image for training. A clip may start at a random frame.

        Args:
            position: Position in the split.

        Returns:
            As `image` returns it.
        """
        return (self.read_for_training or self.read)(self.indices[position])

    def target_at(self, position: int) -> Any:
        """Read a target of a dense task.

        Args:
            position: Position in the split.

        Returns:
            A mask or objects.
        """
        assert self.target is not None
        return self.target(self.indices[position])

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
    def is_dense(self) -> bool:
        """Whether samples have targets of a dense task, such as masks, in place of labels."""
        return self.splits["train"].target is not None

    @property
    def has_objects(self) -> bool:
        """Whether these targets are objects (`autospike.data.objects`) instead of masks."""
        return self.splits["train"].has_objects

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


def data_root(config: DataConfig) -> Path:
    """Return the folder of the data.

    Args:
        config: The data set.

    Raises:
        UserError: `data.root` is not set, or not a folder.
    """
    if config.root is None:
        raise UserError(f"data.root: required for data.name {config.name}; set it to the folder of the images")
    if not config.root.is_dir():
        raise UserError(f"data.root: {config.root} is not a folder; check the path (in an experiment it is relative to its file)")
    return config.root


def chosen_channels(config: DataConfig, own: int) -> int:
    """Return the number of channels of a network's input.

    Args:
        config: The setting `channels`.
        own: Number of channels of the data set, which "auto" means.
    """
    return own if config.channels == "auto" else config.channels


def channels_protocol(config: DataConfig, usual: int) -> dict[str, Any]:
    """Return what the fingerprint adds for another number of channels than usual, so that fingerprints of older runs stay valid.

    Args:
        config: The setting `channels`.
        usual: Number of channels of the data set.
    """
    channels = chosen_channels(config, usual)
    return {} if channels == usual else {"channels": channels}


def generated_contents(source: ModuleType, split: str) -> GeneratedSamples:
    """Return what the samples of an embedded data set are generated from.

    Args:
        source: The module of the data set, which has a function `fingerprint`.
        split: Name of the split.
    """
    return GeneratedSamples(generator=source.fingerprint(), prefix=f"{split}/")


def split_all(
    labels: Sequence[int], read: Read, config: DataConfig, seed: int, contents: Contents, names: Sequence[str] = ()
) -> dict[SplitName, Split]:
    """Draw all three splits from samples without a test split of their own.

    Args:
        labels: Class of each sample.
        read: Reads the sample with an index.
        config: The rule and the sizes of the splits.
        seed: Key of the splits.
        contents: What the samples are read from.
        names: Path of each sample, for rules that need it.

    Returns:
        The splits by name.
    """
    return splits_by_rule(Samples(labels=labels, names=names), read, contents, config, seed)


def splits_by_rule(samples: Samples, read: Read, contents: Contents, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    """Return the splits of samples with one reader, by the rule of the configuration.

    Args:
        samples: Labels of the samples, and what else rules need.
        read: Reads the sample with an index.
        contents: What the samples are read from.
        config: The rule and the sizes of the splits.
        seed: Key of the splits.
    """
    chosen = partition(samples, config.split, search_share=config.search_share, test_share=config.test_share, seed=seed)
    return {name: split_of(name, indices, samples.labels, read, contents) for name, indices in chosen.items()}


def search_from_train(train: Readable, test: Readable, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    """Sample the search split from the training samples.

    Args:
        train: Labels, reader and contents of the training samples.
        test: Those of the test samples.
        config: Size of the search split.
        seed: Key of the sample.

    Returns:
        The splits by name.

    Raises:
        UserError: A class has too few samples.
    """
    kept, search = stratified_split(range(len(train[0])), train[0], config.search_share, seed=seed, name="search")
    return {
        "train": split_of("train", kept, *train),
        "search": split_of("search", search, *train),
        "test": split_of("test", range(len(test[0])), *test),
    }


def split_of(name: SplitName, indices: Sequence[int], labels: Sequence[int], read: Read, contents: Contents | None = None) -> Split:
    """Return a split of a dataset.

    Args:
        name: Of the split.
        indices: Of its samples in the dataset.
        labels: Of all samples of the dataset.
        read: Reads a sample.
        contents: What the samples are stored as, if it is known.
    """
    chosen = tuple(int(labels[i]) for i in indices)
    return Split(name=name, indices=tuple(indices), labels=chosen, read=read, contents=contents)


def images_of_folders(
    found: FoundFolders,
    reads: Sequence[Read],
    config: DataConfig,
    seed: int,
    *,
    channels: int,
    time_steps: int | None = None,
    protocol: dict[str, Any] | None = None,
) -> Images:
    """Return the splits of one folder, or of one for training and one for testing.

    Args:
        found: The classes and the files of each folder.
        reads: Reads the samples of each folder.
        config: The rule and the sizes of the splits.
        seed: Key of the splits.
        channels: Number of channels of an image.
        time_steps: Number of frames of each sample; None for still images.
        protocol: Settings that the fingerprint adds; none by default.
    """
    first, *rest = [(folder.labels, read, _stored_files(config, folder)) for folder, read in zip(found.folders, reads, strict=True)]
    labels, read, stored = first
    if rest:
        check_rule(config)
        splits = search_from_train(first, rest[0], config, seed)
    else:
        splits = split_all(labels, read, config, seed, stored, found.folders[0].names)
    return Images(
        classes=found.folders[0].classes,
        channels=channels,
        splits={name: replace(split, time_steps=time_steps) for name, split in splits.items()},
        files=tuple(name for folder in found.folders for name in folder.names),
        time_steps=time_steps,
        left_out=found.left_out,
        protocol=protocol or {},
    )


def check_rule(config: DataConfig) -> None:
    """Check that the rule of the splits applies to data in folders for training and testing.

    Args:
        config: The setting `split`.

    Raises:
        UserError: It does not.
    """
    if config.split not in (None, "stratified"):
        raise UserError(f"data.split: {config.split} does not apply to data with a test split of their own; choose stratified")


def _stored_files(config: DataConfig, folder: ClassFolder) -> StoredFiles:
    return StoredFiles(root=str(config.root), names=folder.names, sizes=folder.sizes)
