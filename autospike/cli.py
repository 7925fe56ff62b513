"""The command line: parses arguments and calls the functions of `autospike.commands`, which are imported on use."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from autospike.cli_options import (
    EXECUTION,
    LIMITS,
    NONE_GIVEN,
    STATIC_LIMITS,
    ClassMap,
    ExperimentPath,
    ForwardBatch,
    ListedKind,
    MeasuredData,
    MeasuredModel,
    MeasuredSplit,
    NewRunFolder,
    Options,
    Overrides,
    RunFolder,
    SampledImages,
    SplitChoice,
    StartFrom,
    WeightsChoice,
    execution_overrides,
    overrides_of,
    with_options,
)
from autospike.command_errors import exit_with
from autospike.errors import UserError
from autospike.process import available_cores, prepare_process, world_size
from autospike.space.limits import MAX_EMBED_DIM, MAX_LEVELS, MAX_TIME_STEPS

STARTED = time.monotonic()  # before torch is imported

DISTRIBUTED = ("train",)  # commands that torchrun may start

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def about(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version; with -v, all that `autospike doctor` prints.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="With --version: processor, instruction set and kernels too.")
    ] = False,
) -> None:
    """One-shot architecture search for spiking vision transformers: supernet, search, export, Pareto plots."""
    if verbose and not version:
        raise UserError("-v: goes with --version only; write autospike --version -v, or autospike doctor")
    if version:
        _print_version(verbose)
        raise typer.Exit
    if world_size() > 1 and context.invoked_subcommand not in DISTRIBUTED:
        raise UserError(
            f"autospike {context.invoked_subcommand}: {world_size()} ranks were started, but torchrun supports only "
            f"{', '.join(DISTRIBUTED)}; start it without torchrun (search has --executor)"
        )


@app.command()
def train(
    experiment: ExperimentPath,
    run: NewRunFolder,
    start_from: StartFrom = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Wall-clock time of both trainings, for example 30m: plans training.epochs."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train the supernet and the reference network."""
    from autospike.budget import parse_duration
    from autospike.commands.plan import fit_training
    from autospike.commands.train import train
    from autospike.config import Experiment
    from autospike.run_directory import RunDirectory

    chosen = [*(overrides or []), *_start_overrides(start_from)]
    if budget is not None:
        chosen += fit_training(Experiment.load(experiment, chosen), run, parse_duration(budget), begun=STARTED)
    train(RunDirectory.start(Experiment.load(experiment, chosen), run))


@app.command()
@with_options("execution", EXECUTION)
@with_options("limits", LIMITS)
def search(
    run: RunFolder,
    execution: Options = NONE_GIVEN,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout",
            "--budget",
            metavar="TIME",
            help="Largest duration, for example 30m: no generation is started that would exceed it.",
        ),
    ] = None,
    limits: Options = NONE_GIVEN,
    overrides: Overrides = None,
) -> None:
    """Search subnets of the trained supernet; every candidate is stored in RUN/archive.sqlite."""
    from autospike.budget import parse_duration
    from autospike.commands.search import search
    from autospike.run_directory import RunDirectory

    chosen = [*(overrides or []), *execution_overrides(**execution), *overrides_of("search.constraints", **limits)]
    timeout_s = parse_duration(timeout, option="--timeout") if timeout else None
    search(RunDirectory.resume(run, chosen), timeout_s=timeout_s)


