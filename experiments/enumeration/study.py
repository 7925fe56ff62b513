"""Searches of a table of measurements, and the share of the true hypervolume that they find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from scipy.stats import mannwhitneyu

from autospike.config import SearchConfig
from autospike.measurement import Measurement
from autospike.pareto import hypervolume, hypervolume_in_box, on_front
from autospike.searching.archive import Archive
from autospike.searching.evolution import Search
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

Table = Mapping[Architecture, Measurement]
Point = tuple[float, float]

# Shares of the space, in measured architectures, at which the front is compared. The goal is stated for `GOAL`.
SHARES = (0.01, 0.02, 0.05, 0.1)
GOAL = 0.05
ALGORITHMS = ("random", "nsga2", "aeb", "predictor")
BoxName = Literal["whole", "front"]
MARGIN = 1e-9  # by which the ends of a front are inside their box


def true_front(measured: Table, config: SearchConfig) -> list[Point]:
    """Return accuracy and energy in mJ of the architectures on the front of the whole space."""
    points = list(_points(measured, config).values())
    return [point for point, flag in zip(points, on_front(points), strict=True) if flag]


def _points(measured: Table, config: SearchConfig) -> dict[Architecture, Point]:
    return {a: (m.accuracy, m.energy(config.energy_convention).energy_mj) for a, m in measured.items()}


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The shares of the true hypervolume that an algorithm has found.

    Attributes:
        algorithm: The algorithm.
        population: Candidates of a generation.
        box: The box of the hypervolume.
        by_share: For each of `SHARES`, one value for each seed.
        p_values: For each of `SHARES`, the one-sided Mann-Whitney U test against random search; 1 for random search.
    """

    algorithm: str
    population: int
    box: BoxName
    by_share: Mapping[float, Sequence[float]]
    p_values: Mapping[float, float]

    def mean(self, share: float) -> float:
        """Mean over the seeds."""
        return mean(self.by_share[share])

    def error(self, share: float) -> float:
        """Standard error over the seeds."""
        return stdev(self.by_share[share]) / len(self.by_share[share]) ** 0.5

    def to_json(self) -> dict[str, Any]:
        """Return all values for JSON."""
        shares = {str(share): list(values) for share, values in self.by_share.items()}
        p_values = {str(share): p_value for share, p_value in self.p_values.items()}
        found = {"algorithm": self.algorithm, "population": self.population, "box": self.box}
        return {**found, "shares": shares, "p_values": p_values}


def compare(
    space: SearchSpace,
    measured: Table,
    config: SearchConfig,
    *,
    seeds: int,
    populations: Sequence[int],
    algorithms: Sequence[str] = ALGORITHMS,
    boxes: Sequence[BoxName] = ("whole",),
) -> list[Shares]:
    """Search the table with each algorithm and population.

    Args:
        space: The space, all architectures of which are in the table.
        measured: The table.
        config: The settings of the search, except algorithm, population and number of generations.
        seeds: Number of searches of each kind.
        populations: Numbers of candidates of a generation.
        algorithms: The algorithms; `random` first, because the others are tested against it.
        boxes: The boxes of the hypervolume: `whole`, from accuracy 0 and the largest energy of the table, or `front`, the smallest
            one that has the true front inside. Points outside the smaller box add nothing.
    """
    points = _points(measured, config)
    found: list[Shares] = []
    baseline: dict[tuple[int, BoxName], Mapping[float, Sequence[float]]] = {}
    for algorithm in algorithms:
        for population in populations:
            changes = {"algorithm": algorithm, "population": population, "generations": 100_000, "space": None}
            chosen = config.model_copy(update=changes)
            trajectories = [[points[a] for a in _searched(space, measured, chosen, seed)] for seed in range(seeds)]
            for box in boxes:
                volume_of = _volume_of(box, measured, config)
                volume = volume_of(list(points.values()))
                by_share = {
                    share: [volume_of(order[: round(share * len(measured))]) / volume for order in trajectories] for share in SHARES
                }
                base = baseline.setdefault((population, box), by_share)
                p_values = {share: 1.0 if base is by_share else _p_value(by_share[share], base[share]) for share in SHARES}
                found.append(Shares(algorithm=algorithm, population=population, box=box, by_share=by_share, p_values=p_values))
    return found


def _p_value(values: Sequence[float], baseline: Sequence[float]) -> float:
    return float(mannwhitneyu(values, baseline, alternative="greater").pvalue)


def _volume_of(box: BoxName, measured: Table, config: SearchConfig) -> Callable[[Sequence[Point]], float]:
    points = list(_points(measured, config).values())
    return _in_whole_box(points) if box == "whole" else _in_box_of(true_front(measured, config))


def _in_whole_box(points: Sequence[Point]) -> Callable[[Sequence[Point]], float]:
    """Hypervolume from accuracy 0 and the largest energy of the points."""
    return partial(hypervolume, energy_reference=max(energy for _, energy in points))


def _in_box_of(front: Sequence[Point]) -> Callable[[Sequence[Point]], float]:
    """Hypervolume in the smallest box with the front inside; its least accurate and its most expensive point are just inside."""
    accuracies, energies = zip(*front, strict=True)
    worst = (min(accuracies) * (1 - MARGIN), max(energies) * (1 + MARGIN))
    return partial(hypervolume_in_box, best=(max(accuracies), min(energies)), worst=worst)


@dataclass(kw_only=True)
class _Lookup:
    """Looks measurements up instead of measuring, and records their order.

    Attributes:
        measured: The table.
        order: The architectures in the order in which they were asked for.
    """

    measured: Table
    order: list[Architecture] = field(default_factory=list)

    def __call__(self, architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        """Yield the measurements of architectures."""
        for architecture in architectures:
            self.order.append(architecture)
            yield self.measured[architecture]


def _searched(space: SearchSpace, measured: Table, config: SearchConfig, seed: int) -> list[Architecture]:
    """Search until the last of `SHARES` is measured; returns the architectures in the order of measurement.

    Within a generation, a candidate is followed by the other candidates and then by the by-products.
    """
    lookup, enough = _Lookup(measured=measured), round(SHARES[-1] * len(measured))
    archive = Archive(Path(":memory:"), "table", config.energy_convention)
    Search(
        space=space,
        anchors=(),
        evaluate=lookup,
        archive=archive,
        config=config,
        seed=seed,
        should_stop=lambda: len(lookup.order) >= enough,
    ).run()
    archive.close()
    return lookup.order
