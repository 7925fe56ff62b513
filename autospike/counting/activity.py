"""Activity of neurons over images: firing rates by time step, silent and saturated neurons, attention maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autospike.nn.attention import Attention, MatrixAttention
from autospike.nn.neuron import LIF


@dataclass(kw_only=True)
class LayerActivity:
    """Totals of one LIF layer over images.

    Attributes:
        spikes_by_step: Number of spikes at each time step, `[T]`.
        spikes_by_neuron: Number of spikes of each neuron over all images and steps, `[..., C]`.
        chances: Number of times that each neuron could have fired: images times T.
        images: Number of images.
    """

    spikes_by_step: Tensor
    spikes_by_neuron: Tensor
    chances: int = 0
    images: int = 0

    @property
    def rates(self) -> list[float]:
        """Firing rate at each time step: the mean output of a neuron."""
        neurons = self.spikes_by_neuron.numel() * self.images
        return [float(spikes) / neurons for spikes in self.spikes_by_step]

    @property
    def silent(self) -> Tensor:
        """Neurons that never fired, `[..., C]`."""
        return self.spikes_by_neuron == 0

    @property
    def saturated(self) -> Tensor:
        """Neurons that fired at every step of every image, `[..., C]`."""
        return self.spikes_by_neuron >= self.chances


@dataclass(kw_only=True)
class Activity:
    """Accumulates the activity of a model over forward passes.

    Attributes:
        layers: Totals of each LIF layer, by its path.
        attention: The last batch's attention maps `[B, H, W]`, by the path of the token mixer; see `attention_map`.
    """

    layers: dict[str, LayerActivity] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Accumulate inside the block.

        Args:
            model: The model.

        Yields:
            Nothing.
        """
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                if isinstance(module, LIF):
                    hooks.callback(module.register_forward_hook(partial(self._add, name)).remove)
                elif isinstance(module, Attention):
                    hooks.callback(module.operator.register_forward_hook(partial(self._map, name)).remove)
            yield

    def _add(self, name: str, _module: nn.Module, _args: Any, spikes: Tensor) -> None:
        by_step = spikes.flatten(1).sum(dim=1, dtype=torch.float64)
        by_neuron = spikes.sum(dim=(0, 1), dtype=torch.float64)
        if name not in self.layers:
            self.layers[name] = LayerActivity(
                spikes_by_step=torch.zeros_like(by_step), spikes_by_neuron=torch.zeros_like(by_neuron)
            )
        layer = self.layers[name]
        layer.spikes_by_step += by_step
        layer.spikes_by_neuron += by_neuron
        layer.chances += spikes.shape[0] * spikes.shape[1]
        layer.images += spikes.shape[1]

    def _map(self, name: str, module: nn.Module, args: tuple[Tensor, ...], spikes: Tensor) -> None:
        self.attention[name] = attention_map(module, args, spikes)


def attention_map(operator: nn.Module, operands: tuple[Tensor, ...], spikes: Tensor) -> Tensor:
    """Return how much each position contributes to a token mixer, mean over time steps.

    For the product `q (k^T v)`, `sum over queries n of q_n . k_m` is the weight with which position m enters the result, summed
    over heads. Gates have no weights between positions; there it is the share of channels that pass at a position.

    Args:
        operator: The operator of an attention.
        operands: Its inputs, spikes `[T, B, H, W, D]` each.
        spikes: Its output, `[T, B, H, W, D]`.

    Returns:
        `[B, H, W]`.
    """
    if not isinstance(operator, MatrixAttention):
        return spikes.mean(dim=(0, -1))
    q, k = operands[:2]
    queries = q.sum(dim=(2, 3), keepdim=True)
    return (queries * k).sum(dim=-1).mean(dim=0)
