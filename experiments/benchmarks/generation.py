"""The generations of a search, measured by the trie evaluator and, beside it, by candidates one by one.

A time budget keeps the benchmark under 15 minutes on any machine: a sample of each generation's candidates is timed one by one and
extrapolated, and the search stops when another generation would exceed the budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import mul
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from budget import Budget, Estimate, extrapolate, stratified
from measuring import Result
from population import IMAGES, SCORING_BATCH, images, population_evaluator, reduced_space, supernet, trie_evaluator
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import nn

from autospike.config import SearchConfig
from autospike.evaluation.calibration import calibrate
from autospike.evaluation.single import measure
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.measurement import Measurement
from autospike.memory.allocator import retain_large_allocations
from autospike.searching.archive import Archive
from autospike.searching.evolution import Search
from autospike.space.architecture import Architecture

POPULATION = 48
GENERATIONS = 8
COLD_GENERATIONS = 2  # the first ones fill the cache; they are not typical of a search
BUDGET_SECONDS = 13 * 60  # of 15 minutes; the rest is for importing, and for a generation that takes longer than those before it
EXPECTED_GAIN = 2.0  # of a generation over its candidates one by one; 2.4 to 3.5 were measured


class BudgetSpentError(Exception):
    """Another generation would exceed the time budget."""


@dataclass(frozen=True, kw_only=True)
class TimedGeneration:
    """Seconds of one generation by the trie evaluator, and of its proposed candidates one by one."""

    seconds: float
    own: Estimate
    spikingjelly: Estimate
    measured: int


@dataclass
class TimedEvaluation:
    """The measurements that a search wants, timed beside some of the candidates one by one.

    Args:
        evaluator: Measures the populations.
        budget: Time for all generations.
    """

    evaluator: TrieEvaluator
    budget: Budget
    generations: list[TimedGeneration] = field(default_factory=list)
    sample: int = 0
    longest: float = 0.0

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        """Measure a generation, of which the first `POPULATION` architectures are the proposed candidates.

        Raises:
            BudgetSpentError: The generation would exceed the budget.
        """
        wanted = list(architectures)
        proposed = sorted(wanted[:POPULATION], key=_size)
        if not self.sample:
            self._plan(proposed[len(proposed) // 2])
        if self.generations and not self.budget.allows(self.longest):
            raise BudgetSpentError
        before = self.budget.spent()
        found = self._timed(wanted, stratified(proposed, self.sample))
        self.longest = max(self.longest, self.budget.spent() - before)
        return iter(found)

    def _plan(self, typical: Architecture) -> None:
        """Choose the sample size of all generations from one measured candidate."""
        own, theirs = self._alone([typical])[0]
        fixed = POPULATION * own / EXPECTED_GAIN
        self.sample = self.budget.sample_size(rounds=GENERATIONS, fixed=fixed, each=own + theirs)

    def _timed(self, wanted: Sequence[Architecture], sample: Sequence[Architecture]) -> list[Measurement]:
        """Every second candidate of the sample is timed before the population and the others after it: a machine's speed drifts."""
        alone: list[tuple[float, float]] = [(0.0, 0.0)] * len(sample)
        alone[::2] = self._alone(sample[::2])
        started = time.perf_counter()
        found = list(population_evaluator(self.evaluator)(wanted))
        seconds = time.perf_counter() - started
        alone[1::2] = self._alone(sample[1::2])
        own, theirs = (extrapolate(each, POPULATION) for each in zip(*alone, strict=True))
        self.generations.append(TimedGeneration(seconds=seconds, own=own, spikingjelly=theirs, measured=len(wanted)))
        return found

    def _alone(self, sample: Sequence[Architecture]) -> list[tuple[float, float]]:
        """Seconds of each candidate by our single-model path, and as spikingjelly's Spikformer."""
        with retain_large_allocations():  # as the trie evaluator does
            return [(_seconds(self._ours, one), _seconds(self._theirs, one)) for one in sample]

    def _ours(self, architecture: Architecture) -> None:
        """Calibrate at the space's largest T, then score and count at the candidate's own T: our fastest path for one model."""
        model = self.evaluator.supernet.extract(architecture)
        calibrate(model, (batch.images for batch in self.evaluator.calibration(128)), time_steps=self.evaluator.time_steps)
        measure(model, self.evaluator.search, batch_size=SCORING_BATCH)

    @torch.no_grad()
    def _theirs(self, architecture: Architecture) -> None:
        """The same on spikingjelly's Spikformer, without counting any operations."""
        net: Any = spikingjelly_s(architecture).train()
        net.T = self.evaluator.time_steps
        for batch in self.evaluator.calibration(128):
            functional.reset_net(net)
            net(batch.images)
        net.eval().T = architecture.time_steps
        for batch in self.evaluator.search(SCORING_BATCH):
            functional.reset_net(net)
            net(batch.images).argmax(dim=-1)


