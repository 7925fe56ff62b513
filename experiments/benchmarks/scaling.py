"""How measuring a population scales with workers, with the population and with the data."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from measuring import Result, interleaved
from population import SCORING_BATCH, images, population_evaluator, reduced_space, trie_evaluator

from autospike.config import EvaluationConfig, SearchConfig
from autospike.evaluation.population import PopulationEvaluator
from autospike.evaluation.trie_evaluator import TrieEvaluator
from autospike.execution.processes import Processes
from autospike.process import prepare_process
from autospike.searching.by_products import by_product_candidates
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet

SIZES = (8, 16, 32, 64, 128, 256)
FIGURE = Path("runs") / "bench" / "cost_per_candidate.png"


@dataclass(frozen=True, kw_only=True)
class CreateTrieEvaluator:
    """Creates the trie evaluator of a worker process, by default without a cache, so that every round does the same work.

    Args:
        count: Number of images for calibration, and for scoring.
        kept_mb: Budget of the cache in MiB.
    """

    count: int
    kept_mb: int = 0

    def __call__(self) -> TrieEvaluator:
        """Create the trie evaluator in the worker process, on one thread."""
        torch.set_num_threads(1)
        torch.manual_seed(0)
        space, source = reduced_space(), images()
        return trie_evaluator(Supernet(space, num_classes=10, in_chans=3), source, kept_mb=self.kept_mb, count=self.count)


def population(size: int, seed: int = 0) -> list[Architecture]:
    """Random members of the space with their by-product candidates."""
    space, rng = reduced_space(), random.Random(seed)
    sampled = [space.sample(rng) for _ in range(size)]
    return list(dict.fromkeys(candidate for one in sampled for candidate in by_product_candidates(space, one)))


def two_workers() -> list[Result]:
    """The same population by one worker process and by two, without a cache; both have loaded before."""
    count, candidates = 512, population(12)
    one, two = (Processes(create_state=CreateTrieEvaluator(count=count), workers=workers) for workers in (1, 2))
    try:
        evaluators = [_evaluator(executor, count) for executor in (one, two)]
        seconds = interleaved(*(lambda evaluate=evaluate: list(evaluate(candidates)) for evaluate in evaluators), rounds=3)
    finally:
        one.close()
        two.close()
    return [
        Result(
            name="two_workers",
            value=median(a / b for a, b in zip(*seconds, strict=True)),
            unit="times faster",
            peer="one worker process",
            goal=">= 1.8",
            threads=1,
            note=f"12 random candidates, {len(candidates) - 12} by-products, {count} images; one worker {median(seconds[0]):.1f} s",
        )
    ]


def _evaluator(executor: Processes, count: int) -> PopulationEvaluator:
    return PopulationEvaluator(
        executor=executor,
        calibration_images=count,
        search_images=count,
        config=EvaluationConfig(batch_size=32),
        convention=SearchConfig().energy_convention,
    )


def cost_per_candidate() -> list[Result]:
    """Time of measuring a random population per sampled candidate, by the population's size, without a cache."""
    torch.set_num_threads(1)
    create = CreateTrieEvaluator(count=64)
    populations = {size: population(size) for size in SIZES}
    runs = (lambda candidates=candidates: list(population_evaluator(create())(candidates)) for candidates in populations.values())
    seconds = interleaved(*runs, rounds=3)
    costs = {size: median(found) / size for size, found in zip(SIZES, seconds, strict=True)}
    _draw(costs, {size: median(found) / len(populations[size]) for size, found in zip(SIZES, seconds, strict=True)})
    each = ", ".join(f"{size}: {cost:.2f} s" for size, cost in costs.items())
    return [
        Result(
            name="cost_per_candidate",
            value=costs[SIZES[-1]] / costs[SIZES[0]],
            unit=f"cost of one among {SIZES[-1]}, as a fraction of one among {SIZES[0]}",
            peer="a small population",
            goal="< 1",
            threads=1,
            note=f"64 images to score and to calibrate on; {each}; drawn in {FIGURE}",
        )
    ]


def _draw(sampled: dict[int, float], measured: dict[int, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.add_subplot(
        xlabel="sampled candidates", ylabel="seconds for each", xscale="log", yscale="log", xticks=SIZES, xticklabels=SIZES
    )
    axes.plot(*zip(*sampled.items(), strict=True), marker="o", label="sampled")
    axes.plot(*zip(*measured.items(), strict=True), marker="o", label="measured, with by-products")
    axes.minorticks_off()
    axes.legend()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=120)


BUDGET_MB = 256
COUNTS = (128, 256, 512)


def evaluation_memory() -> list[Result]:
    """Peak memory of processes that measure the same populations on more and more images."""
    without = _peak_mb(COUNTS[0], kept_mb=0)
    peaks = {count: _peak_mb(count, kept_mb=BUDGET_MB) for count in COUNTS}
    each = ", ".join(f"{count} images: {peak:.0f} MB" for count, peak in peaks.items())
    return [
        Result(
            name="evaluation_memory",
            value=(max(peaks.values()) - without) / BUDGET_MB,
            unit="peak beyond that without a cache, as a fraction of the budget",
            peer=f"the budget of {BUDGET_MB} MB",
            goal="<= 1",
            threads=1,
            note=f"batches of {SCORING_BATCH}, to calibrate on 32; {COUNTS[0]} images without a cache: {without:.0f} MB; {each}",
        )
    ]


def _peak_mb(count: int, *, kept_mb: int) -> float:
    """Peak memory in a process of its own."""
    code = f"from scaling import peak_memory; print(peak_memory({count}, {kept_mb}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def peak_memory(count: int, kept_mb: int) -> float:
    """Measure three populations as a worker process does.

    Returns:
        Peak resident memory of this process in MiB.
    """
    prepare_process()
    measure = population_evaluator(CreateTrieEvaluator(count=count, kept_mb=kept_mb)(), calibration_batch_size=32)
    for seed in range(3):
        list(measure(population(6, seed)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
