"""Whole steps of a Spikformer against spikingjelly's own, and where the time goes."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
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
from autospike.space.architecture import Architecture, Block, Embedding, Stage

DEPTH, STEPS, SIZE, BATCH_SIZE = 4, 4, 32, 32
GOALS = {128: {"train": ">= 2.5", "eval": ">= 3"}, 384: {"train": ">= 1.7", "eval": ">= 2.2"}}
HEADS = {128: 4, 384: 12}
ROUNDS = {128: 10, 384: 5}
# What of a profile is what. The rest is Python, autograd and everything small.
PARTS = {
    "convolutions and linear maps": ("convolution", "Convolution", "mkldnn", "addmm", "aten::mm"),
    "neurons, with normalisation": ("CompiledLIF", "CompiledNorm", "batch_norm"),
    "attention's product": ("CompiledProduct", "bmm"),
    "pooling": ("Pool", "pool"),
    "optimizer": ("Optimizer", "adam", "lerp", "addcdiv", "_foreach"),
}


def steps() -> list[Result]:
    """On one thread, and on two."""
    results = [result for width in GOALS for threads in (1, 2) for result in _steps(width, threads)]
    return [*results, *_of_peak()]


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


def _answer(net: nn.Module, images: Tensor) -> Tensor:
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
        F.cross_entropy(_answer(net, images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def _evaluation(net: nn.Module) -> Work:
    """Of a network whose neurons fire, as those of a trained one do: its statistics are measured first."""
    images = torch.rand(BATCH_SIZE, 3, SIZE, SIZE)
    _calibrate(net, lambda: _answer(net, images))

    def work() -> None:
        net.eval()
        with torch.no_grad():
            _answer(net, images)

    return work


def _calibrate(net: nn.Module, run: Work) -> None:
    """Its normalisations' statistics become those of a run, as of a batch."""
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
    """What share of the values that enter its maps, weighed by their multiplications, is not zero."""
    some, all_of_them = 0.0, 0.0

    def read(module: nn.Module, entering: tuple[Tensor, ...], leaving: Tensor) -> None:
        nonlocal some, all_of_them
        weight = module.weight[0].numel() * leaving.numel()  # type: ignore[index]
        some += weight * float((entering[0] != 0).float().mean())
        all_of_them += weight

    handles = [module.register_forward_hook(read) for module in net.modules() if isinstance(module, Linear | Conv)]
    run()
    for handle in handles:
        handle.remove()
    return some / all_of_them


def _compared(kind: str, width: int, threads: int, ours: Work, theirs: Work, density: float) -> Result:
    with retain_large_allocations():  # as in every training and evaluation
        own, peer = interleaved(ours, theirs, rounds=ROUNDS[width])
    setting = f"depth {DEPTH}, {SIZE}x{SIZE}, T {STEPS}, batch {BATCH_SIZE}, {density:.0%} of what enters maps is not zero"
    return Result(
        name=f"step_{kind}_{width}",
        value=median(b / a for a, b in zip(own, peer, strict=True)),
        unit="times faster",
        peer="spikingjelly's Spikformer",
        goal=GOALS[width][kind],
        threads=threads,
        note=f"{setting}; {median(own) * 1000:.0f} ms against {median(peer) * 1000:.0f} ms",
    )


def _of_peak() -> list[Result]:
    """How long a training step's products would take at the machine's best, as a share of what it takes."""
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
            unit="of the peak, which only a product that skips zeros can pass",
            peer="the fastest of some large products, by oneDNN",
            goal="",
            threads=1,
            note=note,
        )
    ]


def _peak_flops() -> float:
    """Floating-point operations a second."""
    found = []
    for channels in (128, 256, 512):
        images, weight = torch.rand(64, channels, 8, 8).to(memory_format=torch.channels_last), torch.rand(channels, channels, 1, 1)
        for _ in range(20):
            started = time.perf_counter()
            F.conv2d(images, weight)
            found.append(2 * images.numel() * channels / (time.perf_counter() - started))
    return max(found)


def _training_flops(work: Work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _where_time_goes(work: Work) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU], schedule=schedule(wait=0, warmup=2, active=5, repeat=1)) as recorded:
        for _ in range(7):
            work()
            recorded.step()
    spent: Counter[str] = Counter()
    events: Any = recorded.key_averages()
    for event in events:
        part = next((name for name, keys in PARTS.items() if any(key in event.key for key in keys)), "the rest")
        spent[part] += event.self_cpu_time_total
    return {name: spent[name] / spent.total() for name, _ in spent.most_common()}
