"""Cost of counting operations during the forward pass that measures accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import torch
from measuring import Result, interleaved, overhead
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

from autospike.data.batches import Batch
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.single import measure_stepwise
from autospike.models.contract import SpikingModel
from autospike.models.registry import build_model
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block

BATCH_SIZE = 64


def spikformer(width: int, depth: int, size: int) -> SpikingModel:
    """A CIFAR Spikformer at T = 4 with random weights, calibrated on random images so that its neurons fire."""
    block = Block(num_heads=4, mlp_ratio=4)
    stage = Stage(embed_dim=width, embedding=Embedding(stride=4), blocks=(block,) * depth)
    torch.manual_seed(0)
    model = build_model(Architecture(time_steps=4, stages=(stage,)), num_classes=10, in_chans=3)
    for name, parameter in model.named_parameters():
        if name.endswith("bn.bias"):
            torch.nn.init.constant_(parameter, 0.3)
    calibrate(model, [torch.randn(32, 3, size, size)], time_steps=4)
    return model


def split(images: int, size: int) -> Callable[[int], Iterator[Batch]]:
    """Random images in memory, in batches."""
    pixels, labels = torch.randn(images, 3, size, size), torch.randint(0, 10, (images,))

    def batches(batch_size: int) -> Iterator[Batch]:
        for x, y in zip(pixels.split(batch_size), labels.split(batch_size), strict=True):
            yield Batch(images=x, targets=y)

    return batches


@torch.no_grad()
def count_correct(model: SpikingModel, batches: Callable[[int], Iterator[Batch]]) -> int:
    """Number of correct predictions, without counting operations."""
    return sum(int((model(batch.images).argmax(dim=1) == batch.targets).sum()) for batch in batches(BATCH_SIZE))


def energy_overhead() -> list[Result]:
    """Extra time of an evaluation that counts operations, by our counter and by spikingjelly's on the same model."""
    torch.set_num_threads(1)
    return [
        *_overhead("energy_overhead", 128, 4, 32, images=512, goal="<= 0.05"),
        *_overhead("energy_overhead_small", 64, 2, 16, images=384, goal=""),
    ]


def _overhead(name: str, width: int, depth: int, size: int, *, images: int, goal: str) -> list[Result]:
    model, batches = spikformer(width, depth, size), split(images, size)

    def theirs() -> None:
        with DispatchCounterMode([SynOpCounter()]):
            count_correct(model, batches)

    seconds = interleaved(
        lambda: count_correct(model, batches), lambda: measure_stepwise(model, batches, batch_size=BATCH_SIZE), theirs, rounds=7
    )
    what = f"Spikformer {width}-{depth}, {size}x{size}, T 4, {images} images in batches of {BATCH_SIZE}; "
    note = f"{what}{median(seconds[0]):.2f} s uncounted"
    shared = {"unit": "extra time, fraction", "peer": "the same evaluation, uncounted", "threads": 1}
    return [
        Result(name=name, value=overhead(seconds[1], seconds[0]), goal=goal, note=note, **shared),  # type: ignore[arg-type]
        Result(
            name=f"{name}_spikingjelly",
            value=overhead(seconds[2], seconds[0]),
            goal="",
            note=f"{what}spikingjelly's SynOpCounter, for comparison",
            **shared,  # type: ignore[arg-type]
        ),
    ]
