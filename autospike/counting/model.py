"""Count the operations of any spiking model, of this package or of other code."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from autospike.counting.counter import Counter
from autospike.counting.coverage import unnumbered
from autospike.counting.layout import NO_NEURON, BatchLayout, Given, batch_layout, preserved_state
from autospike.energy.counts import KINDS, InputKind, LayerCount
from autospike.energy.operations import Operations
from autospike.errors import UserError
from autospike.models.contract import SpikingModel
from autospike.models.decoders import DecoderModel


@torch.no_grad()
def count_operations(
    model: nn.Module,
    batch: Tensor,
    *,
    time_steps: int | None = None,
    images: int | None = None,
    strict: bool = False,
    neurons: Sequence[type[nn.Module]] | None = None,
) -> Operations:
    """Count what a model does for one image, as the mean over a batch. Any energy convention can then be applied to the counts.

    Example:
        >>> counted = autospike.count_operations(model, images)
        >>> counted.energy("spikformer").energy_mj
        >>> autospike.count_operations(snntorch_model, images, neurons=[snntorch.Leaky])

    It works on models of this package, on models with spikingjelly's neurons, and on models with other neurons whose classes are
    named. Layers of torch, matrix products, element-wise products (masks) and sums of spikes are counted by the values that enter
    them; `free` and `unknown` list what was not counted. The model runs in eval mode from reset neurons. Afterwards its mode and
    the state of neurons of other code are restored, and the state of spikingjelly's neurons is reset.

    Values: signed whole numbers are accumulations, as many as their magnitude, and so are whole numbers times one common scale,
    which merges into the next weights. Statistics that a normalisation computes from its input do not merge, so it is unknown.

    Time and batch: T and B are those that the neurons receive, checked against the shape of the batch and against `time_steps` and
    `images`. A contradiction is an error in strict mode and otherwise a warning; so is a model without known neurons, unless
    `neurons=[]` says that it has none, and a comparison with a threshold outside neurons. If the model runs one time step in each
    call, it is called `time_steps` times with the same batch, with the same error or warning.

    Limits:

    - Time: the first dimension inside the model must be time x batch, or the model must loop over time with single-step neurons
      (the n-th call of a layer is then step n). If it is batch x time, totals are right, but not their division into time steps.
    - Kinds of values: real values that happen to be whole numbers count as spikes. An input is a still image if it is the same at
      every step and no neuron fired before; at T = 1 its values decide. A head that reads a mean is counted at every step at which
      it runs.
    - Form: masks and sums are recognised as products and sums; a mean, a maximum, a selection or an addition of spikes is free.
      A sum or mean of values times different weights, `(x * weight).sum(-1)`, is a dot product.
      Attention is counted in the order in which it runs, and no layers are fused.

    Args:
        model: The model.
        batch: Input of the model: images `[B, C, H, W]`, frames `[T, B, C, H, W]`, or another shape that it takes.
        time_steps: T; taken from the input of the neurons unless given.
        images: B; taken from the shape of the batch and from the input of the neurons unless given.
        strict: Whether an operator without a rule, a contradiction and a model without known neurons are errors.
        neurons: Classes of layers of neurons in addition to those of this package and of spikingjelly; an empty list says that the
            model has no others. Element-wise operators inside them are free; their linear layers, convolutions and matrix products
            are counted.

    Returns:
        Counts for one image.

    Raises:
        ValueError: The model mixes single-step and multi-step neurons, so that time is ambiguous.
        UnknownOperationError: In strict mode, an operator has no rule.
        UserError: `time_steps`, `images` or `neurons` are invalid; or, in strict mode, they contradict the model or the batch, or
            the model has no known neurons.
    """
    given = _given(time_steps, images, neurons)
    training = {module: module.training for module in model.modules()}
    model.eval()
    functional.reset_net(model)
    try:
        # hooks and the coverage check see the layers of a model of torch.compile only if it runs without its compiled code
        with torch.compiler.set_stance("force_eager"), preserved_state(model, given.neurons or ()):
            layout = batch_layout(model, batch, given)
            _report(layout.problems, strict=strict)
            counter = Counter(strict=strict, neurons=given.neurons or ())
            found = _count(model, batch, layout, counter)
        _report(_found_problems(found, layout, counter, given), strict=strict)
        return found
    finally:
        functional.reset_net(model)
        for module, mode in training.items():
            module.training = mode


def _given(time_steps: int | None, images: int | None, neurons: Sequence[type[nn.Module]] | None) -> Given:
    """What the caller says, checked."""
    for name, value in (("time_steps", time_steps), ("images", images)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{name}={value!r} is no positive whole number; correct it or leave it out")
    kinds = None if neurons is None else tuple(neurons) if isinstance(neurons, Iterable) else (neurons,)
    for kind in kinds or ():
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise UserError(f"neurons={neurons!r}: {kind!r} is no class of modules; give classes, for example neurons=[MyLIF]")
    return Given(time_steps=time_steps, images=images, neurons=kinds)


def _report(problems: Sequence[str], *, strict: bool) -> None:
    """Raise the first problem in strict mode, otherwise warn of each.

    Raises:
        UserError: In strict mode, there is a problem.
    """
    if problems and strict:
        raise UserError(problems[0])
    for problem in problems:
        warnings.warn(problem, UserWarning, stacklevel=4)  # the caller of count_operations, behind the decorator of torch


def _found_problems(found: Operations, layout: BatchLayout, counter: Counter, given: Given) -> list[str]:
    """What the counts contradict."""
    problems = []
    if given.time_steps and layout.time_steps > 1 and found.counts and not layout.problems and _ran_once(found):
        problems.append(
            f"time_steps={given.time_steps}, but the model runs each layer once, for a batch without time steps; wrap its loop "
            "over time in a module, or leave time_steps= out"
        )
    if counter.thresholds and NO_NEURON not in layout.problems:
        name, kind = next(iter(counter.thresholds.items()))
        problems.append(
            f"{name or 'the model'} ({kind}) compares values with a threshold outside neurons; if it is a layer of neurons, name "
            f"its class: neurons=[{kind}]"
        )
    return problems


def _ran_once(found: Operations) -> bool:
    return all(count.time_steps == 1 and "#" not in count.layer for count in found.counts)


def _count(model: nn.Module, batch: Tensor, layout: BatchLayout, counter: Counter) -> Operations:
    with counter.watch(model, images=layout.images, time_steps=1 if layout.stepwise else layout.time_steps):
        for _ in range(layout.runs):
            _run(model, batch, layout.time_steps)
    found = counter.operations()
    return _merge_calls(found, layout)


def _run(model: nn.Module, batch: Tensor, time_steps: int) -> None:
    if isinstance(model, DecoderModel):
        model(batch, at=[time_steps])
    elif isinstance(model, SpikingModel):
        model.forward_steps(batch, time_steps)
    else:
        model(batch)


def _merge_calls(found: Operations, layout: BatchLayout) -> Operations:
    """Merge the calls of each layer that runs in a loop over time.

    If a layer is called k times at every step, every k-th call is the same operation. In a model whose neurons receive all steps
    at once, some layers may run in such a loop: those of which every call is of one step.
    """
    calls: dict[str, list[LayerCount]] = {}
    for count in found.counts:
        calls.setdefault(unnumbered(count.layer), []).append(count)
    merged = (
        _merge_layer(layer, each, layout.time_steps) if layout.stepwise or _is_one_step_each(each, layout.time_steps) else each
        for layer, each in calls.items()
    )
    return replace(found, counts=tuple(chain.from_iterable(merged)))


def _is_one_step_each(calls: list[LayerCount], steps: int) -> bool:
    return steps > 1 and len(calls) > 1 and all(call.time_steps == 1 for call in calls)


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
