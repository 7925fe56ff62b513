"""A subnet as a folder that timm opens: `timm.create_model("local-dir:FOLDER", pretrained=True)` after `import autospike`.

model.safetensors   parameters and calibrated statistics, by the plain model's names
config.json         timm's: entry point, its arguments (the architecture), input size, normalisation of pixels
architecture.json   the architecture, in canonical form
report.json         what was measured, and from what (not of an imported model)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autospike import files
from autospike.counting.firing import FiringRates
from autospike.data.batches import FixedBatches
from autospike.data.preparation import MEAN, STD
from autospike.errors import UserError
from autospike.evaluation.single import evaluate
from autospike.measurement import Measurement
from autospike.models.contract import SpikingModel
from autospike.models.registry import ENTRY_POINT, build_model, classifiers, first_conv
from autospike.report.record import record
from autospike.run_directory import Run
from autospike.space.architecture import Architecture
from autospike.tensors import write_tensors
from autospike.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """What a model wants to see: images of a size, each channel normalised by a mean and a standard deviation."""

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def ours(cls, channels: int, image_size: int, *, events: bool = False) -> Pixels:
        """As this package trains: event counts are not normalised."""
        mean, std = (0.0, 1.0) if events else (MEAN, STD)
        return cls(channels=channels, image_size=image_size, mean=(mean,) * channels, std=(std,) * channels)


def write_model(folder: Path, model: nn.Module, architecture: Architecture, *, classes: tuple[str, ...], pixels: Pixels) -> None:
    """Write everything but the report. `model` is calibrated."""
    write_tensors(folder / "model.safetensors", model.state_dict(), metadata={"format": "pt"})
    files.write_json(folder / "architecture.json", architecture.to_dict())
    files.write_json(folder / "config.json", _timm_config(architecture, classes, pixels))


def write_run_model(setup: Setup, model: SpikingModel, folder: Path) -> None:
    """Write a calibrated model of a run; see `write_model`.

    Args:
        setup: The data that the model was trained on.
        model: The calibrated model.
        folder: Where to write.
    """
    images = setup.images
    pixels = Pixels.ours(images.channels, setup.experiment.data.image_size, events=images.time_steps is not None)
    write_model(folder, model, model.architecture, classes=images.classes, pixels=pixels)


def final_measurement(run: Run, model: SpikingModel, test: FixedBatches) -> dict[str, Any]:
    """Measure a calibrated model on the test split.

    Args:
        run: Batch size and energy convention.
        model: The calibrated model.
        test: The test split.

    Returns:
        The measurement as `report.record.record` writes it, with the firing rate of each neuron layer.
    """
    architecture, firing, started = model.architecture, FiringRates(), time.perf_counter()
    found = evaluate(model, test, batch_size=run.experiment.evaluation.batch_size, firing=firing)
    measured = Measurement(
        architecture=architecture,
        score=found.score(architecture.time_steps),
        params=sum(p.numel() for p in model.parameters()),
        seconds=time.perf_counter() - started,
    )
    return {**record(measured, run.experiment.search.energy_convention, "test"), "firing_rates": firing.rates()}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder's model, in eval mode, and what it wants to see and answers."""

    model: SpikingModel
    pixels: Pixels
    classes: tuple[str, ...]


def read_model(folder: Path) -> Exported:
    """What `write_model` wrote.

    Raises:
        UserError: the folder holds no exported or imported model, or a damaged one.
    """
    if not (folder / "architecture.json").exists():
        raise UserError(f"{folder}: no exported or imported model here (no architecture.json); see: autospike export, import")
    architecture = Architecture.from_dict(files.read_json(folder / "architecture.json"), source=str(folder))
    config = files.read_json(folder / "config.json")
    try:
        cfg, classes = config["pretrained_cfg"], tuple(config["label_names"])
        pixels = _pixels(cfg["input_size"], cfg["mean"], cfg["std"])
        model = build_model(architecture, num_classes=len(classes), in_chans=pixels.channels)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: the model is damaged ({type(error).__name__}: {reason[:200]}); export it again") from None
    return Exported(model=model.eval(), pixels=pixels, classes=classes)


def _pixels(size: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """Raises:
    ValueError: the numbers describe no images.
    """
    channels, height, width = size
    if not (isinstance(height, int) and height == width > 0 and len(mean) == len(std) == channels and all(std)):
        raise ValueError(f"input_size {size} with {len(mean)} means and {len(std)} deviations, none of them 0")
    return Pixels(channels=channels, image_size=height, mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def _timm_config(architecture: Architecture, classes: tuple[str, ...], pixels: Pixels) -> dict[str, object]:
    return {
        "architecture": ENTRY_POINT,
        "num_classes": len(classes),
        "num_features": architecture.stages[-1].embed_dim,
        "label_names": list(classes),
        "model_args": {"architecture": architecture.to_dict(), "in_chans": pixels.channels},
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [pixels.channels, pixels.image_size, pixels.image_size],
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": list(pixels.mean),
            "std": list(pixels.std),
            "first_conv": first_conv(architecture.family),
            "classifier": classifiers(architecture),
        },
    }
