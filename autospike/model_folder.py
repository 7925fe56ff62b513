"""Read and write a model as a folder that timm opens, and measure it on the test split.

After `import autospike`, `timm.create_model("local-dir:FOLDER", pretrained=True)` builds the model with its weights. The folder has

    model.safetensors   parameters and calibrated statistics, by their names in the model
    config.json         timm's configuration: entry point and its arguments (the architecture), input size, normalisation
    architecture.json   the architecture, in canonical form
    report.json         the final measurement, its provenance, and the digests of all files (not of an imported model)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autospike import files
from autospike.counting.firing import FiringRates
from autospike.data.batches import FixedBatches
from autospike.data.preparation import DEFAULT_PREPARATION, ImagePreparation
from autospike.errors import UserError
from autospike.evaluation.early_exit import measure_exits
from autospike.evaluation.single import measure_stepwise
from autospike.models.contract import SpikingModel
from autospike.models.registry import ENTRY_POINT, build_model, classifiers, first_conv
from autospike.report.record import record, record_point
from autospike.run_directory import RunDirectory
from autospike.space.architecture import NEVER, Architecture
from autospike.tensors import write_tensors
from autospike.training.setup import Setup

# Names that timm gives to the interpolations of PIL.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The images that a model expects.

    Attributes:
        channels: Number of channels.
        image_size: Height and width in pixels.
        mean: Subtracted from each channel.
        std: Divides each channel.
        crop_pct: Side of the central crop, divided by the shorter side of the resized image; as in timm.
        interpolation: timm's name of the interpolation by which images are resized.
    """

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, channels: int, image_size: int, preparation: ImagePreparation) -> InputSpec:
        """Return the input of a network for which images are prepared in a given way.

        Args:
            channels: Number of channels.
            image_size: Height and width in pixels.
            preparation: How images are prepared.
        """
        mean, std = (values * channels if len(values) == 1 else values for values in (preparation.mean, preparation.std))
        crop_pct, interpolation = preparation.crop_pct, preparation.interpolation
        return cls(channels=channels, image_size=image_size, mean=mean, std=std, crop_pct=crop_pct, interpolation=interpolation)

    @classmethod
    def of_training(
        cls, channels: int, image_size: int, *, events: bool = False, preparation: ImagePreparation = DEFAULT_PREPARATION
    ) -> InputSpec:
        """Return the input of a network that this package trains; event counts are not normalised.

        Args:
            channels: Number of channels.
            image_size: Height and width in pixels.
            events: Whether the input is event frames.
            preparation: How still images are prepared.
        """
        return cls.of(channels, image_size, replace(preparation, mean=(0.0,), std=(1.0,)) if events else preparation)

    @property
    def description(self) -> str:
        """Size, crop, interpolation, mean and standard deviation in one line."""
        size = math.floor(self.image_size / self.crop_pct)  # as timm computes it
        crop = f"cropped from {size}" if size != self.image_size else "not cropped"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{self.image_size} pixels, {crop}, {self.interpolation}, mean {mean}, std {std}"

    @property
    def preparation(self) -> ImagePreparation:
        """How still images are prepared for the model."""
        return ImagePreparation(crop_pct=self.crop_pct, interpolation=self.interpolation, mean=self.mean, std=self.std)


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model that was read from a folder.

    Attributes:
        model: The model, in eval mode.
        input_spec: The images that it expects.
        classes: Names of the classes, in the order of the logits.
    """

    model: SpikingModel
    input_spec: InputSpec
    classes: tuple[str, ...]


# Files of an exported model, besides `report.json`.
MODEL_FILES = ("model.safetensors", "config.json", "architecture.json")


def write_model(
    folder: Path, model: nn.Module, architecture: Architecture, *, classes: tuple[str, ...], input_spec: InputSpec
) -> None:
    """Write a model without a report.

    Args:
        folder: The folder to write to.
        model: The calibrated model.
        architecture: Its architecture.
        classes: Names of the classes, in the order of the logits.
        input_spec: The images that it expects.
    """
    write_tensors(folder / "model.safetensors", model.state_dict(), metadata={"format": "pt"})
    files.write_json(folder / "architecture.json", architecture.to_dict())
    config = _timm_config(architecture, classes, input_spec)
    exit_margin = getattr(model, "exit_margin", NEVER)
    if not exit_margin == architecture.exit_margin == NEVER:
        config["model_args"]["exit_margin"] = exit_margin
    files.write_json(folder / "config.json", config)


def write_run_model(setup: Setup, model: SpikingModel, folder: Path) -> None:
    """Write a model of a run, and delete the report of an older one; see `write_model`.

    Args:
        setup: The data that the model was trained on.
        model: The calibrated model.
        folder: The folder to write to.
    """
    (folder / "report.json").unlink(missing_ok=True)  # written last, so a folder with a report is complete
    images = setup.images
    events, size = images.time_steps is not None, setup.experiment.data.image_size
    spec = InputSpec.of_training(images.channels, size, events=events, preparation=setup.preparation)
    write_model(folder, model, model.architecture, classes=images.classes, input_spec=spec)


def read_model(folder: Path) -> ExportedModel:
    """Read a folder that `write_model` wrote.

    Args:
        folder: The folder.

    Returns:
        The model.

    Raises:
        UserError: The folder holds no exported or imported model, or a damaged one.
    """
    if not (folder / "architecture.json").exists():
        raise UserError(f"{folder}: no exported or imported model here (no architecture.json); see: autospike export, import")
    architecture = Architecture.from_dict(files.read_json(folder / "architecture.json"), source=str(folder))
    config = files.read_json(folder / "config.json")
    try:
        cfg, classes = config["pretrained_cfg"], tuple(config["label_names"])
        spec = _input_spec(cfg)
        model = build_model(architecture, num_classes=len(classes), in_chans=spec.channels)
        tensors = load_file(folder / "model.safetensors")
        broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
        if broken is not None:
            raise ValueError(f"{broken} has values that are NaN or infinite")
        model.load_state_dict(tensors)
        model.exit_margin = float(config.get("model_args", {}).get("exit_margin", architecture.exit_margin))
    except (AttributeError, KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: the model is damaged ({type(error).__name__}: {reason[:200]}); export it again") from None
    return ExportedModel(model=model.eval(), input_spec=spec, classes=classes)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the report of a model with the digests of all files of its folder. It is written last.

    Args:
        folder: The folder of the model.
        report: Values for JSON.

    Raises:
        UserError: The file cannot be written.
    """
    digests = {name: files.sha256(folder / name) for name in MODEL_FILES}
    files.write_json(folder / "report.json", {**report, "files": {**digests, "report.json": _report_digest(report)}})


