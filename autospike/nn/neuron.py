"""The leaky integrate-and-fire neuron.

    h[t] = v[t-1] + (x[t] - v[t-1]) / tau        integrate: the membrane leaks towards its input
    s[t] = 1 where h[t] >= v_threshold, else 0   fire
    v[t] = (1 - s[t]) * h[t]                     hard reset to 0
    v[0] = 0

| symbol      | meaning                                   | unit             |
|-------------|-------------------------------------------|------------------|
| x           | input current (already scaled by R)       | as v             |
| h, v        | membrane potential before and after reset | dimensionless    |
| tau         | membrane time constant                    | time steps       |
| v_threshold | firing threshold                          | as v             |

Training passes the step through with the derivative of a sigmoid of slope 4, `ds/dh = 4 g (1 - g)` where
`g = sigmoid(4 (h - v_threshold))`; the reset is detached. Spikformer, Spike-driven Transformer and Meta-SpikeFormer share this
neuron; `Dynamics` has the other ones of the field.

On CUDA the arithmetic is spikingjelly's, which picks a fused kernel. On CPU, where spikingjelly has a slow reference only, it is a
compiled kernel (`neuron.c`), fused over time and with the normalisation before it: the same arithmetic in the same order, the same
spikes. Without a compiler it is spikingjelly's reference. Potentials are single precision at least, also of bfloat16 currents.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from spikingjelly.activation_based import functional, surrogate
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from autospike.kernels.lif import Affine, Kernel, NeuronStruct, Rows, kernel, takes
from autospike.nn.norm import Norm, Statistics
from autospike.space.architecture import Neuron

Surrogate = Literal["sigmoid", "arctan"]
# spikingjelly's, and the published networks'.
SLOPES: dict[Surrogate, float] = {"sigmoid": 4.0, "arctan": 2.0}


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """What a neuron does besides what is evolved. The defaults are those of the published networks."""

    reset: Literal["hard", "soft"] = "hard"
    """After a spike the potential is 0, or the threshold less."""
    input_decays: bool = True
    """Whether the input is divided by tau: otherwise `h[t] = v[t-1] - v[t-1] / tau + x[t]`."""
    reset_is_detached: bool = True
    """Whether no gradient passes through the reset."""
    surrogate: Surrogate = "sigmoid"
    """What stands for the step in backward: a sigmoid of slope 4, or an arctan of slope 2, whose derivative is
    `1 / (1 + (pi (h - v_threshold))^2)`."""

    def __post_init__(self) -> None:
        if self.reset not in ("hard", "soft") or self.surrogate not in SLOPES:
            raise ValueError(f"reset is hard or soft, surrogate one of {', '.join(SLOPES)}; got {self.reset!r}, {self.surrogate!r}")


PUBLISHED = Dynamics()


SpikeCountHook = Callable[[Tensor, Tensor], None]


class LIF(nn.Module):
    """Spikes of a layer of neurons. It keeps no state: every call starts from v = 0 and sees the whole sequence.

    Shape: `[T, B, ...]` input current to `[T, B, ...]` spikes, 0 or 1.
    """

    def __init__(self, neuron: Neuron, dynamics: Dynamics = PUBLISHED) -> None:
        super().__init__()
        self.neuron = neuron
        self.dynamics = dynamics
        self._spike_count_hooks: OrderedDict[int, SpikeCountHook] = OrderedDict()

    def forward(
        self,
        x: Tensor | Rows,
        bn: nn.Module | None = None,
        time_steps: int | None = None,
        *,
        stream: Tensor | None = None,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """Run the neurons.

        Args:
            x: input current `[T, B, ..., C]`, or a linear layer whose output is the current (inference only).
            bn: a BatchNorm that is applied to `x` first.
            time_steps: T, if `x` is `[1, B, ..., C]` and the same at every time step.
            stream: a residual stream `[T, B, ..., C]` to which spikes are added.
            statistics: the result of `bn.statistics(x)`, if it was computed before.

        Returns:
            Spikes, or stream plus spikes, `[T, B, ..., C]`.
        """
        if isinstance(x, Rows):
            return self._of_map(x, bn, stream)
        return self._of_currents(x, bn, time_steps, stream, statistics)

    def register_spike_count_hook(self, hook: SpikeCountHook) -> RemovableHandle:
        """Register a hook that receives the number of spikes by time step and position.

        The kernel counts spikes while it writes them, which is cheaper than to read them again. The hook is not called where spikes
        are added to a stream, and so do not exist as a tensor.

        Args:
            hook: called as `hook(spikes, counts)` with spikes `[T, B, ..., C]` and counts `[T, positions]` float64, where positions
                are the dimensions between B and C.

        Returns:
            A handle whose `remove()` removes the hook.
        """
        handle = RemovableHandle(self._spike_count_hooks)
        self._spike_count_hooks[handle.id] = hook
        return handle

    def _of_currents(
        self, x: Tensor, bn: nn.Module | None, time_steps: int | None, onto: Tensor | None, known: Statistics | None = None
    ) -> Tensor:
        if x.dtype in (torch.bfloat16, torch.float16):  # of mixed precision; a potential of eight bits would cross other thresholds
            return _added(self._widened(x, bn, time_steps), onto)
        if bn is not None and type(bn) is not Norm:
            x, bn = bn(x), None
        compiled = bn.compiled(x) if bn is not None else kernel() if takes(x) and x.numel() else None
        if compiled is None:
            return _added(self._by_spikingjelly(x if bn is None else bn(x, known), time_steps), onto)
        x, steps = _once(x, time_steps)
        statistics = None if bn is None else known or bn.statistics(x)
        weight, bias = (None, None) if bn is None else (bn.weight, bn.bias)
        stream, counts = self._beside(x, steps, onto)
        firing = Firing(compiled, self._struct(), steps, statistics, counts)
        spikes: Tensor = CompiledLIF.apply(x.contiguous(), weight, bias, stream, firing)
        return self._told(spikes, counts, onto if stream is None else None)

    def _of_map(self, rows: Rows, bn: nn.Module | None, onto: Tensor | None) -> Tensor:
        assert isinstance(bn, Norm)
        compiled, affine = bn.compiled(rows.out), bn.statistics(rows.out).affine(bn.weight, bn.bias)
        assert compiled is not None
        stream, counts = self._beside(rows.out, len(rows.out), onto)
        spikes = compiled.fire_rows(rows, self._struct(), affine, onto=stream, counts=counts)
        return self._told(spikes, counts, onto if stream is None else None)

    def _beside(self, x: Tensor, steps: int, onto: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The stream that the kernel adds to, if it can, and where it counts, if it is asked to."""
        if onto is not None:
            return (onto.contiguous() if takes(onto) and onto.shape == (steps, *x.shape[1:]) else None), None
        asked = bool(self._spike_count_hooks)
        return None, x.new_zeros(steps, math.prod(x.shape[2:-1]), dtype=torch.float64) if asked else None

    def _told(self, spikes: Tensor, counts: Tensor | None, onto: Tensor | None) -> Tensor:
        """The spikes, on a stream that the kernel could not add to, if any; whoever counts is told."""
        if counts is not None:
            for hook in self._spike_count_hooks.values():
                hook(spikes, counts)
        return _added(spikes, onto)

    def _widened(self, x: Tensor, bn: nn.Module | None, time_steps: int | None) -> Tensor:
        """In single precision, from the normalisation on unless its own parameters are narrow."""
        if bn is not None and any(p.dtype == x.dtype for p in bn.parameters()):
            x, bn = bn(x), None
        return self._of_currents(x.float(), bn, time_steps, None).to(x.dtype)

    def _by_spikingjelly(self, x: Tensor, time_steps: int | None) -> Tensor:
        current = x if time_steps is None else x.expand(time_steps, *x.shape[1:]).contiguous()
        own = self.dynamics
        surrogates = {"sigmoid": surrogate.Sigmoid, "arctan": surrogate.ATan}
        spikes, _, _ = functional.lif_multi_step(
            current,
            torch.zeros_like(current[0]),
            self.neuron.tau,
            decay_input=own.input_decays,
            v_threshold=self.neuron.v_threshold,
            v_reset=0.0 if own.reset == "hard" else None,
            surrogate_function=surrogates[own.surrogate](SLOPES[own.surrogate]),
            detach_reset=own.reset_is_detached,
        )
        fired: Tensor = spikes
        return fired

    def _struct(self) -> NeuronStruct:
        own = self.dynamics
        switches = (own.reset == "soft", own.input_decays, own.reset_is_detached, own.surrogate == "arctan")
        return NeuronStruct(self.neuron.tau, self.neuron.v_threshold, SLOPES[own.surrogate], *switches)

    def extra_repr(self) -> str:
        return f"v_threshold={self.neuron.v_threshold:g}, tau={self.neuron.tau:g}"


