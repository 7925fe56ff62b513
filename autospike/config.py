"""An experiment: everything that a run depends on, in one YAML file, read strictly.

Each field is documented where it stands; `--set a.b=c` overrides any of them. A run keeps the resolved experiment, its search space
written out in full, as `RUN/experiment.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autospike.energy.conventions import DEFAULT, Convention, convention_of
from autospike.errors import UserError, first_problem
from autospike.files import parse_yaml, read_yaml
from autospike.measurement import OBJECTIVES
from autospike.space.architecture import Architecture
from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace

Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of an experiment: frozen, and strict about keys. Numbers may be written as text, for YAML 1.1 reads 5e-4 as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switches(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError(f"no field is a switch, got {str(value).lower()}")
        return value


class DataConfig(Section):
    name: Literal["digits", "folder", "cifar10", "cifar100", "events"]
    """Where the images come from; see `autospike.data.images`.

    `events` are frames of an event camera, prepared once by spikingjelly's dataset (CIFAR10DVS, DVS128Gesture, HARDVS) with
    `data_type="frame", frames_number=T`. A network of fewer steps than there are frames sees the first ones; more are refused.
    """
    root: Path | None = None
    """Folder of the images, relative to where the command runs. For events spikingjelly's `frames_number_T_split_by_...`."""
    image_size: Count
    """Height and width in pixels that every image is brought to.

    Event counts are never normalised. At their own size they stay whole, and the first layer accumulates; resized, they are means
    over pixels, and it multiplies.
    """
    search_share: Share = 0.2
    """Share of the images (of the training images, where there is a test folder) that scores candidates."""
    test_share: Share = 0.2
    """Share of the images held back for the final measurement, where the source has no test split of its own."""


class AugmentationConfig(Section):
    """timm's training augmentation. The defaults do nothing; color_jitter and auto_augment are for still images alone."""

    min_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A random crop covers at least this share of the image."""
    flip: Fraction = 0.0
    """Probability of a horizontal flip."""
    color_jitter: Annotated[float, Field(ge=0)] = 0.0
    auto_augment: str | None = None
    """timm's policy string, as `rand-m9-n1-mstd0.4-inc1`."""
    erasing: Fraction = 0.0
    """Probability of erasing a random rectangle."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of mixup; 0 is off."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of cutmix; 0 is off. With both, each batch is mixed by either with equal chance."""
    mix_probability: Fraction = 1.0
    """Share of the batches that mixup or cutmix mixes, where they are on."""


class TeacherConfig(Section):
    """A network whose answers train the second head of a distilled family (hard distillation)."""

    model: str
    """timm's name of it, or `local-dir:FOLDER` of an exported one."""
    weights: Path | None = None
    """Its checkpoint; unless given, timm's pretrained weights, which it downloads."""


class TrainingConfig(Section):
    sampling: Literal["single-path", "sandwich", "small-first"] = "single-path"
    """Which subnets a step trains: one uniform draw (Auto-Spikformer); the largest, the smallest and two draws; or one draw of a
    space that has the smallest sizes at first, and all from half of the training on. `experiments/training_quality` measures these
    three options."""
    targets: Literal["labels", "in-place"] = "labels"
    """What they learn: all the labels; or, in a sandwich, the largest the labels and the others its soft answers."""
    loss: Literal["final", "anytime"] = "final"
    """Of the answer at the subnet's own T; or the mean over every T of the space, all of one run of the largest T. The T of a draw
    then has no effect."""
    start_from: Path | None = None
    """Weights to begin with: a published checkpoint, an exported or imported folder, or another run's (`train --from`)."""
    teacher: TeacherConfig | None = None
    epochs: Count
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 128
    accumulate: Count = 1
    """In how many parts a batch goes through the network, one after another, before the weights move; each part is normalised by
    itself. Memory shrinks accordingly."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    min_learning_rate: Annotated[float, Field(ge=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.06
    warmup_epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs of linear warm-up. Unless given: 20 (Auto-Spikformer's), or a fifth of the epochs where that is less."""
    smoothing: Fraction = 0.1
    """Label smoothing."""
    surrogate: Literal["sigmoid", "arctan"] = "sigmoid"
    """What stands for the derivative of a neuron's step: that of a sigmoid of slope 4, as published, or of an arctan of slope 2."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of linear maps, convolutions and products in training; membrane potentials and statistics are float32 in either."""
    ema: Share | None = None
    """Decay of an exponential moving average of the weights, as 0.999, which search and export then use."""
    augmentation: AugmentationConfig = AugmentationConfig()
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that decode and augment; 0 does it in the training process."""
    checkpoint_epochs: Count = 10
    """Epochs between checkpoints."""

    @property
    def warmup(self) -> int:
        return min(20, self.epochs // 5) if self.warmup_epochs is None else self.warmup_epochs


class EvaluationConfig(Section):
    calibration_images: Annotated[int, Field(ge=2)] = 512
    """Training images on which a subnet's normalisation is calibrated before it is scored."""
    calibration_batch_size: Annotated[int, Field(ge=2)] = 128
    """Statistics are those of batches of this size, averaged: part of the protocol, unlike `batch_size`."""
    batch_size: Count = 128
    """Images a forward pass; changes speed and memory, never a result."""
    kept_mb: Annotated[int, Field(ge=0)] = 1024
    """Memory of each worker for what it will need again: decoded images, streams between blocks, and what was noted about them."""
    racing: Annotated[float, Field(ge=0)] = 0.0
    """Early decisions: candidates that another dominates in accuracy and energy by so many standard deviations are scored on part
    of the search split alone; 3 is careful. Who is dropped depends on whom a candidate is measured with. 0 is exact: every
    candidate sees every image."""


