"""`autospike import`: convert the checkpoint of a published network to an exported model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.data import ImageNetInfo

from autospike.console import note
from autospike.errors import UserError
from autospike.model_folder import InputSpec, write_model
from autospike.models.checkpoint_import import load_reference
from autospike.models.checkpoint_protocol import evaluation_protocol
from autospike.models.checkpoint_reader import Weights, open_checkpoint
from autospike.space.architecture import Architecture

# Published accuracies of QKFormer's ImageNet checkpoints minus those of a corrected evaluation, in points: 78.732 - 74.196 (10-384)
# and 84.248 - 78.698 (10-768). A user of the published code measured them (github.com/zhouchenlin2096/QKFormer/issues/14).
QKFORMER_NOTE = (
    "expect 4.5 to 5.5 points less than published on ImageNet: QKFormer's code leaks membrane potentials from one image of a batch "
    "to the next, which autospike does not reproduce (docs/models.md)"
)
FRAMES_ALONE_NOTE = "every frame is computed alone, as published; --integrates lets its neurons integrate (docs/models.md)"


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What cannot be read from a checkpoint; None for the published value.

    Attributes:
        num_heads: Number of attention heads.
        stride: Total stride of a one-stage network.
        time_steps: T.
        image_size: Height and width in pixels.
        levels: Largest output of the neurons of an E-SpikeFormer.
        integrates: Whether the neurons of an event form of E-SpikeFormer integrate over the frames.
        weights: "ema" for the average of the weights, "raw" for the others; None for the average if there is one.
    """

    num_heads: int | None
    stride: int | None
    time_steps: int | None
    image_size: int | None
    levels: int | None = None
    integrates: bool = False
    weights: Weights | None = None


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
    read = open_checkpoint(checkpoint, options.weights)
    model, architecture = load_reference(
        read.state_dict,
        num_heads=options.num_heads,
        stride=options.stride,
        time_steps=options.time_steps,
        levels=options.levels,
        integrates=options.integrates,
    )
    channels = int(next(iter(model.parameters())).shape[1])
    protocol = evaluation_protocol(architecture, channels=channels, num_classes=model.num_classes, image_size=options.image_size)
    spec = InputSpec.of(channels, protocol.image_size, protocol.preparation)
    write_model(out, model, architecture, classes=_classes(model.num_classes, architecture, channels), input_spec=spec)
    params = sum(p.numel() for p in model.parameters())
    heads = sorted({b.num_heads for stage in architecture.stages for b in stage.blocks if b.num_heads})
    note(
        f"{out}: {architecture.family}, {architecture.depth} blocks, width {model.num_features}, {params:,} parameters, "
        f"T = {architecture.time_steps}, stride {architecture.stride}, heads {heads or 'of no effect'}; "
        f"open it with timm.create_model('local-dir:{out}')"
    )
    if read.choice is not None:
        note(f"{checkpoint}: {read.choice}")
    note(f"evaluated as published: {spec.description}")
    if architecture.family == "e_spikeformer" and channels != 3:
        note("its neurons integrate over the frames" if options.integrates else FRAMES_ALONE_NOTE)
    if architecture.family == "qkformer" and architecture.stride > 4 and channels == 3:
        note(QKFORMER_NOTE)


def _classes(number: int, architecture: Architecture, channels: int) -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k, by which its folders are named, for 1000 classes of ImageNet; otherwise numbers.

    A checkpoint has no names of classes. The authors' data loaders number ImageNet's folders in alphabetical order.
    """
    if number == 1000 and channels == 3 and architecture.stride > 4:
        return tuple(ImageNetInfo("imagenet-1k").label_names())
    return tuple(str(i) for i in range(number))
