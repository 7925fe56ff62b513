"""`autospike energy`: the energy of a model by layer, under every convention, and at every T."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from autospike import files
from autospike.config import Experiment
from autospike.console import note, short, table, working
from autospike.data import overview
from autospike.data.batches import FixedBatches
from autospike.data.images import Images
from autospike.data.partition import SplitName
from autospike.data.source import open_images
from autospike.energy.break_even import BreakEven, break_even
from autospike.energy.conventions import DEFAULT, FP32, SRAM, Convention
from autospike.energy.counts import to_rows
from autospike.errors import UserError
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.class_map import class_indices, relabelled
from autospike.evaluation.single import StepwiseMeasurement, measure_stepwise
from autospike.measured_model import check_writable, find_model, log_test_split, other_classes, read_calibrated
from autospike.model_folder import ExportedModel, InputSpec
from autospike.models.registry import build_model
from autospike.randomness import keyed
from autospike.report import figures
from autospike.report.energy import bar_energies, by_convention, by_layer, by_time_steps, microjoules
from autospike.report.tables import WITHOUT, for_readers, to_csv
from autospike.space.published import PUBLISHED
from autospike.statistics import jackknife_interval, wilson_interval

# Images on which an untrained network is calibrated. Its accuracy has no meaning, so a small batch is enough.
CALIBRATION_IMAGES = 64

# Parts of a layer's path that are left out of the printed table to save space.
OMITTED_WORDS = {"stages", "mixer", "operator", "product", "linear", "conv"}


@dataclass(frozen=True, kw_only=True)
class EnergyRequest:
    """The options of the command.

    Attributes:
        model: An exported or imported folder, a run, or the name of a published network.
        data: A source of images; None for the run that made the export.
        split: The split to measure on.
        images: Number of images, drawn at random.
        batch_size: Images in a forward pass.
        time_steps: T; None for the T of the model.
        convention: The energy convention; None for that of the run.
        curve: Whether to write accuracy and energy at every T.
        out: The folder to write to; None for MODEL/energy, or energy/NAME for a published network.
        class_map: Which class of the data each class of the model is; see `evaluation.class_map.class_indices`.
    """

    model: Path
    data: str | None
    split: SplitName
    images: int
    batch_size: int
    time_steps: int | None
    convention: Convention | None
    curve: bool
    out: Path | None
    class_map: str | None = None


def energy(request: EnergyRequest) -> None:
    """Print and write the energy of a model.

    Args:
        request: The options.

    Raises:
        UserError: There is no such model or data, they do not fit, or the folder to write to is a file.
    """
    folder, trained = find_model(request.model)
    out = request.out or (folder / "energy" if trained else Path("energy") / request.model)
    check_writable(out)
    exported = read_calibrated(folder) if trained else _untrained(str(request.model))
    source = request.data or _data_of_export(folder)
    images = open_images(source, image_size=exported.input_spec.image_size)
    labels = class_indices(exported.classes, images.classes, request.class_map) if trained else None
    _check_data(exported, images, request, trained=trained, knows_classes=labels is not None)
    overview.show(images, exported.input_spec.image_size)
    if request.split == "test":
        log_test_split(source, "energy", exported, request.images)
    with working(f"run {request.images} images through {request.model}"):
        if not trained:
            _calibrate(exported, images)
        batches = _batches(exported, images, request.split, request.images, labels)
        measured = measure_stepwise(exported.model, batches, batch_size=request.batch_size, time_steps=request.time_steps)
    convention = request.convention or _convention_of_run(source)
    report = EnergyReport.of(measured, convention, model=str(request.model), split=request.split, curve=request.curve)
    report.show()
    report.write(out, data=source, knows_classes=labels is not None)
    if trained and labels is None:
        note(f"no accuracy: {other_classes(exported, images)}")
    if not trained:
        note(
            f"untrained: weights are random, normalisation is calibrated on {CALIBRATION_IMAGES} images; only the dense MACs are "
            f"meaningful, {short(report.dense_macs)} per time step"
        )


def _untrained(name: str) -> ExportedModel:
    """A published network with random weights, the same in every call."""
    published = PUBLISHED[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(published.architecture, num_classes=published.num_classes, in_chans=published.in_chans)
    spec = InputSpec.of_training(published.in_chans, published.image_size, events=published.in_chans == 2)
    return ExportedModel(model=model, input_spec=spec, classes=tuple(str(i) for i in range(published.num_classes)))


def _data_of_export(folder: Path) -> str:
    """The run that made an export: its parent folder, or the run that its report names."""
    report = files.read_json(folder / "report.json") if (folder / "report.json").exists() else None
    provenance = report.get("provenance") if isinstance(report, dict) else None
    named = provenance.get("run") if isinstance(provenance, dict) else None
    runs = [folder.parent, *([Path(named)] if isinstance(named, str) else [])]
    run = next((run for run in runs if (run / "experiment.yaml").exists()), None)
    if run is None:
        raise UserError(f"{folder}: the run that made it is unknown; give the data: --data FOLDER, EXPERIMENT or digits")
    return str(run)


def _check_data(exported: ExportedModel, images: Images, request: EnergyRequest, *, trained: bool, knows_classes: bool) -> None:
    """Raise a `UserError` if channels, time steps or classes of model and data do not fit."""
    channels = exported.input_spec.channels
    if (channels not in (1, 3)) if images.time_steps is None else (channels != images.channels):
        kind = "still images" if images.time_steps is None else f"event frames of {images.channels} channels"
        raise UserError(f"--data: {kind}, but {request.model} takes {channels} channels; give data that fit")
    images.check_time_steps(request.time_steps or exported.model.architecture.time_steps)
    if request.class_map is not None and not trained:
        raise UserError(f"--class-map: {request.model} is untrained and has no accuracy; omit it")
    if request.curve and not knows_classes:
        reason = f"has no accuracy: {other_classes(exported, images)}" if trained else "is untrained, so it has no accuracy"
        raise UserError(f"--curve: {request.model} {reason}; or omit --curve")


def _batches(
    exported: ExportedModel, images: Images, split: SplitName, count: int, labels: Sequence[int] | None = None
) -> FixedBatches:
    """Batches of a sample of a split. `labels` are the classes of the model that the classes of the data are; targets are these."""
    drawn, spec = images.splits[split].sample(count, keyed(0, "energy")), exported.input_spec
    drawn = drawn if labels is None else relabelled(drawn, labels)
    return FixedBatches(split=drawn, channels=spec.channels, image_size=spec.image_size, preparation=spec.preparation)


def _calibrate(exported: ExportedModel, images: Images) -> None:
    batches = _batches(exported, images, "train", CALIBRATION_IMAGES)(CALIBRATION_IMAGES)
    calibrate(exported.model, (batch.images for batch in batches), time_steps=exported.model.architecture.time_steps)


def _convention_of_run(source: str) -> Convention:
    """The convention of the run that the data belong to, or the default if they belong to none."""
    path = Path(source) / "experiment.yaml"
    return Experiment.load(path).search.energy_convention if path.exists() else DEFAULT


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """The tables of one measurement under one convention.

    Attributes:
        measured: The measurement, at every T.
        convention: The chosen convention.
        model: The model as the user named it.
        split: The split that was measured.
        layers: Energy by layer; see `report.energy.by_layer`.
        totals: Totals under every convention; see `report.energy.by_convention`.
        curve: Accuracy and energy at every T, if they were requested; see `report.energy.by_time_steps`.
        break_even: Firing rates at which a quantised network needs the same energy; None if no layer reads spikes.
    """

    measured: StepwiseMeasurement
    convention: Convention
    model: str
    split: str
    layers: pd.DataFrame
    totals: pd.DataFrame
    curve: pd.DataFrame | None
    break_even: BreakEven | None

    @classmethod
    def of(cls, measured: StepwiseMeasurement, convention: Convention, *, model: str, split: str, curve: bool) -> EnergyReport:
        """Compute the tables.

        Args:
            measured: The measurement, at every T.
            convention: The chosen convention.
            model: The model as the user named it.
            split: The split that was measured.
            curve: Whether to compute accuracy and energy at every T.

        Returns:
            The tables.
        """
        counts = measured.operations.counts
        by_steps = [measured.at(steps) for steps in range(1, measured.time_steps + 1)]
        return cls(
            measured=measured,
            convention=convention,
            model=model,
            split=split,
            layers=by_layer(counts, convention),
            totals=by_convention(counts, convention),
            curve=by_time_steps(by_steps, convention) if curve else None,
            break_even=break_even(counts, costs=FP32 if convention.costs == SRAM else convention.costs),
        )

    @property
    def dense_macs(self) -> int:
        """Dense multiply-accumulates of one time step, of the operations that the convention counts."""
        return sum(count.macs for count in self.measured.operations.counts if self.convention.includes(count))

    def show(self) -> None:
        """Print the tables."""
        operations = self.measured.operations
        by_count = zip(self.layers.to_dict("records"), operations.counts, strict=True)
        counted = [row for row, count in by_count if self.convention.includes(count)]
        table(
            f"{self.model}: one image, mean over {operations.images} of the {self.split} split",
            ["layer", "input", "rate", "dense/step", "ACs", "uJ", "share"],
            [_layer_cells(row) for row in counted],
            f"under `{self.convention.name}`: {self.convention.source}",
        )
        table(
            "Totals under every convention",
            ["convention", "MACs", "ACs", "uJ", "ratio"],
            [_total_cells(row) for row in self.totals.to_dict("records")],
            "not counted by any: " + "; ".join(f"{n} x {reason}" for reason, n in operations.free.items()),
        )
        note(_break_even_sentence(self.break_even))
        if self.curve is not None:
            rows = [_curve_cells(row) for row in self.curve.to_dict("records")]
            metric = self.measured.at(1).metric
            columns = ["T", f"{metric} (95 % interval)", "uJ/image"]
            table(f"{metric[0].upper()}{metric[1:]} and energy over T", columns, rows, "from one run: a network is causal in time")

    def write(self, out: Path, *, data: str, knows_classes: bool) -> None:
        """Write tables, figures and `energy.json`, and delete the curve of an earlier report if this one has none.

        Args:
            out: The folder to write to.
            data: The data as the user named them.
            knows_classes: Whether the model knows the classes of the data, so that its accuracy is meaningful.
        """
        name = self.convention.name
        curve_files = ("curve.csv", *(path.name for path in figures.paths(Path("curve.png"))))
        with files.replacing_all(out, without=curve_files if self.curve is None else ()) as folder:
            files.write_text(folder / "layers.csv", to_csv(self.layers))
            files.write_text(folder / "totals.csv", to_csv(self.totals))
            files.write_json(folder / "energy.json", self._json(data, knows_classes))
            title = f"{_data_title(data)}: energy of {self.model} by layer"
            figures.save(figures.energy_by_layer(bar_energies(self.layers), title=title, convention=name), folder / "layers.png")
            if self.curve is not None:
                files.write_text(folder / "curve.csv", to_csv(self.curve))
                title = f"{_data_title(data)}: {self.model} at every T"
                curve = figures.energy_curve(self.curve, title=title, convention=name, metric=self.measured.at(1).metric)
                figures.save(curve, folder / "curve.png")
        note(f"energy: see {out}")

    def _json(self, data: str, knows_classes: bool) -> dict[str, Any]:
        operations, steps = self.measured.operations, self.measured.time_steps
        return {
            "model": self.model,
            "data": data,
            "split": self.split,
            "images": operations.images,
            "time_steps": steps,
            "accuracy": self.measured.at(steps).accuracy if knows_classes else None,
            "convention": self.convention.name,
            "pj_per_mac": self.convention.costs.pj_per_mac,
            "pj_per_ac": self.convention.costs.pj_per_ac,
            "totals": for_readers(self.totals).to_dict("records"),
            "break_even": asdict(self.break_even) if self.break_even else None,
            "free": dict(operations.free),
            "unknown": dict(operations.unknown),
            "layers": to_rows(operations.counts),
        }


def _data_title(source: str) -> str:
    """Name of the data in titles: that of an experiment or a run, otherwise the last part of the path."""
    path = Path(source)
    found = next((p for p in (path / "experiment.yaml", path) if p.is_file() and p.suffix in (".yaml", ".yml")), None)
    return Experiment.load(found).data.title if found else path.name


def _layer_cells(row: Any) -> list[str]:
    name = ".".join(word for word in row["layer"].split(".") if word not in OMITTED_WORDS)
    rate = "real" if row["input"] == "real" else f"{row['rate']:.4f}"
    energy_cell, macs, acs = microjoules(row["energy_mj"], digits=3), short(row["dense_macs"]), short(row["acs"])
    return [name, row["input"], rate, macs, acs, energy_cell, f"{row['share']:.1%}"]


def _total_cells(row: Any) -> list[str]:
    ratio = f"{row['ratio']:.3f}" if row["ratio"] is not None else ""
    return [row["convention"], short(row["macs"]), short(row["acs"]), microjoules(row["energy_mj"], digits=4), ratio]


def _curve_cells(row: Any) -> list[str]:
    if WITHOUT in row:
        low, high = jackknife_interval(row["accuracy"], row[WITHOUT])
    else:
        low, high = wilson_interval(round(row["accuracy"] * row["images"]), row["images"])
    accuracy = f"{row['accuracy']:.4f} ({low:.3f} to {high:.3f})"
    return [str(row["time_steps"]), accuracy, microjoules(row["energy_mj"], digits=4)]


def _break_even_sentence(found: BreakEven | None) -> str:
    if found is None:
        return "no layer reads spikes, so there is no break-even firing rate"
    return (
        f"firing rate {found.measured_rate:.1%}, mean over dense operations; a quantised network of {found.bits} bits (as many "
        f"levels as T = {found.time_steps} steps) needs the same energy at {found.computing_rate:.0%} for computing alone, at "
        f"{found.movement_rate:.1%} with data movement (arXiv 2409.08290, reduced: docs/energy.md)"
    )