class ExecutionConfig(Section):
    """Where candidates are measured. On equal processors, nothing here changes a result."""

    executor: Literal["serial", "processes", "ray"] = "serial"
    """In the process of the search, in processes of this machine, or in those of a Ray cluster."""
    workers: Count | None = None
    """How many; unless given, as many as the cores (under Ray the cluster's) allow at `threads` each, one without. Each takes a
    process's memory, and `evaluation.kept_mb`."""
    address: str | None = None
    """Of a Ray cluster, as auto or HOST:PORT; unless given, one is started on this machine for the length of the command."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """Under Ray: a share of a GPU for each worker, as 0.5 for two on one; candidates are then measured on GPUs."""


class FitnessConfig(Section):
    """F_AEB, the accuracy-energy-balanced fitness. The paper's formula could not be read; both forms are ours."""

    form: Literal["power", "weighted"] = "power"
    beta: Annotated[float, Field(ge=0)] = 0.07
    """power: accuracy * (energy / reference) ** -beta."""
    alpha: Fraction = 0.5
    """weighted: alpha * accuracy + (1 - alpha) * (1 - energy / reference)."""


class SearchConfig(Section):
    algorithm: Literal["nsga2", "aeb", "random"] = "nsga2"
    """NSGA-II over the objectives, the paper's evolution on F_AEB (what is measured along competes, too), or uniform draws as a
    baseline."""
    objectives: tuple[str, ...] = ("accuracy", "energy_mj")
    """What NSGA-II trades off; any of `autospike.measurement.OBJECTIVES`."""
    population: Annotated[int, Field(ge=4)] = 50
    generations: Count = 20
    parents: Annotated[int, Field(ge=2)] = 10
    """aeb: how many of the best breed."""
    block_mutation: Fraction = 0.2
    """Probability that a gene of a block mutates; under one-point crossover, of a block from that point on."""
    global_mutation: Fraction = 0.4
    """Probability that depth, width, time steps, shortcut or a gene of an embedding mutates; under one-point crossover, of those
    from that point on, time steps and the last depth always."""
    crossover: Literal["one-point", "uniform"] = "one-point"
    """nsga2: a child is one parent up to a random block and the other one, mutated, from there on; or a mixture of both, mutated
    everywhere. With one-point crossover candidates share beginnings, which are computed once."""
    late_point: Annotated[float, Field(ge=1, le=100)] = 1.0
    """one-point: how many times as likely that block is as the one before it. A late point shares more and seems to cost
    hypervolume (docs/evaluation.md). In a deep network less, so that the last block is at most 64 times as likely as the first."""
    convention: str = DEFAULT.name
    """What counts as energy: a convention of `autospike.energy.conventions`, as `spikformer` or `exact/int8`. The archive keeps
    counts, so a search under another one re-uses all that was measured."""
    fitness: FitnessConfig = FitnessConfig()

    @property
    def energy_convention(self) -> Convention:
        return convention_of(self.convention)

    @field_validator("convention")
    @classmethod
    def _named(cls, text: str) -> str:
        try:
            return convention_of(text).name
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("objectives")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len(set(names)) < len(names) or not set(names) <= OBJECTIVES.keys():
            raise ValueError(f"choose different ones from {', '.join(OBJECTIVES)}; got {', '.join(names) or 'none'}")
        return names


class ExportConfig(Section):
    pick: str = "knee"
    """knee, best-accuracy, least-energy, best-faeb, or the id of a candidate."""
    min_accuracy: Fraction = 0.0
    """Pick among candidates of at least this accuracy on the search split."""
    tolerance: Fraction = 1.0
    """Pick among candidates at most this much less accurate than the most accurate one."""


