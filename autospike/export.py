"""A subnet as a folder that timm opens: `timm.create_model("local-dir:FOLDER", pretrained=True)` after `import autospike`.

model.safetensors   parameters and calibrated statistics, by the plain model's names
config.json         timm's: entry point, its arguments (the architecture), input size, normalisation of pixels
architecture.json   the architecture, in canonical form
report.json         what was measured, and from what (not of an imported model)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from autospike import files
from autospike.data.preparation import MEAN, STD
from autospike.errors import UserError
from autospike.models.contract import SpikingModel
from autospike.models.registry import ENTRY_POINT, build_model, classifiers, first_conv
from autospike.space.architecture import Architecture
from autospike.tensors import write_tensors


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
