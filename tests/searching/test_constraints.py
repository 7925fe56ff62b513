"""Limits of a search: what is measured, what is selected, and what is said when nothing can be within them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import one_line_error
from searches import WIDE, make_search, recording, settings_of

from autospike.config import ConstraintsConfig, SearchConfig
from autospike.config.search import ADDED_SETTINGS, NOT_IDENTIFYING
from autospike.energy.conventions import UJ_PER_MJ
from autospike.measurement import Evaluation
from autospike.searching.algorithms import fitness_of
from autospike.searching.archive import Archive
from autospike.searching.constraints import Constraints
from autospike.searching.selection import nothing_within_limits
from autospike.space.architecture import Architecture
from autospike.space.input_shape import InputShape
from autospike.space.narrowing import check_narrower, without_unused
from autospike.space.parameters import count_parameters
from autospike.space.search_space import SearchSpace

SHAPE = InputShape(image_size=8, channels=1, classes=10)
SPACE = SearchSpace.from_dict(WIDE)


def limits(**fields: Any) -> Constraints:
    return Constraints(config=ConstraintsConfig(**fields), shape=SHAPE)


def searched(config: SearchConfig, constraints: Constraints, **rest: Any) -> tuple[list[Architecture], list[Evaluation]]:
    """Run a search on synthetic measurements; return what was measured and what is in the archive."""
    measured: list[Architecture] = []
    archive = Archive(Path(":memory:"), "p")
    make_search(archive, config, recording(measured), constraints=constraints, **rest).run()
    return measured, archive.all()


def params(architecture: Architecture) -> int:
    return count_parameters(architecture, in_chans=1, num_classes=10)


@pytest.mark.parametrize("algorithm", ["nsga2", "aeb", "random"])
def test_candidates_beyond_a_static_limit_are_not_measured(algorithm: str) -> None:
    """Some 2 % of the space have at most 12,000 parameters and 2 time steps; only the reference of F_AEB is beyond the limits."""
    measured, _ = searched(settings_of(algorithm, population=10), limits(max_params=12_000, max_time_steps=2))
    beyond = [a for a in measured if params(a) > 12_000 or a.time_steps > 2]
    assert beyond == [SPACE.largest()]
    assert len(measured) > 40


def test_without_limits_a_search_is_the_one_of_earlier_versions() -> None:
    """The random generator is not used, and the id of the search is that of settings without the new fields."""
    config = settings_of("nsga2")
    assert searched(config, limits())[0] == searched(config, Constraints())[0]
    older = {k: v for k, v in config.model_dump(mode="json").items() if k not in (*ADDED_SETTINGS, *NOT_IDENTIFYING)}
    assert {k: v for k, v in config.identity.items() if k in older} == older
    assert len(config.identity) == len(older)


def test_measured_limits_decide_who_survives() -> None:
    """By energy alone the survivors have the lowest accuracy; with a limit on accuracy all survivors are feasible."""
    config = settings_of("nsga2", population=12, generations=8, objectives=["energy_mj"])
    accuracies = []
    for constraints in (limits(), limits(min_accuracy=0.6)):
        archive = Archive(Path(":memory:"), "p")
        search = make_search(archive, config, recording([]), constraints=constraints)
        search.run()
        stored = archive.population(search.id)
        assert stored is not None
        survivors = [archive.get_by_id(name) for name, _ in stored[1]]
        accuracies.append([e.measurement.accuracy for e in survivors if e is not None])
    assert max(accuracies[0]) < 0.6 <= min(accuracies[1])


def test_constrained_domination_is_that_of_deb() -> None:
    good, better = (fitness_of([a, e], [True, False]) for a, e in ((0.8, 2.0), (0.9, 1.0)))
    bad, worse = (fitness_of([1.0, 0.0], [True, False], violation=v) for v in (0.1, 0.2))
    assert better.dominates(good) and not good.dominates(better)
    assert good.dominates(bad) and not bad.dominates(good)  # although it is better in both objectives
    assert bad.dominates(worse) and not worse.dominates(bad)  # although both are equal
    assert bad != worse


def test_limits_that_change_measure_nothing_again(tmp_path: Path) -> None:
    archive, config = Archive(tmp_path / "archive.sqlite", "p"), settings_of("nsga2")
    first: list[Architecture] = []
    make_search(archive, config, recording(first)).run()
    narrow = config.model_copy(update={"constraints": ConstraintsConfig(max_time_steps=2)})
    second: list[Architecture] = []
    make_search(archive, narrow, recording(second), constraints=Constraints.of(narrow, SHAPE)).run()
    assert first and second
    assert not set(first) & set(second)
    assert all(a.time_steps <= 2 for a in second)


def test_an_unreachable_limit_is_said_with_the_smallest_value_and_its_architecture() -> None:
    smallest = params(SPACE.smallest())
    assert limits(max_params=smallest).check_reachable(SPACE)
    message = one_line_error(lambda: limits(max_params=smallest - 1).check_reachable(SPACE))
    assert f"{smallest:,}" in message
    assert SPACE.smallest().id in message
    assert "embed_dim 16" in message
    measured: list[Architecture] = []
    search = make_search(
        Archive(Path(":memory:"), "p"), settings_of("nsga2"), recording(measured), constraints=limits(max_params=smallest - 1)
    )
    assert one_line_error(search.run) == message
    assert not measured


def test_violations_are_relative_excesses_by_hand() -> None:
    constraints = limits(max_energy_uj=2.0, min_accuracy=0.8)
    assert constraints.measured_violation(0.6, 3.0 / UJ_PER_MJ) == pytest.approx(0.5 + 0.25)
    assert constraints.measured_violation(0.8, 2.0 / UJ_PER_MJ) == 0
    assert limits(max_time_steps=2).static_violation(SPACE.largest()) == pytest.approx(0.5)


def test_a_narrowed_space_is_searched_with_the_reference_of_the_trained_one() -> None:
    """F_AEB stays relative to the largest subnet of the trained space, which is measured but not selected."""
    narrowed = SearchSpace.from_dict({**WIDE, "time_steps": [1, 2]})
    check_narrower(narrowed, SPACE, source="x")
    measured: list[Architecture] = []
    archive = Archive(Path(":memory:"), "p")
    search = make_search(
        archive, settings_of("aeb"), recording(measured), space_dict={**WIDE, "time_steps": [1, 2]}, reference=SPACE.largest()
    )
    search.run()
    assert [a for a in measured if not narrowed.contains(a)] == [SPACE.largest()]
    reference = archive.get(SPACE.largest())
    assert reference is not None and reference.f_aeb == pytest.approx(reference.measurement.accuracy)  # the ratio is 1
    stored = archive.population(search.id)
    assert stored is not None and SPACE.largest().id not in [name for name, _ in stored[1]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"time_steps": [1, 4]}, "space.time_steps: 1, 4"),
        ({"stages": [{**WIDE["stages"][0], "embed_dim": [16, 128]}]}, "space.stages.0.embed_dim: 16, 128"),
        ({"stages": [{**WIDE["stages"][0], "depth": [1, 4]}]}, "space.stages.0.depth: 1, 4"),
        ({"qkv_bias": True}, "space.qkv_bias: True"),
    ],
)
def test_a_space_that_is_not_narrower_is_refused(change: dict[str, Any], named: str) -> None:
    other = SearchSpace.from_dict({**WIDE, **change})
    assert named in one_line_error(lambda: check_narrower(other, SPACE, source="x"))


def test_genes_that_no_remaining_mixer_uses_are_left_out() -> None:
    block = {"token_mixer": ["sdsa_1", "sdsa_3"], "num_heads": [1, 2]}
    space = {"stages": [{"embed_dim": 16, "depth": [1, 2], "block": block}]}
    narrowed = without_unused({"stages": [{**space["stages"][0], "block": {**block, "token_mixer": ["sdsa_1"]}}]})
    check_narrower(SearchSpace.from_dict(narrowed), SearchSpace.from_dict(space), source="x")
    assert "num_heads" not in narrowed["stages"][0]["block"]


def test_the_nearest_candidate_is_named_when_none_is_within_the_limits() -> None:
    _, found = searched(settings_of("random"), limits())
    rows = [
        {
            "id": e.measurement.architecture.id,
            "architecture": e.measurement.architecture.to_json(),
            "accuracy": e.measurement.accuracy,
            "energy_mj": e.energy.energy_mj,
            "params": e.measurement.params,
        }
        for e in found
    ]
    table = pd.DataFrame(rows)
    least = min(rows, key=lambda row: float(row["energy_mj"]))  # type: ignore[arg-type]
    assert str(least["id"]) in nothing_within_limits(table, limits(max_energy_uj=1e-9))
