"""`autospike import`: a published checkpoint as an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from autospike.console import note
from autospike.errors import UserError
from autospike.export import Pixels, write_model
from autospike.models.checkpoint_import import load_reference, read_checkpoint
from autospike.space.architecture import Architecture

# The published CIFAR-10 recipes of Spikformer and of the Spike-driven Transformer.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class Untold:
    """What a checkpoint cannot tell; None is as published."""

    num_heads: int | None
    stride: int | None
    time_steps: int | None
    image_size: int | None


def import_checkpoint(checkpoint: Path, out: Path, untold: Untold) -> None:
    """Write a published network to a folder that timm opens.

    Raises:
        UserError: the checkpoint cannot be read, is of no network that is known, or the folder holds something else.
    """
    held = [path.name for path in out.iterdir()] if out.is_dir() else [out.name] if out.exists() else []
    if held and ("architecture.json" not in held or "report.json" in held):
        raise UserError(f"{out}: holds something else than an imported model; choose another --out")
    state = read_checkpoint(checkpoint)
    model, architecture = load_reference(state, num_heads=untold.num_heads, stride=untold.stride, time_steps=untold.time_steps)
    channels = int(next(iter(model.parameters())).shape[1])
    classes = tuple(str(i) for i in range(model.num_classes))
    write_model(out, model, architecture, classes=classes, pixels=_pixels(architecture, channels, untold.image_size))
    params = sum(p.numel() for p in model.parameters())
    heads = sorted({b.num_heads for stage in architecture.stages for b in stage.blocks if b.num_heads})
    note(
        f"{out}: {architecture.family}, {architecture.depth} blocks, width {model.num_features}, {params:,} parameters, "
        f"T = {architecture.time_steps}, stride {architecture.stride}, heads {heads or 'of no effect'}; "
        f"open it with timm.create_model('local-dir:{out}')"
    )


def _pixels(architecture: Architecture, channels: int, image_size: int | None) -> Pixels:
    """Size and normalisation that the published recipes use: ImageNet's, CIFAR's, or none of event frames."""
    if channels != 3:
        return Pixels(channels=channels, image_size=image_size or 128, mean=(0.0,) * channels, std=(1.0,) * channels)
    if architecture.stride <= 4:
        return Pixels(channels=3, image_size=image_size or 32, mean=CIFAR_MEAN, std=CIFAR_STD)
    return Pixels(channels=3, image_size=image_size or 224, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
