"""T and B of a batch: what the neurons of a model receive, checked against the shape of the batch and against the arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map

from autospike.counting.coverage import NEURON_LAYERS
from autospike.models.contract import SpikingModel

Shapes = dict[nn.Module, list[torch.Size]]
Neurons = tuple[type[nn.Module], ...]

NO_NEURON = (
    "the model has no layer of neurons that autospike knows, so its time steps, spikes and resets cannot be identified; name the "
    "classes of its neurons, for example neurons=[MyLIF], or say that it has none: neurons=[]"
)


@dataclass(frozen=True, kw_only=True)
class BatchLayout:
    """T and B of a batch, and how the model runs over time.

    Attributes:
        time_steps: T.
        images: B.
        stepwise: Whether the model processes one time step after another.
        runs: How often the model is called; T if it runs one step in each call.
        problems: What contradicts, each as one line.
    """

    time_steps: int
    images: int
    stepwise: bool = False
    runs: int = 1
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Received:
    """What layers of neurons receive.

    Attributes:
        time_steps: T.
        rows: Number of rows of each step: B, or B times the number of patches.
        stepwise: Whether they are called once for each step.
        ambiguous: Whether T is a guess.
    """

    time_steps: int
    rows: int
    stepwise: bool
    ambiguous: bool = False


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the caller says.

    Attributes:
        time_steps: T, or None.
        images: B, or None.
        neurons: Classes of neurons, or None if only those of this package and of spikingjelly are meant.
    """

    time_steps: int | None
    images: int | None
    neurons: Neurons | None


def batch_layout(model: nn.Module, batch: Tensor, given: Given) -> BatchLayout:
    """Find T and B.

    They are those that the layers of neurons receive in a separate forward pass. A model of this package knows its T.

    Args:
        model: The model, in eval mode, with reset neurons.
        batch: Its input.
        given: What the caller says.

    Returns:
        The layout.

    Raises:
        ValueError: The model mixes single-step and multi-step neurons, so that time is ambiguous.
    """
    if isinstance(model, SpikingModel):
        return _of_spiking_model(model, batch, given)
    received = _received(model, batch, given)
    if received is None:
        return _without_neurons(model, batch, given)
    steps, runs, problems = _time_steps(received, given.time_steps)
    images, contradictions = _images(batch.shape, received, steps, given.images)
    return BatchLayout(
        time_steps=steps, images=images, stepwise=received.stepwise, runs=runs, problems=(*problems, *contradictions)
    )


def _of_spiking_model(model: SpikingModel, batch: Tensor, given: Given) -> BatchLayout:
    images = batch.shape[-4]
    wrong = given.images not in (None, images)
    problem = f"images={given.images}, but the batch of shape {tuple(batch.shape)} has {images}; leave images= out"
    return BatchLayout(
        time_steps=given.time_steps or model.architecture.time_steps, images=images, problems=(problem,) if wrong else ()
    )


def _without_neurons(model: nn.Module, batch: Tensor, given: Given) -> BatchLayout:
    """T and B as given, otherwise from the batch."""
    shape, problems = batch.shape, []
    held = neurons_of(model, given.neurons or ())
    if held:
        problems.append("the model does not call its layers of neurons, so T is not known; give time_steps=")
    elif given.neurons is None:
        problems.append(NO_NEURON)
    elif given.neurons:
        problems.append(f"the model has no neurons of {_names(given.neurons)}; name the classes that it has, or say neurons=[]")
    images = given.images or (shape[1] if len(shape) == 5 else shape[0])
    steps = given.time_steps or 1
    if given.images and images not in _possible_images(shape, steps):
        problems.append(_wrong_images(given.images, shape, None))
    return BatchLayout(time_steps=steps, images=images, problems=tuple(problems))


def _received(model: nn.Module, batch: Tensor, given: Given) -> _Received | None:
    """What neurons receive, or None if none is called."""
    in_container = {inner for outer in model.modules() if isinstance(outer, layer.MultiStepContainer) for inner in outer.modules()}
    known = neurons_of(model, ())
    modes = {getattr(neuron, "step_mode", "m") for neuron in known if neuron not in in_container}
    if len(modes) > 1:
        raise ValueError("the model has single-step and multi-step neurons; set one mode: functional.set_step_mode(model, 'm')")
    shapes, of_layers = _input_shapes(model, batch, given.neurons or ())
    outside = [each for neuron, each in shapes.items() if neuron not in in_container]
    of_known = {neuron: each for neuron, each in shapes.items() if neuron in known}
    if not shapes:
        return None
    if of_known and (modes == {"s"} or of_known.keys() <= in_container):
        received = _Received(time_steps=_calls(of_known), rows=next(iter(of_known.values()))[0][0], stepwise=modes == {"s"})
    elif of_known:
        steps, rows = next(each[0][:2] for neuron, each in of_known.items() if neuron not in in_container)
        received = _Received(time_steps=steps, rows=rows, stepwise=False)
    else:
        first, calls = next(iter(shapes.items()))
        batch_first = len(calls) == 1 and _is_batch_first(first, calls[0], next(model.parameters(), batch))
        received = (
            _Received(time_steps=calls[0][1], rows=calls[0][0], stepwise=False)
            if batch_first
            else _of_unknown_mode(outside or list(shapes.values()), batch.shape, given)
        )
    return replace(received, stepwise=received.stepwise and not _all_steps_at_once(of_layers, received))