class RetrainConfig(Section):
    """How picked subnets are trained again, and how often. All else is `training`'s."""

    seeds: Count = 3
    """How many trainings of each network; of the reference network, the run's own is the first."""
    epochs: Count | None = None
    """From scratch, and of the reference network; unless given, `training.epochs`."""
    fine_tune_epochs: Count | None = None
    """From inherited weights; unless given, a third of those from scratch."""
    fine_tune_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Unless given, a tenth of `training.learning_rate`."""


class Experiment(Section):
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto takes CUDA if there is one."""
    threads: Count | None = None
    """CPU threads of torch; unless given its own choice, or one for each of several workers. One is best for small networks: two
    on a busy core wait for each other."""
    space: dict[str, Any]
    """A search space, or in the file that is read the path of one, relative to that file."""
    baseline: dict[str, Any] | None = None
    """The reference network to compare with, trained alone by the same recipe; the space's largest unless given. In the file
    that is read it may be the name of a published one (`autospike.space.published`)."""
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    execution: ExecutionConfig = ExecutionConfig()
    search: SearchConfig = SearchConfig()
    export: ExportConfig = ExportConfig()
    retrain: RetrainConfig = RetrainConfig()

    @property
    def from_scratch(self) -> TrainingConfig:
        """How a network is retrained from fresh weights."""
        return self.training.model_copy(update={"epochs": self.retrain.epochs or self.training.epochs})

    @property
    def fine_tuning(self) -> TrainingConfig:
        """How a subnet is retrained from the weights that it inherits; its warm-up is the usual share of its epochs."""
        learning_rate = self.retrain.fine_tune_learning_rate or self.training.learning_rate / 10
        changes = {
            "epochs": self.retrain.fine_tune_epochs or max(1, self.from_scratch.epochs // 3),
            "learning_rate": learning_rate,
            "min_learning_rate": min(self.training.min_learning_rate, learning_rate),
            "warmup_epochs": None,
        }
        return self.training.model_copy(update=changes)

    @property
    def search_space(self) -> SearchSpace:
        return SearchSpace.from_dict(self.space, source="space")

    @property
    def baseline_architecture(self) -> Architecture:
        if self.baseline is None:
            return self.search_space.largest()
        return Architecture.from_dict(self.baseline, source="baseline")

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


# Once trained, weights depend on these; a later command may change the rest.
FIXED_BY_TRAINING = ("seed", "space", "baseline", "data", "training")


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment and apply `--set` overrides, each `a.b=c` with c in YAML.

    Raises:
        UserError: anything that does not fit, in one line that names the field.
    """
    written = read_yaml(path)
    if not isinstance(written, dict):
        raise UserError(f"{path}: an experiment is a mapping of fields, got {type(written).__name__}")
    for override in overrides:
        if override.startswith("space."):
            written = _with_space(written, path)
        if override.startswith("baseline."):
            written = _with_baseline(written, path)
        _apply(written, override)
    return _parse(_with_baseline(_with_space(written, path), path), str(path))


def continued(held: Experiment, changed: Experiment, *, source: str) -> Experiment:
    """`changed`, if it may go on with what `held` trained.

    Raises:
        UserError: a field differs that the trained weights depend on.
    """
    for name in FIXED_BY_TRAINING:
        was, now = fixed_part(held, name), fixed_part(changed, name)
        if was != now:
            parts = (
                [f"{name}.{key}" for key in was if was[key] != now.get(key)]
                if isinstance(was, dict) and isinstance(now, dict)
                else []
            )
            where = (parts or [name])[0]
            raise UserError(f"{source}: {where} differs from the experiment that this run began with; use another --run folder")
    return changed


def with_start(experiment: Experiment, start_from: Path | None) -> Experiment:
    """The experiment, starting from these weights."""
    return experiment.model_copy(update={"training": experiment.training.model_copy(update={"start_from": start_from})})


def fixed_part(experiment: Experiment, name: str) -> Any:
    """Its value as JSON, less what changes no weight: where the images lie, who decodes them, how often a checkpoint is written."""
    value = experiment.model_dump(mode="json")[name]
    free = {"data": ("root",), "training": ("workers", "checkpoint_epochs")}.get(name, ())
    return {key: v for key, v in value.items() if key not in free} if isinstance(value, dict) else value


def _with_space(written: dict[str, Any], path: Path) -> dict[str, Any]:
    if isinstance(written.get("space"), str):
        space_path = path.parent / written["space"]
        SearchSpace.load(space_path)  # for an error that names the file
        return {**written, "space": read_yaml(space_path)}
    return written


def _with_baseline(written: dict[str, Any], path: Path) -> dict[str, Any]:
    name = written.get("baseline")
    if not isinstance(name, str):
        return written
    if name not in PUBLISHED:
        raise UserError(f"{path}: baseline: no published architecture is called {name!r}; choose from {', '.join(PUBLISHED)}")
    return {**written, "baseline": PUBLISHED[name].architecture.to_dict()}


def _parse(written: dict[str, Any], source: str) -> Experiment:
    try:
        experiment = Experiment.model_validate(written)
    except ValidationError as error:
        raise first_problem(error, source) from None
    _check(experiment, source)
    return experiment


def _check_execution(experiment: Experiment, source: str) -> None:
    """A setting that would change nothing is refused."""
    if experiment.evaluation.racing and not set(experiment.search.objectives) <= {"accuracy", "energy_mj"}:
        raise UserError(f"{source}: evaluation.racing: drops by accuracy and energy, but search.objectives has others; set it to 0")
    execution = experiment.execution
    needs = {"workers": ("processes", "ray"), "address": ("ray",), "gpus_per_worker": ("ray",)}
    for name, executors in needs.items():
        if getattr(execution, name) and execution.executor not in executors:
            raise UserError(
                f"{source}: execution.{name}: has no effect with executor {execution.executor}; "
                f"set execution.executor to {' or '.join(executors)}, or leave it out"
            )


def _check(experiment: Experiment, source: str) -> None:
    space = SearchSpace.from_dict(experiment.space, source=f"{source}: space")
    baseline = Architecture.from_dict(experiment.baseline, source=f"{source}: baseline") if experiment.baseline else space.largest()
    if baseline.family != space.family:
        raise UserError(f"{source}: baseline: its family {baseline.family} is not the space's, {space.family}")
    if experiment.data.search_share + experiment.data.test_share >= 1:
        raise UserError(f"{source}: data: search_share and test_share leave nothing to train on; their sum must be less than 1")
    _check_execution(experiment, source)
    _check_training(experiment, source)
    if experiment.training.teacher is not None and not (space.distilled and baseline.distilled):
        raise UserError(f"{source}: training.teacher: only a network with distilled: true has the head that a teacher trains")
    stride = max(space.smallest().stride, baseline.stride)
    if experiment.data.image_size < stride:
        raise UserError(
            f"{source}: data.image_size: {experiment.data.image_size} pixels are too few for embeddings that shrink an image "
            f"{stride} times"
        )


def _check_training(experiment: Experiment, source: str) -> None:
    training = experiment.training
    if training.warmup >= training.epochs:
        raise UserError(f"{source}: training.warmup_epochs: {training.warmup} of {training.epochs} epochs; warm up for fewer")
    if training.warmup >= experiment.from_scratch.epochs:
        raise UserError(
            f"{source}: retrain.epochs: {experiment.retrain.epochs}, of which training.warmup_epochs takes {training.warmup}; "
            "retrain for more"
        )
    if training.batch_size % training.accumulate or training.batch_size // training.accumulate < 2:
        raise UserError(
            f"{source}: training.accumulate: {training.accumulate} parts of batch_size {training.batch_size}; "
            "choose a divisor that leaves parts of 2 images or more"
        )
    if training.targets == "in-place" and training.sampling != "sandwich":
        raise UserError(
            f"{source}: training.targets: in-place needs the largest subnet in every step, which {training.sampling} does not run; "
            "set training.sampling to sandwich, or targets to labels"
        )
    if training.teacher is not None and experiment.data.name == "events":
        raise UserError(f"{source}: training.teacher: teachers see still images, not events; leave it out")
    if training.min_learning_rate > training.learning_rate:
        raise UserError(f"{source}: training.min_learning_rate: {training.min_learning_rate:g} is more than learning_rate")


def _apply(written: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: write it as a.b=c, for example training.epochs=20")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"--set {override}: {text!r} is not YAML") from None
    target: Any = written
    for i, key in enumerate(keys[:-1]):
        target = _step(target, key, override)
        if not isinstance(target, dict | list):
            raise UserError(f"--set {override}: {'.'.join(keys[: i + 1])} is {target!r}, which has no fields")
    if isinstance(target, list):
        _step(target, keys[-1], override)
        target[int(keys[-1])] = value
    else:
        target[keys[-1]] = value


def _step(target: Any, key: str, override: str) -> Any:
    if isinstance(target, dict):
        return target.setdefault(key, {})
    if not key.isdigit() or int(key) >= len(target):
        raise UserError(f"--set {override}: {key} is no index of a list of {len(target)}")
    return target[int(key)]
