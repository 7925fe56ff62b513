"""A subnet as a folder that timm opens: `timm.create_model("local-dir:FOLDER", pretrained=True)` after `import autospike`.

model.safetensors   parameters and calibrated statistics, by the plain model's names
config.json         timm's: entry point, its arguments (the architecture), input size, normalisation of pixels
architecture.json   the architecture, in canonical form
report.json         what was measured, and from what
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from autospike import files
from autospike.architecture import Architecture
from autospike.data.batches import MEAN, STD
from autospike.models.registry import ENTRY_POINT


def write_model(
    folder: Path, model: nn.Module, architecture: Architecture, *, classes: tuple[str, ...], in_chans: int, image_size: int
) -> None:
    """Write everything but the report. `model` is calibrated."""
    with files.replacing(folder / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary, metadata={"format": "pt"})
    files.write_json(folder / "architecture.json", architecture.to_dict())
    files.write_json(folder / "config.json", _timm_config(architecture, classes=classes, in_chans=in_chans, image_size=image_size))


def _timm_config(architecture: Architecture, *, classes: tuple[str, ...], in_chans: int, image_size: int) -> dict[str, object]:
    return {
        "architecture": ENTRY_POINT,
        "num_classes": len(classes),
        "num_features": architecture.stages[-1].embed_dim,
        "label_names": list(classes),
        "model_args": {"architecture": architecture.to_dict(), "in_chans": in_chans},
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [in_chans, image_size, image_size],
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": [MEAN] * in_chans,
            "std": [STD] * in_chans,
            "first_conv": "stem.stages.0.conv",
            "classifier": "head",
        },
    }
