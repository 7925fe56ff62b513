"""The sections `training`, `retrain` and `rivals` of an experiment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from autospike.config.data import AugmentationConfig
from autospike.config.fields import (
    MAX_BATCH,
    MAX_EPOCHS,
    MAX_PROCESSES,
    BatchSize,
    Epochs,
    FilePath,
    Fraction,
    LearningRate,
    OpenFraction,
    Section,
    Strength,
    Text,
)


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
    single_step_share: Fraction = 0.0
    """Part of the training, from its start, in which every subnet has T = 1 (progressive time steps; docs/training.md).

    Such a step took about 0.4 of the time of one with T = 4. It does not apply to events, to `loss: anytime`, or to fine-tuning.
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
    images_per_epoch: Annotated[int, Field(ge=2, le=1_000_000_000)] | None = None
    """Training images of an epoch, drawn at random anew for each epoch; at least one batch. Default: all of them.

    `autospike run --budget` sets it if fewer than five whole epochs fit into the budget.
    """
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
    cheaper_finalists: Annotated[int, Field(ge=0, le=1000)] = 0
    """Further candidates that `autospike run` fine-tunes: each is the most accurate one that needs at most 0.7 of the energy of all
    before it. A supernet that was trained for a short time underrates small networks."""
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
