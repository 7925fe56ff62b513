"""Counting what anybody's spiking model does with a batch."""

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
    """What a model does for one image, mean over a batch: the counts that any energy convention scores.

        counted = autospike.count_operations(model, images)
        counted.energy("spikformer").energy_mj

    Works on this package's models and on models of spikingjelly's neurons: layers of torch, products of matrices, element-wise
    products (masks) and sums of spikes are counted by the values that enter them; `free` and `unknown` say what was not counted.
    The model runs in eval mode, from reset neurons, and is left as it was but for their state, which is reset.

    Limits. Time: the first dimension inside the model must be time x batch, or it must loop over time with single-step neurons (a
    layer's n-th call is then step n). Otherwise the split over steps is wrong, and what reads a still image is not known.
    Kinds: values that are whole by chance pass for spikes. A still image is what is the same at every step, before any neuron; at
    T = 1 its values decide. A head that reads a mean is charged at every step at which it runs.
    Spelling: masks and sums are known as products and sums; a mean, a maximum, a selection or an addition of spikes is free.
    Attention is counted in the order in which it runs, and nothing is fused.

    Args:
        batch: what the model takes: images `[B, C, H, W]`, frames `[T, B, C, H, W]`, ...
        time_steps: T; unless given, as the model's neurons see it.
        images: B; unless given, as the model's neurons see it.
        strict: whether an operation without a rule is an error.

    Raises:
        ValueError: the model mixes single-step and multi-step neurons, so time cannot be told.
        UnknownOperationError: in strict mode, an operation has no rule.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    functional.reset_net(model)
    try:
        return _count(model, batch, _shape(model, batch, time_steps, images), Counter(strict=strict))
    finally:
        functional.reset_net(model)
        for module, mode in training.items():
            module.training = mode


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """T and B, and whether the model sees one step after another."""

    time_steps: int
    images: int
    stepwise: bool


def _count(model: nn.Module, batch: Tensor, shape: _Shape, counter: Counter) -> Operations:
    with counter.watch(model, images=shape.images, time_steps=1 if shape.stepwise else shape.time_steps):
        _run(model, batch, shape.time_steps)
    found = counter.operations()
    return _along_time(found, shape.time_steps) if shape.stepwise else found


def _run(model: nn.Module, batch: Tensor, time_steps: int) -> None:
    if isinstance(model, SpikingModel):
        model.forward_steps(batch, time_steps)
    else:
        model(batch)


def _shape(model: nn.Module, batch: Tensor, time_steps: int | None, images: int | None) -> _Shape:
    """As was said; otherwise as neurons see it, in a run of its own; without neurons, as the batch looks."""
    if isinstance(model, SpikingModel):
        return _Shape(time_steps=time_steps or model.architecture.time_steps, images=images or batch.shape[-4], stepwise=False)
    looped = {inner for outer in model.modules() if isinstance(outer, layer.MultiStepContainer) for inner in outer.modules()}
    modes = {getattr(neuron, "step_mode", "m") for neuron in _neurons(model) if neuron not in looped}
    if len(modes) > 1:
        raise ValueError("the model has single-step and multi-step neurons; set one mode: functional.set_step_mode(model, 'm')")
    seen = _seen_by_neurons(model, batch)
    stepwise = modes == {"s"}
    if not seen:
        steps, count = 1, batch.shape[1] if batch.dim() == 5 else len(batch)
    elif stepwise or seen.keys() <= looped:
        steps, count = min(map(len, seen.values())), next(iter(seen.values()))[0][0]
    else:
        steps, count = next(iter(shapes[0][:2] for neuron, shapes in seen.items() if neuron not in looped))
    return _Shape(time_steps=time_steps or steps, images=images or count, stepwise=stepwise)


def _neurons(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, NEURON_LAYERS)]


def _seen_by_neurons(model: nn.Module, batch: Tensor) -> dict[nn.Module, list[torch.Size]]:
    """For each layer of neurons, in the order in which they first fire, the shape of what enters, call by call."""
    seen: dict[nn.Module, list[torch.Size]] = {}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering, *_ = (*args, *kwargs.values())
        seen.setdefault(module, []).append(entering.shape)

    with ExitStack() as stack:
        for module in _neurons(model):
            stack.callback(module.register_forward_pre_hook(look, with_kwargs=True).remove)
        if _neurons(model):
            model(batch)
            functional.reset_net(model)
    return seen


def _along_time(found: Operations, steps: int) -> Operations:
    """The calls of each layer as its time steps: of k operations that a module does at every step, each k-th call is one's."""
    calls: dict[str, list[LayerCount]] = {}
    for count in found.counts:
        calls.setdefault(unnumbered(count.layer), []).append(count)
    return replace(found, counts=tuple(chain.from_iterable(_over_steps(layer, each, steps) for layer, each in calls.items())))


def _over_steps(layer: str, calls: list[LayerCount], steps: int) -> list[LayerCount]:
    if len(calls) % steps:  # not at every step: after time was averaged
        return calls
    each = len(calls) // steps
    return [_joined(layer if k == 0 else f"{layer}#{k + 1}", calls[k::each]) for k in range(each)]


def _joined(layer: str, calls: list[LayerCount]) -> LayerCount:
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