@app.command()
@with_options("limits", LIMITS)
def export(
    run: RunFolder,
    pick: Annotated[
        str | None,
        typer.Option(
            help="Selection rule (cheapest-within-noise, knee, best-accuracy, least-energy, best-faeb) or the id of a candidate."
        ),
    ] = None,
    limits: Options = NONE_GIVEN,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: RUN/export.")] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAMES",
            help="timm, torch, pt2, onnx, stateful, spikingjelly or nir, separated by commas. timm is always written; each other "
            "format is a folder beside it, compared with the model before it is kept.",
        ),
    ] = "timm",
    variants: Annotated[
        str,
        typer.Option(
            "--variant",
            metavar="NAMES",
            help="Of the model in these formats: exact, fused (BatchNorm folded) or int8 (weights of 8 bits), separated by commas.",
        ),
    ] = "exact",
    exit_margin: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Confidence margin of early exit, as early-exit finds it. Default: no early exit."),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder to this repository on Hugging Face.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Write the selected subnet as a timm model and in other formats, and measure it on the test split."""
    from autospike.commands.export import export
    from autospike.exporting.formats import parse_formats, parse_variants
    from autospike.run_directory import RunDirectory

    chosen = overrides_of("export", pick=pick, exit_margin=exit_margin)
    resumed = RunDirectory.resume(run, [*(overrides or []), *chosen, *overrides_of("search.constraints", **limits)])
    export(resumed, out or resumed.export, parse_formats(formats), parse_variants(variants), push)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder that `autospike export` wrote.")],
    data: MeasuredData = None,
    batch_size: Annotated[int, typer.Option(min=1, max=65_536, help="Images per forward pass; does not change results.")] = 64,
) -> None:
    """Check an export: digests, architecture, logits, accuracy, energy, versions. Exit code 1 if anything differs."""
    from autospike.commands.verify import exit_code, verify

    raise typer.Exit(exit_code(verify(folder, data, batch_size=batch_size)))


@app.command()
def pack(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: RUN.zip.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Include the checkpoints.")] = False,
) -> None:
    """Write one archive of a run with everything that the appendix of a paper needs."""
    from autospike.commands.pack import pack
    from autospike.run_directory import RunDirectory

    pack(RunDirectory.resume(run), out, weights=weights)


@app.command()
@with_options("limits", LIMITS)
def retrain(
    run: RunFolder,
    pick: Annotated[
        list[str] | None,
        typer.Option(help="Selection rule or id, as for export. May be repeated for several subnets. Default: export.pick."),
    ] = None,
    limits: Options = NONE_GIVEN,
    random: Annotated[
        int, typer.Option(min=0, max=100, help="Number of random subnets of the same energy as the first one, for comparison.")
    ] = 0,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of trainings of each network. Default: retrain.seeds.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Epochs from scratch; fine-tuning takes a third. Default: training.epochs."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train selected subnets separately, from scratch and from inherited weights, and compare them on the test split."""
    from autospike.commands.retrain import retrain
    from autospike.run_directory import RunDirectory

    options = overrides_of("retrain", seeds=seeds, epochs=epochs)
    resumed = RunDirectory.resume(run, [*(overrides or []), *options, *overrides_of("search.constraints", **limits)])
    retrain(resumed, pick or [resumed.experiment.export.pick], random=random)


@app.command()
def ablate(
    path: Annotated[
        Path, typer.Argument(metavar="RUN|EXPERIMENT", help="Folder of a run; or, with --run, an experiment (YAML or a name).")
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            help="Of an experiment: folder of the trainings; created if missing, resumed if it belongs to the experiment."
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="File of an architecture (YAML, JSON), export, published network, or, of a search, selection rule or id. "
            "Default: export.pick."
        ),
    ] = None,
    gene: Annotated[
        list[str] | None,
        typer.Option(help="Name of a gene, for example tau or time_steps. May be repeated. Default: all with several values."),
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="Change a gene in all blocks at once.")] = False,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train each network alone from scratch; resumes.")] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="With --retrain: epochs of each. Default: training.epochs.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Change one gene of a network at a time: accuracy, energy and parameters, with inherited weights or trained alone."""
    from autospike.commands.ablate import AblationRequest, ablate, open_run_or_experiment

    opened = open_run_or_experiment(path, run, [*(overrides or []), *overrides_of("retrain", epochs=epochs)])
    chosen = architecture or opened.experiment.export.pick
    ablate(opened, AblationRequest(architecture=chosen, genes=gene or (), together=together, retrain=retrain))


@app.command()
def assess(
    run: RunFolder,
    candidates: Annotated[int, typer.Option(min=4, max=100_000, help="Number of networks that are trained alone.")] = 16,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Largest duration, for example 2h: no training is started that would exceed it."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Epochs of each network. Default: training.epochs.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train candidates alone, and tell how well their inherited accuracies rank them: rank correlations and regret."""
    from autospike.budget import parse_duration
    from autospike.commands.assess import assess
    from autospike.run_directory import RunDirectory

    resumed = RunDirectory.resume(run, [*(overrides or []), *overrides_of("retrain", epochs=epochs)])
    assess(resumed, candidates=candidates, budget_s=parse_duration(budget) if budget else None)


