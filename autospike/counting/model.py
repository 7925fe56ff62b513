"""Count the operations of any spiking model, of this package or built of spikingjelly neurons."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from autospike.counting.counter import Counter
from autospike.counting.coverage import NEURON_LAYERS, unnumbered
from autospike.energy.counts import KINDS, InputKind, LayerCount
from autospike.energy.operations import Operations
from autospike.models.contract import SpikingModel


@torch.no_grad()
def count_operations(
    model: nn.Module, batch: Tensor, *, time_steps: int | None = None, images: int | None = None, strict: bool = False
) -> Operations:
    """Count what a model does for one image, as the mean over a batch. Any energy convention can then be applied to the counts.

    Example:
        >>> counted = autospike.count_operations(model, images)
        >>> counted.energy("spikformer").energy_mj

    It works on models of this package and on models of spikingjelly neurons. Layers of torch, matrix products, element-wise
    products (masks) and sums of spikes are counted by the values that enter them; `free` and `unknown` list what was not counted.
    The model runs in eval mode from reset neurons. Afterwards its mode is restored, and the state of its neurons is reset.

    Limits:

    - Time: the first dimension inside the model must be time x batch, or the model must loop over time with single-step neurons
      (the n-th call of a layer is then step n). Otherwise the split over time steps is wrong, and a layer that reads a still image
      is not recognised.
    - Kinds of values: real values that happen to be whole numbers count as spikes. An input is a still image if it is the same at
      every step and no neuron fired before; at T = 1 its values decide. A head that reads a mean is counted at every step at which
      it runs.
    - Form: masks and sums are recognised as products and sums; a mean, a maximum, a selection or an addition of spikes is free.
      Attention is counted in the order in which it runs, and no layers are fused.

    Args:
        model: The model.
        batch: Input of the model: images `[B, C, H, W]`, frames `[T, B, C, H, W]`, or another shape that it takes.
        time_steps: T; taken from the input of the neurons unless given.
        images: B; taken from the input of the neurons unless given.
        strict: Whether an operator without a rule is an error.

    Returns:
        Counts for one image.

    Raises:
        ValueError: The model mixes single-step and multi-step neurons, so that time is ambiguous.
        UnknownOperationError: In strict mode, an operator has no rule.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    functional.reset_net(model)
    try:
        return _count(model, batch, _layout(model, batch, time_steps, images), Counter(strict=strict))
    finally:
        functional.reset_net(model)
        for module, mode in training.items():
            module.training = mode


@dataclass(frozen=True, kw_only=True)
class _BatchLayout:
    """T and B of a batch, and whether the model processes one time step after another."""

    time_steps: int
    images: int
    stepwise: bool


def _count(model: nn.Module, batch: Tensor, layout: _BatchLayout, counter: Counter) -> Operations:
    with counter.watch(model, images=layout.images, time_steps=1 if layout.stepwise else layout.time_steps):
        _run(model, batch, layout.time_steps)
    found = counter.operations()
    return _merge_calls(found, layout.time_steps) if layout.stepwise else found


def _run(model: nn.Module, batch: Tensor, time_steps: int) -> None:
    if isinstance(model, SpikingModel):
        model.forward_steps(batch, time_steps)
    else:
        model(batch)


def _layout(model: nn.Module, batch: Tensor, time_steps: int | None, images: int | None) -> _BatchLayout:
    """T and B as given; otherwise from the inputs of the neurons in a separate run, or from the batch if there are no neurons."""
    if isinstance(model, SpikingModel):
        return _BatchLayout(
            time_steps=time_steps or model.architecture.time_steps, images=images or batch.shape[-4], stepwise=False
        )
    in_container = {inner for outer in model.modules() if isinstance(outer, layer.MultiStepContainer) for inner in outer.modules()}
    modes = {getattr(neuron, "step_mode", "m") for neuron in _neurons(model) if neuron not in in_container}
    if len(modes) > 1:
        raise ValueError("the model has single-step and multi-step neurons; set one mode: functional.set_step_mode(model, 'm')")
    shapes_by_neuron = _input_shapes_of_neurons(model, batch)
    stepwise = modes == {"s"}
    if not shapes_by_neuron:
        steps, count = 1, batch.shape[1] if batch.dim() == 5 else len(batch)
    elif stepwise or shapes_by_neuron.keys() <= in_container:
        steps, count = min(map(len, shapes_by_neuron.values())), next(iter(shapes_by_neuron.values()))[0][0]
    else:
        steps, count = next(iter(shapes[0][:2] for neuron, shapes in shapes_by_neuron.items() if neuron not in in_container))
    return _BatchLayout(time_steps=time_steps or steps, images=images or count, stepwise=stepwise)


def _neurons(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, NEURON_LAYERS)]


def _input_shapes_of_neurons(model: nn.Module, batch: Tensor) -> dict[nn.Module, list[torch.Size]]:
    """The input shapes of each layer of neurons, one for each call, in the order of their first calls."""
    shapes: dict[nn.Module, list[torch.Size]] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, *_ = (*args, *kwargs.values())
        shapes.setdefault(module, []).append(x.shape)

    with ExitStack() as stack:
        for module in _neurons(model):
            stack.callback(module.register_forward_pre_hook(record, with_kwargs=True).remove)
        if _neurons(model):
            model(batch)
            functional.reset_net(model)
    return shapes


def _merge_calls(found: Operations, steps: int) -> Operations:
    """Merge the calls of each layer over time.

    If a layer is called k times at every step, every k-th call is the same operation.
    """
    calls: dict[str, list[LayerCount]] = {}
    for count in found.counts:
        calls.setdefault(unnumbered(count.layer), []).append(count)
    return replace(found, counts=tuple(chain.from_iterable(_merge_layer(layer, each, steps) for layer, each in calls.items())))


def _merge_layer(layer: str, calls: list[LayerCount], steps: int) -> list[LayerCount]:
    if len(calls) % steps:  # not called at every step: it runs after an average over time
        return calls
    per_step = len(calls) // steps
    return [_merge(layer if k == 0 else f"{layer}#{k + 1}", calls[k::per_step]) for k in range(per_step)]


def _merge(layer: str, calls: list[LayerCount]) -> LayerCount:
    """Merge the calls of one operation, one for each time step."""
    image = len(calls) > 1 and all(call.reads == "image" for call in calls[1:])
    kinds = tuple(call.input for call in calls)
    kind: InputKind = "real" if image else max(kinds, key=KINDS.index)
    spiking = [] if image or set(kinds) == {"real"} else calls
    return LayerCount(
        layer=layer,
        input=kind,
        input_by_step=kinds if len(set(kinds)) > 1 and not image else (),
        reads="image" if image else "stream",
        time_steps=len(calls),
        macs=calls[0].macs,
        acs=tuple(chain.from_iterable(call.acs or (0.0,) for call in spiking)),
        rate=tuple(chain.from_iterable(call.rate or (0.0,) for call in spiking)),
    )
