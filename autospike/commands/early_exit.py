"""`autospike early-exit`: accuracy, mean T and energy of a model whose images stop at the first confident time step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from autospike import files
from autospike.console import note, table, working
from autospike.data.batches import FixedBatches
from autospike.data.partition import SplitName
from autospike.data.source import open_images
from autospike.energy.conventions import UJ_PER_MJ, Convention
from autospike.errors import UserError
from autospike.evaluation.class_map import class_indices, relabelled
from autospike.evaluation.early_exit import ExitMeasurement, StepPredictions, measure_exits, predict_steps, time_passes
from autospike.measured_model import find_model, log_test_split, other_classes, read_calibrated
from autospike.model_folder import ExportedModel
from autospike.randomness import keyed
from autospike.report import figures
from autospike.report.figures import ACCENT, CONTRAST, STYLE
from autospike.report.tables import to_csv
from autospike.statistics import PairedComparison, pack_mask


@dataclass(frozen=True, kw_only=True)
class EarlyExitRequest:
    """The options of the command.

    Attributes:
        model: An exported or imported folder, or a run, which stands for its export.
        data: A source of images; the run of the export if None.
        split: The split to measure on.
        images: Number of images, drawn at random; None for all.
        batch_size: Images in a forward pass.
        margin: The margin of the exact measurement; None for the smallest one whose accuracy is not significantly below that of all
            steps.
        convention: The energy convention.
        out: The folder to write to; None for MODEL/early_exit.
    """

    model: Path
    data: str | None
    split: SplitName
    images: int | None
    batch_size: int
    margin: float | None
    convention: Convention
    out: Path | None = None


def early_exit(request: EarlyExitRequest) -> None:
    """Compute the curve of a model over the margin, measure it at one margin, and write both.

    Args:
        request: The options.

    Raises:
        UserError: There is no such model or data, they do not fit, or a file cannot be written.
    """
    folder, trained = find_model(request.model)
    if not trained:
        raise UserError(f"{request.model}: a published name without weights; import a checkpoint first: autospike import")
    out = request.out or folder / "early_exit"
    files.check_writable(out, "--out")
    exported = read_calibrated(folder)
    if exported.model.architecture.decoder is not None:
        raise UserError(f"{request.model}: segments images or detects objects; early exit is for classifiers only")
    source = request.data or _run_of(folder)
    batches = _batches(request, exported, source)
    if request.split == "test":
        log_test_split(source, "early-exit", exported, len(batches))
    with working(f"run {len(batches)} images through {folder}"):
        predictions = predict_steps(exported.model, batches, batch_size=request.batch_size)
        margin = smallest_margin(predictions, request.convention) if request.margin is None else request.margin
        measured = measure_exits(exported.model, batches, margin=margin, batch_size=request.batch_size)
        times = time_passes(exported.model, batches, margin=margin, batch_size=request.batch_size)
    curve = predictions.curve(request.convention)
    figure = draw(curve, measured, request.convention, title=f"{folder}: early exit")
    with files.replacing_all(out) as temporary:
        files.write_text(temporary / "curve.csv", to_csv(curve))
        files.write_json(
            temporary / "early_exit.json",
            {"split": request.split, **measured.to_json(request.convention), "pass": asdict(times)},
        )
        figures.save(figure, temporary / "early_exit.png")
    _show(request, curve, measured, out)
    note(
        f"a forward pass of {times.images} images takes {times.all_steps_ms:.1f} ms for all steps and {times.early_exit_ms:.1f} ms "
        "with early exit on this device"
    )


def _run_of(folder: Path) -> str:
    """The run beside an export."""
    if not (folder.resolve().parent / "experiment.yaml").exists():
        raise UserError(f"{folder}: the run that made it is not beside it; give the data: --data FOLDER, EXPERIMENT or digits")
    return str(folder.resolve().parent)


def _batches(request: EarlyExitRequest, exported: ExportedModel, source: str) -> FixedBatches:
    spec = exported.input_spec
    images = open_images(source, image_size=spec.image_size)
    if (images.channels if images.time_steps is not None else spec.channels) != spec.channels:
        raise UserError(f"--data {source}: {images.channels} channels, but the model takes {spec.channels}; give data that fit")
    images.check_time_steps(exported.model.architecture.time_steps)
    labels = class_indices(exported.classes, images.classes, None)
    if labels is None:
        raise UserError(f"{request.model}: {other_classes(exported, images)}")
    split = images.splits[request.split]
    if request.images is not None:
        split = split.sample(min(request.images, len(split)), keyed(0, "early-exit"))
    return FixedBatches(
        split=relabelled(split, labels), channels=spec.channels, image_size=spec.image_size, preparation=spec.preparation
    )


def smallest_margin(predictions: StepPredictions, convention: Convention) -> float:
    """Return the smallest margin of the curve at which accuracy is not significantly below that of all steps (McNemar, 5 %).

    Args:
        predictions: Of a labelled split.
        convention: The energy convention.
    """
    images = predictions.correct.shape[1]
    full = pack_mask(predictions.correct[-1].tobytes())
    for margin in predictions.curve(convention)["margin"].tolist():
        mask = pack_mask(predictions.correct_at(margin).tobytes())
        if not PairedComparison.of(mask, full, images).significantly_below:
            return float(margin)
    return 1.0


def draw(curve: pd.DataFrame, measured: ExitMeasurement, convention: Convention, *, title: str) -> Figure:
    """Draw accuracy over mean T and over energy for all margins, and the measurement.

    Args:
        curve: As `StepPredictions.curve` returns it.
        measured: The measurement at one margin.
        convention: The energy convention.
        title: Title of the figure.

    Returns:
        The figure.
    """
    axes = {
        "mean time steps": (curve["mean_time_steps"], measured.mean_time_steps),
        f"energy per image (µJ, estimate, `{convention.name}`)": (
            curve["energy_mj_estimate"] * UJ_PER_MJ,
            measured.energy_mj(convention) * UJ_PER_MJ,
        ),
    }
    accuracy = curve["accuracy"].to_numpy()
    spread = np.maximum(0, [accuracy - curve["accuracy_low"], curve["accuracy_high"] - accuracy])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        for ax, (label, (values, at)) in zip(figure.subplots(1, 2, sharey=True), axes.items(), strict=True):
            ax.errorbar(values, accuracy, spread, fmt="o-", ms=3, color=ACCENT, ecolor=ACCENT, elinewidth=0.6, label="all margins")
            ax.plot(at, measured.accuracy, "D", color=CONTRAST, label=f"measured, margin {measured.margin:g}")
            ax.set(xlabel=label)
        figure.axes[0].set_ylabel("accuracy (95 % intervals)")
        figure.axes[1].legend(fontsize=8)
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _show(request: EarlyExitRequest, curve: pd.DataFrame, measured: ExitMeasurement, out: Path) -> None:
    rows = [
        [
            f"{row['margin']:.2f}",
            f"{row['accuracy']:.4f}",
            f"{row['mean_time_steps']:.2f}",
            f"{row['energy_mj_estimate'] * UJ_PER_MJ:.4g}",
        ]
        for row in curve.to_dict("records")[::2]
    ]
    caption = f"{len(measured.correct)} images of the {request.split} split; energy: mean of each step, an estimate, under "
    table(f"{request.model}: early exit", ["margin", "accuracy", "mean T", "uJ"], rows, f"{caption}`{request.convention.name}`")
    exits = ", ".join(f"{n} at T = {t}" for t, n in enumerate(measured.images_by_steps, 1))
    note(
        f"measured image by image at margin {measured.margin:g}: accuracy {measured.accuracy:.4f}, mean T "
        f"{measured.mean_time_steps:.2f} ({exits}), {measured.energy_mj(request.convention) * UJ_PER_MJ:.4g} uJ"
    )
    note(f"early-exit: see {out}")