@app.command()
def rivals(run: RunFolder, overrides: Overrides = None) -> None:
    """Train networks without spikes on the images of a run, for comparison with its subnets."""
    from autospike.commands.rivals import rivals
    from autospike.run_directory import RunDirectory

    rivals(RunDirectory.resume(run, overrides or []))


@app.command()
def plot(
    run: RunFolder,
    energy: Annotated[
        str | None,
        typer.Option(
            "--energy", metavar="CONVENTION", help="Energy convention of the figures and tables. Default: that of the search."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: RUN/report.")] = None,
) -> None:
    """Write figures of the Pareto front, the search progress and the genes of the front to RUN/report."""
    from autospike.memory.allocator import gc_disabled

    with gc_disabled():  # which would traverse the imported modules again and again
        from autospike.execution.report_executor import report_executor
        from autospike.run_directory import RunDirectory

        searched = RunDirectory.resume(run)
        with report_executor(searched.existing_archive()) as executor:
            from autospike.commands.plot import plot
            from autospike.energy.conventions import convention_of

            plot(searched, convention_of(energy) if energy else None, out, executor=executor)


@app.command()
def serve(
    run: RunFolder,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port on 127.0.0.1; 0 for any free one.")] = 8008,
) -> None:
    """Show the report of a run in a browser while its search goes on; only this machine can open it."""
    from autospike.commands.serve import serve
    from autospike.run_directory import RunDirectory

    serve(RunDirectory.resume(run), port)


@app.command()
def energy(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL-OR-EXPORT", help="An exported or imported model, a run, or a published name."),
    ],
    data: MeasuredData = None,
    convention: Annotated[
        str | None,
        typer.Option(
            help="exact, rate, spikformer, binary-only, fused, integer or memory; with a cost table: spikformer/int8 "
            "(see docs/energy.md). Totals are given for all. Default: that of the run."
        ),
    ] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Also report accuracy and energy at every T.")] = False,
    time_steps: Annotated[
        int | None, typer.Option(min=1, max=MAX_TIME_STEPS, help="Largest T. Default: that of the model.")
    ] = None,
    split: MeasuredSplit = SplitChoice.search,
    images: SampledImages = 256,
    batch_size: ForwardBatch = 32,
    class_map: ClassMap = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: MODEL/energy, or energy/NAME.")] = None,
) -> None:
    """Count the operations of a model and estimate its energy by layer, convention and T."""
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
            class_map=class_map,
        )
    )


@app.command()
def evaluate(
    model: MeasuredModel,
    data: Annotated[str, typer.Option(help="A folder of images, event frames or CIFAR; an experiment; a run; or digits.")],
    time_steps: Annotated[
        list[int] | None,
        typer.Option(min=1, max=MAX_TIME_STEPS, help="A value of T; several are measured in one pass. Default: that of the model."),
    ] = None,
    split: MeasuredSplit = SplitChoice.test,
    images: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Number of images, sampled at random. Default: the whole split.")
    ] = None,
    batch_size: ForwardBatch = 32,
    convention: Annotated[str, typer.Option(help="Energy convention of the table; the file has all of them.")] = "exact",
    class_map: ClassMap = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: MODEL/evaluation.")] = None,
) -> None:
    """Measure top-1 and top-5 accuracy and energy by the model's own evaluation protocol; continues if it was stopped."""
    from autospike.commands.evaluate import EvaluationRequest, evaluate
    from autospike.energy.conventions import convention_of

    evaluate(
        EvaluationRequest(
            model=model,
            data=data,
            split=split.value,
            images=images,
            batch_size=batch_size,
            time_steps=time_steps or (),
            convention=convention_of(convention),
            out=out,
            class_map=class_map,
        )
    )


@app.command(name="early-exit")
def early_exit(
    model: MeasuredModel,
    data: MeasuredData = None,
    split: MeasuredSplit = SplitChoice.search,
    images: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Number of images, sampled at random. Default: the whole split.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Margin of the exact measurement. Default: the smallest one that costs no significant accuracy."
        ),
    ] = None,
    batch_size: ForwardBatch = 32,
    convention: Annotated[str, typer.Option(help="Energy convention, see docs/energy.md.")] = "exact",
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: MODEL/early_exit.")] = None,
) -> None:
    """Stop each image at its first confident time step: accuracy, mean T and energy against the confidence margin."""
    from autospike.commands.early_exit import EarlyExitRequest, early_exit
    from autospike.energy.conventions import convention_of

    early_exit(
        EarlyExitRequest(
            model=model,
            data=data,
            split=split.value,
            images=images,
            batch_size=batch_size,
            margin=margin,
            convention=convention_of(convention),
            out=out,
        )
    )


