"""`autospike energy`: where a model's energy goes, by layer, under every convention, and at every T."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from autospike import files
from autospike.commands.energy_report import Report
from autospike.config import load_experiment
from autospike.console import note, short, working
from autospike.data.batches import FixedBatches, Renormalised
from autospike.data.images import Images, SplitName
from autospike.data.source import open_images
from autospike.energy.conventions import DEFAULT, Convention
from autospike.errors import UserError
from autospike.evaluation.calibration import UncalibratedError, calibrate, require_calibrated
from autospike.evaluation.single import evaluate
from autospike.export import Exported, Pixels, read_model
from autospike.models.registry import build_model
from autospike.randomness import keyed
from autospike.space.published import PUBLISHED

CALIBRATION_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure, and on what. None is as usual: the run that an export came from, its convention, the model's T."""

    model: Path
    data: str | None
    split: SplitName
    images: int
    batch_size: int
    time_steps: int | None
    convention: Convention | None
    curve: bool
    out: Path | None


def energy(request: Request) -> None:
    """Print and write the energy of a model.

    Raises:
        UserError: there is no such model or data, they do not fit, or the folder to write to is a file.
    """
    folder, trained = _found(request.model)
    out = request.out or (folder / "energy" if trained else Path("energy") / request.model)
    _check_writable(out)
    exported = _calibrated_already(folder) if trained else _untrained(str(request.model))
    source = request.data or _data_of(folder)
    images = open_images(source, image_size=exported.pixels.image_size)
    knows_classes = trained and _same_classes(exported, images)
    _check(exported, images, request, knows_classes=knows_classes)
    with working(f"run {request.images} images through {request.model}"):
        if not trained:
            _calibrate(exported, images)
        batches = _batches(exported, images, request.split, request.images)
        found = evaluate(exported.model, batches, batch_size=request.batch_size, time_steps=request.time_steps)
    convention = request.convention or _searched_under(source)
    report = Report.of(found, convention, model=str(request.model), split=request.split, curve=request.curve)
    report.show()
    report.write(out, data=source, knows_classes=knows_classes)
    if not trained:
        note(
            f"untrained: weights are random, normalisation is calibrated on {CALIBRATION_IMAGES} images; only dense MACs mean "
            f"anything, {short(report.dense_macs)} a step"
        )


def _check_writable(out: Path) -> None:
    """Raises:
    UserError: a file stands where the folder should be.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{out}: {there} is a file; give a folder to write to: --out FOLDER")


def _searched_under(source: str) -> Convention:
    """The convention of the run that the images are of, if they are."""
    path = Path(source) / "experiment.yaml"
    return load_experiment(path).search.energy_convention if path.exists() else DEFAULT


def _found(model: Path) -> tuple[Path, bool]:
    """The folder of a model, and whether there is one: a run stands for its export, a published name for random weights."""
    folder = next((path for path in (model / "export", model) if (path / "architecture.json").exists()), model)
    if folder.is_dir() or str(model) not in PUBLISHED:
        if not folder.is_dir():
            raise UserError(f"{model}: no such folder, and no published network of this name; those are {', '.join(PUBLISHED)}")
        return folder, True
    return folder, False


def _calibrated_already(folder: Path) -> Exported:
    exported = read_model(folder)
    try:
        require_calibrated(exported.model)
    except UncalibratedError as error:
        raise UserError(f"{folder}: a model whose normalisation has seen no image cannot be measured ({error})") from None
    return exported


def _data_of(folder: Path) -> str:
    """The run that an export came from: the folder that it lies in, or the one that its report names."""
    report = files.read_json(folder / "report.json") if (folder / "report.json").exists() else None
    provenance = report.get("provenance") if isinstance(report, dict) else None
    named = provenance.get("run") if isinstance(provenance, dict) else None
    runs = [folder.parent, *([Path(named)] if isinstance(named, str) else [])]
    found = next((run for run in runs if (run / "experiment.yaml").exists()), None)
    if found is None:
        raise UserError(f"{folder}: the run that made it is not known; say what to run it on: --data FOLDER, EXPERIMENT or digits")
    return str(found)


def _untrained(name: str) -> Exported:
    published = PUBLISHED[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(published.architecture, num_classes=published.num_classes, in_chans=published.in_chans)
    pixels = Pixels.ours(published.in_chans, published.image_size, events=published.in_chans == 2)
    return Exported(model=model, pixels=pixels, classes=tuple(str(i) for i in range(published.num_classes)))


def _check(exported: Exported, images: Images, request: Request, *, knows_classes: bool) -> None:
    """Raises:
    UserError: the model does not take such images, or not so many steps of them, or knows other classes.
    """
    channels = exported.pixels.channels
    if (channels not in (1, 3)) if images.time_steps is None else (channels != images.channels):
        kind = "still images" if images.time_steps is None else f"event frames of {images.channels} channels"
        raise UserError(f"--data: {kind}, but {request.model} takes {channels} channels; give data that fit")
    images.check_time_steps(request.time_steps or exported.model.architecture.time_steps)
    if request.curve and not knows_classes:
        raise UserError(
            f"--curve: {request.model} is untrained, or its {len(exported.classes)} classes are not the {len(images.classes)} of "
            "the data, so there is no accuracy; leave --curve out, or give the data that it was trained for"
        )


def _same_classes(exported: Exported, images: Images) -> bool:
    """Names are compared where the model has any; an imported one numbers its classes."""
    numbered = exported.classes == tuple(str(i) for i in range(len(images.classes)))
    return numbered or exported.classes == images.classes


def _batches(exported: Exported, images: Images, split: SplitName, count: int) -> Renormalised:
    chosen = images.splits[split].drawn(count, keyed(0, "energy"))
    batches = FixedBatches(split=chosen, channels=exported.pixels.channels, image_size=exported.pixels.image_size)
    return Renormalised(batches=batches, mean=exported.pixels.mean, std=exported.pixels.std)


def _calibrate(exported: Exported, images: Images) -> None:
    batches = _batches(exported, images, "train", CALIBRATION_IMAGES)(CALIBRATION_IMAGES)
    calibrate(exported.model, (batch.images for batch in batches), time_steps=exported.model.architecture.time_steps)
