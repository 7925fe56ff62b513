"""Checks of every family on a device against the CPU: forward, backward, calibration, counting, trie evaluation, resumed training.

In double precision the two devices differ by rounding that flips no spike, so whole networks are compared in double precision. The
neurons are also compared in float32, in which a network trains, on inputs for which every operation is exact.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from population import population_evaluator
from safetensors.torch import load_file
from torch import Tensor

from autospike.config import AugmentationConfig, DataConfig, TrainingConfig
from autospike.data.batches import FixedBatches, TrainingBatches
from autospike.data.loading import load_images
from autospike.data.partition import SplitName
from autospike.evaluation.calibration import calibrate, read_statistics
from autospike.evaluation.single import StepwiseMeasurement, measure, measure_stepwise
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.events import Event, StepEvent
from autospike.memory.cache import ByteBudgetCache
from autospike.models.contract import SpikingModel
from autospike.nn.neuron import LIF
from autospike.space.architecture import Architecture
from autospike.space.block import Neuron
from autospike.space.mixers import WITH_HEADS
from autospike.space.search_space import SearchSpace
from autospike.supernet import Supernet
from autospike.training.checkpoint import Checkpoints
from autospike.training.trainer import train

# Returns a supernet on a device, with the same weights at each call.
Build = Callable[[torch.device], Supernet]

CPU = torch.device("cpu")
SIZE, IMAGES, BATCH = 8, 48, 16
NEURON = {"v_threshold": [0.5, 1.0], "tau": [1.5, 2.0]}
LOGITS, GRADIENTS, STATISTICS = 1e-6, 1e-5, 1e-6  # bounds of relative differences in double precision, whose own is 1e-16
STEPS, STOP = 8, 5  # of the resumed training; a checkpoint is written after 4


def _mixed(width: list[int], mixers: list[str], **changed: Any) -> dict[str, Any]:
    heads = {"num_heads": [1, 2]} if set(mixers) & WITH_HEADS else {}
    block = {"token_mixer": mixers, **heads, "mlp_ratio": [1, 2], "neuron": NEURON, **changed}
    return {"embed_dim": width, "embedding": {"stride": 2}, "depth": [1, 2], "block": block}


# A small space of each family, with all token mixers among them.
SPACES: dict[str, dict[str, Any]] = {
    "spikformer": {"stages": [_mixed([8, 16], ["sdsa_3", "sdsa_4"])]},
    "spike_driven": {"shortcut": "membrane", "stages": [_mixed([8, 16], ["sdsa_1", "sdsa_1_dilated", "sdsa_2"])]},
    "meta_spikeformer": {
        "shortcut": ["membrane", "sew"],
        "distilled": True,
        "stages": [
            {**_mixed([8, 12], ["sepconv", "none"], channel_mixer=["conv", "mlp"]), "embedding": {"stride": 1}},
            _mixed([16], ["sdsa_3", "sepconv"], qkv=["repconv", "linear"], projection=["linear", "repconv"]),
        ],
    },
    "qkformer": {
        "stages": [
            {**_mixed([8, 16], ["token_qk", "channel_qk"]), "embedding": {"stride": 1}},
            _mixed([16], ["sdsa_3", "token_qk"]),
        ]
    },
    "e_spikeformer": {
        "shortcut": "membrane",
        "stages": [
            _mixed([8, 16], ["spiking_sepconv_3", "none"], neuron={"levels": [1, 4]}),
            _mixed([16], ["e_sdsa"], neuron={"levels": [1, 4]}),
        ],
    },
    "max_former": {
        "shortcut": "membrane",
        "stages": [_mixed([8, 16], ["dwc_3", "dwc_5", "none"]), _mixed([16], ["sdsa_3", "dwc_7"])],
    },
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was compared, and of which family.
        passed: Whether it is within its bound.
        value: The difference; None if the check ended with an error.
        bound: The largest difference that is allowed.
        note: The kind of difference, or the error.
        seconds: Duration.
    """

    name: str
    passed: bool
    value: float | None
    bound: float
    note: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What a check measured.

    Attributes:
        value: The difference.
        bound: The largest difference that is allowed.
        note: The kind of difference.
    """

    value: float
    bound: float
    note: str


def checks(device: torch.device) -> Iterator[Check]:
    """Run all checks, one after the other.

    Args:
        device: The device that is compared with the CPU.

    Yields:
        The result of each check. An error is a check that failed.
    """
    for surrogate in ("sigmoid", "arctan"):
        yield run_check(f"neurons, {surrogate}", partial(neurons, surrogate, device))
    yield run_check("training batches", partial(batches, device))
    for family in SPACES:
        for name, function in OF_FAMILY.items():
            yield run_check(f"{name}, {family}", partial(function, partial(supernet, family), device))


def run_check(name: str, measured: Callable[[], Difference]) -> Check:
    """Run a check.

    Args:
        name: Its name.
        measured: Returns the difference.

    Returns:
        The result. It has not passed if the difference exceeds its bound or is not a number, or if an error was raised.
    """
    started = time.perf_counter()
    try:
        found = measured()
    except Exception as error:  # whatever it is, the other checks run as well
        note = f"{type(error).__name__}: {error}"
        return Check(name=name, passed=False, value=None, bound=0.0, note=note, seconds=time.perf_counter() - started)
    passed, seconds = found.value <= found.bound, time.perf_counter() - started
    return Check(name=name, passed=passed, value=found.value, bound=found.bound, note=found.note, seconds=seconds)


def neurons(surrogate: Any, device: torch.device) -> Difference:
    """Spikes and gradients of a LIF layer in float32.

    Inputs are multiples of 1/256 and tau is 2, so that potentials are exact in four steps, on every device.
    """
    current = torch.randint(-256, 1024, (4, 8, 5, 5, 32), generator=torch.Generator().manual_seed(0)) / 256
    cotangent = torch.randn(current.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for place in (CPU, device):
        lif = LIF(Neuron(), replace(LIF(Neuron()).dynamics, surrogate=surrogate))
        x = current.to(place).requires_grad_()
        spikes = lif(x)
        spikes.backward(cotangent.to(place))
        assert x.grad is not None
        found.append((spikes.detach().cpu(), x.grad.cpu()))
    (spikes, gradient), (others, other_gradient) = found
    flipped = int((spikes != others).sum())
    value = flipped + relative(other_gradient, gradient)
    return Difference(value=value, bound=GRADIENTS, note=f"flipped spikes ({flipped}) plus relative difference of gradients")


def batches(device: torch.device) -> Difference:
    """Augmented and mixed training batches, which are copied to a GPU while the previous one is used."""
    own, other = (list(_training_batches(place)(0, STEPS)) for place in (CPU, device))
    value = max(relative(b.images.cpu(), a.images) + relative(b.targets.cpu(), a.targets) for a, b in zip(own, other, strict=True))
    return Difference(value=value, bound=LOGITS, note="relative difference of images and labels")


def forward(build: Build, device: torch.device) -> Difference:
    """Logits of the largest, the smallest and a random subnet in double precision, with statistics of the batch."""
    own, other = (_logits(build(place)) for place in (CPU, device))
    return Difference(value=relative(other, own), bound=LOGITS, note="relative difference of logits")


def backward(build: Build, device: torch.device) -> Difference:
    """Gradients of all shared parameters in double precision."""
    found = []
    for place in (CPU, device):
        network, images, targets = build(place).double(), *_batch(place)
        for logits in network(images.double(), _subnets(network.space)):
            heads = logits if isinstance(logits, tuple) else (logits,)
            torch.stack([F.cross_entropy(head, targets) for head in heads]).sum().backward()
        found.append(torch.cat([p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None]))
    return Difference(value=relative(found[1], found[0]), bound=GRADIENTS, note="relative difference of gradients")


def calibration(build: Build, device: torch.device) -> Difference:
    """BatchNorm statistics of the largest subnet in double precision."""
    own, other = (read_statistics(_calibrated(build(place))).cpu() for place in (CPU, device))
    return Difference(value=relative(other, own), bound=STATISTICS, note="relative difference of statistics")


def counting(build: Build, device: torch.device) -> Difference:
    """Operations of the largest subnet in double precision: layers, multiply-accumulates, accumulations, kinds of values."""
    own, other = (_counted(build(place)).operations.counts for place in (CPU, device))
    value = sum(a != b for a, b in zip(own, other, strict=True)) if len(own) == len(other) else max(len(own), len(other))
    return Difference(value=value, bound=0.0, note=f"layers of {len(own)} that are counted differently")


def trie(build: Build, device: torch.device) -> Difference:
    """Measurements of a population by the trie evaluator, and of each candidate alone, both on the device in float32."""
    evaluator = _evaluator(build(device))
    population = [evaluator.supernet.space.sample(random.Random(i)) for i in range(4)]
    found = list(population_evaluator(evaluator, calibration_batch_size=BATCH)(population))
    alone = [_alone(_evaluator(build(device)), architecture) for architecture in population]
    return Difference(
        value=sum(a != b for a, b in zip(found, alone, strict=True)),
        bound=0.0,
        note="measurements of 4 that differ from those alone",
    )


def resume(build: Build, device: torch.device) -> Difference:
    """Weights and optimizer state of a training that was interrupted and resumed, against an uninterrupted one."""
    with TemporaryDirectory() as folder:
        whole, stopped = (Path(folder) / name for name in ("whole", "stopped"))
        _train(build(device), whole)
        with suppress(_StoppedError):
            _train(build(device), stopped, stop=STOP)
        _train(build(device), stopped)
        expected, found = (load_file(path / f"step-{STEPS:08d}.safetensors") for path in (whole, stopped))
    value = sum(not torch.equal(found[name], tensor) for name, tensor in expected.items())
    return Difference(value=value, bound=0.0, note=f"tensors of {len(expected)} that are not bit-identical")


OF_FAMILY: dict[str, Callable[[Build, torch.device], Difference]] = {
    "forward": forward,
    "backward": backward,
    "calibration": calibration,
    "counting": counting,
    "trie evaluation": trie,
    "resume": resume,
}


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that of the expected tensor."""
    return float((found - expected).norm() / expected.norm())


