"""`autospike describe`: size and cost of an architecture or a search space, before anything is trained."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from autospike import catalogue
from autospike.console import table
from autospike.counting.model import count_operations
from autospike.energy.conventions import DEFAULT
from autospike.errors import UserError
from autospike.files import read_yaml
from autospike.models import build_model
from autospike.space.architecture import Architecture
from autospike.space.input_shape import InputShape
from autospike.space.parameters import check_activation
from autospike.space.published import PUBLISHED, similar_networks
from autospike.space.search_space import SearchSpace


def input_shape(path: Path, image_size: int | None, channels: int | None, classes: int | None) -> InputShape:
    """Fill in what is not given: as published for a published network, otherwise as in CIFAR-10.

    Args:
        path: The argument of the command, which may be the name of a published network.
        image_size: Height and width in pixels, if given.
        channels: Number of channels, if given.
        classes: Number of classes, if given.

    Returns:
        The input and output size.
    """
    published = PUBLISHED.get(str(path))
    return InputShape(
        image_size=image_size or (published.image_size if published else 32),
        channels=channels or (published.in_chans if published else 3),
        classes=classes or (published.num_classes if published else 10),
    )


def describe(path: Path, shape: InputShape) -> None:
    """Print the size of a search space and the cost of its smallest and largest subnet, or the cost of one architecture.

    Args:
        path: A search space or an architecture (YAML or JSON), or the name of a search space or a published network.
        shape: Input and output size.

    Raises:
        UserError: The file is neither a search space nor an architecture.
    """
    published = PUBLISHED.get(str(path))
    if published is not None and not path.exists():
        _show(f"{path}: a published architecture", [("it", published.architecture)], shape)
        return
    path = catalogue.files_of("search_spaces").get(str(path), path) if not path.exists() else path
    if not path.exists():
        raise UserError(
            f"{path}: no such file in {Path.cwd()}, and no search space or published network of this name; "
            f"{similar_networks(str(path))}"
        )
    content = read_yaml(path)
    if not isinstance(content, dict) or "stages" not in content:
        raise UserError(
            f"{path}: neither a search space nor an architecture (no `stages`); `autospike list spaces` prints examples"
        )
    first = content["stages"][0] if isinstance(content["stages"], list) and content["stages"] else {}
    if isinstance(first, dict) and "blocks" in first and "depth" not in first:
        architecture = Architecture.from_dict(content, source=str(path))
        _show(f"{path}: one architecture", [("it", architecture)], shape)
        return
    space = SearchSpace.from_dict(content, source=str(path))
    size = space.size()
    _show(f"{path}: {_count(size)}", [("smallest", space.smallest()), ("largest", space.largest())], shape)


def _count(size: int | float) -> str:
    """Describe the number of architectures of a space."""
    if size == math.inf:
        return "infinitely many architectures (a gene is continuous)"
    digits = math.log10(size)  # of a whole number of any size, where a float would overflow
    return f"{size:.4g} architectures" if digits < 300 else f"about 10^{digits:.0f} architectures"


def _show(title: str, named: list[tuple[str, Architecture]], shape: InputShape) -> None:
    """Print one row for each architecture."""
    rows = []
    for name, architecture in named:
        check_activation(architecture, image_size=shape.image_size, images=1, source=name)
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
    caption = f"for {shape.channels} x {shape.image_size} x {shape.image_size} images, {shape.classes} classes"
    table(title, columns, rows, caption)


def cost(architecture: Architecture, shape: InputShape) -> tuple[int, int]:
    """Compute the size and the cost of an architecture.

    Args:
        architecture: The architecture.
        shape: Input and output size.

    Returns:
        Number of parameters, and dense MACs of one image and time step under the default energy convention.
    """
    model = build_model(architecture, num_classes=shape.classes, in_chans=shape.channels)
    image = torch.zeros(1, shape.channels, shape.image_size, shape.image_size)
    counts = count_operations(model, image, strict=True).counts
    return sum(p.numel() for p in model.parameters()), sum(count.macs for count in counts if DEFAULT.includes(count))