def _all_steps_at_once(of_layers: Shapes, received: _Received) -> bool:
    """Whether a layer with weights runs once for all time steps, although the neurons are called once for each."""
    steps, rows = received.time_steps, received.rows
    all_steps = {(steps * rows,), (steps, rows)}
    return steps > 1 and any(
        len(calls) == 1 and not all_steps.isdisjoint((tuple(calls[0][:1]), tuple(calls[0][:2]))) for calls in of_layers.values()
    )


# Sizes of the random inputs that make neurons fire, whatever their threshold.
_INPUTS = (2.0, 20.0, 200.0)


def _is_batch_first(neurons: nn.Module, shape: torch.Size, like: Tensor) -> bool:
    """Whether the second dimension of the input of neurons is time, and the first one is not.

    Neurons have a state: what they fire depends on their input at earlier steps, but not on later ones, as it may on other
    channels, nor on other samples of the batch. All are tried with random inputs.

    Args:
        neurons: A layer of neurons of other code, which is called once.
        shape: Shape of its input.
        like: A tensor of the device and the type of the input.
    """
    if len(shape) < 3 or shape[1] < 2:
        return False
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    dtype = like.dtype if like.is_floating_point() else torch.float32
    inputs = [(size * values).to(like.device, dtype) for size in _INPUTS]
    try:
        with torch.random.fork_rng(devices=[]):
            later = any(_depends(neurons, x, 1) for x in inputs)
            return later and not any(_depends(neurons, x, 1, backwards=True) or _depends(neurons, x, 0) for x in inputs)
    except Exception:  # the layer may need other arguments, or raise anything for other values
        return False


def _depends(neurons: nn.Module, x: Tensor, dimension: int, *, backwards: bool = False) -> bool:
    """Whether outputs at all indices of a dimension but the first (backwards: the last) change if the input there is 0."""
    size, outputs = x.shape[dimension], []
    changed = x.clone()
    changed.select(dimension, size - 1 if backwards else 0).zero_()
    for given in (x, changed):
        with preserved_state(neurons, (type(neurons),)):
            found = next(y for y in tree_leaves(neurons(given.clone())) if isinstance(y, Tensor))
        outputs.append(found.narrow(dimension, 0 if backwards else 1, size - 1))
    return not torch.equal(*outputs)


