"""The command line. Each command reads its arguments here and is told in `autospike.commands`, imported when it is called."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from autospike.errors import Interrupted, UserError
from autospike.process import prepare_process, world_size

INTERRUPTED = 130  # what the parser makes of Ctrl-C
DISTRIBUTED = ("train",)  # what several ranks can do together

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")

ExperimentPath = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT", help="The experiment's YAML file, as experiments/digits.yaml.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that `autospike train` began.")]
NewRunFolder = Annotated[
    Path, typer.Option("--run", help="Folder of the run: made if absent, gone on with if it holds this experiment.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field of the experiment, as training.epochs=20. May be repeated."),
]


class Split(StrEnum):
    """Of a source of images."""

    train = "train"
    search = "search"
    test = "test"


StartFrom = Annotated[
    Path | None,
    typer.Option("--from", help="Start from these weights: a published checkpoint, an exported or imported folder, or a run."),
]


MinAccuracy = Annotated[float | None, typer.Option(help="Pick among candidates of at least this accuracy on the search split.")]


class ExecutorName(StrEnum):
    """Where candidates are measured."""

    serial = "serial"
    processes = "processes"
    ray = "ray"


ExecutorChoice = Annotated[
    ExecutorName | None,
    typer.Option(
        "--executor", help="Measure in this process, in processes of this machine, or under Ray. Default: the experiment's."
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="How many processes. Default: as many as there are cores for.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, as auto or HOST:PORT. Default: one on this machine, for the length of the command.")
]
GpusPerWorker = Annotated[float | None, typer.Option(min=0, help="Under Ray: share of a GPU for each worker, as 0.5.")]


def _overriding(section: str, **chosen: object) -> list[str]:
    """Options as overrides of fields of the experiment."""
    return [f"{section}.{name}={json.dumps(value)}" for name, value in chosen.items() if value is not None]


def _executing(executor: ExecutorName | None, **settings: object) -> list[str]:
    """Another executor forgets the settings of the one before."""
    usual: dict[str, object] = {"workers": None, "address": None, "gpus_per_worker": 0.0}
    forgotten = [f"execution.{name}={json.dumps(value)}" for name, value in usual.items()] if executor else []
    return [*forgotten, *_overriding("execution", executor=executor, **settings)]


def _starting(source: Path | None) -> list[str]:
    return _overriding("training", start_from=str(source.resolve())) if source else []


@app.callback()
def about(context: typer.Context) -> None:
    """Search spiking vision transformers for accuracy and energy: supernet, evolution, export, Pareto plots."""
    if world_size() > 1 and context.invoked_subcommand not in DISTRIBUTED:
        raise UserError(
            f"autospike {context.invoked_subcommand}: {world_size()} ranks were started, and only {', '.join(DISTRIBUTED)} is for "
            "torchrun; start it without (a search has --executor)"
        )


@app.command()
def train(
    experiment: ExperimentPath,
    run: NewRunFolder,
    start_from: StartFrom = None,
    overrides: Overrides = None,
) -> None:
    """Train the supernet, and the hand-made architecture to compare with."""
    from autospike.commands.train import train
    from autospike.run_directory import Run

    train(Run.start(experiment, run, [*(overrides or []), *_starting(start_from)]))


@app.command()
def search(
    run: RunFolder,
    executor: ExecutorChoice = None,
    workers: Workers = None,
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    overrides: Overrides = None,
) -> None:
    """Search the trained supernet for subnets; every candidate goes to RUN/archive.sqlite."""
    from autospike.commands.search import search
    from autospike.run_directory import Run

    where = _executing(executor, workers=workers, address=address, gpus_per_worker=gpus_per_worker)
    search(Run.resume(run, [*(overrides or []), *where]))


@app.command()
def export(
    run: RunFolder,
    pick: Annotated[
        str | None,
        typer.Option(
            help="knee, best-accuracy, least-energy, best-faeb, or a candidate's id. Default: the experiment's export.pick."
        ),
    ] = None,
    min_accuracy: MinAccuracy = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: RUN/export.")] = None,
    overrides: Overrides = None,
) -> None:
    """Write the picked subnet as a timm model, measured on the test split."""
    from autospike.commands.export import export
    from autospike.run_directory import Run

    resumed = Run.resume(run, [*(overrides or []), *_overriding("export", pick=pick, min_accuracy=min_accuracy)])
    export(resumed, out or resumed.export)


@app.command()
def retrain(
    run: RunFolder,
    pick: Annotated[
        list[str] | None,
        typer.Option(help="As of export. May be repeated, for several subnets. Default: the experiment's export.pick."),
    ] = None,
    min_accuracy: MinAccuracy = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many trainings of each network. Default: the experiment's.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="From scratch; a third as many from inherited weights. Default: the training's.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train picked subnets alone, from scratch and from inherited weights, and compare them on the test split."""
    from autospike.commands.retrain import retrain
    from autospike.run_directory import Run

    options = [*_overriding("export", min_accuracy=min_accuracy), *_overriding("retrain", seeds=seeds, epochs=epochs)]
    resumed = Run.resume(run, [*(overrides or []), *options])
    retrain(resumed, pick or [resumed.experiment.export.pick])


