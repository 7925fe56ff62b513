"""The leaky integrate-and-fire (LIF) neuron.

    h[t] = v[t-1] + (x[t] - v[t-1]) / tau        integrate: the potential decays towards the input
    s[t] = 1 where h[t] >= v_threshold, else 0   fire
    v[t] = (1 - s[t]) * h[t]                     hard reset to 0
    v[0] = 0

| symbol      | meaning                                   | unit             |
|-------------|-------------------------------------------|------------------|
| x           | input current, times membrane resistance  | as v             |
| h, v        | membrane potential before and after reset | dimensionless    |
| s           | spike                                     | 0 or 1           |
| tau         | membrane time constant                    | time steps       |
| v_threshold | firing threshold                          | as v             |

With `levels` D > 1 it is an integer neuron (I-LIF of SpikeYOLO; E-SpikeFormer), which integrates the whole input, emits integers
and subtracts them:

    h[t] = v[t-1] - v[t-1] / tau + x[t]                   without a leak v[t-1] + x[t]; if it does not integrate, x[t]
    s[t] = round(clip(h[t] / v_threshold, 0, D))          halves are rounded to even
    v[t] = h[t] - s[t] * v_threshold

An integer s is s spikes in D virtual time steps: a linear layer behind it adds up the same sum. Its gradient is that of the clip,
`ds/dh = 1 / v_threshold` inside [0, D], ends included. A normalised neuron (NI-LIF) means s / D. It emits s as well, and the layer
that reads it divides its weights by D (`Neuron.output_scale`).

In backward the derivative of a sigmoid of slope 4 stands for that of the step, `ds/dh = 4 g (1 - g)` with
`g = sigmoid(4 (h - v_threshold))`, and no gradient passes through the reset. Spikformer, Spike-driven Transformer and
Meta-SpikeFormer have this neuron (spikingjelly's `LIFNode`); `Dynamics` describes the other variants.

On a CPU a compiled kernel (`kernels/lif.c`) computes all time steps together with the normalisation before them; on CUDA it is
spikingjelly's fused kernel; elsewhere operations of torch. All give the same spikes. Potentials are in float32 or wider, also of
bfloat16 and float16 inputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autospike.kernels.lif import NeuronParameters, lif
from autospike.kernels.linear_lif import linear_lif
from autospike.nn.norm import Norm, Statistics
from autospike.nn.tracing import recorded_as_one_call
from autospike.space.block import Neuron

Surrogate = Literal["sigmoid", "arctan"]
# Defaults of spikingjelly, which the published networks use.
SLOPES: dict[Surrogate, float] = {"sigmoid": 4.0, "arctan": 2.0}
# Called as `hook(spikes, counts)`, see `LIF.register_spike_count_hook`.
SpikeCountHook = Callable[[Tensor, Tensor], None]
# Called as `hook(layer, current, channels)`, see `LIF.register_start_hook`.
StartHook = Callable[[nn.Module, Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """Variants of the neuron that are not searched. The defaults are those of the published networks.

    Attributes:
        reset: Whether a spike sets the potential to 0 ("hard") or subtracts the threshold from it ("soft").
        input_decays: Whether the input is divided by tau; otherwise `h[t] = v[t-1] - v[t-1] / tau + x[t]`.
        reset_is_detached: Whether no gradient passes through the reset.
        surrogate: The function whose derivative stands for that of the step in backward: a sigmoid of slope 4, or an arctan of
            slope 2, whose derivative is `1 / (1 + (pi (h - v_threshold))^2)`.
    """

    reset: Literal["hard", "soft"] = "hard"
    input_decays: bool = True
    reset_is_detached: bool = True
    surrogate: Surrogate = "sigmoid"

    def __post_init__(self) -> None:
        if self.reset not in ("hard", "soft") or self.surrogate not in SLOPES:
            raise ValueError(f"reset is hard or soft, surrogate one of {', '.join(SLOPES)}; got {self.reset!r}, {self.surrogate!r}")


PUBLISHED = Dynamics()
# The time constant of a neuron without a leak: v - v / tau is v in float32.
NO_LEAK = torch.finfo(torch.float32).max
# That of a neuron without memory: v - v / tau is 0.
ONE_STEP = 1.0


class Potentials:
    """Membrane potentials of LIF layers after their last call, where a sequence is computed in several calls."""

    def __init__(self) -> None:
        self._of: dict[nn.Module, Tensor] = {}

    def of(self, layer: nn.Module, current: Tensor, channels: int) -> Tensor:
        """Return the potentials of a layer, which the next call changes in place; 0 before the first call.

        Args:
            layer: The layer.
            current: A tensor `[T, B, ..., C]` that has type, device and shape of the input current, except C.
            channels: C of the current.

        Returns:
            `[B, ..., C]`, contiguous.

        Raises:
            ValueError: The shape differs from that of the last call.
        """
        shape = (*current.shape[1:-1], channels)
        if layer not in self._of:
            self._of[layer] = current.new_zeros(shape)
        if self._of[layer].shape != shape:
            raise ValueError(f"the potentials are {list(self._of[layer].shape)}, but this call has {list(shape)}")
        return self._of[layer]

    def select(self, images: Tensor) -> None:
        """Keep the potentials of some images of the batch.

        Args:
            images: Their positions in the batch.
        """
        self._of = {layer: potential[images] for layer, potential in self._of.items()}


@contextmanager
def continued(model: nn.Module) -> Iterator[Potentials]:
    """Let every LIF layer of a model start a call where its last one ended, inside the block and without gradients.

    Args:
        model: The model. A layer is called once for each time step.

    Yields:
        The potentials.
    """
    potentials = Potentials()
    handles = [module.register_start_hook(potentials.of) for module in model.modules() if isinstance(module, LIF)]
    try:
        with torch.no_grad():
            yield potentials
    finally:
        for handle in handles:
            handle.remove()


class LIF(nn.Module):
    """A layer of LIF neurons. Every call starts from v = 0 and computes the whole sequence, except inside `continued`.

    Args:
        neuron: Threshold, time constant, levels and leak.
        dynamics: Variants of the neuron. Reset and input do not apply to integer neurons.

    Shape: input current `[T, B, ..., C]` to spikes `[T, B, ..., C]`, integers from 0 to `neuron.levels`.
    """

    def __init__(self, neuron: Neuron, dynamics: Dynamics = PUBLISHED) -> None:
        super().__init__()
        self.neuron = neuron
        self.dynamics = dynamics
        self._start_hooks: OrderedDict[int, StartHook] = OrderedDict()
        self._spike_count_hooks: OrderedDict[int, SpikeCountHook] = OrderedDict()

    @property
    def is_binary_lif(self) -> bool:
        """Whether it is the binary neuron with a leak and the published dynamics, which formats of other tools can express."""
        neuron = self.neuron
        plain = neuron.levels == 1 and neuron.leak and neuron.integrates and not neuron.normalised
        return plain and self.dynamics == PUBLISHED

    @recorded_as_one_call
    def forward(
        self,
        x: Tensor,
        bn: nn.Module | None = None,
        time_steps: int | None = None,
        *,
        stream: Tensor | None = None,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """Compute the spikes.

        Args:
            x: Input current `[T, B, ..., C]`.
            bn: A normalisation that is applied to `x` first.
            time_steps: T, if `x` is `[1, B, ..., C]` and the same at every time step.
            stream: A residual stream `[T, B, ..., C]` to which spikes are added.
            statistics: The result of `bn.statistics(x)`, if it was computed before.

        Returns:
            Spikes, or stream plus spikes, `[T, B, ..., C]`.
        """
        dtype = x.dtype
        half = dtype in (torch.bfloat16, torch.float16)
        if half:  # bfloat16 has 8 significant bits: rounding would move potentials across the threshold
            if bn is not None and any(p.dtype == dtype for p in bn.parameters()):
                x, bn = bn(x), None
            x = x.float()
        if bn is not None and not (type(bn) is Norm and bn.uses_kernel(x)):
            x, bn = (bn(x) if statistics is None else bn(x, statistics)), None
        x, steps = _without_repetition(x, time_steps)
        affine = bn.coefficients(x, statistics) if isinstance(bn, Norm) else None
        added, count = None if half else stream, stream is None and bool(self._spike_count_hooks)
        start = self._start(x, x.shape[-1])
        spikes, counts = lif(x, steps, self.parameters_of_neuron(), affine=affine, stream=added, count=count, potential=start)
        if half:
            spikes = spikes.to(dtype) if stream is None else stream + spikes.to(dtype)
        if count:
            self._call_hooks(spikes, counts)
        return spikes

    def forward_linear(self, x: Tensor, linear: nn.Linear, weight: Tensor, bn: Norm, *, stream: Tensor | None = None) -> Tensor:
        """Compute `self(linear(x), bn, stream=stream)` in inference, where `autospike.kernels.linear_lif.supports` it.

        Args:
            x: Spikes `[T, B, H, W, in_features]`.
            linear: The linear layer.
            weight: Its weight, times the scale of its input.
            bn: The normalisation behind it, in eval mode.
            stream: A residual stream `[T, B, H, W, out_features]` to which spikes are added.

        Returns:
            Spikes, or stream plus spikes, `[T, B, H, W, out_features]`.
        """
        affine, neuron = bn.coefficients(x), self.parameters_of_neuron()
        count = stream is None and bool(self._spike_count_hooks)
        start = self._start(x, linear.out_features)
        spikes, counts = linear_lif(x, weight, linear.bias, affine, neuron, stream=stream, count=count, potential=start)
        if count:
            self._call_hooks(spikes, counts)
        return spikes

    def register_spike_count_hook(self, hook: SpikeCountHook) -> RemovableHandle:
        """Register a hook that receives the number of spikes by time step and position.

        Spikes are counted while they are written, which is cheaper than reading them again. The hook is not called where spikes are
        added to a stream, and so do not exist as a tensor.

        Args:
            hook: Called as `hook(spikes, counts)` with spikes `[T, B, ..., C]` and counts `[T, positions]` float64, where positions
                are the dimensions between B and C.

        Returns:
            A handle whose `remove()` removes the hook.
        """
        handle = RemovableHandle(self._spike_count_hooks)
        self._spike_count_hooks[handle.id] = hook
        return handle

    def register_start_hook(self, hook: StartHook) -> RemovableHandle:
        """Register a hook that supplies the potentials from which a call starts, instead of 0. One hook at a time.

        Args:
            hook: Called as `hook(layer, current, channels)` with a tensor `[T, B, ..., C]` that has type, device and shape of the
                input current, except C, and C of the current. Returns `[B, ..., channels]`, contiguous, which the call replaces
                by the potentials after its last step.

        Returns:
            A handle whose `remove()` removes the hook.

        Raises:
            ValueError: Another hook is registered.
        """
        if self._start_hooks:
            raise ValueError("this layer already has a start hook; remove it first")
        handle = RemovableHandle(self._start_hooks)
        self._start_hooks[handle.id] = hook
        return handle

    def parameters_of_neuron(self) -> NeuronParameters:
        """Return the parameters of the kernel."""
        own, neuron = self.dynamics, self.neuron
        integers = neuron.levels > 1
        return NeuronParameters(
            tau=ONE_STEP if not neuron.integrates else neuron.tau if neuron.leak else NO_LEAK,
            v_threshold=neuron.v_threshold,
            slope=SLOPES[own.surrogate],
            soft_reset=integers or own.reset == "soft",
            decay_input=own.input_decays and neuron.leak and neuron.integrates and not integers,
            detach_reset=own.reset_is_detached,
            arctan=own.surrogate == "arctan",
            levels=neuron.levels,
        )

    def extra_repr(self) -> str:
        """Return threshold and time constant, and what differs from a leaky neuron of one level."""
        neuron = self.neuron
        more = f", levels={neuron.levels}" if neuron.levels > 1 else ""
        more += ("" if neuron.leak else ", leak=False") + ("" if neuron.integrates else ", integrates=False")
        return f"v_threshold={neuron.v_threshold:g}, tau={neuron.tau:g}{more}"

    def _start(self, current: Tensor, channels: int) -> Tensor | None:
        """The potentials at the start of a call; None for 0."""
        hook = next(iter(self._start_hooks.values()), None)
        return None if hook is None else hook(self, current, channels)

    def _call_hooks(self, spikes: Tensor, counts: Tensor) -> None:
        for hook in self._spike_count_hooks.values():
            hook(spikes, counts)


def _without_repetition(x: Tensor, time_steps: int | None) -> tuple[Tensor, int]:
    """The input, `[1, B, ...]` if it is the same at every step, and T."""
    if time_steps is not None:
        if len(x) != 1:
            raise ValueError(f"time_steps is for an input of one step that is repeated; got an input of {len(x)} steps")
        return x, time_steps
    return (x[:1], len(x)) if len(x) > 1 and x.stride(0) == 0 else (x, len(x))
