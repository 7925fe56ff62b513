"""A subnet as a folder that timm opens: `timm.create_model("local-dir:FOLDER", pretrained=True)` after `import autospike`.

model.safetensors   parameters and calibrated statistics, by the plain model's names
config.json         timm's: entry point, its arguments (the architecture), input size, normalisation of pixels
architecture.json   the architecture, in canonical form
report.json         what was measured, and from what (not of an imported model)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from autospike import files
from autospike.architecture import Architecture
from autospike.data.preparation import MEAN, STD
from autospike.models.registry import ENTRY_POINT, classifiers, first_conv


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
    with files.replacing(folder / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary, metadata={"format": "pt"})
    files.write_json(folder / "architecture.json", architecture.to_dict())
    files.write_json(folder / "config.json", _timm_config(architecture, classes, pixels))


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