@app.command()
def plot(
    run: RunFolder,
    energy: Annotated[
        str | None,
        typer.Option(
            "--energy", metavar="CONVENTION", help="Score the archive again under this convention. Default: the search's."
        ),
    ] = None,
) -> None:
    """Draw the Pareto front, the course of the search and the genes of the front to RUN/report."""
    from autospike.commands.plot import plot
    from autospike.energy.conventions import convention_of
    from autospike.run_directory import Run

    plot(Run.resume(run), convention_of(energy) if energy else None)


@app.command()
def energy(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL-OR-EXPORT", help="An exported or imported folder, a run, or a published name.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of images, event frames or CIFAR; an experiment or a run; digits. Default: the run that made the export."
        ),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            help="exact, rate, spikformer, binary-only, fused or memory; with a cost, spikformer/int8 (see docs/energy.md). Totals "
            "are under all. Default: the run's."
        ),
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also accuracy and energy at every T, of the same run.")] = False,
    time_steps: Annotated[int | None, typer.Option(min=1, help="T, up to which to run. Default: the model's.")] = None,
    split: Annotated[Split, typer.Option(help="Which of the data's splits.")] = Split.search,
    images: Annotated[int, typer.Option(min=1, help="How many of its images, drawn at random.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass; changes speed and memory alone.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: MODEL/energy, or energy/NAME.")] = None,
) -> None:
    """Count what a model does, and where its energy goes: by layer, under every convention, at every T."""
    from autospike.commands.energy import EnergyRequest, energy
    from autospike.energy.conventions import convention_of

    energy(
        EnergyRequest(
            model=model,
            data=data,
            split=split.value,
            images=images,
            batch_size=batch_size,
            time_steps=time_steps,
            convention=convention_of(convention) if convention else None,
            curve=curve,
            out=out,
        )
    )


@app.command(name="run")
def run_all(
    experiment: ExperimentPath,
    run: NewRunFolder,
    start_from: StartFrom = None,
    executor: ExecutorChoice = None,
    workers: Workers = None,
    address: Address = None,
    gpus_per_worker: GpusPerWorker = None,
    overrides: Overrides = None,
) -> None:
    """Train, search, export and plot; go on where an earlier call stopped."""
    from autospike.commands.export import export
    from autospike.commands.plot import plot
    from autospike.commands.search import search
    from autospike.commands.train import train
    from autospike.run_directory import Run

    where = _executing(executor, workers=workers, address=address, gpus_per_worker=gpus_per_worker)
    started = Run.start(experiment, run, [*(overrides or []), *where, *_starting(start_from)])
    train(started)
    search(started)
    plot(started)
    export(started, started.export)


@app.command(name="import")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A published network's weights (.safetensors or .pth).")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    num_heads: Annotated[int | None, typer.Option(min=1, help="Default: as published.")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="By how much a one-stage network shrinks an image. Default: as published.")
    ] = None,
    time_steps: Annotated[int | None, typer.Option(min=1, help="T. Default: as published, 4 or for events 8 or 16.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Height and width it is for. Default: as published.")] = None,
) -> None:
    """Make an exported model of a checkpoint of Spikformer, Spike-driven Transformer, Meta-SpikeFormer or QKFormer."""
    from autospike.commands.import_checkpoint import ImportOptions, import_checkpoint

    options = ImportOptions(num_heads=num_heads, stride=stride, time_steps=time_steps, image_size=image_size)
    import_checkpoint(checkpoint, out, options)


@app.command()
def describe(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="ARCHITECTURE-OR-SPACE",
            help="A search space (YAML), an architecture (YAML or JSON), or a published name, as meta_spikeformer_15m.",
        ),
    ],
    image_size: Annotated[int | None, typer.Option(min=1, help="Height and width in pixels. Default: as published, or 32.")] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Channels of the images. Default: as published, or 3.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes. Default: as published, or 10.")] = None,
) -> None:
    """Size of a search space, and parameters, dense MACs and T of its smallest and largest subnet."""
    from autospike.commands.describe import InputShape, describe

    describe(path, InputShape.of(path, image_size, channels, classes))


def main() -> None:
    """Entry point: bad input is one line on standard error and exit code 2."""
    prepare_process()
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except Interrupted as interruption:
        _fail(str(interruption), interruption.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of the command line parser's own
            raise
        _fail(f"{error.format_message()} See: autospike --help")
    if code == INTERRUPTED:
        _fail("interrupted; run the same command again to go on", code)
    sys.exit(code or 0)


def _fail(message: str, code: int = 2) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print("[bold red]error:[/] " + escape(" ".join(message.split())))
    sys.exit(code)