def _added(spikes: Tensor, onto: Tensor | None) -> Tensor:
    return spikes if onto is None else onto + spikes


def _once(x: Tensor, time_steps: int | None) -> tuple[Tensor, int]:
    """The input, as one step if it is the same at every one, and T."""
    if time_steps is not None:
        if len(x) != 1:
            raise ValueError(f"time_steps is for an input of one step, seen at several; got one of {len(x)} steps")
        return x, time_steps
    return (x[:1], len(x)) if len(x) > 1 and x.stride(0) == 0 else (x, len(x))


class Firing(NamedTuple):
    """How the kernel is called."""

    compiled: Kernel
    neuron: NeuronStruct
    steps: int
    statistics: Statistics | None
    counts: Tensor | None

    def affine(self, weight: Tensor | None, bias: Tensor | None) -> Affine | None:
        if self.statistics is None or weight is None or bias is None:
            return None
        return self.statistics.affine(weight, bias)


class CompiledLIF(torch.autograd.Function):
    """Normalisation, if any, neurons, and a residual's sum by the compiled kernel; backward keeps the input and nothing else."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor | None, bias: Tensor | None, onto: Tensor | None, firing: Firing) -> Tensor:
        affine = firing.affine(weight, bias)
        ctx.save_for_backward(y, *(affine or ()))
        ctx.firing = firing
        return firing.compiled.fire(y, firing.steps, firing.neuron, affine, onto=onto, counts=firing.counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        firing: Firing = ctx.firing
        y, *saved = ctx.saved_tensors
        by_batch = firing.statistics is not None and firing.statistics.by_batch
        affine, grad_spikes = Affine(*saved) if saved else None, grad_outputs[0].contiguous()
        gradients = firing.compiled.fire_backward(y, firing.steps, firing.neuron, affine, grad_spikes, by_batch=by_batch)
        return *gradients, grad_outputs[0] if ctx.needs_input_grad[3] else None, None