def supernet(family: str, device: torch.device) -> Supernet:
    """A supernet whose BatchNorm biases are 0.3, so that spikes reach the last layers. Its weights are drawn on the CPU."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = Supernet(SearchSpace.from_dict(_space(family)), num_classes=10, in_chans=1)
    for name, parameter in net.named_parameters():
        if name.endswith("bn.bias"):
            torch.nn.init.constant_(parameter, 0.3)
    return net.to(device)


class _StoppedError(Exception):
    """Ends a training as a kill would."""


def _device(network: Supernet) -> torch.device:
    return next(network.parameters()).device


def _space(family: str) -> dict[str, Any]:
    return {"family": family, "time_steps": [1, 3], **SPACES[family]}


def _subnets(space: SearchSpace) -> list[Architecture]:
    return [space.largest(), space.smallest(), space.sample(random.Random(0))]


def _images(name: SplitName, device: torch.device) -> FixedBatches:
    split = load_images(DataConfig(name="digits", image_size=SIZE), seed=0).splits[name].sample(IMAGES, random.Random(0))
    return FixedBatches(split=split, channels=1, image_size=SIZE, device=device, cache=ByteBudgetCache())


def _batch(device: torch.device) -> tuple[Tensor, Tensor]:
    batch = _images("train", device).batch((0, BATCH))
    return batch.images, batch.targets


@torch.no_grad()
def _logits(network: Supernet) -> Tensor:
    images, _ = _batch(_device(network))
    outputs = network.double()(images.double(), _subnets(network.space))
    return torch.cat([x.flatten().cpu() for logits in outputs for x in (logits if isinstance(logits, tuple) else (logits,))])


def _calibrated(network: Supernet) -> SpikingModel:
    model = network.double().extract(network.space.largest()).double()
    calibrate(model, (batch.images.double() for batch in islice(_images("train", _device(network))(BATCH), 2)), time_steps=3)
    return model


def _counted(network: Supernet) -> StepwiseMeasurement:
    batches = _images("search", _device(network))

    def double(batch_size: int) -> Iterator[Any]:
        for batch in batches(batch_size):
            yield replace(batch, images=batch.images.double())

    return measure_stepwise(_calibrated(network), double, batch_size=BATCH)


def _evaluator(network: Supernet) -> TrieEvaluator:
    train_images, search = (_images(name, _device(network)) for name in ("train", "search"))
    return TrieEvaluator(supernet=network, calibration=train_images, search=search, cache=ByteBudgetCache())


def _alone(evaluator: TrieEvaluator, architecture: Architecture) -> Any:
    model = evaluator.supernet.extract(architecture)
    calibrate(model, (batch.images for batch in evaluator.calibration(BATCH)), time_steps=evaluator.time_steps)
    return measure(model, evaluator.search, batch_size=BATCH)


def _train(network: Supernet, folder: Path, stop: int | None = None) -> None:
    """Train for 8 steps in 2 epochs, with a checkpoint after each; raise an error after step `stop`."""
    config = TrainingConfig(epochs=2, batch_size=BATCH, learning_rate=0.01, warmup_epochs=0, checkpoint_epochs=1)
    batches = _training_batches(_device(network))

    def report(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == stop:
            raise _StoppedError

    train(network, batches, config, Checkpoints(folder=folder), report, seed=0)


def _training_batches(device: torch.device) -> TrainingBatches:
    """Batches of 8 steps in 2 epochs, half of whose images are mixed."""
    split = load_images(DataConfig(name="digits", image_size=SIZE), seed=0).splits["train"]
    count = BATCH * STEPS // 2
    return TrainingBatches(
        split=replace(split, indices=split.indices[:count], labels=split.labels[:count]),
        num_classes=10,
        channels=1,
        image_size=SIZE,
        batch_size=BATCH,
        augmentation=AugmentationConfig(mixup=0.5, mix_probability=0.5),
        smoothing=0.1,
        workers=0,
        seed=0,
        device=device,
    )
