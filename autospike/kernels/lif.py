"""The LIF layer over all time steps, with the batch normalisation before it and a residual sum after it: `lif.c` has the equations.

One pass over memory forward and one backward; one more each way where the normalisation uses the statistics of the batch. On CUDA
in eager mode spikingjelly's fused neurons run; everywhere else, and while operations are recorded, plain operations of torch.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based import functional, surrogate
from torch import Tensor

from autospike.kernels.batch_norm import Affine, BatchNormStruct, batch_norm_struct, normalise
from autospike.kernels.operator import FLOAT, INT32, INT64, PLAIN_TYPES, POINTER, Library, Operator, is_observed


class NeuronParameters(NamedTuple):
    """Parameters of a neuron, and variants of its dynamics (`autospike.nn.neuron.Dynamics`).

    Attributes:
        tau: Membrane time constant, in time steps.
        v_threshold: Firing threshold.
        slope: Slope of the surrogate.
        soft_reset: Whether a spike subtracts the threshold from the potential; otherwise it sets the potential to 0.
        decay_input: Whether the input is divided by tau.
        detach_reset: Whether no gradient passes through the reset.
        arctan: Whether the surrogate is an arctan; otherwise it is a sigmoid.
        levels: Largest output, D. With 1 the neuron fires spikes; otherwise integers from 0 to D, always with a soft reset, and the
            gradient is 1 / v_threshold where `0 <= h <= D * v_threshold`.
    """

    tau: float
    v_threshold: float
    slope: float
    soft_reset: bool
    decay_input: bool
    detach_reset: bool
    arctan: bool
    levels: int = 1


class NeuronStruct(ctypes.Structure):
    """`neuron` in lif.c."""

    _fields_ = (
        *((name, FLOAT) for name in ("tau", "v_threshold", "slope")),
        *((name, INT32) for name in ("soft_reset", "decay_input", "detach_reset", "arctan", "levels")),
    )


class ShapeStruct(ctypes.Structure):
    """`shape` in lif.c."""

    _fields_ = (("steps", INT64), ("stride", INT64), ("size", INT64), ("channels", INT64), ("threads", INT32))


_structs = tuple(ctypes.POINTER(struct) for struct in (ShapeStruct, NeuronStruct, BatchNormStruct))
LIBRARY = Library(
    "lif",
    {
        "lif": (POINTER, *_structs, POINTER, POINTER, INT64, POINTER, POINTER),
        "linear_lif": (POINTER, POINTER, *_structs, POINTER, POINTER, INT64, POINTER, POINTER),
        "lif_backward": (POINTER, *_structs, INT32, *(POINTER,) * 4),
    },
    structs={"neuron": NeuronStruct, "shape": ShapeStruct, "batch_norm": BatchNormStruct},
)
# Arguments that every operator of neurons has.
NORM_SCHEMA = "Tensor? weight, Tensor? bias, Tensor? mean, Tensor? inverse, bool by_batch"
NEURON_SCHEMA = (
    "float tau, float v_threshold, float slope, bool soft_reset, bool decay_input, bool detach_reset, bool arctan, int levels"
)
NO_NORM = (None, None, None, None, False)


def lif(
    y: Tensor,
    steps: int,
    neuron: NeuronParameters,
    *,
    affine: Affine | None = None,
    stream: Tensor | None = None,
    count: bool = False,
    potential: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the spikes of a LIF layer.

    Args:
        y: Input current, or what is normalised to it, `[T, B, ..., C]`; `[1, B, ..., C]` if it is the same at every step.
        steps: T.
        neuron: Parameters of the neurons.
        affine: The normalisation of y, if any.
        stream: A residual stream to which spikes are added, `[T, B, ..., C]`.
        count: Whether to count spikes.
        potential: Membrane potentials at the start, `[B, ..., C]`, contiguous, which are replaced by those after the last step;
            without gradients. None for a start at 0.

    Returns:
        Spikes, or stream plus spikes, `[T, B, ..., C]`, and the number of spikes by step and position, `[T, positions]` float64,
        where positions are the dimensions between B and C; without `count` the second tensor is empty.
    """
    if LIBRARY.supports(y):
        fused = stream is not None and stream.shape == (steps, *y.shape[1:]) and LIBRARY.supports(stream)
        added = stream.contiguous() if stream is not None and fused else None
        inputs = (y.contiguous(), *(affine or NO_NORM), added, steps, *neuron, count)
        spikes, counts = _lif(*inputs) if potential is None else _lif_cpu(*inputs, potential=potential)
        return spikes if stream is None or fused else stream + spikes, counts
    y = y if affine is None else normalise(y, affine)
    eager_cuda = y.is_cuda and type(y) in PLAIN_TYPES and not (torch.compiler.is_compiling() or is_observed())
    current = y.expand(steps, *y.shape[1:])
    if eager_cuda and neuron.levels == 1 and neuron.tau > 1 and potential is None:
        spikes = _lif_spikingjelly(current, neuron)
    else:
        spikes = _lif_composite(current, neuron, potential)
    counts = _count_spikes(spikes) if count else spikes.new_empty(0, dtype=torch.float64)
    return spikes if stream is None else stream + spikes, counts


