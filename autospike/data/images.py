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

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autospike import import_path
from autospike.config import DataConfig
from autospike.config.sections import DATASETS
from autospike.data import glyphs, motion, scenes
from autospike.data.coco import find_coco
from autospike.data.contents import Contents, GeneratedSamples, StoredArrays, StoredBytes, StoredFiles
from autospike.data.encoded import EncodedPart, Kind, find_encoded
from autospike.data.events import AddedFrames, FrameFiles, Frames, check_channels, read_frames
from autospike.data.folders import ClassFolder, FileKind, FoundFolders, scan
from autospike.data.frame_cache import Integration, RecordedFrames
from autospike.data.mask_folders import MaskedFolders, find_ade20k, find_voc
from autospike.data.masks import MaskFiles
from autospike.data.partition import Samples, partition, stratified_split
from autospike.data.partition import SplitName as SplitName  # part of this module's interface
from autospike.data.pixels import IMAGE_EXTENSIONS, RGB, WHITE, is_grey, read_image
from autospike.data.recordings import EVENT_DATASETS, Recordings, StoredRecordings
from autospike.data.rendered_frames import RenderedFrames, StoredFolders, find_rendered
from autospike.errors import UserError
from autospike.files import cache_folder
from autospike.process import available_cores
from autospike.randomness import keyed
from autospike.space.architecture import digest

Read = Callable[[int], Image.Image | Frames]
Sample = TypeVar("Sample")

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
        """Read the image at a position of the split: a PIL image, or event frames `[T, C, H, W]`."""
        return self.read(self.indices[position])

    def training_image(self, position: int) -> Any:
        """Read the image at a position of the split for training; a clip may start at a random frame."""
        return (self.read_for_training or self.read)(self.indices[position])

    def target_at(self, position: int) -> Any:
        """Read the target at a position of the split, in a dense task."""
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
        datasets = import_path.load(config.name, source="data.name")(config)
    if datasets is None:
        raise UserError(
            f"data.name: {DATASETS}: the images are objects in Python; open the run there with "
            "autospike.Run(FOLDER, train=..., test=...), or set data.name to an import path"
        )
    return images_of(datasets, config, seed)


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
        splits=search_from_train(train, test, config, seed),
        files=(glyphs.fingerprint(),),
        protocol=_protocol(config, 3),
    )


def _motion(config: DataConfig, seed: int) -> Images:
    train, test = ((motion.labels(name), motion.Motion(split=name), _generated(motion, name)) for name in ("train", "test"))
    splits = search_from_train(train, test, config, seed)
    return Images(
        classes=motion.CLASSES,
        channels=2,
        splits={name: replace(split, time_steps=motion.FRAMES) for name, split in splits.items()},
        files=(motion.fingerprint(),),
        time_steps=motion.FRAMES,
    )


def _scenes(config: DataConfig, seed: int) -> Images:
    parts: list[Readable] = [
        ([0] * count, scenes.SceneImages(split=name), _generated(scenes, name)) for name, count in scenes.COUNTS.items()
    ]
    masks = [scenes.SceneMasks(split=name) for name in scenes.COUNTS]
    return Images(
        classes=scenes.CLASSES,
        channels=_channels(config, 3),
        splits=_with_targets(search_from_train(parts[0], parts[1], config, seed), *masks),
        files=(scenes.fingerprint(),),
        protocol=_protocol(config, 3),
    )


def _scene_objects(config: DataConfig, seed: int) -> Images:
    images = _scenes(config, seed)
    objects = [scenes.SceneObjects(split=name) for name in scenes.COUNTS]
    return replace(
        images,
        classes=scenes.CLASSES[1:],
        splits=_with_targets(images.splits, *objects, has_objects=True),
        protocol={"objects": config.name, **images.protocol},
    )


def _coco(config: DataConfig, seed: int) -> Images:
    root = _root(config)
    classes, *both = find_coco(root)
    channels, parts = _channels(config, 3), []
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
        protocol={"objects": [part.digest for part in both], **_protocol(config, 3)},
    )


def _masked_files(find: Callable[[Path], MaskedFolders], config: DataConfig, seed: int) -> Images:
    root = _root(config)
    found = find(root)
    channels, parts, targets = _channels(config, 3), [], []
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
        protocol={"masks": config.name, **_protocol(config, 3)},
    )