@app.command()
def firing(
    model: MeasuredModel,
    data: MeasuredData = None,
    split: MeasuredSplit = SplitChoice.search,
    images: SampledImages = 256,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: MODEL/firing.")] = None,
) -> None:
    """Show how a model fires: rates by layer and time step, silent and saturated neurons, attention maps."""
    from autospike.commands.firing import firing

    firing(model, data, split=split.value, images=images, out=out)


@app.command(name="run")
@with_options("execution", EXECUTION)
def run_all(
    experiment: ExperimentPath,
    run: NewRunFolder,
    start_from: StartFrom = None,
    execution: Options = NONE_GIVEN,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Wall-clock time of the whole run, for example 30m or 1h30m: plans epochs, search and fine-tuning."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, the expected time and memory, and do nothing.")
    ] = False,
    no_reference: Annotated[
        bool, typer.Option("--no-reference", help="Do not train the reference network, nor the networks without spikes.")
    ] = False,
    no_rivals: Annotated[bool, typer.Option("--no-rivals", help="Do not train the networks without spikes.")] = False,
    no_fine_tune: Annotated[
        bool, typer.Option("--no-fine-tune", help="Do not fine-tune the selected subnet before the export.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Train, search, fine-tune the selected subnet, export and plot; resume where an earlier call stopped."""
    from autospike.budget import Clock, parse_duration
    from autospike.commands.export import export
    from autospike.commands.fine_tune import fine_tune
    from autospike.commands.plan import estimate, finalists_at_once, fit, fit_fine_tuning
    from autospike.commands.plot import plot
    from autospike.commands.rivals import rivals
    from autospike.commands.search import search
    from autospike.commands.train import train
    from autospike.config import Experiment
    from autospike.execution.report_executor import report_executor
    from autospike.run_directory import RunDirectory

    where, cores = execution_overrides(**execution), available_cores()
    left_out = [
        *(["baseline=none"] if no_reference else []),
        *(["rivals.networks=[]"] if no_rivals or no_reference else []),
    ]
    budget_s = parse_duration(budget) if budget else None
    clock = Clock.read(run, budget_s)
    chosen = [*(overrides or []), *where, *left_out, *_start_overrides(start_from)]
    started = RunDirectory.start(Experiment.load(experiment, [*chosen, *(clock.overrides() if clock else [])]), run)
    if clock is None and budget_s is not None:
        clock = fit(started, budget_s, fine_tune=not no_fine_tune, begun=STARTED, cores=cores)
        started = RunDirectory.start(Experiment.load(experiment, [*chosen, *clock.overrides()]), run)
    elif not started.has_checkpoint:
        estimate(started, fine_tune=not no_fine_tune, cores=cores)
    if dry_run:
        return
    with started.locked("run"), clock.recording() if clock else nullcontext():
        started = train(started)
        if started.experiment.rivals.networks and not (clock and clock.plan.rival_epochs == 0):
            rivals(started)
        generations = search(started, timeout_s=clock.search_timeout_s() if clock else None)
        if clock:
            clock.finished_generations = generations
        if not no_fine_tune:
            if clock:
                started, at_once = fit_fine_tuning(started, clock, cores=cores)
            else:
                at_once = finalists_at_once(started, cores=cores)
            fine_tune(started, at_once=at_once)
        export(started, started.export)
        plot(started, executor=report_executor(started.existing_archive()))


@app.command(name="import")
def import_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Parameters of a published network (.safetensors or .pth).")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    num_heads: Annotated[int | None, typer.Option(min=1, max=MAX_EMBED_DIM, help="Default: as published.")] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, max=16, help="Downsampling factor of a network with one stage. Default: as published.")
    ] = None,
    time_steps: Annotated[
        int | None, typer.Option(min=1, max=MAX_TIME_STEPS, help="T. Default: as published: 4, for events 8 or 16.")
    ] = None,
    levels: Annotated[
        int | None, typer.Option(min=2, max=MAX_LEVELS, help="Largest output of the neurons of an E-SpikeFormer. Default: 4.")
    ] = None,
    integrates: Annotated[
        bool,
        typer.Option("--integrates", help="Neurons of an event form of E-SpikeFormer integrate over the frames."),
    ] = False,
    image_size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Height and width of the images. Default: as published.")
    ] = None,
    weights: Annotated[
        WeightsChoice | None,
        typer.Option(help="Average of the weights, or the raw ones. Default: the average if the checkpoint has one, as in timm."),
    ] = None,
) -> None:
    """Convert a checkpoint of a published network (docs/models.md) to a timm model."""
    from autospike.commands.import_checkpoint import ImportOptions, import_checkpoint

    options = ImportOptions(
        num_heads=num_heads,
        stride=stride,
        time_steps=time_steps,
        levels=levels,
        integrates=integrates,
        image_size=image_size,
        weights=weights.value if weights else None,
    )
    import_checkpoint(checkpoint, out, options)


