"""Absolute times and peak memory of neurons, supernet steps and trie evaluation on a CUDA device."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from measuring import Result
from population import IMAGES, images, population_evaluator, reduced_space, trie_evaluator
from rich.console import Console
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import Tensor, nn

from autospike.nn.neuron import LIF
from autospike.randomness import keyed
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet

ROUNDS = 20
CANDIDATES = 24  # of the evaluated population
NEURONS = (4, 64, 14, 14, 512)  # T, B, H, W, C


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A setting of a training step.

    Attributes:
        width: Width of the network; a head has 32 channels.
        depth: Number of blocks.
        stride: Of the embedding.
        size: Height and width of an image.
        batch: Batch size.
        classes: Number of classes.
    """

    width: int
    depth: int
    stride: int
    size: int
    batch: int
    classes: int


SCALES = {
    "cifar": Scale(width=384, depth=4, stride=4, size=32, batch=128, classes=10),
    "imagenet": Scale(width=512, depth=8, stride=16, size=224, batch=32, classes=1000),
}


def gpu() -> list[Result]:
    """Run on the current CUDA device; without one, print that nothing was measured."""
    if not torch.cuda.is_available():
        Console(stderr=True).print("gpu: no CUDA device on this machine; nothing was measured")
        return []
    device = torch.device("cuda")
    return [result for figure in figures(device) for result in figure()]


def figures(device: torch.device) -> list[Callable[[], list[Result]]]:
    """Return the measurements, in the order of their importance."""
    steps = [partial(training_step, name, scale, device) for name, scale in SCALES.items()]
    return [steps[0], partial(evaluation, device), partial(neurons, device), *steps[1:]]


def neurons(device: torch.device, shape: tuple[int, ...] = NEURONS) -> list[Result]:
    """Forward and backward of a LIF layer, which read and write at least 16 bytes a value: input, spikes and both gradients."""
    x = torch.randn(shape, device=device, requires_grad=True)
    cotangent, lif = torch.randn_like(x), LIF(Neuron())

    def work() -> None:
        x.grad = None
        lif(x).backward(cotangent)

    copied = torch.empty_like(x)
    seconds, copying = _seconds(work, device), _seconds(lambda: copied.copy_(x.detach()), device)
    bandwidth, reached = 8 * x.numel() / copying, 16 * x.numel() / seconds
    note = f"{reached / 1e9:.0f} GB/s; a copy reaches {bandwidth / 1e9:.0f}; {_name(device)}"
    return [_result("gpu_lif_forward_backward", seconds * 1000, "ms", note)]


def training_step(name: str, scale: Scale, device: torch.device) -> list[Result]:
    """A training step of a supernet on its largest subnet, and of spikingjelly's model of the same size, both in bfloat16."""
    block = Block(num_heads=scale.width // 32, mlp_ratio=4)
    stage = Stage(embed_dim=scale.width, embedding=Embedding(stride=scale.stride), blocks=(block,) * scale.depth)
    space = SearchSpace.of(Architecture(time_steps=4, stages=(stage,)))
    supernet = Supernet(space, num_classes=scale.classes, in_chans=3).to(device)
    theirs: Any = Spikformer(
        T=4,
        img_size_h=scale.size,
        img_size_w=scale.size,
        patch_size=scale.stride,
        num_classes=scale.classes,
        embed_dims=scale.width,
        num_heads=scale.width // 32,
        mlp_ratio=4,
        depths=scale.depth,
    ).to(device)

    def their_logits(images: Tensor) -> Tensor:
        functional.reset_net(theirs)
        logits: Tensor = theirs(images).mean(dim=0)
        return logits

    pixels = torch.rand(scale.batch, 3, scale.size, scale.size, device=device)
    labels = torch.randint(0, scale.classes, (scale.batch,), device=device)
    ours, memory = _measured(_step(supernet, lambda x: supernet(x, [space.largest()])[0], pixels, labels), device)
    peer, their_memory = _measured(_step(theirs, their_logits, pixels, labels), device)
    setting = f"{scale.batch / ours:.0f} images/s, bfloat16, batch {scale.batch}"
    return [
        _result(f"gpu_step_{name}", ours * 1000, "ms", f"{setting}; spikingjelly's {peer * 1000:.1f} ms; {_name(device)}"),
        _result(f"gpu_step_{name}_memory", memory, "MB", f"spikingjelly's {their_memory:.0f} MB; {_name(device)}"),
    ]


def evaluation(device: torch.device, *, candidates: int = CANDIDATES, count: int = IMAGES) -> list[Result]:
    """Calibrate and score a random population by the trie evaluator, in a space like small_5 at a quarter of its width."""
    space, source = reduced_space(), images()
    torch.manual_seed(0)
    evaluator = trie_evaluator(Supernet(space, num_classes=10, in_chans=3).to(device), source, count=count)
    batches = (replace(part, device=device) for part in (evaluator.calibration, evaluator.search))
    evaluator.calibration, evaluator.search = batches
    populations = [[space.sample(keyed(0, "gpu", part, i)) for i in range(candidates)] for part in range(3)]
    seconds = []
    for population in populations:  # the first one decodes images and warms up
        _synchronise(device)
        _reset_memory(device)
        started = time.perf_counter()
        list(population_evaluator(evaluator)(population))
        _synchronise(device)
        seconds.append(time.perf_counter() - started)
    each = median(seconds[1:]) / candidates
    note = f"T 4, 32x32, {count} images for calibration and {count} for scoring; {_name(device)}"
    return [
        _result("gpu_evaluation", 1 / each, "candidates/s", note),
        _result("gpu_evaluation_memory", _memory(device), "MB", note),
    ]


def _step(net: nn.Module, logits: Callable[[Tensor], Any], images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def work() -> None:
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = F.cross_entropy(logits(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def _measured(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Median seconds, and peak memory in 10^6 bytes."""
    _reset_memory(device)
    return _seconds(work, device), _memory(device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds after three warm-up rounds."""
    found = []
    for round_ in range(3 + (ROUNDS if device.type == "cuda" else 1)):
        _synchronise(device)
        started = time.perf_counter()
        work()
        _synchronise(device)
        if round_ >= 3:
            found.append(time.perf_counter() - started)
    return median(found)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _memory(device: torch.device) -> float:
    """Peak memory in 10^6 bytes: allocated on CUDA, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _result(name: str, value: float, unit: str, note: str) -> Result:
    return Result(name=name, value=value, unit=unit, peer="", goal="", threads=0, note=note)