def _with_targets(
    splits: dict[SplitName, Split], train: Callable[[int], Any], test: Callable[[int], Any], *, has_objects: bool = False
) -> dict[SplitName, Split]:
    targets = {"train": train, "search": train, "test": test}
    return {name: replace(split, target=targets[name], has_objects=has_objects) for name, split in splits.items()}


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
        splits=search_from_train(
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
    """1 if every image is grey, else 3."""
    names = [f"{root}/{name}" for folder in found.folders for name in folder.names]
    return _grey_or_rgb(names, lambda name: is_grey(name, background=background))


def _grey_or_rgb(samples: list[Sample], grey: Callable[[Sample], bool]) -> int:
    """1 if every image is grey, else 3. Images are read in random order, because the first coloured one decides."""
    keyed(0, "order in which colours are looked for").shuffle(samples)
    if not all(map(grey, samples[:FIRST_FILES])):
        return 3
    with ThreadPoolExecutor(available_cores()) as pool:
        blocks = (samples[start : start + BLOCK] for start in range(FIRST_FILES, len(samples), BLOCK))
        return 1 if all(all(pool.map(grey, block)) for block in blocks) else 3


def _encoded(kind: Kind, config: DataConfig, seed: int) -> Images:
    """Images of tables and archives (`data.encoded`)."""
    found, background = find_encoded(_root(config), kind, config.label_column), config.background
    samples = [(part, index) for part in found.parts for index in range(len(part.names))]
    channels = (
        _grey_or_rgb(samples, lambda sample: is_grey(sample[0](sample[1]), background=background))
        if config.channels == "auto"
        else config.channels
    )
    reads = [EncodedImages(part=part, channels=channels, background=background) for part in found.parts]
    contents = [StoredBytes(names=part.names, content=part.content) for part in found.parts]
    first, *rest = list(zip(found.labels, reads, contents, strict=True))
    if rest:
        _check_rule(config)
        splits = search_from_train(first, rest[0], config, seed)
    else:
        splits = _split_all(first[0], first[1], config, seed, first[2], found.parts[0].names)
    return Images(
        classes=found.classes,
        channels=channels,
        splits=splits,
        files=tuple(name for part in found.parts for name in part.names),
        protocol={"stored as": kind, "channels": channels, "background": background},
    )


def _events(config: DataConfig, seed: int) -> Images:
    if config.frames is not None:
        return _recordings(config, seed)
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
    if rest:
        _check_rule(config)
        splits = search_from_train(first, rest[0], config, seed)
    else:
        splits = _split_all(labels, read, config, seed, stored, found.folders[0].names)
    return Images(
        classes=found.folders[0].classes,
        channels=channels,
        splits={name: replace(split, time_steps=time_steps) for name, split in splits.items()},
        files=tuple(name for folder in found.folders for name in folder.names),
        time_steps=time_steps,
        left_out=found.left_out,
        protocol=protocol or {},
    )


def _check_rule(config: DataConfig) -> None:
    """Raise a UserError for a rule that does not apply to data in folders for training and testing."""
    if config.split not in (None, "stratified"):
        raise UserError(f"data.split: {config.split} does not apply to data with a test split of their own; choose stratified")


def _recordings(config: DataConfig, seed: int) -> Images:
    """Recordings that are integrated to frames."""
    root, dataset, frames = _root(config), EVENT_DATASETS[config.name], _frames(config)
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


def _rendered(config: DataConfig, seed: int) -> Images:
    """HAR-DVS as grey frames."""
    found, frames = find_rendered(_root(config)), _frames(config)
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
    return _splits(samples, read, contents, config, seed)


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


def _root(config: DataConfig) -> Path:
    if config.root is None:
        raise UserError(f"data.root: required for data.name {config.name}; set it to the folder of the images")
    if not config.root.is_dir():
        raise UserError(f"data.root: {config.root} is not a folder; check the path (in an experiment it is relative to its file)")
    return config.root


Readable = tuple[Sequence[int], Read, Contents | None]


def _split_all(
    labels: Sequence[int], read: Read, config: DataConfig, seed: int, contents: Contents, names: Sequence[str] = ()
) -> dict[SplitName, Split]:
    return _splits(Samples(labels=labels, names=names), read, contents, config, seed)


def _splits(samples: Samples, read: Read, contents: Contents, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    """The splits of samples with one reader, by the rule of the configuration."""
    chosen = partition(samples, config.split, search_share=config.search_share, test_share=config.test_share, seed=seed)
    return {name: split_of(name, indices, samples.labels, read, contents) for name, indices in chosen.items()}


def search_from_train(train: Readable, test: Readable, config: DataConfig, seed: int) -> dict[SplitName, Split]:
    """Sample the search split from the training samples.

    Args:
        train: Labels, reader and contents of the training samples.
        test: Those of the test samples.
        config: Size of the search split.
        seed: Key of the sample.

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


SOURCES: dict[str, Callable[[DataConfig, int], Images]] = {
    "digits": _digits,
    "glyphs": _glyphs,
    "motion": _motion,
    "folder": _folder,
    "metadata": partial(_encoded, "metadata"),
    "parquet": partial(_encoded, "parquet"),
    "tars": partial(_encoded, "tars"),
    "cifar10": _cifar,
    "cifar100": _cifar,
    "events": _events,
    **dict.fromkeys((name for name in EVENT_DATASETS if name != "events"), _recordings),
    "har_dvs_images": _rendered,
    "scenes": _scenes,
    "scene_objects": _scene_objects,
    "coco": _coco,
    "ade20k": partial(_masked_files, find_ade20k),
    "voc": partial(_masked_files, find_voc),
}
