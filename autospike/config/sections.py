"""The sections of an experiment: every field with its meaning, unit, allowed values and default.

Paths are relative to the folder of the experiment file; those of `--set` to the current folder. A field that is None has the
default that its documentation names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from autospike.energy.conventions import DEFAULT, Convention, convention_of
from autospike.errors import UserError, quoted
from autospike.import_path import is_import_path, name_or_import_path
from autospike.objectives import OBJECTIVES
from autospike.space.limits import MAX_TIME_STEPS

# Upper bounds of counts. They are far above every sensible value: a larger number is a mistake, which would otherwise end in a
# hang or in memory that cannot be allocated.
MAX_IMAGE_SIZE = 4096  # pixels; published networks read 224
MAX_BATCH = 65_536  # images
MAX_EPOCHS = 100_000
MAX_PROCESSES = 1024  # or threads
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
MAX_PATH = 4096  # characters, PATH_MAX of Linux
# Folders of Linux whose files are not stored anywhere; reading some of them has no end. /dev/shm may hold data.
VIRTUAL_FOLDERS = ("/proc", "/sys")

OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
ResizeFactor = Annotated[float, Field(gt=0, le=16, allow_inf_nan=False)]
Epochs = Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]
ProcessCount = Annotated[int, Field(ge=1, le=MAX_PROCESSES)]
Limit = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
CountLimit = Annotated[int, Field(ge=1, le=10**15)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


def _check_path(path: object) -> object:
    """Raise ValueError for a path that no file can have."""
    text = str(path)
    if not text:
        raise ValueError("an empty path; write a path, or leave the field out")
    if len(text) > MAX_PATH:
        raise ValueError(f"a path of {len(text):,} characters; at most {MAX_PATH:,} are allowed")
    if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"a path with control characters or bytes that are not UTF-8, got {quoted(text)}")
    return path


def _check_stored(folder: Path) -> Path:
    """Raise ValueError for a folder of the system in which no data are stored."""
    real = os.path.realpath(folder)
    if real in ("/", "/dev") or any(real == virtual or real.startswith(f"{virtual}/") for virtual in VIRTUAL_FOLDERS):
        raise ValueError(f"{folder} is a folder of the system; give the folder of the data")
    return folder


FilePath = Annotated[Path, BeforeValidator(_check_path)]
DataFolder = Annotated[FilePath, AfterValidator(_check_stored)]
Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Level, Level, Level]


class Section(BaseModel):
    """Base class of the sections: immutable, and unknown fields are errors.

    Numbers may be given as strings, because YAML 1.1 reads `5e-4` as a string. Every number has a lower and an upper bound, which
    its type states, and must be finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError(f"booleans are not accepted here, got {str(value).lower()}")
        return value


class NormalisationConfig(Section):
    """Normalisation of still images: `(pixel - mean) / std` for pixels in 0..1. One value for each channel."""

    mean: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    """Mean of each channel."""
    std: Annotated[tuple[Annotated[FiniteFloat, Field(gt=0)], ...], Field(min_length=1)]
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


class TeacherConfig(Section):
    """Teacher network for hard distillation: its predicted class is the target of the second head."""

    model: Text
    """Name of a timm model, or `local-dir:FOLDER` for an exported one."""
    weights: FilePath | None = None
    """Checkpoint of the teacher. Default: timm's pretrained weights, which timm downloads."""


# For batches of 32 and widths up to 128, measured on small images (docs/training.md).
DEFAULT_LEARNING_RATE, FULL_RATE_WIDTH = 0.01, 128


