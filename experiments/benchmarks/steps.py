"""Whole training and evaluation steps of a Spikformer against spikingjelly's own, and where the time goes."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from machine import goals_of
from measuring import Result, Work, interleaved
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils.flop_counter import FlopCounterMode

from autospike.memory.allocator import retain_large_allocations
from autospike.models.registry import build_model
from autospike.nn.layers import Conv, Linear
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block

DEPTH, STEPS, SIZE, BATCH_SIZE = 4, 4, 32, 32
GOALS = {  # by instruction set, width and kind of step
    "avx512": {128: {"train": ">= 2.5", "eval": ">= 3"}, 384: {"train": ">= 1.7", "eval": ">= 2.2"}},
    "avx2": {128: {"train": ">= 2.2", "eval": ">= 3.5"}, 384: {"train": ">= 2.0", "eval": ">= 3.2"}},
}
HEADS = {128: 4, 384: 12}
ROUNDS = {128: 10, 384: 5}
# Which of a profile's events belong to which part of a step. Other events are Python, autograd and small operations.
PARTS = {
    "convolutions and linear layers": ("convolution", "Convolution", "mkldnn", "addmm", "aten::mm"),
    "neurons, with normalisation": ("CompiledLIF", "CompiledNorm", "batch_norm"),
    "attention's product": ("CompiledProduct", "bmm"),
    "pooling": ("Pool", "pool"),
    "optimizer": ("Optimizer", "adam", "lerp", "addcdiv", "_foreach"),
}


def steps() -> list[Result]:
    """Training and evaluation steps of both widths on one thread and on two, and a training step against the processor's peak."""
    results = [result for width in HEADS for threads in (1, 2) for result in _steps(width, threads)]
    return [*results, *_of_peak()]


def training_step() -> Work:
    """A training step of ours at 128 wide, with inputs of its own."""
    return _training(_ours(128))


def _steps(width: int, threads: int) -> list[Result]:
    torch.set_num_threads(threads)
    ours, theirs = _ours(width), _spikingjelly(width)
    found = []
    for kind, work in (("train", _training), ("eval", _evaluation)):
        own, peer = work(ours), work(theirs)
        found.append(_compared(kind, width, threads, own, peer, _density(ours, own)))
    return found


def _ours(width: int) -> nn.Module:
    block = Block(num_heads=HEADS[width], mlp_ratio=4)
    stage = Stage(embed_dim=width, embedding=Embedding(stride=4), blocks=(block,) * DEPTH)
    torch.manual_seed(0)
    return build_model(Architecture(time_steps=STEPS, qkv_bias=True, stages=(stage,)), num_classes=10, in_chans=3)


def _spikingjelly(width: int) -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = Spikformer(
        T=STEPS,
        img_size_h=SIZE,
        img_size_w=SIZE,
        patch_size=4,
        num_classes=10,
        embed_dims=width,
        num_heads=HEADS[width],
        mlp_ratio=4,
        depths=DEPTH,
    )
    return net


def _logits(net: nn.Module, images: Tensor) -> Tensor:
    """Logits `[B, classes]`, averaged over time."""
    if not isinstance(net, Spikformer):
        logits: Tensor = net(images)
        return logits
    functional.reset_net(net)
    mean: Tensor = net(images).mean(dim=0)
    return mean


def _training(net: nn.Module) -> Work:
    images, labels = torch.rand(BATCH_SIZE, 3, SIZE, SIZE), torch.randint(0, 10, (BATCH_SIZE,))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def work() -> None:
        net.train()
        F.cross_entropy(_logits(net, images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def _evaluation(net: nn.Module) -> Work:
    """An evaluation step after calibration: with fresh BatchNorm statistics the neurons of an untrained network do not fire."""
    images = torch.rand(BATCH_SIZE, 3, SIZE, SIZE)
    _calibrate(net, lambda: _logits(net, images))

    def work() -> None:
        net.eval()
        with torch.no_grad():
            _logits(net, images)

    return work


def _calibrate(net: nn.Module, run: Work) -> None:
    """Set the BatchNorm statistics to those of one batch."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.train()
    with torch.no_grad():
        run()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def _density(net: nn.Module, run: Work) -> float:
    """Fraction of non-zero values among the inputs of convolutions and linear layers, weighted by their multiplications."""
    nonzero, total = 0.0, 0.0

    def read(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal nonzero, total
        weight = module.weight[0].numel() * output.numel()  # type: ignore[index]
        nonzero += weight * float((inputs[0] != 0).float().mean())
        total += weight

    handles = [module.register_forward_hook(read) for module in net.modules() if isinstance(module, Linear | Conv)]
    run()
    for handle in handles:
        handle.remove()
    return nonzero / total


def _compared(kind: str, width: int, threads: int, ours: Work, theirs: Work, density: float) -> Result:
    with retain_large_allocations():  # as in every training and evaluation
        own, peer = interleaved(ours, theirs, rounds=ROUNDS[width])
    setting = f"depth {DEPTH}, {SIZE}x{SIZE}, T {STEPS}, batch {BATCH_SIZE}, {density:.0%} of the inputs of synapses non-zero"
    return Result(
        name=f"step_{kind}_{width}",
        value=median(b / a for a, b in zip(own, peer, strict=True)),
        unit="times faster",
        peer="spikingjelly's Spikformer",
        goal=GOALS[goals_of()][width][kind],
        threads=threads,
        note=f"{setting}; {median(own) * 1000:.0f} ms against {median(peer) * 1000:.0f} ms",
    )


def _of_peak() -> list[Result]:
    """Time that a training step's products would take at the processor's peak, as a fraction of the step's time."""
    torch.set_num_threads(1)
    work = _training(_ours(128))
    best, flops = _peak_flops(), _training_flops(work)
    with retain_large_allocations():
        (seconds,) = interleaved(work, rounds=10)
        shares = ", ".join(f"{name} {share:.0%}" for name, share in _where_time_goes(work).items())
    step = f"a step at 128 wide is {flops / 1e9:.0f} GFLOP, counting zeros, in {median(seconds) * 1000:.0f} ms"
    note = f"{step}; the best product here runs at {best / 1e9:.0f} GFLOP/s. {shares}"
    return [
        Result(
            name="step_of_peak",
            value=flops / best / median(seconds),
            unit="of the peak, which only a zero-skipping product can exceed",
            peer="the fastest of three large products, by oneDNN",
            goal="",
            threads=1,
            note=note,
        )
    ]


def _peak_flops() -> float:
    """Floating-point operations per second of the fastest 1x1 convolution."""
    found = []
    for channels in (128, 256, 512):
        images, weight = torch.rand(64, channels, 8, 8).to(memory_format=torch.channels_last), torch.rand(channels, channels, 1, 1)
        for _ in range(20):
            started = time.perf_counter()
            F.conv2d(images, weight)
            found.append(2 * images.numel() * channels / (time.perf_counter() - started))
    return max(found)


def _training_flops(work: Work) -> int:
    """Floating-point operations of a step, those with zeros included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _where_time_goes(work: Work) -> dict[str, float]:
    """Fraction of a step's CPU time in each part of `PARTS`, largest first."""
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=0, warmup=2, active=5, repeat=1)) as recorded:
        for _ in range(7):
            work()
            recorded.step()
    spent: Counter[str] = Counter()
    events: Any = recorded.key_averages()
    for event in events:
        part = next((name for name, keys in PARTS.items() if any(key in event.key for key in keys)), "other")
        spent[part] += event.self_cpu_time_total
    return {name: spent[name] / spent.total() for name, _ in spent.most_common()}
