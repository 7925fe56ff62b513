"""A zero-skipping 3x3 convolution against oneDNN's dense one, by the density of its input."""

from __future__ import annotations

from statistics import median

import torch
import torch.nn.functional as F
from measuring import Result, Work, interleaved
from torch import Tensor

from autospike.kernels.sparse_conv import Geometry, spiking_conv
from autospike.memory.allocator import retain_large_allocations

IMAGES, SIDE, CHANNELS = 128, 8, 128  # the position embedding of a CIFAR Spikformer 128 wide, T 4 and batch 32
DENSITIES = (0.05, 0.2, 0.5, 1.0)
TYPICAL = 0.2
ROUNDS = 15


def sparse() -> list[Result]:
    """Forward, and forward with backward, at each of `DENSITIES`; the values are those at `TYPICAL` density."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with retain_large_allocations():
        found = {density: _ratios(density) for density in DENSITIES}
    by_density = "; ".join(f"at {density:.0%} {forward:.1f}, {both:.1f}" for density, (forward, both) in found.items())
    note = f"3x3, {CHANNELS} to {CHANNELS} channels, {IMAGES} images {SIDE}x{SIDE}; forward, forward and backward: {by_density}"
    what = {"unit": "times faster", "peer": "torch's convolution (oneDNN)", "threads": 1, "goal": ""}
    return [
        Result(name="sparse_forward", value=found[TYPICAL][0], note=f"{TYPICAL:.0%} not zero. {note}", **what),  # type: ignore[arg-type]
        Result(name="sparse_forward_backward", value=found[TYPICAL][1], note=f"{TYPICAL:.0%} not zero", **what),  # type: ignore[arg-type]
    ]


def _ratios(density: float) -> tuple[float, float]:
    """Times faster than oneDNN: forward; forward and backward."""
    x = (torch.rand(4, IMAGES // 4, SIDE, SIDE, CHANNELS) < density).float().requires_grad_()
    weight, geometry = torch.randn(CHANNELS, CHANNELS, 3, 3, requires_grad=True), Geometry(1, 1)

    def ours() -> Tensor:
        return spiking_conv(x, weight, None, geometry)

    def theirs() -> Tensor:
        return F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, None, padding=1)

    forward = interleaved(torch.no_grad()(ours), torch.no_grad()(theirs), rounds=ROUNDS)
    both = interleaved(_backward(ours, (x, weight)), _backward(theirs, (x, weight)), rounds=ROUNDS)
    return _ratio(*forward), _ratio(*both)


def _ratio(own: list[float], peer: list[float]) -> float:
    return median(b / a for a, b in zip(own, peer, strict=True))


def _backward(run: Work, leaves: tuple[Tensor, ...]) -> Work:
    def work() -> None:
        y = run()
        assert isinstance(y, Tensor)
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    return work
