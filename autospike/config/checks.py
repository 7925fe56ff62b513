"""The constraints between fields of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autospike.config.data import RECORDED
from autospike.errors import UserError
from autospike.objectives import LATENCIES
from autospike.space.architecture import Architecture
from autospike.space.narrowing import check_narrower
from autospike.space.parameters import check_activation
from autospike.space.search_space import SearchSpace

if TYPE_CHECKING:
    from autospike.config.experiment import Experiment


def check_experiment(experiment: Experiment) -> None:
    """Check the constraints between sections.

    Args:
        experiment: Its fields are valid one by one.

    Raises:
        UserError: Two fields contradict each other.
    """
    space = SearchSpace.from_dict(experiment.space, source="space")
    given = experiment.baseline
    baseline = Architecture.from_dict(given, source="baseline") if isinstance(given, dict) else space.largest()
    if baseline.family != space.family:
        raise UserError(f"baseline: its family {baseline.family} differs from {space.family}, the family of the space")
    _check_task(experiment, space, baseline)
    if experiment.data.search_share + experiment.data.test_share >= 1:
        raise UserError("data: the sum of search_share and test_share must be less than 1, so that training images remain")
    if experiment.data.name in (*RECORDED, "motion") and experiment.data.normalisation is not None:
        raise UserError("data.normalisation: event counts are not normalised; leave it out")
    if experiment.search.space is not None:
        check_narrower(SearchSpace.from_dict(experiment.search.space, source="search.space"), space, source="search")
    _check_early_exit(experiment)
    _check_execution(experiment)
    _check_training(experiment)
    if experiment.training.teacher is not None and not (space.distilled and baseline.distilled):
        raise UserError("training.teacher: only a network with distilled: true has the head that a teacher trains")
    stride = max(space.smallest().stride, baseline.stride)
    if experiment.data.image_size < stride:
        raise UserError(
            f"data.image_size: {experiment.data.image_size} pixels are too few for embeddings that downsample {stride} times"
        )
    _check_activations(experiment, [space.largest(), baseline])


def _check_early_exit(experiment: Experiment) -> None:
    """Check that candidates with early exit can be measured."""
    if not experiment.search.early_exit:
        return
    if experiment.task != "classification":
        raise UserError(f"search.early_exit: only for classification, but task is {experiment.task}; leave it out")
    latencies = [name for name in experiment.search.objectives if name in LATENCIES]
    if latencies:
        raise UserError(f"search.early_exit: {latencies[0]} is measured for whole runs only; leave one of them out")


def _check_execution(experiment: Experiment) -> None:
    """Reject settings that have no effect."""
    if experiment.evaluation.racing and not set(experiment.search.objectives) <= {"accuracy", "energy_mj"}:
        raise UserError("evaluation.racing: compares accuracy and energy only, but search.objectives has others; set it to 0")
    execution = experiment.execution
    needs = {"workers": ("processes", "ray"), "address": ("ray",), "gpus_per_worker": ("ray",)}
    for name, executors in needs.items():
        if getattr(execution, name) and execution.executor not in executors:
            raise UserError(
                f"execution.{name}: has no effect with executor {execution.executor}; "
                f"set execution.executor to {' or '.join(executors)}, or leave it out"
            )


# The task of a decoder, and the data with targets of each task other than classification.
TASK_OF_DECODER = {"semantic-fpn": "segmentation", "mask-rcnn": "detection"}
DATA_OF_TASK = {"segmentation": ("scenes", "ade20k", "voc"), "detection": ("scene_objects", "coco")}


def _check_task(experiment: Experiment, space: SearchSpace, baseline: Architecture) -> None:
    """Check that search space, reference network, data and settings belong to the task."""
    task, data = experiment.task, experiment.data.name
    for name, decoder in (("space", space.decoder), ("baseline", baseline.decoder)):
        own = TASK_OF_DECODER[decoder.kind] if decoder else "classification"
        if own != task:
            has = f"a decoder for {own}" if decoder else "no decoder, so it is for classification"
            raise UserError(f"{name}: has {has}, but task is {task}; change one of them")
    of_data = next((name for name, names in DATA_OF_TASK.items() if data in names), "classification")
    if of_data != task:
        fitting = f"choose from {', '.join(DATA_OF_TASK[task])}" if task in DATA_OF_TASK else "choose other data"
        raise UserError(f"data.name: {data} is for {of_data}, but task is {task}; {fitting}")
    if task == "classification":
        if experiment.training.head_learning_rate != 1:
            raise UserError("training.head_learning_rate: has no effect without a decoder; leave it out")
        return
    if experiment.training.targets == "in-place":
        raise UserError("training.targets: in-place is only for classification; set it to labels")
    if task == "detection" and experiment.training.augmentation.category_max_ratio != 1:
        raise UserError("training.augmentation.category_max_ratio: only for segmentation; leave it out")
    if experiment.training.loss == "tet":
        raise UserError(f"training.loss: tet is only for classification, but task is {task}; set it to final or anytime")
    if experiment.evaluation.racing:
        raise UserError(f"evaluation.racing: compares accuracies of images, which {task} has none of; set it to 0")


def _check_activations(experiment: Experiment, networks: Sequence[Architecture]) -> None:
    """Reject batches whose activations cannot be stored."""
    batches = {
        "training.batch_size": experiment.training.batch_size // experiment.training.accumulate,
        "evaluation.batch_size": experiment.evaluation.batch_size,
        "evaluation.calibration_batch_size": experiment.evaluation.calibration_batch_size,
    }
    for name, images in batches.items():
        for network in networks:
            check_activation(network, image_size=experiment.data.image_size, images=images, source=name)


def _check_training(experiment: Experiment) -> None:
    training = experiment.training
    if training.warmup >= training.epochs:
        raise UserError(f"training.warmup_epochs: {training.warmup} of {training.epochs} epochs; warm up for fewer")
    if training.cooldown_epochs and training.warmup + training.cooldown_epochs >= min(
        training.epochs, experiment.from_scratch.epochs
    ):
        raise UserError(
            f"training.cooldown_epochs: {training.cooldown_epochs}, after {training.warmup} of warm-up, leave none of "
            f"{min(training.epochs, experiment.from_scratch.epochs)} epochs; cool down for fewer"
        )
    if training.warmup >= experiment.from_scratch.epochs:
        raise UserError(
            f"retrain.epochs: {experiment.retrain.epochs}, of which training.warmup_epochs takes {training.warmup}; "
            "retrain for more"
        )
    if training.batch_size % training.accumulate or training.batch_size // training.accumulate < 2:
        raise UserError(
            f"training.accumulate: {training.accumulate} parts of batch_size {training.batch_size}; "
            "choose a divisor that leaves parts of 2 images or more"
        )
    if training.targets == "in-place" and training.sampling != "sandwich":
        raise UserError(
            f"training.targets: in-place needs the largest subnet in every step, which {training.sampling} does not run; "
            "set training.sampling to sandwich, or targets to labels"
        )
    if training.single_step_share and training.loss == "anytime":
        raise UserError("training.single_step_share: loss anytime needs every T in a step; set it to 0, or loss to final")
    if training.teacher is not None and experiment.data.name in (*RECORDED, "motion"):
        raise UserError("training.teacher: a teacher cannot be used with events; leave it out")
    if training.min_learning_rate > training.learning_rate:
        raise UserError(f"training.min_learning_rate: {training.min_learning_rate:g} is more than learning_rate")
