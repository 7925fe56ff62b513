"""Networks with a decoder: any family as the backbone, with the decoder of its architecture in place of the classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from autospike.models.contract import SpikingModel
from autospike.models.mask_rcnn import MaskRCNN
from autospike.models.regions import DetectedObjects
from autospike.models.semantic_fpn import SemanticFPN
from autospike.space.architecture import Architecture


def _build_decoder(architecture: Architecture, num_classes: int) -> SemanticFPN | MaskRCNN:
    """Build the decoder of an architecture with fresh parameters.

    Args:
        architecture: An architecture with a decoder.
        num_classes: Number of classes; 0 without the last layer.

    Returns:
        The decoder.
    """
    decoder = architecture.decoder
    assert decoder is not None
    widths = [architecture.stages[level].embed_dim for level in decoder.levels]
    strides = [architecture.strides[level] for level in decoder.levels]
    if decoder.kind == "mask-rcnn":
        return MaskRCNN(widths, strides, decoder, num_classes=num_classes)
    return SemanticFPN(
        widths,
        strides,
        channels=decoder.channels,
        head_channels=decoder.head_channels,
        num_classes=num_classes,
        neuron=decoder.neuron if decoder.spiking else None,
    )


class DecoderReadout(nn.Module):
    """The decoder by itself, with the layer names of the model.

    Args:
        architecture: The architecture of the model.
        num_classes: Number of classes.
    """

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        self.decoder = _build_decoder(architecture, num_classes)

    def forward(self, levels: Sequence[Tensor], time_steps: int, size: Sequence[int]) -> Any:
        """Return the outputs at T = `time_steps` for images of a size; see the decoder.

        Args:
            levels: Streams of the stages that the decoder reads, `[T, B, H, W, C]` each, from fine to coarse.
            time_steps: T of the outputs, at most that of the levels.
            size: Height and width of the images.
        """
        return self.decoder(levels, time_steps, size)


class DecoderModel(SpikingModel):
    """A backbone of any family with the decoder of its architecture.

    `decoder` is everything behind the stages. The backbone has the parameter names of a classifier of the same stages, so
    weights of a classifier can initialise it.
    """

    def add_head(self, num_classes: int) -> None:
        """Add the decoder."""
        self.num_classes = num_classes
        self.decoder: Any = _build_decoder(self.architecture, num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layers by untrained ones; part of timm's interface."""
        del global_pool
        self.num_classes = num_classes
        self.decoder.reset_classifier(num_classes)

    def levels(self, x: Tensor, time_steps: int | None = None) -> list[Tensor]:
        """Compute the maps that the decoder reads.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            time_steps: T; that of the architecture unless given.

        Returns:
            `[T, B, H, W, D]` for each level, from fine to coarse.
        """
        streams, decoder = self.forward_stages(x, time_steps), self.architecture.decoder
        assert decoder is not None
        return [streams[level] for level in decoder.levels]

    def forward_head(self, x: Any, pre_logits: bool = False) -> Any:
        """Compute the output from the maps of `levels`, for an image of the size of the finest one; part of timm's interface."""
        del pre_logits
        return self.decoder(x, self.architecture.time_steps, x[0].shape[2:4])


def as_tensor(output: Tensor | Sequence[DetectedObjects]) -> Tensor:
    """Return the output of a network as a tensor, for comparisons.

    Args:
        output: Logits, or the detections of each image.

    Returns:
        Logits as they are; of detections `[B, n, 7]` with box, score, class + 1 and mean of the mask, and zeros for images with
        fewer than n.
    """
    if isinstance(output, Tensor):
        return output
    rows = [
        torch.cat([x.boxes, x.scores[:, None], x.labels[:, None] + 1, x.masks.mean(dim=(1, 2))[:, None]], dim=1) for x in output
    ]
    return pad_sequence([torch.cat([x, x.new_zeros(1, 7)]) for x in rows], batch_first=True)


class SegmentationModel(DecoderModel):
    """A network that computes the class of every pixel."""

    def get_classifier(self) -> nn.Module:
        """Return the last layer; part of timm's interface."""
        classifier: nn.Module = self.decoder.head.classifier
        return classifier

    def forward_steps(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the logits at T = 1, 2, ... as `[T, B, num_classes, H, W]`. The decoder runs once for each."""
        steps = time_steps or self.architecture.time_steps
        logits: Tensor = self(x, at=range(1, steps + 1))
        return logits

    def forward(self, x: Tensor, at: Sequence[int] = (), early_exit: bool = False) -> Tensor:
        """Compute the logits of every pixel.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            at: Numbers of time steps. The backbone runs once, for the largest T; the decoder runs for each.
            early_exit: Must be False: a dense task has no exit of an image.

        Returns:
            Logits `[B, num_classes, H, W]` at the T of the architecture; with `at`, `[len(at), B, num_classes, H, W]`.

        Raises:
            ValueError: `early_exit` is True.
        """
        _refuse_early_exit(early_exit)
        steps = list(at) or [self.architecture.time_steps]
        levels = self.levels(x, max(steps))
        logits = [self.decoder(levels, t, x.shape[-2:]) for t in steps]
        return torch.stack(logits) if len(at) else logits[0]


class DetectionModel(DecoderModel):
    """A network that detects objects, with their masks."""

    def get_classifier(self) -> nn.Module:
        """Return the layer that computes the classes of regions; part of timm's interface."""
        classifier: nn.Module = self.decoder.box_head.classes
        return classifier

    def forward(self, x: Tensor, at: Sequence[int] = (), early_exit: bool = False, targets: Any = None) -> Tensor | list[Any]:
        """Detect objects, or compute the losses of training.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            at: Numbers of time steps. The backbone runs once, for the largest T; the decoder runs for each.
            early_exit: Must be False: a dense task has no exit of an image.
            targets: The objects of each image in training mode; see `autospike.data.objects.TrainingObjects`.

        Returns:
            In eval mode the `DetectedObjects` of each image at the T of the architecture; with `at`, such a list for each T. In
            training mode the losses `[5]` of `MaskRCNN.losses`; with `at`, `[len(at), 5]`.

        Raises:
            ValueError: There are no targets in training mode, or `early_exit` is True.
        """
        _refuse_early_exit(early_exit)
        if self.training and targets is None:
            raise ValueError("a detector in training mode computes losses, for which it needs targets; call eval() first")
        steps = list(at) or [self.architecture.time_steps]
        levels = self.levels(x, max(steps))
        if self.training:
            losses = [self.decoder.losses(levels, t, x.shape[-2:], targets) for t in steps]
            return torch.stack(losses) if len(at) else losses[0]
        found: list[list[DetectedObjects]] = [self.decoder(levels, t, x.shape[-2:]) for t in steps]
        return found if len(at) else found[0]


def _refuse_early_exit(early_exit: bool) -> None:
    if early_exit:
        raise ValueError("early_exit: for classifiers only; a dense task has no exit of an image")
