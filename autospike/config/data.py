"""The sections `data` and `training.augmentation` of an experiment.

Paths are relative to the folder of the experiment file; those of `--set` to the current folder.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, model_validator

from autospike.config.fields import (
    MAX_IMAGE_SIZE,
    Colour,
    DataFolder,
    Epochs,
    FilePath,
    Fraction,
    OpenFraction,
    ResizeFactor,
    Section,
    Strength,
    Text,
)
from autospike.import_path import name_or_import_path
from autospike.space.limits import MAX_TIME_STEPS

# The data set of a run whose images are objects in Python, and all data sets that have a name.
DATASETS = "datasets"
# Data sets of recordings that are integrated to frames, or rendered as frames.
RECORDED = ("events", "cifar10_dvs", "dvs_gesture", "har_dvs", "har_dvs_images", "n_caltech101", "n_mnist")
# Data sets with masks, and with objects.
DENSE = ("scenes", "ade20k", "voc", "scene_objects", "coco")
DATA_NAMES = (
    *("digits", "glyphs", "motion", "folder", "metadata", "parquet", "tars", "cifar10", "cifar100"),
    *(*RECORDED, *DENSE, DATASETS),
)


class NormalisationConfig(Section):
    """Normalisation of still images: `(pixel - mean) / std` for pixels in 0..1. One value for each channel."""

    mean: Annotated[tuple[Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)], ...], Field(min_length=1)]
    """Mean of each channel."""
    std: Annotated[tuple[Annotated[FiniteFloat, Field(ge=1e-6, le=1e6)], ...], Field(min_length=1)]
    """Standard deviation of each channel."""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}; give one of each for every channel")
        return self


class DataConfig(Section):
    """Data source and its splits."""

    name: Annotated[str, AfterValidator(name_or_import_path(*DATA_NAMES))]
    """Data set: one of `DATA_NAMES`, which `autospike.data.images` implements, or an import path.

    Embedded (docs/embedded_data.md): `digits` are scikit-learn's (1797 images of 8x8 pixels), `glyphs` letters in many fonts
    (26,000 images of 32x32 pixels), `motion` simulated event recordings of moving shapes (6,400 of 8 frames of 32x32 pixels).

    `folder` is a folder with one subfolder per class. `metadata`, `parquet` and `tars` are image folders with a table of labels,
    parquet files (both of Hugging Face) and tars (ImageNet's or WebDataset's); docs/images.md has their layouts. `cifar10` and
    `cifar100` are torchvision's. `events` are frames of an event camera that a spikingjelly data set (CIFAR10DVS, DVS128Gesture,
    HARDVS) has prepared with `data_type="frame", frames_number=T`.
    A network with fewer time steps than frames uses the first frames; more time steps than frames are an error. With `frames`,
    `events` are your own recordings (`.aedat`, `.bin`, or `.npz` with t, x, y, p), which are integrated.

    `cifar10_dvs`, `dvs_gesture`, `har_dvs`, `n_caltech101` and `n_mnist` are the recordings of these data sets, as their archives
    contain them; `har_dvs_images` are the rendered grey frames of HAR-DVS (docs/events.md).

    For segmentation (docs/tasks.md): `scenes` are 3,600 embedded drawings of 48x48 pixels, `ade20k` is a folder in the format of
    ADE20K, `voc` one of PASCAL VOC. For detection: `scene_objects` are the scenes with boxes and masks of their shapes, `coco` is a
    folder in the format of COCO. All their images are resized so that the longer side is `image_size`, and padded to a square.

    `package.module:function` is the import path of a function that is called with this section and returns the
    `torch.utils.data.Dataset`s of the splits: a dict with `train`, `test` and optionally `search` (`autospike.data.datasets`).
    `datasets` are objects that were arguments of `autospike.Run`; only Python can open such a run.
    """
    root: DataFolder | None = None
    """Folder of the data. For events: spikingjelly's folder `frames_number_T_split_by_...`. Embedded data need none."""
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]
    """Height and width in pixels to which every image is resized.

    Event counts are not normalised. At their original size they are integers, and the first layer only accumulates. Resized counts
    are means over pixels, and the first layer multiplies.
    """
    normalisation: NormalisationConfig | None = None
    """Normalisation of still images, in training, search and measurement; exported models record it.

    Default: that of the network that `training.start_from` names, if it reads as many channels; otherwise mean and std 0.5 for all
    channels. Event counts are not normalised.
    """
    search_share: OpenFraction = 0.2
    """Fraction of the images that forms the search split, on which candidates are scored.

    It is a fraction of the training images where the data set has a test split. `search_share + test_share` must be less than 1.
    """
    test_share: OpenFraction = 0.2
    """Fraction of the images reserved for the final measurement. It applies only to data sets without a test split."""
    channels: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """Number of channels of the network's input.

    Still images: 1 (grey; coloured images are converted to ITU-R 601 luma) or 3 (RGB). `auto` is 1 for a folder if every image is
    grey, otherwise 3; the own number of `digits` (1) and CIFAR (3). Event frames: `auto` accepts up to 4 channels, a number exactly
    this many.
    """
    background: Colour = (255, 255, 255)
    """Red, green and blue (0 to 255) behind transparent pixels of the images of a folder. Default: white."""
    label_column: Text | None = None
    """Column of the labels of `metadata` and `parquet`.

    Default: the first of `label`, `labels`, `class`, `target`, `category` and `fine_label` that there is.
    """
    frames: Annotated[int, Field(ge=1, le=MAX_TIME_STEPS)] | None = None
    """Number of frames that each recording is integrated to; required for recordings, and for them only."""
    integrate_to: Annotated[int, Field(ge=1, le=MAX_TIME_STEPS)] | None = None
    """Number of frames to which the stored frames of a sample are added up, in equal groups: its events in fewer, longer frames.

    A network with T smaller than the number of frames reads the first T. With `integrate_to: T` it reads all events. It applies
    to `motion`, to `events` without `frames`, and to own datasets of frames; for recordings set `frames`. Default: none.
    """
    frames_by: Literal["number", "time"] = "number"
    """Whether every frame of a recording has the same number of events, or the same duration."""
    sensor: tuple[Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)], Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)]] | None = None
    """Rows and columns of the sensor of recordings. Default: those of the data set; `events` have none."""
    split: Literal["stratified", "first", "tebn", "subject", "lists"] | None = None
    """Rule by which the splits are chosen; `autospike.data.partition` defines each.

    Default: `lists` for HAR-DVS, `subject` for DVS128 Gesture, otherwise `stratified`. `first` and `tebn` are the two splits of
    CIFAR10-DVS in publications; the published share of `first` is `test_share: 0.1`.
    """
    cache: Literal["none"] | FilePath | None = None
    """Folder in which the frames of recordings are stored when they are first read; `none` to integrate at every access.

    Default: `autospike/frames` in the user's cache folder (`XDG_CACHE_HOME` or `~/.cache`). It may be shared by several processes.
    """

    @model_validator(mode="after")
    def _check_recordings(self) -> Self:
        given = [name for name in ("frames", "sensor", "cache") if getattr(self, name) is not None]
        if given and self.name not in RECORDED and ":" not in self.name:
            raise ValueError(f"{given[0]} applies to recordings ({', '.join(RECORDED)}), not to {self.name}; leave it out")
        if self.integrate_to is not None and self.name in RECORDED and (self.frames is not None or self.name != "events"):
            raise ValueError(f"integrate_to applies to stored frames; recordings are integrated to frames: {self.integrate_to}")
        return self

    @property
    def title(self) -> str:
        """Name of the data set in titles of figures: of a folder, the name of the folder."""
        if self.name in ("folder", "events") and self.root is not None:
            root = self.root.resolve()
            return root.parent.name if root.name.startswith("frames_number_") else root.name
        return {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}.get(self.name, self.name)


