"""Arguments and options of the command line that several commands have."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

ExperimentPath = Annotated[
    Path,
    typer.Argument(metavar="EXPERIMENT", help="YAML file of the experiment, or a name that `autospike list experiments` prints."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that `autospike train` created.")]
NewRunFolder = Annotated[
    Path, typer.Option("--run", help="Folder of the run; created if missing, resumed if it belongs to this experiment.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Set a field of the experiment, for example training.epochs=20. May be repeated."),
]


class SplitChoice(StrEnum):
    """Splits of a dataset."""

    train = "train"
    search = "search"
    test = "test"


class WeightsChoice(StrEnum):
    """Weights of a checkpoint that has an average of them."""

    ema = "ema"
    raw = "raw"


StartFrom = Annotated[
    Path | None,
    typer.Option("--from", help="Initial parameters: a published checkpoint, an exported or imported model, or a run."),
]


MeasuredModel = Annotated[Path, typer.Argument(metavar="MODEL", help="An exported or imported model, or a run.")]
MeasuredData = Annotated[
    str | None,
    typer.Option(help="A folder of images, event frames or CIFAR; an experiment; a run; or digits. Default: the model's run."),
]
MeasuredSplit = Annotated[SplitChoice, typer.Option(help="The split to measure on.")]
SampledImages = Annotated[int, typer.Option(min=1, max=10_000_000, help="Number of images, sampled at random.")]
ForwardBatch = Annotated[int, typer.Option(min=1, max=65_536, help="Images per forward pass; does not change results.")]
ClassMap = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|order",
        help="Class of the data for each class of the model: JSON {CLASS: FOLDER} or CSV CLASS,FOLDER; or order, if both are "
        "in the same order. Default: by name.",
    ),
]


class ExecutorName(StrEnum):
    """Where candidates are measured."""

    serial = "serial"
    processes = "processes"
    ray = "ray"


class ListedKind(StrEnum):
    """What has names."""

    spaces = "spaces"
    experiments = "experiments"
    models = "models"
    conventions = "conventions"


Options = Mapping[str, Any]  # the given ones of a group, by name
NONE_GIVEN: Options = MappingProxyType({})

EXECUTION: Options = {
    "executor": Annotated[
        ExecutorName | None,
        typer.Option(help="Measure in this process, in several processes, or in a Ray cluster. Default: that of the experiment."),
    ],
    "workers": Annotated[
        int | None, typer.Option(min=1, max=1024, help="Number of worker processes. Default: number of cores / threads.")
    ],
    "address": Annotated[str | None, typer.Option(help="Ray cluster: auto or HOST:PORT. Default: one on this machine.")],
    "gpus_per_worker": Annotated[
        float | None, typer.Option(min=0, max=100, help="With Ray: fraction of a GPU for each worker, for example 0.5.")
    ],
}
# Each sets the field of `search.constraints` with its name.
STATIC_LIMITS: Options = {
    "max_params": Annotated[int | None, typer.Option(help="Largest number of parameters.", rich_help_panel="Limits")],
    "max_time_steps": Annotated[int | None, typer.Option(help="Largest T.", rich_help_panel="Limits")],
    "max_macs": Annotated[int | None, typer.Option(help="Largest number of dense MACs of a time step.", rich_help_panel="Limits")],
    "max_weights_kb": Annotated[float | None, typer.Option(help="Largest memory of the weights in kB.", rich_help_panel="Limits")],
    "max_activations_kb": Annotated[
        float | None, typer.Option(help="Largest memory of the activations in kB.", rich_help_panel="Limits")
    ],
    "max_fan_in": Annotated[int | None, typer.Option(help="Largest number of synapses of a neuron.", rich_help_panel="Limits")],
}
LIMITS: Options = {
    "max_energy_uj": Annotated[float | None, typer.Option(help="Largest energy per image in uJ.", rich_help_panel="Limits")],
    **STATIC_LIMITS,
    "min_accuracy": Annotated[float | None, typer.Option(help="Smallest accuracy on the search split.", rich_help_panel="Limits")],
}


def with_options(parameter: str, options: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a parameter of a command by several options, which the command receives as one dict.

    Args:
        parameter: Name of the parameter. Its argument has the options that were given on the command line, by name.
        options: Annotation of each option, which typer reads. Their default is None.

    Returns:
        A decorator of the command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for name, annotation in options.items()
        ]
        parameters: list[inspect.Parameter] = []
        for own in signature.parameters.values():
            parameters += added if own.name == parameter else [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)]

        @wraps(command)
        def with_one_argument(**arguments: Any) -> None:
            values = {name: arguments.pop(name) for name in options}
            command(**arguments, **{parameter: {name: value for name, value in values.items() if value is not None}})

        with_one_argument.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_one_argument.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_one_argument

    return decorate


def overrides_of(section: str, **values: object) -> list[str]:
    """Return overrides that set fields of a section of the experiment, without those that are None.

    Args:
        section: Name of the section, such as `search`.
        **values: Values of fields by name.
    """
    return [f"{section}.{name}={json.dumps(value)}" for name, value in values.items() if value is not None]


def execution_overrides(*, executor: ExecutorName | None = None, **settings: object) -> list[str]:
    """Return overrides of `execution`. A chosen executor resets the settings that were recorded for another one.

    Args:
        executor: Name of the executor; None to leave it and the settings that belong to it.
        **settings: Values of other fields of `execution`; those that are None are left out.
    """
    defaults: dict[str, object] = {"workers": None, "address": None, "gpus_per_worker": 0.0}
    reset = [f"execution.{name}={json.dumps(value)}" for name, value in defaults.items()] if executor else []
    return [*reset, *overrides_of("execution", executor=executor, **settings)]
