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
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from autospike.architecture import Architecture, Block, Embedding, Stage
from autospike.models.registry import build_model
from autospike.process import large_blocks_kept

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
    works = {"train": (_training(ours), _training(theirs)), "eval": (_evaluation(ours), _evaluation(theirs))}
    return [_compared(kind, width, threads, *pair) for kind, pair in works.items()]


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
    images = torch.rand(BATCH_SIZE, 3, SIZE, SIZE)

    def work() -> None:
        net.eval()
        with torch.no_grad():
            _answer(net, images)

    return work


def _compared(kind: str, width: int, threads: int, ours: Work, theirs: Work) -> Result:
    with large_blocks_kept():  # as in every training and evaluation
        own, peer = interleaved(ours, theirs, rounds=ROUNDS[width])
    setting = f"depth {DEPTH}, {SIZE}x{SIZE}, T {STEPS}, batch {BATCH_SIZE}"
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
    work()
    best, flops = _peak_flops(), _training_flops(work)
    started = time.perf_counter()
    for _ in range(5):
        work()
    seconds = (time.perf_counter() - started) / 5
    shares = ", ".join(f"{name} {share:.0%}" for name, share in _where_time_goes(work).items())
    step = f"a step at 128 wide is {flops / 1e9:.0f} GFLOP in {seconds * 1000:.0f} ms"
    note = f"{step}; the best product here runs at {best / 1e9:.0f} GFLOP/s. {shares}"
    return [
        Result(
            name="step_of_peak",
            value=flops / best / seconds,
            unit="of the peak",
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
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(3):
            work()
    spent: Counter[str] = Counter()
    events: Any = recorded.key_averages()
    for event in events:
        part = next((name for name, keys in PARTS.items() if any(key in event.key for key in keys)), "the rest")
        spent[part] += event.self_cpu_time_total
    return {name: spent[name] / spent.total() for name, _ in spent.most_common()}
