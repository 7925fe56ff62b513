"""Absolute times of neurons and supernet steps on a CUDA device, and the memory bandwidth that the neurons reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from measuring import Result
from rich.console import Console
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import Tensor, nn

from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block, Neuron
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet

ROUNDS = 20
NEURONS = (4, 64, 14, 14, 512)  # T, B, H, W, C
# Width, depth, stride, image size, batch, classes.
SCALES = {"cifar": (384, 4, 4, 32, 128, 10), "imagenet": (512, 8, 16, 224, 32, 1000)}


def gpu() -> list[Result]:
    """Run on the current CUDA device; without one, print that nothing was measured."""
    if not torch.cuda.is_available():
        Console(stderr=True).print("gpu: no CUDA device on this machine; nothing was measured")
        return []
    device = torch.device("cuda")
    return [*_neurons(device), *(result for scale in SCALES for result in _steps(scale, device))]


def _neurons(device: torch.device) -> list[Result]:
    """Forward and backward of a LIF layer, which read and write at least 16 bytes a value: input, spikes and both gradients."""
    x = torch.randn(NEURONS, device=device, requires_grad=True)
    cotangent, lif = torch.randn_like(x), LIF(Neuron())

    def work() -> None:
        x.grad = None
        lif(x).backward(cotangent)

    copied = torch.empty_like(x)
    seconds, copying = _seconds(work, device), _seconds(lambda: copied.copy_(x.detach()), device)
    bandwidth, reached = 8 * x.numel() / copying, 16 * x.numel() / seconds
    note = f"{reached / 1e9:.0f} GB/s; a copy reaches {bandwidth / 1e9:.0f}; {_name(device)}"
    return [_result("gpu_lif_forward_backward", seconds, note)]


def _steps(scale: str, device: torch.device) -> list[Result]:
    """A training step of a supernet on its largest subnet, and of spikingjelly's model of the same size, both in bfloat16."""
    width, depth, stride, size, batch, classes = SCALES[scale]
    block = Block(num_heads=width // 32, mlp_ratio=4)
    stage = Stage(embed_dim=width, embedding=Embedding(stride=stride), blocks=(block,) * depth)
    space = SearchSpace.of(Architecture(time_steps=4, stages=(stage,)))
    supernet = Supernet(space, num_classes=classes, in_chans=3).to(device)
    theirs: Any = Spikformer(
        T=4,
        img_size_h=size,
        img_size_w=size,
        patch_size=stride,
        num_classes=classes,
        embed_dims=width,
        num_heads=width // 32,
        mlp_ratio=4,
        depths=depth,
    ).to(device)

    def their_logits(images: Tensor) -> Tensor:
        functional.reset_net(theirs)
        logits: Tensor = theirs(images).mean(dim=0)
        return logits

    images, labels = torch.rand(batch, 3, size, size, device=device), torch.randint(0, classes, (batch,), device=device)
    ours = _seconds(_step(supernet, lambda x: supernet(x, [space.largest()])[0], images, labels), device)
    peer = _seconds(_step(theirs, their_logits, images, labels), device)
    note = f"{batch / ours:.0f} images/s, bfloat16, batch {batch}; spikingjelly's Spikformer {peer * 1000:.1f} ms; {_name(device)}"
    return [_result(f"gpu_step_{scale}", ours, note)]


def _step(net: nn.Module, logits: Callable[[Tensor], Any], images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def work() -> None:
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = F.cross_entropy(logits(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds after three warm-up rounds."""
    found = []
    for round_ in range(3 + ROUNDS):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        if round_ >= 3:
            found.append(time.perf_counter() - started)
    return median(found)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def _result(name: str, seconds: float, note: str) -> Result:
    return Result(name=name, value=seconds * 1000, unit="ms", peer="", goal="", threads=0, note=note)