def _count_spikes(spikes: Tensor) -> Tensor:
    """Count spikes by step and position.

    Args:
        spikes: `[T, B, ..., C]`.

    Returns:
        `[T, positions]` float64.
    """
    return spikes.reshape(len(spikes), -1, _positions(spikes), spikes.shape[-1]).sum(dim=(1, 3), dtype=torch.float64)


def _positions(x: Tensor) -> int:
    return math.prod(x.shape[2:-1])


def _lif_composite(x: Tensor, neuron: NeuronParameters, potential: Tensor | None = None) -> Tensor:
    """The equations, step by step."""
    v, fired = torch.zeros_like(x[0]) if potential is None else potential, []
    for current in x.unbind(0):
        s, v = one_step(current, v, neuron)
        fired.append(s)
    if potential is not None:
        potential.copy_(v)
    return torch.stack(fired)


def one_step(x: Tensor, v: Tensor, neuron: NeuronParameters) -> tuple[Tensor, Tensor]:
    """Compute one time step. A surrogate passes its gradient as `p - p.detach()`, which is 0.

    Args:
        x: Input current.
        v: Membrane potential after the last step, of the same shape.
        neuron: Parameters of the neurons.

    Returns:
        Spikes, or integers up to `neuron.levels`, and the membrane potential after the reset.
    """
    h = v + (x - v) / neuron.tau if neuron.decay_input else v - v / neuron.tau + x
    s = _integers(h, neuron) if neuron.levels > 1 else (h >= neuron.v_threshold).to(h.dtype)
    if torch.is_grad_enabled():
        p = _surrogate_primitive(h, neuron)
        s = s + (p - p.detach())
    r = s.detach() if neuron.detach_reset else s
    return s, h - r * neuron.v_threshold if neuron.soft_reset or neuron.levels > 1 else (1 - r) * h


def _integers(h: Tensor, neuron: NeuronParameters) -> Tensor:
    """The output of integer neurons; halves are rounded to even."""
    return torch.round(torch.clamp(h.detach() / neuron.v_threshold, 0, neuron.levels))


def _surrogate_primitive(h: Tensor, neuron: NeuronParameters) -> Tensor:
    """The function whose derivative stands for that of the step or, of integer neurons, of the rounding."""
    if neuron.levels > 1:
        u = h / neuron.v_threshold
        return torch.where((u >= 0) & (u <= neuron.levels), u, 0.0)  # a clip whose gradient is 1 at its ends too
    distance = h - neuron.v_threshold
    if neuron.arctan:
        return torch.atan(math.pi / 2 * neuron.slope * distance) / math.pi
    return torch.sigmoid(neuron.slope * distance)


def _lif_spikingjelly(x: Tensor, neuron: NeuronParameters) -> Tensor:
    spikes, _, _ = functional.lif_multi_step(
        x.contiguous(),
        torch.zeros_like(x[0]),
        neuron.tau,
        decay_input=neuron.decay_input,
        v_threshold=neuron.v_threshold,
        v_reset=None if neuron.soft_reset else 0.0,
        surrogate_function=(surrogate.ATan if neuron.arctan else surrogate.Sigmoid)(neuron.slope),
        detach_reset=neuron.detach_reset,
    )
    fired: Tensor = spikes
    return fired


def shape_struct(y: Tensor, steps: int) -> ShapeStruct:
    """Return the struct of an input `[steps, ...]`, or `[1, ...]` of one that is the same at every step.

    Args:
        y: `[steps, ...]`, or `[1, ...]` if the input is the same at every step.
        steps: T.
    """
    size = y[0].numel()
    return ShapeStruct(steps, size if len(y) == steps else 0, size, y.shape[-1], torch.get_num_threads())


