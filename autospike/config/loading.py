"""Reads an experiment file, applies overrides and checks constraints between fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autospike.config.experiment import Experiment
from autospike.errors import UserError, first_problem, quoted
from autospike.files import read_yaml
from autospike.parsing import parse_yaml
from autospike.space.architecture import Architecture
from autospike.space.narrowing import check_narrower, without_unused
from autospike.space.parameters import check_activation
from autospike.space.published import PUBLISHED, similar_networks
from autospike.space.search_space import SearchSpace


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file, apply overrides and validate the result.

    Args:
        path: The experiment file.
        overrides: `--set` overrides, each `a.b=c` with c in YAML. The last one of a field applies.

    Returns:
        The resolved experiment: search space and reference network are fields out in full.

    Raises:
        UserError: The file cannot be read, or a field is invalid. The message is one line that names the field.
    """
    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: an experiment is a mapping of fields, got {type(fields).__name__}")
    for override in overrides:
        if override.startswith("space."):
            fields = _resolve_space(fields, path)
        if override.startswith("baseline."):
            fields = _resolve_baseline(fields, path)
        _apply_override(fields, override)
    return _validate(_resolve_baseline(_resolve_space(fields, path), path), str(path))


def narrowing_overrides(trained: Experiment, overrides: Sequence[str]) -> list[str]:
    """Return overrides in which those of `space` set `search.space` instead, because the space of a trained supernet is fixed.

    Args:
        trained: The experiment with which the run was trained.
        overrides: `--set` overrides.

    Raises:
        UserError: An override of `space` is invalid.
    """
    of_space = [override for override in overrides if override.startswith("space.")]
    if not of_space:
        return list(overrides)
    fields = {"space": deepcopy(trained.space)}
    for override in of_space:
        _apply_override(fields, override)
    others = [override for override in overrides if override not in of_space]
    return [*others, f"search.space={json.dumps(without_unused(fields['space']))}"]


def _resolve_space(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace the path of a search space, relative to the experiment file, by its content."""
    if isinstance(fields.get("space"), str):
        space_path = path.parent / fields["space"]
        SearchSpace.load(space_path)  # so that an error names the file of the space
        return {**fields, "space": read_yaml(space_path)}
    return fields


def _resolve_baseline(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace the name of a published architecture by its fields."""
    name = fields.get("baseline")
    if not isinstance(name, str) or name == "none":
        return fields
    if name not in PUBLISHED:
        raise UserError(
            f"{path}: baseline: no published architecture is called {quoted(name)}; choose none (no reference network), or "
            f"{similar_networks(name)}"
        )
    return {**fields, "baseline": PUBLISHED[name].architecture.to_dict()}


def _validate(fields: dict[str, Any], source: str) -> Experiment:
    try:
        experiment = Experiment.model_validate(fields)
    except ValidationError as error:
        raise first_problem(error, source) from None
    _check_experiment(experiment, source)
    return experiment


def _check_execution(experiment: Experiment, source: str) -> None:
    """Reject settings that have no effect."""
    if experiment.evaluation.racing and not set(experiment.search.objectives) <= {"accuracy", "energy_mj"}:
        raise UserError(
            f"{source}: evaluation.racing: compares accuracy and energy only, but search.objectives has others; set it to 0"
        )
    execution = experiment.execution
    needs = {"workers": ("processes", "ray"), "address": ("ray",), "gpus_per_worker": ("ray",)}
    for name, executors in needs.items():
        if getattr(execution, name) and execution.executor not in executors:
            raise UserError(
                f"{source}: execution.{name}: has no effect with executor {execution.executor}; "
                f"set execution.executor to {' or '.join(executors)}, or leave it out"
            )


def _check_experiment(experiment: Experiment, source: str) -> None:
    """Check the constraints between sections."""
    space = SearchSpace.from_dict(experiment.space, source=f"{source}: space")
    given = experiment.baseline
    baseline = Architecture.from_dict(given, source=f"{source}: baseline") if isinstance(given, dict) else space.largest()
    if baseline.family != space.family:
        raise UserError(f"{source}: baseline: its family {baseline.family} differs from {space.family}, the family of the space")
    if experiment.data.search_share + experiment.data.test_share >= 1:
        raise UserError(
            f"{source}: data: the sum of search_share and test_share must be less than 1, so that training images remain"
        )
    if experiment.data.name == "events" and experiment.data.normalisation is not None:
        raise UserError(f"{source}: data.normalisation: event counts are not normalised; leave it out")
    if experiment.search.space is not None:
        narrowed = SearchSpace.from_dict(experiment.search.space, source=f"{source}: search.space")
        check_narrower(narrowed, space, source=f"{source}: search")
    _check_execution(experiment, source)
    _check_training(experiment, source)
    if experiment.training.teacher is not None and not (space.distilled and baseline.distilled):
        raise UserError(f"{source}: training.teacher: only a network with distilled: true has the head that a teacher trains")
    stride = max(space.smallest().stride, baseline.stride)
    if experiment.data.image_size < stride:
        raise UserError(
            f"{source}: data.image_size: {experiment.data.image_size} pixels are too few for embeddings that downsample "
            f"{stride} times"
        )
    _check_activations(experiment, [space.largest(), baseline], source)


def _check_activations(experiment: Experiment, networks: Sequence[Architecture], source: str) -> None:
    """Reject batches whose activations cannot be stored."""
    batches = {
        "training.batch_size": experiment.training.batch_size // experiment.training.accumulate,
        "evaluation.batch_size": experiment.evaluation.batch_size,
        "evaluation.calibration_batch_size": experiment.evaluation.calibration_batch_size,
    }
    for name, images in batches.items():
        for network in networks:
            check_activation(network, image_size=experiment.data.image_size, images=images, source=f"{source}: {name}")


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
        raise UserError(f"{source}: training.teacher: a teacher cannot be used with events; leave it out")
    if training.min_learning_rate > training.learning_rate:
        raise UserError(f"{source}: training.min_learning_rate: {training.min_learning_rate:g} is more than learning_rate")


def _apply_override(fields: dict[str, Any], override: str) -> None:
    """Set one nested field in place, from `a.b=c`."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: write it as a.b=c, for example training.epochs=20")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"--set {override}: {quoted(text)} is not YAML") from None
    target: Any = fields
    for i, key in enumerate(keys[:-1]):
        target = _child(target, key, override)
        if not isinstance(target, dict | list):
            raise UserError(f"--set {override}: {'.'.join(keys[: i + 1])} is {quoted(target)}, which has no fields")
    if isinstance(target, list):
        _child(target, keys[-1], override)
        target[int(keys[-1])] = value
    else:
        target[keys[-1]] = value


def _child(target: Any, key: str, override: str) -> Any:
    """Return an entry of a mapping (a new mapping if missing) or of a list."""
    if isinstance(target, dict):
        return target.setdefault(key, {})
    if not key.isdecimal() or len(key) > 9 or int(key) >= len(target):
        raise UserError(f"--set {override}: {key} is not an index of a list of length {len(target)}")
    return target[int(key)]
