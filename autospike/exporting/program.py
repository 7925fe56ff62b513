"""`torch.export`: a program that runs without the code of the model, with a dynamic batch size.

Kernels are not part of it: the recorded operations are those of torch, so that the program runs wherever torch does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autospike import files
from autospike.exporting.variants import Int8Weight, Variant

FILE = "model.pt2"


def batch_dimension(images: Tensor) -> int:
    """Return the dimension of the batch: 0 of images `[B, C, H, W]`, 1 of event frames `[T, B, C, H, W]`.

    Args:
        images: An input of the model.
    """
    return images.dim() - 4


class _FromInt8(nn.Module):
    """Computes a weight from its integers."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, integers: Tensor) -> Tensor:
        return Int8Weight(integers=integers, scale=self.get_buffer("scale")).values


def with_stored_integers(variant: Variant) -> nn.Module:
    """Return a copy of a model that stores its weights in 8 bits and converts them in every forward pass.

    Args:
        variant: The variant; another one than `int8` is returned as it is.
    """
    if not variant.int8:
        return variant.model
    model = deepcopy(variant.model)
    for name, weight in variant.int8.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        layer.weight = nn.Parameter(weight.integers, requires_grad=False)
        parametrize.register_parametrization(layer, "weight", _FromInt8(weight.scale), unsafe=True)
    return model.eval()


@torch.no_grad()
def export_program(model: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any) -> torch.export.ExportedProgram:
    """Record a program, without the warnings of torch about its own internals.

    Args:
        model: The module, in eval mode.
        args: Example arguments; the batch size must be at least 2, because torch treats 1 as a constant.
        dynamic_shapes: As for `torch.export.export`.

    Returns:
        The program.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, dynamic_shapes=dynamic_shapes)


def save(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program atomically.

    Args:
        program: The program.
        path: The file, which is replaced.
    """
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)


def write(variant: Variant, folder: Path, images: Tensor) -> tuple[str, ...]:
    """Write the program of a model.

    Args:
        variant: The model.
        folder: The folder to write to.
        images: Example input, at least 2 images.

    Returns:
        Names of the files.
    """
    shapes = ({batch_dimension(images): torch.export.Dim("batch", min=1)},)
    save(export_program(with_stored_integers(variant), (images,), shapes), folder / FILE)
    return (FILE,)


def load(folder: Path) -> Callable[[Tensor], Tensor]:
    """Return the logits of a written program as a function of images.

    Args:
        folder: The folder that `write` wrote to.
    """
    module = torch.export.load(folder / FILE).module()

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        found: Tensor = module(images)
        return found

    return logits
