"""Objectives by name, functions of the user, and searches over more than two objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import moocore
import numpy as np
import pandas as pd
import pytest
from builders import analytic, evaluation_of, one_line_error, small
from deap import tools
from pydantic import ValidationError
from searches import WIDE, make_search, recording, settings_of

from autospike.config import ExportConfig, SearchConfig
from autospike.energy.conventions import UJ_PER_MJ
from autospike.energy.totals import LayerTotal, OperandTotal
from autospike.measurement import Evaluation, Latency, Measurement
from autospike.objectives import objective_of, objectives_of
from autospike.report.tables import Box, candidates_of, front, search_history
from autospike.searching.algorithms import _divisions
from autospike.searching.archive import Archive
from autospike.searching.objective_columns import with_objectives
from autospike.searching.selection import pick_row
from autospike.space.architecture import Architecture
from autospike.space.costs import costs
from autospike.space.input_shape import InputShape
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


@pytest.mark.slow
def test_nsga3_is_better_than_random_search_with_three_objectives() -> None:
    assert hypervolume_of("nsga3") > hypervolume_of("random")


@pytest.mark.parametrize(("objectives", "population", "points"), [(2, 12, 12), (3, 12, 10), (3, 91, 91), (4, 3, 4)])
def test_there_are_at_most_as_many_reference_points_as_individuals(objectives: int, population: int, points: int) -> None:
    """C(M + p - 1, p) points: 12 of 2 objectives with p = 11, 10 of 3 with p = 3, 91 with p = 12 as in the paper."""
    assert len(tools.uniform_reference_points(objectives, _divisions(objectives, population))) == points


def test_activation_memory_needs_the_size_of_the_images() -> None:
    evaluation = evaluation_of(analytic(small()), f_aeb=0.0, generation=0)
    shape = InputShape(image_size=8, channels=1, classes=10)
    expected = costs(evaluation.measurement.architecture, shape).activations_kb
    assert objective_of("activations_kb", shape).value(evaluation) == expected
    assert "no input size" in one_line_error(lambda: objective_of("activations_kb").value(evaluation))


def test_spikes_of_a_layer_by_hand() -> None:
    """Two images, three steps with 4, 6 and 8 spikes; of a product the operand with fewer accumulations counts."""
    one = OperandTotal(kinds=(0, 0, 0), sums=(4.0, 6.0, 8.0), acs=(40.0, 60.0, 80.0), elements=10)
    layer = LayerTotal(layer="q", macs=100, time_steps=3, operands=(one,))
    assert layer.spikes(2, 3) == 9.0
    assert layer.spikes(2, 1) == 2.0
    fewer = replace(one, sums=(2.0, 2.0, 2.0), acs=(10.0, 10.0, 90.0))
    assert replace(layer, operands=(one, fewer)).spikes(2, 3) == 1.0 + 1.0 + 4.0
    assert replace(layer, operands=(replace(one, kinds=(2, 0, 0)),)).spikes(2, 2) == 3.0  # the first step has real values
    assert replace(layer, operands=()).spikes(2, 3) == 0.0


@dataclass
class Clock:
    """Measures a latency that is the number of architectures measured so far."""

    device: str = "here"
    measured: list[Architecture] = field(default_factory=list)

    def __call__(self, architectures: Sequence[Architecture]) -> dict[Architecture, Latency]:
        found = {}
        for architecture in architectures:
            self.measured.append(architecture)
            found[architecture] = Latency(device=self.device, image_ms=float(len(self.measured)), batch_ms=0.5)
        return found


def search_with(archive: Archive, clock: Clock, generations: int) -> None:
    config = settings_of("nsga2", generations=generations, objectives=["accuracy", "latency_ms"])
    replace(make_search(archive, config, recording([])), latency=clock).run()


def test_latencies_are_stored_and_not_measured_again() -> None:
    archive, clock = Archive(Path(":memory:"), "p"), Clock()
    search_with(archive, clock, 2)
    assert len(clock.measured) == len(set(clock.measured)) > 6
    stored = {e.measurement.architecture: e.latency for e in archive.all() if e.latency}
    assert [stored[a].image_ms for a in clock.measured] == [1.0 + i for i in range(len(clock.measured))]
    search_with(archive, again := Clock(), 2)
    assert again.measured == []
    search_with(archive, longer := Clock(), 3)
    assert longer.measured
    assert not set(longer.measured) & set(clock.measured)
    elsewhere = Clock(device="another machine")
    search_with(archive, elsewhere, 2)
    assert elsewhere.measured
    with_values = with_objectives(archive, archive.table(), objectives_of(["accuracy", "latency_ms"]))
    newest = {
        e.measurement.architecture.id for e in archive.all() if e.latency and e.latency.device == archive.all()[-1].latency.device
    }
    assert set(with_values["id"][with_values["latency_ms"].notna()]) == newest


def test_spikes_of_rows_of_older_versions_are_measured_again() -> None:
    archive, measured, again = Archive(Path(":memory:"), "p"), list[Architecture](), list[Architecture]()
    make_search(archive, settings_of("nsga2"), recording([])).run()
    known = {e.measurement.architecture for e in archive.all()}

    def counted(architecture: Architecture) -> Measurement:
        return replace(analytic(architecture), spikes=float(architecture.time_steps))

    config = settings_of("nsga2", objectives=["accuracy", "spikes"])
    make_search(archive, config, recording(measured, measure=counted)).run()
    assert known & set(measured)
    assert all(
        e.measurement.spikes == e.measurement.architecture.time_steps
        for e in archive.all()
        if e.measurement.architecture in measured
    )
    make_search(archive, config, recording(again, measure=counted)).run()
    assert again == []


def test_the_knee_follows_the_objectives() -> None:
    """Accuracy, energy and T: the second one is best in the sum of scaled values."""
    objectives = objectives_of(["accuracy", "time_steps"])
    table = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "accuracy": [0.5, 0.8, 0.9, 0.7],
            "energy_mj": [3.0, 2.0, 1.0, 4.0],
            "time_steps": [1, 2, 4, 2],
            "f_aeb": [0.0] * 4,
            "images": [10] * 4,
            "correct_mask": [None] * 4,
            "score": [None] * 4,
        }
    )
    assert pick_row(table, "knee", ExportConfig(), objectives) == 1
    assert pick_row(table, "knee", ExportConfig()) == 2  # of accuracy and energy, where c dominates
    found = candidates_of(table.assign(params=1, generation=0, free=False, architecture="{}", exit_margin=1.0), objectives)
    assert found["on_front"].tolist() == [True, True, True, False]
    assert front(found, objectives)["id"].tolist() == ["a", "b", "c"]
    box = Box.of(found, objectives, "c")
    assert (box.best, box.worst) == ((1.0, 0.0), (0.0, 4.0))
    history = search_history("s", [["a", "b"], ["c"]], found, box=box, objectives=objectives)
    # Of the box 1 x 4, a covers 0.5 x 3, b 0.3 x 2 more; c has the T of the reference point.
    assert history.hypervolume == pytest.approx([2.1 / 4, 2.1 / 4])
