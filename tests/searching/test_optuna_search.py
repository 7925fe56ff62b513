"""The samplers of Optuna as search algorithms: determinism, resuming and limits."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from builders import CONDITIONAL, analytic, evaluation_of, one_line_error
from searches import WIDE, KilledError, make_search, recording, settings_of
from slow_parameters import slow_except

from autospike.searching.algorithms import GenerationContext, Individual, algorithm_of, fitness_of
from autospike.searching.archive import Archive
from autospike.searching.optuna_search import OptunaSearch
from autospike.searching.optuna_trials import trial_of
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

pytest.importorskip("optuna")
NAMES = ("optuna", "optuna-nsga3")
RANGES: dict[str, Any] = {
    "time_steps": [1, 2],
    "stages": [{"embed_dim": 16, "depth": [1, 2], "block": {"neuron": {"tau": {"low": 1.5, "high": 3, "sigma": 0.1}}}}],
}


def searched(path: Path, name: str, space: dict[str, Any] = WIDE, **changed: Any) -> None:
    archive = Archive(path, "p")
    try:
        make_search(archive, settings_of(name, generations=3), recording([], **changed), space_dict=space).run()
    finally:
        archive.close()


def contents(path: Path) -> list[Any]:
    db = sqlite3.connect(path)
    return db.execute("SELECT architecture_id, generation, free, accuracy FROM evaluations ORDER BY rowid").fetchall()


def context(space: SearchSpace, name: str, seed: int = 0) -> GenerationContext:
    return GenerationContext(space=space, config=settings_of(name), rng=random.Random(seed), key=(seed, "deap", 1))


def individuals(space: SearchSpace, count: int, *, limit: float = float("inf")) -> list[Individual]:
    """Random architectures, to be minimised by energy and maximised by accuracy; infeasible above an energy."""
    rng, found = random.Random(1), []
    for _ in range(count):
        measured = analytic(space.sample(rng))
        energy = evaluation_of(measured, f_aeb=0.0, generation=0).energy.energy_mj
        fitness = fitness_of([measured.accuracy, energy], [True, False], violation=max(0.0, energy / limit - 1))
        found.append(Individual(architecture=measured.architecture, f_aeb=0.0, fitness=fitness))
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", slow_except([RANGES], [CONDITIONAL, RANGES]), ids=["conditional", "ranges"])
def test_a_killed_search_resumes_to_the_archive_of_an_uninterrupted_one(name: str, space: dict[str, Any], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    searched(whole, name, space)
    after = len([row for row in contents(whole) if row[1] < 2]) + 1
    with pytest.raises(KilledError):
        searched(killed, name, space, kill_after=after)
    assert contents(killed) == [row for row in contents(whole) if row[1] < 2]
    searched(killed, name, space)
    assert contents(killed) == contents(whole)


@pytest.mark.parametrize("name", NAMES)
def test_proposals_depend_on_history_and_seed(name: str) -> None:
    space, algorithm = SearchSpace.from_dict(WIDE), algorithm_of(name)

    def proposals(history: list[Individual], seed: int) -> list[Architecture]:
        asked = algorithm.ask(history, context(space, name, seed))
        return [next(asked) for _ in range(5)]

    history = individuals(space, 20)
    assert proposals(history, 0) == proposals(history, 0) != proposals(history, 1)
    assert proposals(history, 0) != proposals(history[:10], 0)
    assert all(space.contains(a) for a in proposals(history, 2))


@pytest.mark.parametrize("name", NAMES)
def test_good_genes_are_suggested_more_often(name: str) -> None:
    """The history has two kinds of networks, of which one is better in both objectives."""
    space = SearchSpace.from_dict({"time_steps": 1, "stages": [{"embed_dim": 16, "depth": 3, "block": {"mlp_ratio": [1, 2]}}]})
    rng, history = random.Random(0), []
    for i in range(40):
        architecture = space.sample(rng)
        wide = sum(block.mlp_ratio == 2 for block in architecture.stages[0].blocks)
        fitness = fitness_of([wide + i / 100, -wide - i / 100], [True, False])
        history.append(Individual(architecture=architecture, f_aeb=0.0, fitness=fitness))
    asked = algorithm_of(name).ask(history, context(space, name))
    blocks = [block.mlp_ratio for _ in range(20) for block in next(asked).stages[0].blocks]
    assert blocks.count(2) > 40  # of 60; at random 30, with a standard deviation of 4


def test_limits_are_constraints_of_the_trials() -> None:
    space = SearchSpace.from_dict(WIDE)
    history = individuals(space, 6, limit=1e-6)
    violations = [i.fitness.violation for i in history]
    assert any(violations)
    trials = [trial_of(individual, space) for individual in history]
    assert [trial.constraints.get("limits", 0.0) for trial in trials] == violations


def test_a_missing_package_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    space = SearchSpace.from_dict(WIDE)
    history = individuals(space, 4)
    message = one_line_error(lambda: next(OptunaSearch().ask(history, context(space, "optuna"))))
    assert "pip install 'autospike[optuna]'" in message
