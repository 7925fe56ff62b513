"""`autospike import`: convert the checkpoint of a published network to an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from autospike.console import note
from autospike.errors import UserError
from autospike.export import InputSpec, write_model
from autospike.models.checkpoint_import import load_reference, read_checkpoint
from autospike.space.architecture import Architecture

# From the published CIFAR-10 recipes of Spikformer and of the Spike-driven Transformer.
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What cannot be read from a checkpoint; None for the published value.

    Attributes:
        num_heads: Number of attention heads.
        stride: Total stride of a one-stage network.
        time_steps: T.
        image_size: Height and width in pixels.
    """

    num_heads: int | None
    stride: int | None
    time_steps: int | None
    image_size: int | None


def import_checkpoint(checkpoint: Path, out: Path, options: ImportOptions) -> None:
    """Write a published network to a folder that timm opens.

    Args:
        checkpoint: A checkpoint of the published code.
        out: The folder to write to.
        options: What cannot be read from the checkpoint.

    Raises:
        UserError: The checkpoint cannot be read or is of no known network, or the folder holds something else.
    """
    existing = [path.name for path in out.iterdir()] if out.is_dir() else [out.name] if out.exists() else []
    if existing and ("architecture.json" not in existing or "report.json" in existing):
        raise UserError(f"{out}: holds something other than an imported model; choose another --out")
    state_dict = read_checkpoint(checkpoint)
    model, architecture = load_reference(
        state_dict, num_heads=options.num_heads, stride=options.stride, time_steps=options.time_steps
    )
    channels = int(next(iter(model.parameters())).shape[1])
    classes = tuple(str(i) for i in range(model.num_classes))
    write_model(out, model, architecture, classes=classes, input_spec=_input_spec(architecture, channels, options.image_size))
    params = sum(p.numel() for p in model.parameters())
    heads = sorted({b.num_heads for stage in architecture.stages for b in stage.blocks if b.num_heads})
    note(
        f"{out}: {architecture.family}, {architecture.depth} blocks, width {model.num_features}, {params:,} parameters, "
        f"T = {architecture.time_steps}, stride {architecture.stride}, heads {heads or 'of no effect'}; "
        f"open it with timm.create_model('local-dir:{out}')"
    )


def _input_spec(architecture: Architecture, channels: int, image_size: int | None) -> InputSpec:
    """Image size and normalisation of the published recipes: of ImageNet, of CIFAR, or none for event frames."""
    if channels != 3:
        return InputSpec(channels=channels, image_size=image_size or 128, mean=(0.0,) * channels, std=(1.0,) * channels)
    if architecture.stride <= 4:
        return InputSpec(channels=3, image_size=image_size or 32, mean=CIFAR_MEAN, std=CIFAR_STD)
    return InputSpec(channels=3, image_size=image_size or 224, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
