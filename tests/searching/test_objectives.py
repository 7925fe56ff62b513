"""Objectives by name, functions of the user, and searches over more than two objectives."""

from __future__ import annotations

from pathlib import Path

import moocore
import numpy as np
import pytest
from builders import analytic, evaluation_of, one_line_error, small
from deap import tools
from pydantic import ValidationError
from searches import WIDE, make_search, recording, settings_of

from autospike.config import SearchConfig
from autospike.energy.conventions import UJ_PER_MJ
from autospike.measurement import Evaluation, objective_of
from autospike.searching.algorithms import _divisions
from autospike.searching.archive import Archive
from autospike.space.search_space import SearchSpace


def by_hand(evaluation: Evaluation) -> float:
    """The number of heads of the first block."""
    return float(evaluation.measurement.architecture.stages[0].blocks[0].num_heads or 0)


def wrong(_evaluation: Evaluation) -> float:
    """No number."""
    return float("nan")


def test_objectives_by_hand() -> None:
    evaluation = evaluation_of(analytic(small(embed_dim=16, time_steps=2)), f_aeb=0.0, generation=0)
    assert objective_of("energy_uj").value(evaluation) == pytest.approx(evaluation.energy.energy_mj * UJ_PER_MJ)
    assert objective_of("weights_kb").value(evaluation) == 7 * 4 / 1000  # the synthetic network has 7 parameters
    assert objective_of("dense_macs").value(evaluation) == 2 * (100 + 9)  # two steps of the two layers
    assert objective_of(f"{__name__}:by_hand").value(evaluation) == 8
    assert not objective_of(f"{__name__}:by_hand").maximise


def test_a_function_must_exist_and_return_a_number() -> None:
    evaluation = evaluation_of(analytic(small()), f_aeb=0.0, generation=0)
    assert "finite number" in one_line_error(lambda: objective_of(f"{__name__}:wrong").value(evaluation))
    assert "missing" in one_line_error(lambda: objective_of(f"{__name__}:missing"))
    with pytest.raises(ValidationError):
        SearchConfig.model_validate({"objectives": ["accuracy", "nothing"]})


def hypervolume_of(algorithm: str) -> float:
    """Hypervolume of a search with three objectives."""
    archive = Archive(Path(":memory:"), "p")
    config = settings_of(algorithm, population=12, generations=10, objectives=["accuracy", "energy_mj", "time_steps"])
    make_search(archive, config, recording([]), seed=3).run()
    rows = [(1 - e.measurement.accuracy, e.energy.energy_mj, e.measurement.architecture.time_steps / 4) for e in archive.all()]
    largest = analytic(SearchSpace.from_dict(WIDE).largest()).energy(config.energy_convention).energy_mj
    return float(moocore.hypervolume(np.array(rows) / (1, largest, 1), ref=(1.0, 1.0, 1.0)))


def test_nsga3_is_better_than_random_search_with_three_objectives() -> None:
    assert hypervolume_of("nsga3") > hypervolume_of("random")


@pytest.mark.parametrize(("objectives", "population", "points"), [(2, 12, 12), (3, 12, 10), (3, 91, 91), (4, 3, 4)])
def test_there_are_at_most_as_many_reference_points_as_individuals(objectives: int, population: int, points: int) -> None:
    """C(M + p - 1, p) points: 12 of 2 objectives with p = 11, 10 of 3 with p = 3, 91 with p = 12 as in the paper."""
    assert len(tools.uniform_reference_points(objectives, _divisions(objectives, population))) == points
