"""Plain classifiers of pixels, trained with Adam: softmax regression and a small convolutional network. Both are not spiking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autospike.data.batches import FixedBatches

BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Samples `[B, C, H, W]` with their labels `[B]`."""

    x: Tensor
    y: Tensor


def read(batches: FixedBatches, view: Callable[[Tensor], Tensor] = lambda x: x) -> Labelled:
    """Read a whole split, for example with a view that maps event frames `[T, B, C, H, W]` to their sums `[B, C, H, W]`."""
    parts = [(view(batch.images), batch.targets) for batch in batches(256)]
    return Labelled(x=torch.cat([x for x, _ in parts]), y=torch.cat([y for _, y in parts]))


# What a classifier sees of event frames `[T, B, C, H, W]`. Only the last one knows the order of the frames.
EVENT_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum of the frames": lambda x: x.sum(dim=0),
    "first frame": lambda x: x[0],
    "middle frame": lambda x: x[len(x) // 2],
    "all frames as channels": lambda x: x.transpose(0, 1).flatten(1, 2),
}
STILL_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {"image": lambda x: x}


def linear(channels: int, size: int, classes: int) -> nn.Module:
    """Softmax regression on pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, classes))


def convolutional(channels: int, size: int, classes: int) -> nn.Module:
    """Three convolutions with batch normalisation, each with a 2x2 maximum after it, and a linear layer."""
    layers: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (size // 8) ** 2, classes))


PLAIN = {"softmax regression": linear, "convolutional network": convolutional}


def accuracy(model: nn.Module, train: Labelled, test: Labelled, *, epochs: int, learning_rate: float, seed: int = 0) -> float:
    """Train a model with Adam and a cosine schedule, and return its accuracy on the test samples."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    steps = epochs * (len(train.y) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(train.y), generator=generator)
        for batch in order.split(BATCH)[: len(train.y) // BATCH]:
            optimizer.zero_grad()
            F.cross_entropy(model(train.x[batch]), train.y[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        correct = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in zip(test.x.split(512), test.y.split(512), strict=True))
    return correct / len(test.y)