def spikingjelly_s(architecture: Architecture) -> nn.Module:
    """Build spikingjelly's Spikformer of the same width and depth. It has one MLP ratio for all blocks: their mean."""
    (stage,) = architecture.stages
    net: nn.Module = Spikformer(
        T=architecture.time_steps,
        img_size_h=32,
        img_size_w=32,
        patch_size=4,
        num_classes=10,
        embed_dims=stage.embed_dim,
        num_heads=stage.blocks[0].num_heads,
        mlp_ratio=mean(block.mlp_ratio or 1.0 for block in stage.blocks),
        depths=len(stage.blocks),
    )
    return net


def _size(architecture: Architecture) -> tuple[int, int, int]:
    (stage,) = architecture.stages
    return stage.embed_dim, len(stage.blocks), architecture.time_steps


def _seconds(work: Callable[[Architecture], None], architecture: Architecture) -> float:
    started = time.perf_counter()
    work(architecture)
    return time.perf_counter() - started


def _listed(ratios: Iterable[float]) -> str:
    return ", ".join(f"{ratio:.2g}" for ratio in ratios)


def generation() -> list[Result]:
    """Compare medians over the generations after the first `COLD_GENERATIONS`, or the last one if there are none."""
    budget = Budget(BUDGET_SECONDS)
    torch.set_num_threads(1)
    space, source = reduced_space(), images()
    timed = TimedEvaluation(trie_evaluator(supernet(space, source), source), budget)
    with TemporaryDirectory() as folder, suppress(BudgetSpentError):
        Search(
            space=space,
            anchors=(),
            evaluate=timed,
            archive=Archive(Path(folder) / "archive.sqlite", "bench"),
            config=SearchConfig(population=POPULATION, generations=GENERATIONS),
            seed=0,
        ).run()
    return results(timed.generations, timed.sample)


def results(generations: Sequence[TimedGeneration], sample: int) -> list[Result]:
    """The four figures of the compared generations; their note states the sample and its standard error.

    Args:
        generations: All timed generations, at least one.
        sample: How many candidates of each were timed one by one.
    """
    compared = generations[COLD_GENERATIONS:] or generations[-1:]
    own = [g.own.total / g.seconds for g in compared]
    theirs = [g.spikingjelly.total / g.seconds for g in compared]
    own_error = median(g.own.error / g.own.total for g in compared)
    their_error = median(g.spikingjelly.error / g.spikingjelly.total for g in compared)
    gain = [g.measured / POPULATION for g in compared]
    note = (
        f"NSGA-II, {POPULATION} candidates a generation, small_5 at widths 24 to 96, T up to 4, {IMAGES} images 32x32 to score and "
        f"as many to calibrate on; medians of generations {len(generations) - len(compared) + 1} to {len(generations)}; the trie "
        f"evaluator takes {median(g.seconds for g in compared):.0f} s and measures {median(g.measured for g in compared):.0f}; "
        f"{sample} of the {POPULATION} in order of size were timed one by one and extrapolated, with a standard error of "
        f"{own_error:.0%} for our own path and {their_error:.0%} for spikingjelly's; by generation {_listed(own)} against our own "
        f"path, {_listed(theirs)} against spikingjelly's"
    )
    ours, spikingjelly = "each candidate alone, by our own single-model path", "each candidate alone, as spikingjelly's Spikformer"
    return [
        _result("generation_vs_own", own, ">= 2.5", ours, note),
        _result("generation_vs_spikingjelly", theirs, ">= 7", spikingjelly, note),
        _result("measured_vs_own", map(mul, own, gain), ">= 8", f"{ours}, per measured candidate", note),
        _result("measured_vs_spikingjelly", map(mul, theirs, gain), ">= 20", f"{spikingjelly}, per measured candidate", note),
    ]


def _result(name: str, ratios: Iterable[float], goal: str, peer: str, note: str) -> Result:
    return Result(name=name, value=median(ratios), unit="times faster", peer=peer, goal=goal, threads=1, note=note)