def _norm_struct(weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, inverse: Tensor | None) -> BatchNormStruct | None:
    """Return the struct of a normalisation; None for none.

    Args:
        weight: Weight, `[C]`.
        bias: Bias, `[C]`.
        mean: Mean that is subtracted, `[C]`.
        inverse: Inverse standard deviation, `[C]`.
    """
    if weight is None or bias is None or mean is None or inverse is None:
        return None
    return batch_norm_struct(weight, bias, mean, inverse)


def new_counts(spikes: Tensor, *, count: bool) -> tuple[Tensor, tuple[int, int | None]]:
    """Return the tensor of counts, and the arguments by which a C function adds to it.

    Args:
        spikes: The output that is counted, `[T, B, ..., C]`.
        count: Whether to count; the tensor is empty otherwise.
    """
    if not count:
        return spikes.new_empty(0, dtype=torch.float64), (0, None)
    counts = spikes.new_zeros(len(spikes), _positions(spikes), dtype=torch.float64)
    return counts, (counts.shape[1], counts.data_ptr())


def _lif_cpu(
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    inverse: Tensor | None,
    by_batch: bool,  # noqa: ARG001
    stream: Tensor | None,
    steps: int,
    *rest: Any,
    potential: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    *neuron, count = rest
    y, stream = y.contiguous(), None if stream is None else stream.contiguous()
    spikes = y.new_empty(steps, *y.shape[1:])
    counts, counting = new_counts(spikes, count=count)
    structs = (shape_struct(y, steps), NeuronStruct(*neuron), _norm_struct(weight, bias, mean, inverse))
    pointers = (None if x is None else x.data_ptr() for x in (stream, spikes))
    LIBRARY.functions.lif(y.data_ptr(), *structs, *pointers, *counting, None if potential is None else potential.data_ptr())
    return spikes, counts


def _lif_fake(y: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    steps, count = args[6], args[-1]
    counts = y.new_empty((steps, _positions(y)) if count else (0,), dtype=torch.float64)
    return y.new_empty(steps, *y.shape[1:]), counts


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    y, *norm, ctx.by_batch, _, ctx.steps = inputs[:8]
    ctx.neuron = inputs[8:-1]
    ctx.save_for_backward(y, *norm)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _grad_counts: Tensor | None) -> tuple[Tensor | None, ...]:
    y, *norm = ctx.saved_tensors
    grad_y = grad_weight = grad_bias = None
    if grad is not None:
        grad_y, grad_weight, grad_bias = _lif_backward(y, *norm, ctx.by_batch, grad, ctx.steps, *ctx.neuron)
    if norm[0] is None:
        grad_weight = grad_bias = None
    grad_stream = grad if ctx.needs_input_grad[6] else None
    return grad_y, grad_weight, grad_bias, None, None, None, grad_stream, *(None,) * 10


_lif = Operator(
    f"lif(Tensor y, {NORM_SCHEMA}, Tensor? stream, int steps, {NEURON_SCHEMA}, bool count) -> (Tensor, Tensor)",
    _lif_cpu,
    _lif_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)


def _lif_backward_cpu(
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    inverse: Tensor | None,
    by_batch: bool,
    grad_spikes: Tensor,
    steps: int,
    *neuron: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    y, grad_spikes = y.contiguous(), grad_spikes.contiguous()
    grad_y, channels = torch.empty_like(y), 0 if weight is None else len(weight)
    grad_weight, grad_bias = y.new_empty(channels), y.new_empty(channels)
    structs = (shape_struct(y, steps), NeuronStruct(*neuron), _norm_struct(weight, bias, mean, inverse))
    pointers = (x.data_ptr() for x in (grad_spikes, grad_y, grad_weight, grad_bias))
    LIBRARY.functions.lif_backward(y.data_ptr(), *structs, by_batch, *pointers)
    return grad_y, grad_weight, grad_bias


def _lif_backward_fake(y: Tensor, weight: Tensor | None, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    channels = 0 if weight is None else len(weight)
    return y.new_empty(y.shape), y.new_empty(channels), y.new_empty(channels)


_lif_backward = Operator(
    f"lif_backward(Tensor y, {NORM_SCHEMA}, Tensor grad_spikes, int steps, {NEURON_SCHEMA}) -> (Tensor, Tensor, Tensor)",
    _lif_backward_cpu,
    _lif_backward_fake,
)
