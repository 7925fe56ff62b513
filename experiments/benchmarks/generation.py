"""A generation of a real search, measured by the walk and one candidate after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measuring import Result
from population import IMAGES, SCORING_BATCH, evaluator, images, reduced_space, supernet, walker
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import nn

from autospike.config import SearchConfig
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.single import score
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.measurement import Measurement
from autospike.memory.allocator import retain_large_allocations
from autospike.search.archive import Archive
from autospike.search.evolution import Search
from autospike.space.architecture import Architecture

POPULATION = 48
GENERATIONS = 8
OWN_EVERY, THEIRS_EVERY = 4, 8  # of the candidates asked for, one is timed alone


@dataclass
class Timed:
    """Measures what a search asks for, and beside it some of the candidates alone: ratios by generation."""

    walker: TrieEvaluator
    asked: int = 0
    own: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    measured_per_asked: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        wanted = list(architectures)
        if len(wanted) == 1:  # F_AEB's reference
            return evaluator(self.walker)(wanted)
        asked = sorted(wanted[:POPULATION], key=_size)
        before = self._one_by_one(asked[::2])
        started = time.perf_counter()
        found = list(evaluator(self.walker)(wanted))
        seconds = time.perf_counter() - started
        own, theirs = (a + b for a, b in zip(before, self._one_by_one(asked[1::2]), strict=True))
        self.seconds.append(seconds)
        self.own.append(own / seconds)
        self.theirs.append(theirs / seconds)
        self.measured_per_asked.append(len(wanted) / len(asked))
        return iter(found)

    def _one_by_one(self, asked: list[Architecture]) -> tuple[float, float]:
        """Seconds of our single-model path, and of theirs; half is timed before a walk and half after it, for speed drifts."""
        with retain_large_allocations():  # as in a walk
            return _timed(self._alone, asked, OWN_EVERY), _timed(self._theirs, asked, THEIRS_EVERY)

    def _alone(self, architecture: Architecture) -> None:
        """Our own fastest path for a single model: calibration at the space's largest T, then a counted pass at its own."""
        model = self.walker.supernet.extract(architecture)
        calibrate(model, (batch.images for batch in self.walker.calibration(128)), time_steps=self.walker.time_steps)
        score(model, self.walker.search, batch_size=SCORING_BATCH)

    @torch.no_grad()
    def _theirs(self, architecture: Architecture) -> None:
        """The same on spikingjelly's Spikformer, without any counting of operations."""
        net: Any = spikingjelly_s(architecture).train()
        net.T = self.walker.time_steps
        for batch in self.walker.calibration(128):
            functional.reset_net(net)
            net(batch.images)
        net.eval().T = architecture.time_steps
        for batch in self.walker.search(SCORING_BATCH):
            functional.reset_net(net)
            net(batch.images).argmax(dim=-1)


def spikingjelly_s(architecture: Architecture) -> nn.Module:
    """Its Spikformer of the same width and depth. It has one MLP ratio for all blocks: their mean."""
    (stage,) = architecture.stages
    net: nn.Module = Spikformer(
        T=architecture.time_steps,
        img_size_h=32,
        img_size_w=32,
        patch_size=4,
        num_classes=10,
        embed_dims=stage.embed_dim,
        num_heads=stage.blocks[0].num_heads,
        mlp_ratio=mean(block.mlp_ratio for block in stage.blocks),
        depths=len(stage.blocks),
    )
    return net


def _size(architecture: Architecture) -> tuple[int, int, int]:
    (stage,) = architecture.stages
    return stage.embed_dim, len(stage.blocks), architecture.time_steps


def _timed(work: Callable[[Architecture], None], asked: list[Architecture], every: int) -> float:
    """Seconds for all, of which some, of every size, are timed."""
    started, some = time.perf_counter(), asked[every // 2 :: every]
    for architecture in some:
        work(architecture)
    return (time.perf_counter() - started) * len(asked) / len(some)


def _each(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.2g}" for ratio in ratios)


def generation() -> list[Result]:
    """Medians over the generations after the second, each timed beside candidates of its own."""
    torch.set_num_threads(1)
    space, source = reduced_space(), images()
    timed = Timed(walker(supernet(space, source), source))
    with TemporaryDirectory() as folder:
        Search(
            space=space,
            anchors=(),
            evaluate=timed,
            archive=Archive(Path(folder) / "archive.sqlite", "bench"),
            config=SearchConfig(population=POPULATION, generations=GENERATIONS),
            seed=0,
            measured=lambda _evaluation: None,
        ).run()
    own, theirs, free = (values[2:] for values in (timed.own, timed.theirs, timed.measured_per_asked))
    note = (
        f"NSGA-II, {POPULATION} candidates a generation, small_5 at widths 24 to 96, T up to 4, {IMAGES} images 32x32 to score and "
        f"as many to calibrate on; medians of generations 3 to {GENERATIONS}; a walk takes {median(timed.seconds[2:]):.0f} s and "
        f"measures {median(free) * POPULATION:.0f}; every {OWN_EVERY}th candidate in order of size was timed alone, "
        f"every {THEIRS_EVERY}th theirs; by generation {_each(own)} against our own path, {_each(theirs)} against spikingjelly's"
    )
    one_by_one = {"unit": "times faster", "threads": 1, "note": note}
    ours, spikingjelly = "each candidate alone, by our own single-model path", "each candidate alone, as spikingjelly's Spikformer"
    return [
        Result(name="generation_vs_own", value=median(own), goal=">= 2.5", peer=ours, **one_by_one),  # type: ignore[arg-type]
        Result(name="generation_vs_spikingjelly", value=median(theirs), goal=">= 7", peer=spikingjelly, **one_by_one),  # type: ignore[arg-type]
        Result(
            name="measured_vs_own",
            value=median(a * b for a, b in zip(own, free, strict=True)),
            goal=">= 8",
            peer=f"{ours}, per measured candidate",
            **one_by_one,  # type: ignore[arg-type]
        ),
        Result(
            name="measured_vs_spikingjelly",
            value=median(a * b for a, b in zip(theirs, free, strict=True)),
            goal=">= 20",
            peer=f"{spikingjelly}, per measured candidate",
            **one_by_one,  # type: ignore[arg-type]
        ),
    ]
