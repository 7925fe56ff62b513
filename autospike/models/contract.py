"""What every family's model is: a chain of segments, and timm's interface on top of it."""

from __future__ import annotations

from timm.layers import trunc_normal_
from torch import Tensor, nn

from autospike.architecture import Architecture


class SpikingModel(nn.Module):
    """A stem, blocks and a head. A segment's output depends on its own genes and on those of the segments before it, on nothing
    else; parameters of a smaller architecture are leading corners of a larger one's, under the same names.

    A family sets, in its constructor:
        stem: called with `(images, T)`; images `[B, C, H, W]` to tokens `[T, B, N, D]`.
        blocks: each `[T, B, N, D]` to `[T, B, N, D]`, numbered from 0.
        head: `[..., D]` to `[..., num_classes]`; by `reset_classifier`.
    """

    stem: nn.Module
    blocks: nn.ModuleList
    head: nn.Module

    def __init__(self, architecture: Architecture, *, num_features: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_features = num_features
        self.num_classes = 0

    def forward_tokens(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Images `[B, C, H, W]` to the stream after the last block, `[T, B, N, D]`; T is the architecture's unless given."""
        x = self.stem(x, time_steps or self.architecture.time_steps)
        for block in self.blocks:
            x = block(x)
        return x

    def forward_steps(self, x: Tensor, time_steps: int | None = None) -> Tensor:
        """Logits of every single step, `[T, B, num_classes]`. Their mean over the first t steps is the answer at T = t."""
        return self.head(self.forward_tokens(x, time_steps).mean(dim=2))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to tokens `[B, N, D]`, mean over time."""
        return self.forward_tokens(x).mean(dim=0)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens `[B, N, D]` to logits `[B, num_classes]`, or to pooled features `[B, D]`."""
        pooled = x.mean(dim=1)
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, num_classes]`, mean over time."""
        return self.forward_steps(x).mean(dim=0)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new, untrained head; none, for features, at 0 classes."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head.apply(initialise)


def initialise(module: nn.Module) -> None:
    """As Spikformer's code: linear weights from a normal cut at two deviations, std 0.02; convolutions as torch has them."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
