"""Measurement of one model on many images in parts, which are stored as they finish, so that a stopped measurement goes on.

The file of parts has one JSON value in each line: first what the parts depend on, then the parts. Sums are whole numbers, so the
result does not depend on where the measurement was stopped.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from autospike import files
from autospike.counting.counter import Counter
from autospike.data.batches import FixedBatches, Span, spans
from autospike.energy.counts import LayerCount
from autospike.energy.totals import LayerTotal, OperandTotal
from autospike.memory.allocator import retain_large_allocations
from autospike.models.contract import SpikingModel

PARTS = 100  # at most: a stopped measurement repeats 1 % of the images
TOP = 5

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was measured on some images.

    Attributes:
        images: Number of images.
        first: At T = 1, 2, ..., the number of images whose class has the largest logit.
        top: At T = 1, 2, ..., the number of images whose class is among the five largest logits.
        layers: Operations of each layer at the largest T.
    """

    images: int
    first: tuple[int, ...]
    top: tuple[int, ...]
    layers: tuple[LayerTotal, ...]

    def __add__(self, other: Part) -> Part:
        return Part(
            images=self.images + other.images,
            first=tuple(map(sum, zip(self.first, other.first, strict=True))),
            top=tuple(map(sum, zip(self.top, other.top, strict=True))),
            layers=tuple(a + b for a, b in zip(self.layers, other.layers, strict=True)),
        )

    def counts(self, steps: int) -> tuple[LayerCount, ...]:
        """Return the operations for one image at T = `steps`.

        Args:
            steps: A number of time steps, from 1.
        """
        return tuple(layer.count(self.images).first(steps) for layer in self.layers)

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Part:
        """Return the part whose `asdict` was written as JSON.

        Args:
            value: What was read from JSON.
        """
        layers = tuple(
            LayerTotal(**{**layer, "operands": tuple(OperandTotal(**_tuples(operand)) for operand in layer["operands"])})
            for layer in value["layers"]
        )
        return cls(images=value["images"], first=tuple(value["first"]), top=tuple(value["top"]), layers=layers)


def measure_in_parts(
    model: SpikingModel,
    batches: FixedBatches,
    *,
    batch_size: int,
    time_steps: int,
    store: Path,
    key: Mapping[str, Any],
    show: Callable[[int, str], None],
) -> Part:
    """Measure a model, or the part of the images that an earlier call did not finish.

    Args:
        model: The model, calibrated and in eval mode.
        batches: The images.
        batch_size: Images in a forward pass.
        time_steps: The largest T.
        store: The file of finished parts. Parts that depend on something else are overwritten.
        key: What the parts depend on besides the batches: model, data and settings, as JSON values.
        show: Called with the number of finished images and a short text.

    Returns:
        The sum over all images.
    """
    whole = spans(len(batches), batch_size)
    size = -(-len(whole) // PARTS)
    groups = [whole[i : i + size] for i in range(0, len(whole), size)]
    header = {**key, "time_steps": time_steps, "batch_size": batch_size, "images": len(batches)}
    done = _finished(store, header)[: len(groups)]
    files.write_text(store, "".join(f"{json.dumps(line)}\n" for line in (header, *map(asdict, done))))
    covered = False
    with store.open("a", encoding="utf-8") as file, retain_large_allocations():
        for group in groups[len(done) :]:
            show(group[0][0], "")
            part, covered = _measure(model, batches, group, time_steps, fully_covered=covered)
            file.write(f"{json.dumps(asdict(part))}\n")
            file.flush()
            os.fsync(file.fileno())
            done.append(part)
    show(len(batches), "")
    total = done[0]
    for part in done[1:]:
        total = total + part
    return total


@torch.no_grad()
def _measure(
    model: SpikingModel, batches: FixedBatches, group: list[Span], steps: int, *, fully_covered: bool
) -> tuple[Part, bool]:
    """Measure some batches. The second value says whether layers with rules cover all operations of the model."""
    counter = Counter(fully_covered=fully_covered)
    first, top = [0] * steps, [0] * steps
    for span in group:
        batch = batches.batch(span)
        with counter.watch(model, images=len(batch.targets), time_steps=steps):
            logits = model.forward_steps(batch.images, steps)
        for t in range(steps):
            ranks = _ranks(logits[: t + 1].mean(dim=0), batch.targets)
            first[t] += int((ranks < 1).sum())
            top[t] += int((ranks < TOP).sum())
    part = Part(images=counter.images, first=tuple(first), top=tuple(top), layers=counter.totals())
    return part, counter.fully_covered


def _ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """Number of classes before the right one, of equal logits those with smaller numbers, `[B]`: as `argmax` decides."""
    own = logits.gather(1, targets[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device)[None] < targets[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(dim=1)


def _finished(store: Path, header: Mapping[str, Any]) -> list[Part]:
    """The parts in a file whose header is this one; the last line may be incomplete."""
    if not store.is_file():
        return []
    first, *lines = store.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if _read(first, lambda value: value) != json.loads(json.dumps(header)):
        return []
    parts = itertools.takewhile(lambda part: part is not None, (_read(line, Part.read) for line in lines))
    return [part for part in parts if part is not None]


def _read(line: str, convert: Callable[[Any], R]) -> R | None:
    """The value of a line; None if it is incomplete, because the process that wrote it was killed."""
    try:
        return convert(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None


def _tuples(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
