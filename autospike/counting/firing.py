"""Firing rates: how often each layer of neurons fires."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from autospike.nn.neuron import LIF


@dataclass(kw_only=True)
class FiringRates:
    """Accumulates the mean output of every LIF layer over forward passes.

    Attributes:
        spikes: Number of spikes so far, by the name of the layer.
        neurons: Number of outputs so far (T x B x neurons), by the name of the layer.
    """

    spikes: dict[str, float] = field(default_factory=dict)
    neurons: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Accumulate the outputs of all LIF layers of `model` inside the block.

        Args:
            model: A model with layers of class `LIF`.

        Yields:
            Nothing.
        """
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                if isinstance(module, LIF):
                    hooks.callback(module.register_forward_hook(partial(self._add, name)).remove)
            yield

    def rates(self) -> dict[str, float]:
        """Return spikes per neuron and time step, between 0 and 1, by the name of the layer."""
        return {name: spikes / self.neurons[name] for name, spikes in self.spikes.items()}

    def _add(self, name: str, _module: nn.Module, _args: Any, spikes: Tensor) -> None:
        """Forward hook of a LIF layer."""
        with _disable_current_modes():  # this sum is no operation of the model
            total = float(spikes.sum(dtype=torch.float64))
        self.spikes[name] = self.spikes.get(name, 0.0) + total
        self.neurons[name] = self.neurons.get(name, 0) + spikes.numel()
