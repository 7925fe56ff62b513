"""Counting rules of the neurons of spikingjelly that multiply by a matrix of weights over time.

A parallel spiking neuron (PSN; Fang et al., NeurIPS 2023) charges all time steps by one product, `h = W x + b` with `W` `[T, T]`
and `x` `[T, ...]`: each value reaches T steps. In a masked or a sliding one it reaches k steps, the order of the neuron. Steps
before the first and after the last are counted like the zero padding of a convolution: as dense operations.
The rules hold in both step modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from autospike.counting.accumulator import OperandAccumulator, OperationAccumulator
from autospike.counting.operator_rules import BatchContext

NeuronRule = Callable[[str, BatchContext, Any, Tensor], OperationAccumulator]


def _parallel(name: str, batch: BatchContext, module: Any, x: Tensor) -> OperationAccumulator:
    """Rule of PSN with `x` `[T, B, ...]`."""
    return _over_time(name, batch, x, steps=len(x), reached=module.T)


def _masked(name: str, batch: BatchContext, module: Any, x: Tensor) -> OperationAccumulator:
    """Rule of a masked PSN, whose mask is complete once its lambda is 1; `x` `[T, B, ...]` or, in single-step mode, `[B, ...]`."""
    reached = min(module.k, module.T) if float(module.lambda_) >= 1 else module.T
    return _over_time(name, batch, x, steps=_steps(module, x), reached=reached)


def _sliding(name: str, batch: BatchContext, module: Any, x: Tensor) -> OperationAccumulator:
    """Rule of a sliding PSN; `x` `[T, B, ...]` or, in single-step mode, `[B, ...]`."""
    return _over_time(name, batch, x, steps=_steps(module, x), reached=module.k)


def _steps(module: Any, x: Tensor) -> int:
    return len(x) if module.step_mode == "m" else 1


def _over_time(name: str, batch: BatchContext, x: Tensor, *, steps: int, reached: int) -> OperationAccumulator:
    """Count a product over time.

    Args:
        name: The name of the neurons.
        batch: The running batch.
        x: Their input.
        steps: Number of time steps in `x`.
        reached: Number of time steps that each value reaches.
    """
    elements = math.ceil(x.numel() / (steps * batch.images))
    statistics = batch.inputs.total(batch.levels(x).reshape(steps, -1))
    operand = OperandAccumulator.of(statistics, elements=elements, fan_out=reached)
    return OperationAccumulator(layer=f"{name}.weight", macs=elements * reached, time_steps=steps, operands=[operand])


NEURON_RULES: dict[type[nn.Module], NeuronRule] = {
    neuron.PSN: _parallel,
    neuron.MaskedPSN: _masked,
    neuron.SlidingPSN: _sliding,
}
