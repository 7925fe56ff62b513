"""`autospike describe`: what an architecture or a search space amounts to, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from autospike.console import table
from autospike.counting.model import count_operations
from autospike.energy.conventions import DEFAULT
from autospike.errors import UserError
from autospike.files import read_yaml
from autospike.models import build_model
from autospike.space.architecture import Architecture
from autospike.space.published import PUBLISHED
from autospike.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """What a model would see and answer."""

    image_size: int
    channels: int
    classes: int

    @classmethod
    def of(cls, path: Path, image_size: int | None, channels: int | None, classes: int | None) -> InputShape:
        """What was said; otherwise as published, or as CIFAR-10 has it."""
        usual = PUBLISHED.get(str(path))
        return cls(
            image_size=image_size or (usual.image_size if usual else 32),
            channels=channels or (usual.in_chans if usual else 3),
            classes=classes or (usual.num_classes if usual else 10),
        )


def describe(path: Path, shape: InputShape) -> None:
    """Size of a space, and its smallest and largest subnet; or one architecture, which may be a published one by its name.

    Raises:
        UserError: the file is neither a search space nor an architecture.
    """
    published = PUBLISHED.get(str(path))
    if published is not None and not path.exists():
        _show(f"{path}: a published architecture", [("it", published.architecture)], shape)
        return
    if not path.exists():
        raise UserError(f"{path}: no such file, and no published network of this name; those are {', '.join(PUBLISHED)}")
    written = read_yaml(path)
    if not isinstance(written, dict) or "stages" not in written:
        raise UserError(f"{path}: neither a search space nor an architecture (no `stages`); see search_spaces/ for examples")
    first = written["stages"][0] if isinstance(written["stages"], list) and written["stages"] else {}
    if isinstance(first, dict) and "blocks" in first and "depth" not in first:
        architecture = Architecture.from_dict(written, source=str(path))
        _show(f"{path}: one architecture", [("it", architecture)], shape)
        return
    space = SearchSpace.from_dict(written, source=str(path))
    size = space.size()
    count = f"{size:.4g} architectures" if size != float("inf") else "infinitely many architectures (a gene is continuous)"
    _show(f"{path}: {count}", [("smallest", space.smallest()), ("largest", space.largest())], shape)


def _show(title: str, named: list[tuple[str, Architecture]], shape: InputShape) -> None:
    rows = []
    for name, architecture in named:
        params, macs = cost(architecture, shape)
        width = architecture.stages[-1].embed_dim
        rows.append(
            [
                f"{name} ({architecture.id})",
                str(architecture.time_steps),
                str(architecture.depth),
                str(width),
                f"{params:,}",
                f"{macs / 1e6:,.2f}",
            ]
        )
    columns = ["", "T", "depth", "width", "parameters", "dense MACs per step (M)"]
    shown = f"for {shape.channels} x {shape.image_size} x {shape.image_size} images, {shape.classes} classes"
    table(title, columns, rows, shown)


def cost(architecture: Architecture, shape: InputShape) -> tuple[int, int]:
    """Parameters, and dense MACs of one time step, of one image."""
    model = build_model(architecture, num_classes=shape.classes, in_chans=shape.channels)
    found = count_operations(model, torch.zeros(1, shape.channels, shape.image_size, shape.image_size), strict=True)
    return sum(p.numel() for p in model.parameters()), sum(count.macs for count in found.counts if DEFAULT.takes(count))
