"""What every family's model is: a chain of segments, and timm's interface on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from autospike.nn.blocks import SpikingBlock
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Neuron, Stage

# Before the head, where the stream is a membrane potential. No published network searches it.
HEAD_NEURON = Neuron()


class SpikingStage(nn.Module):
    """The embedding that leads to a width and size, then blocks, numbered from 0. Each of them is a segment."""

    def __init__(self, embedding: nn.Module, architecture: Architecture, stage: Stage) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.ModuleList(
            SpikingBlock(architecture, stage.embed_dim, stage.hidden_features(block), block) for block in stage.blocks
        )

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """`time_steps`: how often a still image is seen, at the first stage."""
        x = self.embedding(x) if time_steps is None else self.embedding(x, time_steps)
        for block in self.blocks:
            x = block(x)
        return x


class SpikingHead(nn.Linear):
    """A head that reads spikes. Shape: `[T, B, D]` spikes to `[T, B, num_classes]`."""


class MeanHead(nn.Linear):
    """A head that reads the mean over positions. Shape: `[T, B, D]` to `[T, B, num_classes]`."""


def pooled(lif: nn.Module, stream: Tensor) -> Tensor:
    """The mean over positions, or what neurons make of it: `[T, B, H, W, D]` to `[T, B, D]`."""
    mean: Tensor = lif(stream.flatten(2, 3).mean(dim=2))
    return mean


def answered(heads: Sequence[nn.Module], features: Tensor) -> Tensor:
    """Logits of every single step, the mean of one or two heads: `[T, B, D]` to `[T, B, num_classes]`."""
    first, *second = (head(features) for head in heads)
    logits: Tensor = (first + second[0]) / 2 if second else first
    return logits


def means(logits: Tensor, at: Sequence[int]) -> Tensor:
    """Over the first steps, as many as `at` says: `[T, B, num_classes]` to `[len(at), B, num_classes]`."""
    return torch.stack([logits[:time_steps].mean(dim=0) for time_steps in at])


def head_neurons(architecture: Architecture) -> nn.Module:
    """Where the stream is a membrane potential, neurons; else nothing."""
    return LIF(HEAD_NEURON) if architecture.shortcut == "membrane" else nn.Identity()


def untrained_head(architecture: Architecture, num_classes: int) -> nn.Module:
    """Nothing, for features, at 0 classes."""
    if not num_classes:
        return nn.Identity()
    kind = SpikingHead if architecture.shortcut == "membrane" else MeanHead
    result = kind(architecture.stages[-1].embed_dim, num_classes)
    initialise(result)
    return result


class Readout(nn.Module):
    """The last segment alone, its layers named as in the model. Shape: `[T, B, H, W, D]` to `[T, B, num_classes]`."""

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        self.head_lif, self.head = head_neurons(architecture), untrained_head(architecture, num_classes)
        if architecture.distilled:
            self.head_dist = untrained_head(architecture, num_classes)

    def forward(self, stream: Tensor) -> Tensor:
        heads = [self.head, self.head_dist] if hasattr(self, "head_dist") else [self.head]
        return answered(heads, pooled(self.head_lif, stream))


class SpikingModel(nn.Module):
    """A plain model of one architecture; it knows nothing of supernets.

    A segment's output depends on its own genes and on those of the segments before it, on nothing else; parameters of a smaller
    architecture are leading corners of a larger one's, under the same names. A family defines `embedding`; the rest is shared.

    The stream is `[T, B, H, W, D]` throughout. Input is images `[B, C, H, W]`, seen at every step, or frames `[T, B, C, H, W]`.

    Args:
        architecture: of the model's family.
        num_classes: outputs; 0 gives features.
        in_chans: channels of an image.
    """

    def __init__(self, architecture: Architecture, *, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_features = self.head_hidden_size = architecture.stages[-1].embed_dim
        self.num_classes = 0
        widths = [in_chans, *(stage.embed_dim for stage in architecture.stages)]
        self.stages = nn.ModuleList(
            SpikingStage(self.embedding(architecture, i, widths[i]), architecture, stage)
            for i, stage in enumerate(architecture.stages)
        )
        self.head_lif = head_neurons(architecture)
        self.feature_info = _feature_info(architecture)
        self.distilled_training = False
        self.reset_classifier(num_classes)
        self.apply(initialise)

    @staticmethod
    def embedding(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
        """The embedding of stage number `index`. It has the architecture and no model, for a walk builds it alone.

        It is called with its input; the first one with the image `[1, B, H, W, C]` or frames `[T, B, H, W, C]` and, for an image,
        the number of steps.
        """
        raise NotImplementedError

    def forward_stages(self, x: Tensor, time_steps: int | None = None, *, stages: int | None = None) -> list[Tensor]:
        """The stream `[T, B, H, W, D]` after each stage (the first `stages`); T is the architecture's unless given."""
        stream, repeated = entering(x, time_steps or self.architecture.time_steps)
        streams = []
        for i, stage in enumerate(self.stages[:stages]):
            stream = stage(stream, repeated if i == 0 else None)
            streams.append(stream)
        return streams

    def forward_steps(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Logits of every single step, `[T, B, num_classes]`. Their mean over the first t steps is the answer at T = t."""
        return answered(self._heads, pooled(self.head_lif, self.forward_features(x, time_steps)))

    def forward_features(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """The stream after the last block, `[T, B, H, W, D]`. Time stays: where the head has neurons, it is no mean."""
        return self.forward_stages(x, time_steps)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """The stream `[T, B, H, W, D]` to logits `[B, num_classes]`, or to pooled features `[B, D]`.

        With a second head, in training that was asked for by `set_distilled_training`: the logits of both, as a pair.
        """
        features = pooled(self.head_lif, x)
        if pre_logits or not self.num_classes:
            return features.mean(dim=0)
        return self._logits(features, partial(torch.mean, dim=0))

    def forward(self, x: Tensor, at: Sequence[int] = ()) -> Any:
        """Images `[B, C, H, W]` or frames `[T, B, C, H, W]` to logits `[B, num_classes]`, mean over time.

        `at` some numbers of steps: those at each, `[len(at), B, num_classes]`, of one run of the most steps.
        """
        if not at:
            return self.forward_head(self.forward_features(x))
        features = pooled(self.head_lif, self.forward_features(x, max(at)))
        return self._logits(features, partial(means, at=at))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's: maps `[B, D, H, W]` after the chosen stages, mean over time; and, unless told otherwise, the final stream.

        Raises:
            ValueError: another format was asked for, or normalised maps, which there are none of.
        """
        if output_fmt != "NCHW" or norm:
            raise ValueError(f"maps are NCHW and not normalised; got output_fmt {output_fmt!r}, norm {norm}")
        taken, last = feature_take_indices(len(self.stages), indices)
        streams = self.forward_stages(x, stages=last + 1 if stop_early else None)
        maps = [streams[i].mean(dim=0).permute(0, 3, 1, 2) for i in taken]
        return maps if intermediates_only else (streams[-1], maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> Sequence[int]:
        """timm's: forget the stages after the last chosen one, and the head."""
        del prune_norm  # there is no final normalisation
        taken, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        return list(taken)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, untrained head (two, if distilled); none, for features, at 0 classes.

        Raises:
            ValueError: another pooling than the mean over positions was asked for.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool must be 'avg', the mean over positions, got {global_pool!r}")
        self.num_classes = num_classes
        self.head = untrained_head(self.architecture, num_classes)
        if self.architecture.distilled:
            self.head_dist = untrained_head(self.architecture, num_classes)

    def set_distilled_training(self, enable: bool = True) -> None:
        """timm's: whether training answers with the logits of both heads."""
        self.distilled_training = enable

    def _logits(self, features: Tensor, over_time: Callable[[Tensor], Tensor]) -> Any:
        if self.architecture.distilled and self.training and self.distilled_training:
            return over_time(self.head(features)), over_time(self.head_dist(features))
        return over_time(answered(self._heads, features))

    @property
    def _heads(self) -> list[nn.Module]:
        return [self.head, self.head_dist] if self.architecture.distilled else [self.head]


def entering(x: Tensor, time_steps: int) -> tuple[Tensor, int | None]:
    """What the first embedding takes: a still image `[1, B, H, W, C]` and how often it is seen, or the first frames
    `[T, B, H, W, C]`."""
    still = x.dim() == 4
    stream = (x.unsqueeze(0) if still else x[:time_steps]).permute(0, 1, 3, 4, 2).contiguous()
    return stream, time_steps if still else None


def initialise(module: nn.Module) -> None:
    """As Spikformer's code: linear weights from a normal cut at two deviations, std 0.02; convolutions as torch has them."""
    if isinstance(module, nn.Linear) and not module.weight.is_meta:  # without memory there is nothing to write, slowly
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _feature_info(architecture: Architecture) -> list[dict[str, Any]]:
    """timm's: channels and stride of the map after each stage."""
    info, reduction = [], 1
    for i, stage in enumerate(architecture.stages):
        reduction *= stage.embedding.stride
        info.append({"num_chs": stage.embed_dim, "reduction": reduction, "module": f"stages.{i}"})
    return info