@app.command()
def describe(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="ARCHITECTURE-OR-SPACE",
            help="A search space (YAML), an architecture (YAML or JSON), or the name of a search space or a published network.",
        ),
    ],
    image_size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Height and width in pixels. Default: as published, or 32.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Channels of the images. Default: as published, or 3.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Number of classes. Default: as published, or 10.")
    ] = None,
) -> None:
    """Print the size of a search space, and parameters, dense MACs and T of its smallest and largest subnet."""
    from autospike.commands.describe import describe, input_shape

    describe(path, input_shape(path, image_size, channels, classes))


@app.command()
@with_options("limits", STATIC_LIMITS)
def profile(
    path: Annotated[
        Path,
        typer.Argument(metavar="SPACE|EXPERIMENT|RUN", help="A search space or an experiment (YAML or the name of one), or a run."),
    ],
    limits: Options = NONE_GIVEN,
    image_size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Height and width in pixels. Default: of the experiment, or 32.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Channels of the images. Default: of the run, or 3.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Number of classes. Default: of the run, or 10.")
    ] = None,
) -> None:
    """Print the size of a space, costs of its smallest, middle and largest subnet, and the share of the space within limits."""
    from autospike.commands.profile import profile

    profile(path, limits, image_size=image_size, channels=channels, classes=classes)


@app.command(name="check-data")
def check_data(
    experiment: ExperimentPath,
    out: Annotated[
        Path, typer.Option(help="PNG file with samples and their classes. Default: data-check.png in the current folder.")
    ] = Path("data-check.png"),
    overrides: Overrides = None,
) -> None:
    """Read all data of an experiment once; print classes, sizes, modes, values and every problem."""
    from autospike.commands.check_data import check_data
    from autospike.config import Experiment

    check_data(Experiment.load(experiment, overrides or []), out)


@app.command(name="list")
def list_names(
    kind: Annotated[ListedKind, typer.Argument(metavar="KIND", help="spaces, experiments, models or conventions.")],
) -> None:
    """List the search spaces, experiments, published networks or energy conventions that have a name."""
    from autospike.commands.listing import list_names

    list_names(kind.value)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write experiment.yaml to; created if missing.")],
) -> None:
    """Write a commented experiment to start from."""
    from autospike.commands.init import init

    init(folder)


@app.command()
def doctor() -> None:
    """Print versions, processor and compiler, and which path each compiled kernel takes."""
    from autospike.commands.doctor import doctor

    doctor()


def _start_overrides(source: Path | None) -> list[str]:
    """Return overrides of `training.start_from`; the path is relative to the current folder."""
    return overrides_of("training", start_from=str(source.resolve())) if source else []


def _print_version(verbose: bool) -> None:
    from autospike import __version__

    if verbose:
        from autospike.commands.doctor import doctor

        doctor()
    else:
        print(f"autospike {__version__}")


def main() -> None:
    """Run the command line. Invalid input is reported in one line on standard error, with exit code 2."""
    prepare_process()
    exit_with(_run)


def _run() -> int | None:
    """Parse the arguments and run the command; return its exit code.

    Raises:
        UserError: An argument is not UTF-8.
    """
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="backslashreplace").decode()
            raise UserError(f"{shown}: not UTF-8, which names of files and values of options must be; rename the file") from None
    code: int | None = app(standalone_mode=False, prog_name="autospike")
    return code
