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
`g = sigmoid(4 (h - v_threshold))`; the reset is detached. (Spikformer, Spike-driven Transformer and Meta-SpikeFormer share this
neuron.) On CUDA the arithmetic is spikingjelly's, which picks a fused kernel. On CPU, where spikingjelly has a slow reference only,
it is a compiled kernel (`lif.c`) or, without a compiler, vector operations: the same arithmetic in the same order, the same spikes.
"""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import functional, surrogate
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from autospike.architecture import Neuron
from autospike.nn.kernel import LIFKernel, lif_kernel, takes

SURROGATE_SLOPE = 4.0


class LIF(nn.Module):
    """Spikes of a layer of neurons. It keeps no state: every call starts from v = 0 and sees the whole sequence.

    Shape: `[T, B, ...]` input current to `[T, B, ...]` spikes, 0 or 1.
    """

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron
        self.surrogate = surrogate.Sigmoid(SURROGATE_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        tau, v_threshold = self.neuron.tau, self.neuron.v_threshold
        if x.dtype == torch.bfloat16:  # of mixed precision; a potential of eight bits would cross other thresholds
            x = x.float()
        if x.is_cuda:
            return _spikingjelly_lif(x, tau, v_threshold, self.surrogate)
        kernel = lif_kernel() if takes(x) else None
        spikes: Tensor = CompiledLIF.apply(x, tau, v_threshold, kernel) if kernel else VectorLIF.apply(x, tau, v_threshold)
        return spikes

    def extra_repr(self) -> str:
        return f"v_threshold={self.neuron.v_threshold:g}, tau={self.neuron.tau:g}"


def _spikingjelly_lif(x: Tensor, tau: float, v_threshold: float, surrogate_function: nn.Module) -> Tensor:
    rest = torch.zeros_like(x[0])
    spikes: Tensor
    spikes, _, _ = functional.lif_multi_step(
        x, rest, tau, v_threshold=v_threshold, v_reset=0.0, surrogate_function=surrogate_function, detach_reset=True
    )
    return spikes


class CompiledLIF(torch.autograd.Function):
    """The neuron by the compiled kernel; backward keeps the input and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: float, v_threshold: float, kernel: LIFKernel) -> Tensor:
        ctx.save_for_backward(x)
        ctx.tau, ctx.v_threshold, ctx.kernel = tau, v_threshold, kernel
        return kernel.forward(x, tau, v_threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_spikes,) = grad_outputs
        (x,) = ctx.saved_tensors
        return ctx.kernel.backward(x, grad_spikes, ctx.tau, ctx.v_threshold, SURROGATE_SLOPE), None, None, None


class VectorLIF(torch.autograd.Function):
    """The neuron as whole-tensor operations in place; backward keeps the potentials before reset and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: float, v_threshold: float) -> Tensor:
        potential = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        spikes = torch.empty_like(potential)
        v = torch.zeros_like(potential[0])
        for x_t, h, s in zip(x, potential, spikes, strict=True):
            torch.sub(x_t, v, out=h).div_(tau).add_(v)
            torch.ge(h, v_threshold, out=s)
            torch.mul(h, h < v_threshold, out=v)
        ctx.save_for_backward(potential)
        ctx.tau, ctx.v_threshold = tau, v_threshold
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad_spikes,) = grad_outputs
        (potential,) = ctx.saved_tensors
        g = torch.sigmoid((potential - ctx.v_threshold).mul_(SURROGATE_SLOPE))
        grad_h = torch.addcmul(g, g, g, value=-1).mul_(SURROGATE_SLOPE).mul_(grad_spikes)
        silent = potential < ctx.v_threshold
        grad_x = torch.empty_like(potential)
        carry = torch.zeros_like(potential[0])  # d loss / d v[t], from later steps
        for t in reversed(range(len(potential))):
            grad = grad_h[t].add_(carry.mul_(silent[t]))
            torch.div(grad, ctx.tau, out=grad_x[t])
            torch.sub(grad, grad_x[t], out=carry)
        return grad_x, None, None
