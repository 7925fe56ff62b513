"""The model of every family: a chain of segments, with the interface of a timm model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from autospike.errors import UserError
from autospike.models.early_exit import exited, run_until_exit
from autospike.nn.blocks import SpikingBlock
from autospike.nn.embeddings import EMBEDDING_KINDS
from autospike.nn.neuron import LIF
from autospike.nn.tracing import is_symbolic
from autospike.space.architecture import Architecture, Stage
from autospike.space.block import Neuron


class SpikingStage(nn.Module):
    """An embedding, which sets width and resolution, then blocks. The embedding and the two branches of a block are segments.

    Args:
        embedding: The embedding of the stage.
        architecture: The architecture of the model.
        stage: The stage of the architecture.
    """

    def __init__(self, embedding: nn.Module, architecture: Architecture, stage: Stage) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.ModuleList(
            SpikingBlock(architecture, stage.embed_dim, stage.hidden_features(block), block) for block in stage.blocks
        )

    def forward(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream after the stage.

        Args:
            x: The stream, `[T, B, H, W, C]`; for the first stage the result of `initial_stream`.
            time_steps: T, if `x` is a still image `[1, B, H, W, C]`.

        Returns:
            The stream, `[T, B, ceil(H / stride), ceil(W / stride), D]`.
        """
        x = self.embedding(x) if time_steps is None else self.embedding(x, time_steps)
        for block in self.blocks:
            x = block(x)
        return x


class SpikingHead(nn.Linear):
    """A linear head that reads spikes. Shape: `[T, B, D]` to `[T, B, num_classes]`."""


class MeanHead(nn.Linear):
    """A linear head that reads the mean over positions. Shape: `[T, B, D]` to `[T, B, num_classes]`."""