class TrainingConfig(Section):
    """Training of the supernet, and of the reference network with the same recipe."""

    sampling: Literal["single-path", "sandwich", "small-first"] = "single-path"
    """Subnets that a training step uses; `experiments/training_quality` compares the options.

    - `single-path`: one uniformly sampled subnet (Auto-Spikformer).
    - `sandwich`: the largest subnet, the smallest one and two sampled ones.
    - `small-first`: one sampled subnet, from a space that first has only the smallest sizes and from half of the training on has
      all of them.
    """
    targets: Literal["labels", "in-place"] = "labels"
    """Targets of the subnets in a step.

    `labels` uses the labels for every subnet. `in-place` uses the labels for the largest subnet and its softmax output for the
    others (in-place distillation); it requires `sampling: sandwich`.
    """
    loss: Literal["final", "anytime", "tet"] = "final"
    """Time steps at which the loss is computed.

    `final` uses the output at the T of the subnet. `anytime` runs the largest T of the space once and averages the loss over every
    T of the space; the T of the sampled subnet then has no effect. `tet` is temporal efficient training (ICLR 2022): the mean of
    the losses of the outputs of single time steps.
    """
    tet_weight: Fraction = 0.001
    """`tet`: weight of the squared distance of all outputs from `tet_mean`; the value of Spike-driven Transformer."""
    tet_mean: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] = 1.0
    """`tet`: the value from which the distance is taken; the value of Spike-driven Transformer."""
    start_from: FilePath | None = None
    """Initial weights: a published checkpoint, an exported or imported folder, or the folder of another run (`train --from`)."""
    initial: Literal["reference", "random"] = "reference"
    """Initial weights of the supernet without `start_from`: those of the trained reference network, or random ones.

    The reference network is trained first in both cases; docs/training.md compares them on the digits. Without a reference network
    they are random.
    """
    teacher: TeacherConfig | None = None
    """Teacher of a space with `distilled: true`. Default: no teacher. It does not apply to events."""
    epochs: Epochs
    """Number of passes over the training images."""
    batch_size: Annotated[int, Field(ge=2, le=MAX_BATCH, multiple_of=2)] = 32
    """Images per optimizer step; an even number, because mixup pairs the images of a batch.

    With few images and epochs, many small steps are better than few large ones (docs/training.md).
    """
    accumulate: BatchSize = 1
    """Number of equal parts of a batch whose gradients are accumulated before the optimizer step.

    BatchNorm normalises each part separately. Memory for activations decreases by this factor. A part has at least 2 images.
    """
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """Optimizer, as implemented by torch (AdamW) and timm (LAMB)."""
    learning_rate: LearningRate = DEFAULT_LEARNING_RATE
    """Learning rate after warm-up, from which a cosine schedule decays.

    Default: 0.01, or 0.01 * 128 / width if the widest stage of the space is wider than 128 (docs/training.md).
    """
    schedule: Literal["cosine", "poly"] = "cosine"
    """Decay of the learning rate after warm-up: half a cosine, or a straight line (`poly` of power 1, as for segmentation)."""
    head_learning_rate: LearningRate = 1.0
    """Factor on the learning rate of the decoder of a dense task; published segmentation networks have 2, detectors 1."""
    min_learning_rate: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 1e-5
    """Learning rate at the start of the warm-up and at the end of the schedule; at most `learning_rate`."""
    weight_decay: Strength = 0.06
    """Weight decay of the optimizer; Spikformer's value on CIFAR."""
    warmup_epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] | None = None
    """Epochs of linear warm-up, fewer than `epochs`. Default: 20 (Auto-Spikformer), or a fifth of the epochs if that is less."""
    warmup_learning_rate: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = None
    """Learning rate of the first warm-up step. Default: `min_learning_rate`."""
    cooldown_epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)] = 0
    """The last of `epochs`, in which the learning rate stays at `min_learning_rate`; the cosine ends before them."""
    clip: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] | None = None
    """Largest norm of the gradient of all parameters; a larger gradient is scaled down. Default: no limit."""
    smoothing: Fraction = 0.1
    """Label smoothing."""
    surrogate: Literal["sigmoid", "arctan"] = "sigmoid"
    """Surrogate gradient of the spike function: derivative of a sigmoid with slope 4 (published) or of an arctan with slope 2."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Data type of linear layers, convolutions and matrix products in training.

    Membrane potentials and BatchNorm statistics are float32 in both cases.
    """
    ema: OpenFraction | None = None
    """Decay of an exponential moving average of the weights, for example 0.999; search and export use the average.

    Default: no averaging.
    """
    augmentation: AugmentationConfig = AugmentationConfig()
    """Augmentation of the training images."""
    workers: Annotated[int, Field(ge=0, le=MAX_PROCESSES)] = 0
    """Processes that decode and augment images; with 0 the training process does it."""
    checkpoint_epochs: Epochs = 10
    """Epochs between checkpoints."""
    checkpoint_minutes: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] = 10.0
    """Largest time between checkpoints in minutes. Checkpoints do not affect results."""

    @property
    def warmup(self) -> int:
        """Epochs of linear warm-up, with the default resolved."""
        return min(20, self.epochs // 5) if self.warmup_epochs is None else self.warmup_epochs


class EvaluationConfig(Section):
    """Measurement of candidates."""

    calibration_images: Annotated[int, Field(ge=2, le=10_000_000)] = 512
    """Training images from which the BatchNorm statistics of a subnet are computed before it is scored."""
    calibration_batch_size: Annotated[int, Field(ge=2, le=MAX_BATCH)] = 128
    """Images per calibration batch. Statistics are averaged over batches, so unlike `batch_size` this affects results."""
    batch_size: BatchSize = 128
    """Images per forward pass. It affects speed and memory, not results."""
    kept_mb: Annotated[int, Field(ge=0, le=10_000_000)] = 1024
    """Cache size of each worker in MB, for decoded images, activations between blocks, and node results."""
    racing: Strength = 0.0
    """Successive halving: margin, in standard deviations, at which a dominated candidate is stopped early.

    A candidate that another one dominates by this margin in accuracy and energy is scored only on part of the search split; 3 is
    conservative. Which candidates stop depends on the other candidates measured at the same time. With 0 (the default) every
    candidate is measured on every image. Other objectives than accuracy and energy_mj require 0.
    """


class ExecutionConfig(Section):
    """Where candidates are measured. On processors of the same type, these fields do not affect results."""

    executor: Literal["serial", "processes", "ray"] = "serial"
    """`serial` uses the process of the search, `processes` worker processes on this machine, `ray` those of a Ray cluster."""
    workers: ProcessCount | None = None
    """Number of worker processes; not with `serial`.

    Default: the number of cores (of the cluster, with Ray) divided by `threads`, which is 1 unless given. Each worker needs the
    memory of a process plus `evaluation.kept_mb`.
    """
    address: Text | None = None
    """Ray only: address of the cluster, `auto` or HOST:PORT. Default: a local cluster for the duration of the command."""
    gpus_per_worker: Strength = 0.0
    """Ray only: GPUs per worker, for example 0.5 for two workers on one GPU. If positive, candidates are measured on GPUs."""


# Settings of `search` that later versions have added. They are not part of the identity of a search unless they are set.
ADDED_SETTINGS = ("constraints", "space", "latency_batch")


class FitnessConfig(Section):
    """Accuracy-energy-balanced fitness (F_AEB).

    The formula of the Auto-Spikformer paper was not available; both forms are our own.
    """

    form: Literal["power", "weighted"] = "power"
    """Formula; `power` uses `beta`, `weighted` uses `alpha`. The reference is the energy of the reference network."""
    beta: Strength = 0.07
    """Exponent of `power`: accuracy * (energy / reference) ** -beta."""
    alpha: Fraction = 0.5
    """Weight of accuracy in `weighted`: alpha * accuracy + (1 - alpha) * (1 - energy / reference)."""


class ConstraintsConfig(Section):
    """Hard limits of candidates. None is no limit.

    Parameters, T, MACs, memory and fan-in follow from an architecture: candidates beyond such a limit are not measured. Energy and
    accuracy are measured: candidates within all limits are selected first, then those that violate them least.
    """

    max_energy_uj: Limit | None = None
    """Largest energy per image in uJ, under `search.convention`."""
    max_params: CountLimit | None = None
    """Largest number of parameters."""
    max_time_steps: CountLimit | None = None
    """Largest T."""
    max_macs: CountLimit | None = None
    """Largest number of dense multiply-accumulates of one image and time step, as `autospike describe` prints them."""
    max_weights_kb: Limit | None = None
    """Largest memory of the parameters in kB (1,000 bytes), 4 bytes each."""
    max_activations_kb: Limit | None = None
    """Largest memory of the activations of one image in kB: input, output and held tensors of a layer, 4 bytes for each value."""
    max_fan_in: CountLimit | None = None
    """Largest number of synapses of a neuron, the axon limit of neuromorphic cores."""
    min_accuracy: Fraction | None = None
    """Smallest accuracy on the search split."""


class SearchConfig(Section):
    """Search algorithm and its operators."""

    algorithm: Annotated[str, AfterValidator(name_or_import_path("nsga2", "nsga3", "aeb", "random"))] = "nsga2"
    """`nsga2` is NSGA-II over `objectives`, `nsga3` is NSGA-III, which is meant for more than two.

    `aeb` is the evolution on F_AEB of Auto-Spikformer, `random` uniform sampling.

    With `aeb`, by-product candidates compete as well. `package.module:Class` is the import path of an own algorithm: a class
    without arguments whose objects have `ask` and `tell` (`autospike.searching.algorithms.Algorithm`).
    """
    objectives: tuple[Text, ...] = ("accuracy", "energy_mj")
    """Objectives of NSGA-II and NSGA-III: one or more different keys of `autospike.objectives.OBJECTIVES`, or import paths.

    `package.module:function` is the import path of a function of an `autospike.Evaluation` that returns a number, which is
    minimised, or of an `autospike.Objective`, which says whether it is maximised.
    """
    latency_batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 32
    """Images in a batch of the objective `latency_batch_ms`."""
    population: Annotated[int, Field(ge=4, le=100_000)] = 50
    """Candidates per generation; Auto-Spikformer's value."""
    generations: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Number of generations; Auto-Spikformer's value."""
    parents: Annotated[int, Field(ge=2, le=100_000)] = 10
    """`aeb`: number of the best candidates that are parents of the next generation; Auto-Spikformer's value."""
    block_mutation: Fraction = 0.2
    """Mutation probability of a gene of a block. With one-point crossover it applies only to blocks from the crossover point on."""
    global_mutation: Fraction = 0.4
    """Mutation probability of depth, width, time steps, shortcut and embedding genes.

    With one-point crossover it applies to those from the crossover point on, and always to time steps and the last depth.
    """
    crossover: Literal["one-point", "uniform"] = "one-point"
    """Crossover of `nsga2`.

    `one-point` copies the first parent up to a random block and the second parent, mutated, from there on. Candidates then share
    prefixes, which are computed once. `uniform` takes each gene from either parent and mutates everywhere.
    """
    late_point: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.0
    """`one-point`: ratio between the probabilities of a block and of the one before it to be the crossover point.

    A late point shares longer prefixes and appears to reduce hypervolume (docs/evaluation.md). The ratio is reduced in deep
    networks so that the last block is at most 64 times as probable as the first.
    """
    convention: Text = DEFAULT.name
    """Energy convention, for example `spikformer` or `exact/int8`; `autospike.energy.conventions` lists them.

    The archive stores operation counts, so that a search with another convention reuses all measurements.
    """
    fitness: FitnessConfig = FitnessConfig()
    """Fitness of `aeb`, also reported for the other algorithms."""
    constraints: ConstraintsConfig = ConstraintsConfig()
    """Hard limits. They may change over an existing archive; nothing is measured again."""
    space: dict[str, Any] | None = None
    """Narrowed search space: genes with fewer choices than in the space that the supernet was trained on. Default: that space.

    `autospike search RUN --set space.time_steps=[1,2]` writes it. F_AEB stays relative to the largest subnet of the trained space.
    """

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that distinguish two searches, as JSON values.

        All except the number of generations. Settings that a later version added are left out where they have their default, so
        that searches of older versions keep their ids.
        """
        settings = self.model_dump(mode="json", exclude={"generations"})
        default = SearchConfig().model_dump(mode="json")
        return {name: value for name, value in settings.items() if name not in ADDED_SETTINGS or value != default[name]}

    @property
    def energy_convention(self) -> Convention:
        """The energy convention that `convention` names."""
        return convention_of(self.convention)

    @field_validator("convention")
    @classmethod
    def _normalise_convention(cls, text: str) -> str:
        try:
            return convention_of(text).name
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = all(name in OBJECTIVES or is_import_path(name) for name in names)
        if not names or len(set(names)) < len(names) or not known:
            listed = ", ".join(OBJECTIVES)
            raise ValueError(f"choose different ones from {listed}, or import paths; got {', '.join(names) or 'none'}")
        return names


class ExportConfig(Section):
    """Selection rule for the candidate that is exported."""

    pick: Text = "cheapest-within-noise"
    """`cheapest-within-noise`, `knee`, `best-accuracy`, `least-energy`, `best-faeb`, or the id of a candidate.

    `cheapest-within-noise` is the candidate of least energy whose accuracy on the search split is not significantly below the
    highest one (paired McNemar test at 95 %).
    """
    min_accuracy: Fraction = 0.0
    """Select among candidates with at least this accuracy on the search split."""
    tolerance: Fraction = 1.0
    """Select among candidates whose accuracy is at most this much below the highest. With 1 every candidate qualifies."""
    exit_margin: Fraction | None = None
    """Confidence margin above which an image stops before the last time step (docs/early_exit.md). None for no early exit."""


class RetrainConfig(Section):
    """Retraining of selected subnets. All other settings are those of `training`."""

    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Trainings per network, each with its own seed. The run's own training of the reference network counts as its first."""
    epochs: Epochs | None = None
    """Epochs from fresh weights, also of the reference network. Default: `training.epochs`."""
    finalists: Annotated[int, Field(ge=1, le=1000)] = 3
    """Largest number of candidates that `autospike run` fine-tunes before the export.

    The first is the one that `export.pick` selects, the others are what the rule selects among the candidates of each smaller T,
    the largest of these T first.
    """
    fine_tune_epochs: Epochs | None = None
    """Epochs from inherited weights. Default: a third of the epochs from fresh weights."""
    fine_tune_learning_rate: LearningRate | None = None
    """Learning rate from inherited weights. Default: `training.learning_rate`."""


RivalName = Literal["cnn", "cnn-small", "vit"]


class RivalsConfig(Section):
    """Networks without spikes that the subnets are compared with, besides the reference network.

    `autospike run` and `autospike rivals` train them; docs/rivals.md describes them.
    """

    networks: tuple[RivalName, ...] = ("cnn", "cnn-small", "vit")
    """Networks without spikes (`autospike.models.rivals`); none of them if empty (`run --no-rivals`).

    `cnn` and `vit` have about as many parameters as the reference network, `cnn-small` has a quarter of them.
    """
    epochs: Epochs | None = None
    """Epochs of each. Default: `training.epochs`."""
    learning_rate: LearningRate | None = None
    """Learning rate of each. Default: `training.learning_rate`, of the ViT at most 1e-3."""