def _of_unknown_mode(calls: Sequence[Sequence[torch.Size]], shape: torch.Size, given: Given) -> _Received:
    """What neurons of other code receive, which do not say whether they are called once for each step, or once for all.

    Args:
        calls: The input shapes of each layer, one for each call.
        shape: The shape of the batch.
        given: What the caller says.
    """
    first, times = calls[0][0], min(map(len, calls))
    possible = given.images in _possible_images(shape, given.time_steps or 1)
    images = given.images if given.images and possible else shape[1] if len(shape) == 5 else shape[0]
    rows, second = first[0] if first else 1, first[1] if len(first) > 1 else 0
    has_batch_second = len(first) > 2 and second == images
    maybe_frames = times == 1 and len(shape) == 3 and first[:2] == shape[:2]  # [T, B, features], or images [B, ...]
    if maybe_frames and given.time_steps == shape[0]:
        return _Received(time_steps=rows, rows=second, stepwise=False)
    if times > 1 and (rows == images or not has_batch_second) and (rows, second) != (given.time_steps, images):
        return _Received(time_steps=times, rows=rows, stepwise=True)
    if has_batch_second and (given.time_steps in (None, rows) or rows != images):  # [T, B, ...]
        return _Received(time_steps=rows, rows=second, stepwise=False)
    if second and second % images == 0 and rows == given.time_steps != images:  # [T, B * patches, ...]
        return _Received(time_steps=rows, rows=second, stepwise=False)
    steps = given.time_steps or rows // images
    if rows > images and rows % (steps * images) == 0:  # [T * B, ...]
        return _Received(time_steps=steps, rows=rows // steps, stepwise=False)
    return _Received(time_steps=1, rows=rows, stepwise=True, ambiguous=maybe_frames and given.time_steps is None)


def _calls(shapes: Shapes) -> int:
    return min(map(len, shapes.values()))


def _time_steps(received: _Received, given: int | None) -> tuple[int, int, list[str]]:
    """T, how often the model must be called, and what contradicts the given T."""
    steps = received.time_steps
    if received.ambiguous:
        return steps, 1, ["the neurons receive the first two dimensions of the batch, [T, B] or [B, ...]; give time_steps="]
    if given is None or given == steps:
        return steps, 1, []
    if received.stepwise and steps == 1:
        problem = (
            f"time_steps={given}, but the model runs one time step in each call: its loop over time is outside; it is counted as "
            f"{given} calls with the same input; to count other inputs, wrap the loop in a module"
        )
        return given, given, [problem]
    if received.stepwise and steps % given == 0:  # neurons that are shared by several layers
        return given, 1, []
    return (
        steps,
        1,
        [f"time_steps={given}, but the neurons of the model receive {steps}; counted with {steps}; leave time_steps= out"],
    )


def _images(shape: torch.Size, received: _Received, steps: int, given: int | None) -> tuple[int, list[str]]:
    """B, and what contradicts the shape of the batch."""
    rows, found = received.rows, _images_of_batch(shape, received.rows, steps)
    if given is None:
        if found is not None:
            return found, []
        problem = (
            f"the neurons receive {rows} rows at each of {steps} time steps, which does not determine the number of images in a "
            f"batch of shape {tuple(shape)}; give images="
        )
        return rows, [problem]
    if given in _possible_images(shape, steps) and rows % given == 0:
        return given, []
    return found or given, [_wrong_images(given, shape, found)]


def _wrong_images(given: int, shape: torch.Size, found: int | None) -> str:
    counted = f"; counted with {found}" if found else ""
    return (
        f"images={given}, but the batch of shape {tuple(shape)} does not hold that many{counted}; correct images= or leave it out"
    )


def _possible_images(shape: torch.Size, steps: int) -> set[int]:
    """The sizes in the shape of a batch that may be B: `[B, ...]`, `[T, B, ...]`, or `[T * B, ...]`."""
    possible = {shape[0]}
    if len(shape) > 1 and shape[0] == steps:
        possible.add(shape[1])
    if shape[0] % steps == 0:
        possible.add(shape[0] // steps)
    return possible


def _images_of_batch(shape: torch.Size, rows: int, steps: int) -> int | None:
    """B by the shape of the batch, of which the neurons receive a multiple if patches are folded into it; None if ambiguous.

    Args:
        shape: Shape of the batch.
        rows: Rows that the neurons receive at each time step: B, or B times the number of patches.
        steps: T.
    """
    first, second = shape[0], shape[1] if len(shape) > 1 else 0
    frames = second and first == steps
    if frames and rows == second:
        return second
    if rows == first or (second == steps and rows % first == 0):
        return first
    folded_frames, folded_images = bool(frames) and rows % second == 0, rows % first == 0
    if len(shape) != 4 and folded_frames and folded_images:
        return second if len(shape) > 4 else None
    if folded_images and not (frames and len(shape) > 4):
        return first
    if folded_frames:
        return second
    merged = first // steps if first % steps == 0 else 0
    return merged if merged and (rows == merged or (merged > 1 and rows % merged == 0)) else None


def neurons_of(model: nn.Module, more: Neurons) -> list[nn.Module]:
    """Return the layers of neurons of a model.

    Args:
        model: The model.
        more: Classes in addition to those of this package and of spikingjelly.
    """
    return [module for module in model.modules() if isinstance(module, (*NEURON_LAYERS, *more))]


def _names(kinds: Neurons) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _input_shapes(model: nn.Module, batch: Tensor, more: Neurons) -> tuple[Shapes, Shapes]:
    """Input shapes of neuron layers, and of layers with weights outside them: one for each call, in the order of first calls."""
    neurons, of_neurons, of_layers = neurons_of(model, more), Shapes(), Shapes()
    inside = {inner for neuron in neurons for inner in neuron.modules()}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | _ConvNd) and module not in inside]

    def record(shapes: Shapes, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)), None)
        if x is not None:
            shapes.setdefault(module, []).append(x.shape)

    if not neurons:
        return of_neurons, of_layers
    with ExitStack() as stack:
        for shapes, modules in ((of_neurons, neurons), (of_layers, layers)):
            for module in modules:
                stack.callback(module.register_forward_pre_hook(partial(record, shapes), with_kwargs=True).remove)
        stack.enter_context(preserved_state(model, more))
        model(batch)
    functional.reset_net(model)
    return of_neurons, of_layers


@contextmanager
def preserved_state(model: nn.Module, neurons: Neurons) -> Iterator[None]:
    """Restore the attributes and buffers of neurons of other code after the block: they store their state there.

    Args:
        model: The model.
        neurons: The classes of these neurons.

    Yields:
        Nothing.
    """
    modules = {inner: None for outer in model.modules() if isinstance(outer, neurons) for inner in outer.modules()}
    saved = [(module, _attributes(module), dict(module._buffers), _cloned(module._buffers)) for module in modules]
    try:
        yield
    finally:
        for module, attributes, buffers, values in saved:
            for name in set(vars(module)) - attributes.keys() - _HELD_BY_TORCH:
                del vars(module)[name]
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            for name, value in values.items():
                buffer = module._buffers[name]
                if value is not None and buffer is not None:
                    buffer.copy_(value)


_HELD_BY_TORCH = frozenset(vars(nn.Module()))


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: _cloned(value) for name, value in vars(module).items() if name not in _HELD_BY_TORCH}


def _cloned(value: Any) -> Any:
    """A copy whose tensors, in lists, tuples and dictionaries too, keep their values when the original is modified in place."""
    copied = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, value)
    return copy(copied) if isinstance(copied, list | dict) else copied