def complete_report(folder: Path, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the report of a model if its folder is complete and was written for the same purpose.

    Args:
        folder: The folder of the model.
        expected: Entries that the report must have.

    Returns:
        The report; None if it differs in one of them, or if a file is missing or differs from what was written.
    """
    try:
        report = files.read_json(folder / "report.json")
        digests = {name: files.sha256(folder / name) for name in MODEL_FILES}
    except (UserError, OSError):
        return None
    if not isinstance(report, dict) or any(report.get(name) != value for name, value in expected.items()):
        return None
    content = {name: value for name, value in report.items() if name != "files"}
    return report if report.get("files") == {**digests, "report.json": _report_digest(content)} else None


def _report_digest(report: Mapping[str, Any]) -> str:
    """Digest of a report without its list of files."""
    return hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()


def final_measurement(run: RunDirectory, model: SpikingModel, test: FixedBatches) -> dict[str, Any]:
    """Measure a calibrated model on the test split.

    Args:
        run: Batch size and energy convention.
        model: The calibrated model.
        test: The test split.

    Returns:
        The measurement as `report.record.record` writes it, with the firing rate of each neuron layer, and with the measurements at
        every T under `by_time_steps`.
    """
    firing, convention = FiringRates(), run.experiment.search.energy_convention
    measured = measure_stepwise(model, test, batch_size=run.experiment.evaluation.batch_size, firing=firing)
    by_time_steps = [measured.at(steps) for steps in range(1, model.architecture.time_steps + 1)]
    return {
        **record(by_time_steps[-1], convention, "test"),
        "by_time_steps": [record_point(measurement, convention, "test") for measurement in by_time_steps],
        "firing_rates": firing.rates(),
        **_early_exit(run, model, test),
    }


def _early_exit(run: RunDirectory, model: SpikingModel, test: FixedBatches) -> dict[str, Any]:
    """The measurement with early exit, if the model has a margin."""
    if model.exit_margin == NEVER:
        return {}
    batch_size, convention = run.experiment.evaluation.batch_size, run.experiment.search.energy_convention
    return {"early_exit": measure_exits(model, test, margin=model.exit_margin, batch_size=batch_size).to_json(convention)}


def _input_spec(cfg: Mapping[str, Any]) -> InputSpec:
    """Parse timm's `input_size`, `mean`, `std`, `crop_pct` and `interpolation`.

    Raises:
        KeyError: One of the first three is missing.
        ValueError: They describe no square images.
    """
    size, mean, std = cfg["input_size"], cfg["mean"], cfg["std"]
    crop_pct, interpolation = cfg.get("crop_pct", 1.0), cfg.get("interpolation", "bilinear")
    channels, height, width = size
    if not (isinstance(height, int) and height == width > 0 and len(mean) == len(std) == channels and all(std)):
        raise ValueError(f"input_size {size} with {len(mean)} means and {len(std)} deviations, none of them 0")
    if not 0 < float(crop_pct) <= 1:
        raise ValueError(f"crop_pct {crop_pct}, which must be above 0 and at most 1")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation {interpolation!r}, which must be one of {', '.join(INTERPOLATIONS)}")
    return InputSpec(
        channels=channels,
        image_size=height,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        crop_pct=float(crop_pct),
        interpolation=interpolation,
    )


def _timm_config(architecture: Architecture, classes: tuple[str, ...], spec: InputSpec) -> dict[str, Any]:
    """The content of `config.json`; its keys are those of timm."""
    return {
        "architecture": ENTRY_POINT,
        "num_classes": len(classes),
        "num_features": architecture.stages[-1].embed_dim,
        "label_names": list(classes),
        "model_args": {"architecture": architecture.to_dict(), "in_chans": spec.channels},
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [spec.channels, spec.image_size, spec.image_size],
            "crop_pct": spec.crop_pct,
            "interpolation": spec.interpolation,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "first_conv": first_conv(architecture),
            "classifier": classifiers(architecture),
        },
    }