class AugmentationConfig(Section):
    """Augmentation of training images with timm, of event frames, and of images with their masks.

    The defaults disable every augmentation. `color_jitter` and `auto_augment` do not apply to events; `event_policy`, `roll` and
    `event_drop` apply to events only. For segmentation and detection, `resize`, `category_max_ratio` (only for segmentation),
    `flip` and `color_jitter` (brightness, contrast and saturation) apply.
    """

    min_scale: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Smallest fraction of the image area that a random crop covers."""
    flip: Fraction = 0.0
    """Probability of a horizontal flip."""
    color_jitter: Strength = 0.0
    """Strength of timm's color jitter; 0 disables it."""
    auto_augment: Text | None = None
    """timm's policy string, for example `rand-m9-n1-mstd0.4-inc1`."""
    erasing: Fraction = 0.0
    """Probability of erasing a random rectangle."""
    mixup: Strength = 0.0
    """Alpha of mixup; 0 disables it."""
    cutmix: Strength = 0.0
    """Alpha of cutmix; 0 disables it. If mixup is enabled too, each batch uses one of the two with equal probability."""
    mix_probability: Fraction = 1.0
    """Probability that a batch is mixed, if mixup or cutmix is enabled."""
    mix_epochs: Epochs | None = None
    """Number of first epochs in which batches are mixed; Spikformer mixes until epoch 75. Default: all."""
    event_policy: Literal["snn"] | None = None
    """`snn`: one operation for each sample, the same for all frames (`data.event_augmentation`); of Spikformer and QKFormer."""
    roll: Annotated[int, Field(ge=0, le=MAX_IMAGE_SIZE)] = 0
    """Largest shift of event frames in pixels, in both directions. What leaves at one side enters at the other."""
    event_drop: Fraction = 0.0
    """Probability of EventDrop (Gu et al., IJCAI 2021): nothing, a time, an area or random events are removed."""
    resize: tuple[ResizeFactor, ResizeFactor] = (1.0, 1.0)
    """Segmentation, detection: range of the random factor by which an image is resized before a part of `image_size` is taken."""
    category_max_ratio: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Segmentation: largest share of one class in the part of an image that is taken, in up to ten attempts; 1 for any."""

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.resize[0] > self.resize[1]:
            raise ValueError(f"resize is a range from small to large, got {self.resize[0]:g} to {self.resize[1]:g}")
        return self
