"""Search by a predictor: determinism, resuming, limits, and that it finds what a function of the genes rewards."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import CONDITIONAL, analytic
from searches import WIDE, KilledError, make_search, recording, settings_of
from threadpoolctl import threadpool_limits

from autospike.config import ConstraintsConfig
from autospike.pareto import hypervolume
from autospike.searching import predictor
from autospike.searching.algorithms import GenerationContext, Individual, algorithm_of, fitness_of
from autospike.searching.archive import Archive
from autospike.searching.by_products import by_product_candidates
from autospike.searching.constraints import Constraints
from autospike.searching.predictor import PredictorSearch
from autospike.space.architecture import Architecture
from autospike.space.input_shape import InputShape
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import enumerate_architectures

RANGES: dict[str, Any] = {
    "time_steps": [1, 2],
    "exit_margin": [0.3, 1.0],
    "stages": [{"embed_dim": 16, "depth": [1, 2], "block": {"neuron": {"tau": {"low": 1.5, "high": 3, "sigma": 0.1}}}}],
}
# 2 x (4 + 4^2) = 40 architectures.
SMALL: dict[str, Any] = {
    "time_steps": [1, 2],
    "stages": [{"embed_dim": 16, "depth": [1, 2], "block": {"mlp_ratio": [1, 2, 3, 4]}}],
}
SPACE = SearchSpace.from_dict(SMALL)
FEW = PredictorSearch(pool=30)  # of a large space

Cost = Callable[[Architecture], float]


def size(architecture: Architecture) -> float:
    return float(sum(block.mlp_ratio or 0 for block in architecture.stages[0].blocks))


def steps(architecture: Architecture) -> float:
    return float(architecture.time_steps)


def history(space: SearchSpace, count: int, *costs: Cost, limit: Cost = lambda _: 0.0) -> list[Individual]:
    """Different random architectures, to be minimised by costs, with the violation that `limit` gives."""
    rng = random.Random(1)
    drawn = dict.fromkeys(space.sample(rng) for _ in range(100 * count))
    return [
        Individual(architecture=a, f_aeb=0.0, fitness=fitness_of([c(a) for c in costs], [False] * len(costs), violation=limit(a)))
        for a in islice(drawn, count)
    ]


def context(space: SearchSpace, seed: int = 0, **rest: Any) -> GenerationContext:
    return GenerationContext(space=space, config=settings_of("predictor"), rng=random.Random(seed), key=(seed, "deap", 1), **rest)


def proposals(population: list[Individual], space: SearchSpace, count: int = 5, seed: int = 0, **rest: Any) -> list[Architecture]:
    return list(islice(FEW.ask(population, context(space, seed, **rest)), count))


@pytest.mark.parametrize("space", [CONDITIONAL, RANGES], ids=["conditional", "ranges"])
def test_a_killed_search_resumes_to_the_archive_of_an_uninterrupted_one(space: dict[str, Any], tmp_path: Path) -> None:
    def searched(path: Path, **changed: Any) -> None:
        archive = Archive(path, "p")
        search = make_search(archive, settings_of("predictor", generations=3), recording([], **changed), space_dict=space)
        try:
            type(search)(**{**search.__dict__, "algorithm": FEW}).run()
        finally:
            archive.close()

    def contents(path: Path) -> list[Any]:
        db = sqlite3.connect(path)
        return db.execute("SELECT architecture_id, generation, free, accuracy FROM evaluations ORDER BY rowid").fetchall()

    whole, killed = tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    searched(whole)
    after = len([row for row in contents(whole) if row[1] < 2]) + 1
    with pytest.raises(KilledError):
        searched(killed, kill_after=after)
    assert contents(killed) == [row for row in contents(whole) if row[1] < 2]
    searched(killed)
    assert contents(killed) == contents(whole)


def test_proposals_depend_on_history_and_seed() -> None:
    space = SearchSpace.from_dict(WIDE)
    population = history(space, 12, lambda a: size(a) + a.stages[0].embed_dim / 16, steps)
    found = proposals(population, space)
    assert found == proposals(population, space) != proposals(population, space, seed=1)
    assert found != proposals(population[:8], space)
    assert all(space.contains(a) for a in found)
    assert len({*found, *(i.architecture for i in population)}) == 17


def test_proposals_do_not_depend_on_the_number_of_threads() -> None:
    space = SearchSpace.from_dict(WIDE)
    population = history(space, 20, size, steps)
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(proposals(population, space))
    assert found[0] == found[1]


def test_the_best_architecture_of_a_sum_over_genes_comes_first() -> None:
    """One objective, its minimum not in the history: a sum over the genes, which eight architectures determine."""
    best = min(enumerate_architectures(SPACE), key=lambda a: size(a) + 3 * steps(a))
    population = [i for i in history(SPACE, 12, lambda a: size(a) + 3 * steps(a)) if i.architecture != best]
    assert proposals(population, SPACE, 1) == [best]


def test_every_architecture_of_a_small_space_is_proposed_once_with_its_by_products() -> None:
    population = history(SPACE, 6, size, steps)
    found = proposals(population, SPACE, 1000)
    assert len(set(found)) == len(found)
    reached = {b for a in found for b in by_product_candidates(SPACE, a)} | {i.architecture for i in population}
    assert reached == set(enumerate_architectures(SPACE))
    known = set()
    for architecture in found:
        assert architecture not in known
        known |= set(by_product_candidates(SPACE, architecture))


def test_a_measured_limit_is_predicted_from_the_history() -> None:
    """Two blocks violate a limit. Of the others, the widest is not in the history; without a limit two blocks are better."""
    widest = [a for a in enumerate_architectures(SPACE) if len(a.stages[0].blocks) == 1 and size(a) == 4]

    def first(limit: Cost) -> list[Architecture]:
        population = history(SPACE, 30, lambda a: -size(a), steps, limit=limit)
        return proposals([i for i in population if i.architecture not in widest], SPACE, 1)

    assert len(first(lambda _: 0.0)[0].stages[0].blocks) == 2
    assert first(lambda a: len(a.stages[0].blocks) - 1.0)[0] in widest


def test_without_a_feasible_individual_the_smallest_violation_comes_first() -> None:
    found = proposals(history(SPACE, 20, size, steps, limit=steps), SPACE, 3)
    assert all(a.time_steps == 1 for a in found)


def test_static_limits_are_known_before_proposing() -> None:
    population = history(SPACE, 6, size, steps)
    assert all(a.time_steps == 1 for a in proposals(population, SPACE, 1000, is_allowed=lambda a: a.time_steps == 1))
    archive = Archive(Path(":memory:"), "p")
    asked: list[Architecture] = []
    limits = Constraints(config=ConstraintsConfig(max_time_steps=1), shape=InputShape(image_size=8, channels=1, classes=10))
    make_search(archive, settings_of("predictor", generations=2), recording(asked), space_dict=SMALL, constraints=limits).run()
    archive.close()
    assert [a for a in asked if a.time_steps > 1] == [SPACE.largest()]  # the reference of F_AEB
    assert len(asked) > 8


def test_the_improvement_of_a_point_by_hand() -> None:
    """Front (0, 1) and (1, 0), reference (1.1, 1.1): (0.5, 0.5) adds 0.6^2, less 2 x 0.6 x 0.1, of which 0.1^2 is counted twice."""
    front, points = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.5, 1.0], [2.0, -1.0]])
    allowed = np.array([[True, True, True]])
    found = [predictor.improvement(i, points[None], allowed, [front]) for i in range(3)]
    np.testing.assert_allclose(found, [0.36 - 0.12 + 0.01, 0, 0], atol=1e-12)
    assert predictor.improvement(0, points[None], ~allowed, [front]) == 0
    assert predictor.improvement(0, points[None], allowed, [np.empty((0, 2))]) == pytest.approx(0.36)


def test_a_gaussian_process_interpolates_a_line_and_reverts_far_away() -> None:
    x = np.linspace(0, 1, 9)[:, None]
    drawn = predictor.gaussian_process_samples(x, 3 * x[:, 0], x, 3 * x[:, 0], np.array([[0.3], [0.7]]), np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(axis=0), [0.9, 2.1], atol=0.1)
    assert drawn.std(axis=0).max() < 0.1


def test_a_long_history_is_cut_to_the_front_and_random_rows() -> None:
    generator = np.random.default_rng(0)
    costs = np.concatenate([[[0.0, 1.0], [1.0, 0.0]], generator.uniform(1, 2, (98, 2))])
    data = predictor.KnownCosts(features=costs, costs=costs, violation=np.zeros(100))
    chosen = predictor.chosen_rows(data, 10, generator)
    assert len(set(chosen)) == 10
    assert {0, 1} <= set(chosen)


def test_the_name_is_an_algorithm() -> None:
    assert isinstance(algorithm_of("predictor"), PredictorSearch)
    assert settings_of("predictor").algorithm == "predictor"


@pytest.mark.slow
def test_it_is_better_than_random_search_and_nsga2() -> None:
    """On the synthetic measurements, with 4 candidates a generation; with 8, NSGA-II finds more (docs/search.md)."""

    def volume(algorithm: str, seed: int) -> float:
        archive = Archive(Path(":memory:"), "p")
        make_search(archive, settings_of(algorithm, population=4, generations=12), recording([]), seed=seed).run()
        points = [(e.measurement.accuracy, e.energy.energy_mj) for e in archive.all()]
        archive.close()
        largest = analytic(SearchSpace.from_dict(WIDE).largest()).energy(archive.convention)
        return hypervolume(points, energy_reference=largest.energy_mj)

    found = {name: [volume(name, seed) for seed in range(4)] for name in ("random", "nsga2", "predictor")}
    assert np.mean(found["predictor"]) > max(np.mean(found["random"]), np.mean(found["nsga2"]))
