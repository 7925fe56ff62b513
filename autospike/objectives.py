"""Objectives of a search: numbers of an evaluated candidate, by name or by import path.

The front, its hypervolume, the rule `knee`, tables and figures of a run are those of the objectives in `search.objectives`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from autospike import import_path
from autospike.energy.conventions import UJ_PER_MJ, convention_of
from autospike.errors import UserError, quoted
from autospike.measurement import METRICS, Evaluation, Latency
from autospike.space.costs import BYTES_PER_KB, BYTES_PER_VALUE, costs
from autospike.space.input_shape import InputShape


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One number of an evaluated candidate that a multi-objective search optimises.

    Attributes:
        value: Returns the number.
        maximise: True if larger values are better, False if smaller values are better.
        label: Text of an axis; the name if empty.
        title: Short text for titles; the name without its unit if empty.
        log: Whether an axis is logarithmic.
        worst: Value of the reference point of the hypervolume: `zero`, `largest` (the value of the largest subnet), or `found` (the
            worst of the candidates). The best value is 1, 0, or the best of the candidates.
    """

    value: Callable[[Evaluation], float]
    maximise: bool = False
    label: str = ""
    title: str = ""
    log: bool = False
    worst: Literal["zero", "largest", "found"] = "found"


Objectives = Mapping[str, Objective]
"""Objectives by name, in the order of `search.objectives`."""


def titles(objectives: Objectives) -> list[str]:
    """Return a short text for each objective: that of accuracy is the metric of the task.

    Args:
        objectives: The objectives by name.
    """
    return [objective.title or name.removesuffix("_mj") for name, objective in objectives.items()]


def _cost(value: Callable[[Evaluation], float], label: str) -> Objective:
    """A positive number to minimise, in relation to that of the largest subnet."""
    return Objective(value=value, label=label, log=True, worst="largest")


def _dense_macs(evaluation: Evaluation) -> float:
    """Dense multiply-accumulates of one image over all time steps, with linear layers fused or not as the convention says."""
    convention = convention_of(evaluation.energy.convention)
    return sum(count.macs * count.time_steps for count in evaluation.measurement.counts if convention.includes(count))


def _spikes(evaluation: Evaluation) -> float:
    if evaluation.measurement.spikes is None:
        raise UserError("spikes: not counted by the version that measured the candidate; search with this objective")
    return evaluation.measurement.spikes


def _mean_time_steps(evaluation: Evaluation) -> float:
    measured = evaluation.measurement
    return measured.architecture.time_steps if measured.mean_time_steps is None else measured.mean_time_steps


def _latency(evaluation: Evaluation) -> Latency:
    if evaluation.latency is None:
        raise UserError("latency: measured only in a search with this objective")
    return evaluation.latency


def _activations_kb(evaluation: Evaluation, shape: InputShape | None = None) -> float:
    if shape is None:
        raise UserError("activations_kb: the run has no input size; run: autospike search RUN")
    if evaluation.measurement.architecture.decoder is not None:
        raise UserError("activations_kb: not known for networks with a decoder; leave it out of search.objectives")
    return costs(evaluation.measurement.architecture, shape).activations_kb


OBJECTIVES: dict[str, Objective] = {
    "accuracy": Objective(
        value=lambda e: e.measurement.accuracy, maximise=True, label="accuracy on the search split", worst="zero"
    ),
    "energy_mj": _cost(lambda e: e.energy.energy_mj, "energy per image (mJ)"),
    "params": _cost(lambda e: e.measurement.params, "parameters"),
    "time_steps": replace(_cost(lambda e: e.measurement.architecture.time_steps, "time steps T"), log=False),
    "mean_time_steps": replace(_cost(_mean_time_steps, "mean time steps"), log=False),
    "acs": _cost(lambda e: e.energy.acs, "accumulations per image"),
    "macs": _cost(lambda e: e.energy.macs, "multiply-accumulates per image"),
    "dense_macs": _cost(_dense_macs, "dense multiply-accumulates per image"),
    "energy_uj": _cost(lambda e: e.energy.energy_mj * UJ_PER_MJ, "energy per image (µJ)"),
    "weights_kb": _cost(lambda e: e.measurement.params * BYTES_PER_VALUE / BYTES_PER_KB, "weights (kB)"),
    "activations_kb": _cost(_activations_kb, "peak activations (kB)"),
    "spikes": _cost(_spikes, "spikes per image"),
    "latency_ms": _cost(lambda e: _latency(e).image_ms, "latency of one image (ms)"),
    "latency_batch_ms": _cost(lambda e: _latency(e).batch_ms, "latency in a batch (ms/image)"),
}
"""Objectives by the name that the configuration field `search.objectives` uses."""

LATENCIES = ("latency_ms", "latency_batch_ms")
"""Objectives that are measured on the device of the search."""

ACCURACY_AND_ENERGY: Objectives = {name: OBJECTIVES[name] for name in ("accuracy", "energy_mj")}
"""The default objectives."""


def objective_of(name: str, shape: InputShape | None = None) -> Objective:
    """Return the objective that a name means.

    Args:
        name: A key of `OBJECTIVES`, or the import path of an `Objective`, or of a function of an `Evaluation`, which is minimised.
        shape: Input and output size of the networks, which `activations_kb` needs.

    Raises:
        UserError: Nothing can be imported from the path, or it is no function.
    """
    if name == "activations_kb":
        return replace(OBJECTIVES[name], value=partial(_activations_kb, shape=shape))
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    found = import_path.load(name, source="search.objectives")
    objective = found if isinstance(found, Objective) else Objective(value=found)
    if not callable(objective.value):
        raise UserError(f"search.objectives: {name}: a {type(found).__name__}; write a function of an Evaluation, or an Objective")

    def value(evaluation: Evaluation) -> float:
        number = objective.value(evaluation)
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise UserError(f"search.objectives: {name}: returned {quoted(number)}; an objective returns a finite number")
        return float(number)

    return replace(objective, value=value)


def objectives_of(names: Sequence[str], shape: InputShape | None = None, *, metric: str = METRICS["classification"]) -> Objectives:
    """Return the objectives that names mean; see `objective_of`.

    Args:
        names: As in `search.objectives`.
        shape: Input and output size of the networks.
        metric: Name of the metric of the task, for the texts of `accuracy`.
    """
    found = {name: objective_of(name, shape) for name in names}
    named = {"accuracy": replace(OBJECTIVES["accuracy"], label=f"{metric} on the search split", title=metric)}
    return {name: named.get(name, objective) for name, objective in found.items()}
