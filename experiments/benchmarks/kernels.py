"""The LIF kernel, with spikes and with integers, alone and fused with BatchNorm, against spikingjelly's neurons at T = 4."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from measuring import Result, Work, interleaved
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from autospike.memory.allocator import retain_large_allocations
from autospike.nn.neuron import LIF
from autospike.nn.norm import Norm
from autospike.space.block import Neuron

SHAPE = (4, 32, 8, 8, 256)  # T, B, H, W, C: half a hidden layer of a CIFAR Spikformer 128 wide
ROUNDS = 15


def kernels() -> list[Result]:
    """Forward, and forward with backward, of LIF and of BatchNorm with LIF."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, bn, theirs_bn = torch.randn(SHAPE) * 2, Norm(SHAPE[-1]), layer.BatchNorm2d(SHAPE[-1], step_mode="m")
    channels_first = x.permute(0, 1, 4, 2, 3).contiguous()  # each library's own memory layout
    ours, theirs = LIF(Neuron()), _spikingjelly()
    integers = neuron.ILIFNode(tau=2.0, surrogate_function=surrogate.MultiLevelSpikeCount(4), detach_reset=True, step_mode="m")
    pairs: list[tuple[str, str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], nn.Module, bool]] = [
        ("lif_forward", ">= 10", ours, theirs, theirs, False),
        ("lif_forward_backward", ">= 6", ours, theirs, theirs, True),
        ("bn_lif_eval", ">= 13", lambda y: ours(y, bn.eval()), lambda y: theirs(theirs_bn.eval()(y)), theirs, False),
        ("bn_lif_train", ">= 7", lambda y: ours(y, bn.train()), lambda y: theirs(theirs_bn.train()(y)), theirs, True),
        ("lif_integers_forward_backward", ">= 6", LIF(Neuron(levels=4)), integers, integers, True),
    ]
    return [
        _compared(name, goal, _work(our, x, backward), _work(their, channels_first, backward, stateful))
        for name, goal, our, their, stateful, backward in pairs
    ]


def _spikingjelly() -> nn.Module:
    return neuron.LIFNode(
        tau=2.0, v_threshold=1.0, v_reset=0.0, surrogate_function=surrogate.Sigmoid(4.0), detach_reset=True, step_mode="m"
    )


def _work(call: Callable[[Tensor], Tensor], x: Tensor, backward: bool, stateful: nn.Module | None = None) -> Work:
    leaf, cotangent = x.clone().requires_grad_(backward), torch.randn_like(x)

    def work() -> None:
        if stateful is not None:
            functional.reset_net(stateful)
        with torch.set_grad_enabled(backward):
            spikes = call(leaf)
        if backward:
            leaf.grad = None
            spikes.backward(cotangent)

    return work


def _compared(name: str, goal: str, ours: Work, theirs: Work) -> Result:
    with retain_large_allocations():  # as in every training and evaluation
        own, peer = interleaved(ours, theirs, rounds=ROUNDS)
    sizes = " x ".join(map(str, SHAPE))
    return Result(
        name=name,
        value=median(b / a for a, b in zip(own, peer, strict=True)),
        unit="times faster",
        peer="spikingjelly's LIFNode or ILIFNode, and torch's BatchNorm where there is one",
        goal=goal,
        threads=1,
        note=f"T x B x H x W x C = {sizes}, float32; {median(own) * 1000:.2f} ms against {median(peer) * 1000:.1f} ms",
    )