class FiringHead(nn.Module):
    """Neurons, then a linear head. Shape: `[T, B, D]` to `[T, B, num_classes]`.

    Args:
        neuron: Parameters of the neurons.
        in_features: D.
        num_classes: Number of classes.
    """

    def __init__(self, neuron: Neuron, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.lif = LIF(neuron)
        self.linear = SpikingHead(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of every time step."""
        logits: Tensor = self.linear(self.lif(x))
        return logits


def pool_positions(lif: nn.Module, stream: Tensor) -> Tensor:
    """Average the stream over positions, then apply the neurons before the head.

    Args:
        lif: The neurons, or `nn.Identity`.
        stream: `[T, B, H, W, D]`.

    Returns:
        Features, `[T, B, D]`.
    """
    features: Tensor = lif(stream.flatten(2, 3).mean(dim=2))
    return features


def step_logits(heads: Sequence[nn.Module], features: Tensor) -> Tensor:
    """Compute the logits of every time step, the mean of those of one or two heads.

    Args:
        heads: The heads.
        features: `[T, B, D]`.

    Returns:
        `[T, B, num_classes]`.
    """
    first, *second = (head(features) for head in heads)
    logits: Tensor = (first + second[0]) / 2 if second else first
    return logits


# `torch.fx.wrap`: torch.fx.symbolic_trace records a call as one node, because the result depends on values that it does not know.
@torch.fx.wrap
def largest(at: Sequence[int], time_steps: int) -> int:
    """Return the largest of some numbers of time steps, or `time_steps` if there is none.

    Args:
        at: Numbers of time steps.
        time_steps: T of the model.
    """
    return max(at, default=time_steps)


@torch.fx.wrap
def mean_over_steps(logits: Tensor, at: Sequence[int]) -> Tensor:
    """Average logits over the first t time steps, for every t of `at`.

    Args:
        logits: Of every time step, `[T, B, num_classes]`.
        at: Numbers of time steps; none for the average over all of them.

    Returns:
        `[len(at), B, num_classes]`; `[B, num_classes]` if `at` is empty.
    """
    return torch.stack([logits[:time_steps].mean(dim=0) for time_steps in at]) if at else logits.mean(dim=0)


def _head_neurons(architecture: Architecture) -> nn.Module:
    """Build the neurons before the heads.

    Args:
        architecture: The architecture.

    Returns:
        LIF where the first head reads spikes of membrane potentials, otherwise `nn.Identity`.
    """
    return LIF(architecture.head_neuron) if _reads_spikes(architecture) else nn.Identity()


def _reads_spikes(architecture: Architecture) -> bool:
    return architecture.shortcut == "membrane" and not architecture.mean_head


def _untrained_head(architecture: Architecture, num_classes: int, *, second: bool = False) -> nn.Module:
    """Build a head with fresh parameters.

    Args:
        architecture: The architecture, whose last stage gives the width.
        num_classes: Number of classes.
        second: Whether it is the second head.

    Returns:
        The head; `nn.Identity` for 0 classes.
    """
    if not num_classes:
        return nn.Identity()
    width = architecture.stages[-1].embed_dim
    if second and architecture.mean_head:
        head: nn.Module = FiringHead(architecture.head_neuron, width, num_classes)
    else:
        head = (SpikingHead if _reads_spikes(architecture) else MeanHead)(width, num_classes)
    return head.apply(initialise)


class Readout(nn.Module):
    """The last segment by itself, with the layer names of the model. Shape: `[T, B, H, W, D]` to `[T, B, num_classes]`.

    Args:
        architecture: The architecture of the model.
        num_classes: Number of classes.
    """

    def __init__(self, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        self.head_lif, self.head = _head_neurons(architecture), _untrained_head(architecture, num_classes)
        if architecture.distilled:
            self.head_dist = _untrained_head(architecture, num_classes, second=True)

    def forward(self, stream: Tensor) -> Tensor:
        """Return the logits of every time step, `[T, B, num_classes]`, from the stream `[T, B, H, W, D]`."""
        heads = [self.head, self.head_dist] if hasattr(self, "head_dist") else [self.head]
        return step_logits(heads, pool_positions(self.head_lif, stream))


class SpikingModel(nn.Module):
    """A plain model of one architecture, independent of supernets. Base class of all families.

    A segment's output depends only on its own genes and on those of the segments before it. The parameters of a smaller
    architecture are the leading corners of those of a larger one, under the same names. A family implements `embedding`; everything
    else is shared.

    The stream is `[T, B, H, W, D]` throughout. The input is images `[B, C, H, W]`, repeated at every time step, or frames
    `[T, B, C, H, W]`.

    Args:
        architecture: An architecture of the model's family.
        num_classes: Number of classes; 0 for a model without a head, whose output is features.
        in_chans: Channels of an image.

    Attributes:
        architecture: The architecture.
        num_classes: Number of classes.
        num_features: Width of the last stage, D.
        head_hidden_size: The same, under timm's name.
        feature_info: timm's description of the feature map of each stage.
        exit_margin: Threshold of early exit, at first that of the architecture; with 1 every image runs all steps.
        distilled_training: Whether the training output is the logits of both heads; see `set_distilled_training`.
    """

    def __init__(self, architecture: Architecture, *, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_features = self.head_hidden_size = architecture.stages[-1].embed_dim
        self.num_classes = 0
        widths = [in_chans, *(stage.embed_dim for stage in architecture.stages)]
        self.stages = nn.ModuleList(
            SpikingStage(stage_embedding(type(self), architecture, i, widths[i]), architecture, stage)
            for i, stage in enumerate(architecture.stages)
        )
        self.feature_info = _feature_info(architecture)
        self.distilled_training = False
        self.exit_margin = architecture.exit_margin
        self.add_head(num_classes)
        self.apply(initialise)

    @staticmethod
    def embedding(architecture: Architecture, index: int, in_channels: int) -> nn.Module:
        """Build the embedding of a stage. It is a static method because the trie evaluator builds embeddings without a model.

        Args:
            architecture: The architecture of the model.
            index: Number of the stage, from 0.
            in_channels: Width of the stage before it, or channels of the image.

        Returns:
            A module that is called with the stream `[T, B, H, W, in_channels]`. The first one is called with frames
            `[T, B, H, W, C]`, or with a still image `[1, B, H, W, C]` and T.
        """
        raise NotImplementedError

    def add_head(self, num_classes: int) -> None:
        """Add everything behind the stages.

        Args:
            num_classes: Number of classes; 0 for a model without a head.
        """
        self.head_lif = _head_neurons(self.architecture)
        self.reset_classifier(num_classes)

    def forward_stages(self, x: Tensor, time_steps: int | None = None, *, stages: int | None = None) -> list[Tensor]:
        """Compute the stream after each stage.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            time_steps: T; that of the architecture unless given.
            stages: Number of stages to run; all unless given.

        Returns:
            For each stage the stream, `[T, B, H, W, D]` with its own H, W and D. Of fewer frames than the T of the architecture
            all are read.

        Raises:
            UserError: There are fewer frames than `time_steps`.
        """
        traced = is_symbolic(x) or is_symbolic(time_steps)
        if not traced and time_steps is not None and x.dim() == 5 and len(x) < time_steps:
            raise UserError(f"input of shape {list(x.shape)}: {len(x)} frames [T, B, C, H, W], but T = {time_steps} needs as many")
        stream, repeated = initial_stream(x, self.architecture.time_steps if time_steps is None else time_steps)
        streams = []
        for i, stage in enumerate(self.stages[:stages]):
            stream = stage(stream, repeated if i == 0 else None)
            streams.append(stream)
        return streams

    def forward_steps(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the logits of every time step. Their mean over the first t steps is the output at T = t.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            time_steps: T; that of the architecture unless given.

        Returns:
            `[T, B, num_classes]`.
        """
        return step_logits(self._heads, pool_positions(self.head_lif, self.forward_features(x, time_steps)))

    def forward_features(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Compute the stream after the last block.

        It is not averaged over time, because the neurons before a head need every step.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            time_steps: T; that of the architecture unless given.

        Returns:
            `[T, B, H, W, D]`.
        """
        return self.forward_stages(x, time_steps)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Compute logits, or pooled features, from the stream.

        Args:
            x: The stream, `[T, B, H, W, D]`.
            pre_logits: Whether to return features.

        Returns:
            Logits `[B, num_classes]`, or features `[B, D]`, mean over time. In distilled training, a pair with the logits of each
            head.
        """
        features = pool_positions(self.head_lif, x)
        if pre_logits or not self.num_classes:
            return features.mean(dim=0)
        return self._logits(features, partial(torch.mean, dim=0))

    def forward(self, x: Tensor, at: Sequence[int] = (), early_exit: bool = False) -> Any:
        """Compute logits, mean over time.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            at: Numbers of time steps. All outputs come from one run of the largest T.
            early_exit: Whether the output of an image is that of the first step whose confidence margin is above `exit_margin`
                (`autospike.models.early_exit`). In eval mode later steps are not computed, and there are no gradients. Without
                effect on `at`.

        Returns:
            Logits `[B, num_classes]` at the T of the architecture; with `at`, `[len(at), B, num_classes]` at each of these T. In
            distilled training, a pair with the logits of each head.
        """
        if not is_symbolic(early_exit) and early_exit:
            return self._until_exit(x)
        if not (is_symbolic(at) or at):
            return self.forward_head(self.forward_features(x))
        stream = self.forward_features(x, largest(at, self.architecture.time_steps))
        features = pool_positions(self.head_lif, stream)
        return self._logits(features, partial(mean_over_steps, at=at))

    def _until_exit(self, x: Tensor) -> Tensor:
        """The output of each image at its exit. In training mode statistics are those of all steps, so that all are computed."""
        if self.training:
            return exited(self.forward_steps(x), self.exit_margin)[0]
        steps, margin = self.architecture.time_steps, self.exit_margin
        return run_until_exit(self, self.forward_steps, x, time_steps=steps, threshold=margin)[0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Compute feature maps after chosen stages; part of timm's interface.

        Args:
            x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
            indices: The stages, as in timm; all unless given.
            norm: Must be False: there is no final normalisation.
            stop_early: Whether to stop after the last chosen stage.
            output_fmt: Must be "NCHW".
            intermediates_only: Whether to return the maps only.

        Returns:
            The final stream `[T, B, H, W, D]` and a list of maps `[B, D, H, W]`, mean over time; or the list.

        Raises:
            ValueError: `norm` or `output_fmt` is not supported.
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
        """Remove the stages after the last chosen one; part of timm's interface.

        Args:
            indices: The stages, as in timm.
            prune_norm: Ignored: there is no final normalisation.
            prune_head: Whether to remove the head as well.

        Returns:
            The indices of the chosen stages.
        """
        del prune_norm
        taken, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        if prune_head:
            self.reset_classifier(0)
        return list(taken)

    def get_classifier(self) -> nn.Module:
        """Return the head; part of timm's interface."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head (both heads of a distilled model) by an untrained one; part of timm's interface.

        Args:
            num_classes: Number of classes; 0 for a model without a head.
            global_pool: Must be "avg" or None.

        Raises:
            ValueError: Another pooling than the mean over positions is given.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool must be 'avg', the mean over positions, got {global_pool!r}")
        self.num_classes = num_classes
        self.head = _untrained_head(self.architecture, num_classes)
        if self.architecture.distilled:
            self.head_dist = _untrained_head(self.architecture, num_classes, second=True)

    def set_distilled_training(self, enable: bool = True) -> None:
        """Set whether the training output of a distilled model is the logits of both heads; part of timm's interface.

        Args:
            enable: Whether it is.
        """
        self.distilled_training = enable

    def _logits(self, features: Tensor, over_time: Callable[[Tensor], Tensor]) -> Any:
        """Logits from features `[T, B, D]`, averaged by `over_time`."""
        if self.architecture.distilled and self.training and self.distilled_training:
            return over_time(self.head(features)), over_time(self.head_dist(features))
        return over_time(step_logits(self._heads, features))

    @property
    def _heads(self) -> list[nn.Module]:
        return [self.head, self.head_dist] if self.architecture.distilled else [self.head]


def stage_embedding(family: type[SpikingModel], architecture: Architecture, index: int, in_channels: int) -> nn.Module:
    """Build the embedding of a stage: that of the family, or of the kind that the architecture names.

    Args:
        family: Class of the model.
        architecture: The architecture of the model.
        index: Number of the stage, from 0.
        in_channels: Width of the stage before it, or channels of the image.

    Returns:
        The module; see `SpikingModel.embedding`.
    """
    kind = architecture.stages[index].embedding.kind
    return (family.embedding if kind == "family" else EMBEDDING_KINDS[kind])(architecture, index, in_channels)


@torch.fx.wrap
def initial_stream(x: Tensor, time_steps: int) -> tuple[Tensor, int | None]:
    """Return the arguments of the first embedding.

    Args:
        x: Images `[B, C, H, W]` or frames `[T, B, C, H, W]`.
        time_steps: T; further frames are dropped.

    Returns:
        A still image `[1, B, H, W, C]` and T, or frames `[T, B, H, W, C]` and None.

    Raises:
        UserError: `x` has another number of dimensions.
    """
    still = x.dim() == 4
    if not still and x.dim() != 5:
        raise UserError(f"input of shape {list(x.shape)}: give images [B, C, H, W] or frames [T, B, C, H, W]")
    stream = (x.unsqueeze(0) if still else x[:time_steps]).permute(0, 1, 3, 4, 2).contiguous()
    return stream, time_steps if still else None


def initialise(module: nn.Module) -> None:
    """Initialise a module as Spikformer's published code does.

    Weights of linear layers are drawn from a normal distribution of std 0.02 (by timm's `trunc_normal_`, whose bounds of -2 and 2
    are never reached), and their biases are 0. Convolutions keep torch's initialisation.

    Args:
        module: The module; its submodules are left as they are.
    """
    if isinstance(module, nn.Linear) and not module.weight.is_meta:  # on the meta device it would be slow and without effect
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _feature_info(architecture: Architecture) -> list[dict[str, Any]]:
    """Describe the map after each stage for timm: channels, stride and module name."""
    info, reduction = [], 1
    for i, stage in enumerate(architecture.stages):
        reduction *= stage.embedding.stride
        info.append({"num_chs": stage.embed_dim, "reduction": reduction, "module": f"stages.{i}"})
    return info
