"""Variants of a model for deployment: as it is, with BatchNorm folded into the layers before it, and with weights of 8 bits."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from autospike.models.contract import SpikingModel
from autospike.nn.fusion import fuse

VariantName = Literal["exact", "fused", "int8"]

LARGEST_INT8 = 127  # symmetric, so that 0 stays 0


@dataclass(frozen=True, kw_only=True)
class Int8Weight:
    """A weight of 8-bit integers with one scale for each output channel: `weight = integers * scale`.

    Attributes:
        integers: `[out_channels, ...]`, int8, from -127 to 127.
        scale: `[out_channels]`, float32.
    """

    integers: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Int8Weight:
        """Quantise a weight: the largest magnitude of a channel becomes 127, all others are rounded to nearest.

        Args:
            weight: `[out_channels, ...]`.

        Returns:
            The integers and the scales.
        """
        flat = weight.detach().flatten(1)
        scale = flat.abs().amax(dim=1) / LARGEST_INT8
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        integers = (flat / scale[:, None]).round().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8)
        return cls(integers=integers.view(weight.shape), scale=scale)

    @property
    def values(self) -> Tensor:
        """The weight that is computed with, float32."""
        return self.integers.float() * self.scale.view(-1, *(1 for _ in self.integers.shape[1:]))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model that is written, and its integers if there are any.

    Attributes:
        name: Name of the variant.
        model: The model, in eval mode. Weights of 8 bits have been converted back, so that it computes with the rounded values.
        int8: The integers of each weight, by its name in the model; empty unless the variant is `int8`.
    """

    name: VariantName
    model: SpikingModel
    int8: dict[str, Int8Weight] = field(default_factory=dict)


def variant_of(model: SpikingModel, name: VariantName) -> Variant:
    """Make a variant of a model, which is not changed.

    Args:
        model: The calibrated model, in eval mode.
        name: `exact` for the model as it is; `fused` with BatchNorm folded; `int8` as `fused`, with every weight of a linear layer
            or convolution in 8 bits, one scale for each output channel. Biases, thresholds and potentials stay in float32.

    Returns:
        The variant.
    """
    copied = deepcopy(model).eval().requires_grad_(False)
    if name == "exact":
        return Variant(name=name, model=copied)
    fuse(copied)
    copied.requires_grad_(False)
    int8 = {}
    if name == "int8":
        for path, module in copied.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                weight = Int8Weight.of(module.weight)
                module.weight.data = weight.values
                int8[f"{path}.weight"] = weight
    return Variant(name=name, model=copied, int8=int8)
