"""Pareto fronts, hypervolume and knee, compared with brute force and with values computed by hand."""

from __future__ import annotations

import pytest
from builders import few_examples
from hypothesis import given
from hypothesis import strategies as st

from autospike.pareto import hypervolume, hypervolume_in_box, knee, on_front

# Coarse grids, so that ties and duplicates are common.
points = st.lists(st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.integers(1, 8).map(float)), max_size=24)

Point = tuple[float, float]


def dominates(one: Point, other: Point) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def area_under_front(found: list[Point], reference: float) -> float:
    """Return the area under the step function of best accuracy by energy, divided by the reference energy."""
    steps = sorted((energy, accuracy) for accuracy, energy in found if energy < reference)
    area, best = 0.0, 0.0
    ends = [energy for energy, _ in steps[1:]] + [reference]
    for (energy, accuracy), end in zip(steps, ends, strict=False):
        best = max(best, accuracy)
        area += best * (end - energy)
    return area / reference


@few_examples
@given(points)
def test_the_front_has_all_points_that_no_other_dominates(found: list[Point]) -> None:
    expected = [not any(dominates(other, point) for other in found) and point not in found[:i] for i, point in enumerate(found)]
    assert on_front(found) == expected


def test_front_of_given_points() -> None:
    found = [(0.9, 5.0), (0.8, 6.0), (0.7, 2.0), (0.9, 5.0), (0.9, 6.0), (0.7, 3.0), (0.1, 1.0)]
    assert on_front(found) == [True, False, True, False, False, False, True]


def test_the_front_of_no_points_is_empty() -> None:
    assert on_front([]) == []


@few_examples
@given(points, st.integers(1, 9).map(float))
def test_hypervolume_is_the_area_under_the_front(found: list[Point], reference: float) -> None:
    assert hypervolume(found, energy_reference=reference) == pytest.approx(area_under_front(found, reference), abs=1e-12)


@pytest.mark.parametrize(
    ("found", "volume"),
    [
        ([], 0.0),
        ([(1.0, 0.0)], 1.0),
        ([(0.5, 1.0)], 0.5 * (2 - 1) / 2),
        ([(0.5, 1.0), (0.8, 1.5)], (0.5 * 0.5 + 0.8 * 0.5) / 2),
        ([(0.8, 1.5), (0.5, 1.0), (0.4, 1.2), (0.5, 1.0)], (0.5 * 0.5 + 0.8 * 0.5) / 2),
        ([(0.5, 1.0), (0.9, 2.0)], 0.25),
        ([(0.9, 3.0)], 0.0),
        ([(0.0, 0.5)], 0.0),
    ],
)
def test_hypervolume_of_given_points(found: list[Point], volume: float) -> None:
    assert hypervolume(found, energy_reference=2.0) == pytest.approx(volume, abs=1e-12)


@few_examples
@given(points, st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.integers(1, 8).map(float)))
def test_an_additional_point_does_not_lower_the_hypervolume(found: list[Point], added: Point) -> None:
    before, after = (hypervolume(points, energy_reference=8.5) for points in (found, [*found, added]))
    assert after >= before - 1e-12
    assert (after > before + 1e-12) == (added[0] > max((a for a, e in found if e <= added[1]), default=0.0))


@few_examples
@given(points)
def test_hypervolume_depends_only_on_the_front(found: list[Point]) -> None:
    front = [point for point, flag in zip(found, on_front(found), strict=True) if flag]
    assert hypervolume(front[::-1], energy_reference=9) == pytest.approx(hypervolume(found, energy_reference=9), abs=1e-12)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([(0.5, 1.0)], 0),
        ([(0.5, 1.0), (0.9, 9.0)], 1),
        ([(0.9, 9.0), (0.5, 1.0), (0.9, 9.0), (0.5, 1.0)], 0),
        # On the log axis the energies are at 0, 1/2 and 1; the middle point has 4/5 of the gain.
        ([(0.5, 1.0), (0.9, 10.0), (1.0, 100.0)], 1),
        ([(1.0, 100.0), (0.5, 1.0), (0.9, 10.0)], 2),
        # A dominated point is never the knee.
        ([(0.5, 1.0), (0.9, 10.0), (1.0, 100.0), (0.89, 10.5), (0.9, 11.0)], 1),
        # Distances from the line: 0.68 - 1/2 = 0.18 at 10, 0.9 - log10(30)/2 = 0.16 at 30. On a linear axis: 0.589, 0.607.
        ([(0.0, 1.0), (0.68, 10.0), (0.9, 30.0), (1.0, 100.0)], 1),
        ([(0.0, 1.0), (0.64, 10.0), (0.9, 30.0), (1.0, 100.0)], 2),
    ],
)
def test_knee_of_given_points(found: list[Point], best: int) -> None:
    assert knee(found) == best


@few_examples
@given(points.filter(bool), st.sampled_from([0.001, 1000.0]))
def test_the_knee_is_on_the_front_for_any_unit_of_energy(found: list[Point], unit: float) -> None:
    assert on_front(found)[knee(found)]
    scaled = [(accuracy, energy * unit) for accuracy, energy in found]
    front = sorted({point for point, flag in zip(found, on_front(found), strict=True) if flag})
    if len(front) < 3:
        assert found[knee(found)] == front[-1]
        assert found[knee(scaled)] == front[-1]


def test_front_and_hypervolume_of_three_objectives_by_hand() -> None:
    """Accuracy, energy and T; the third point is dominated by the first, the fourth is equal to it."""
    found = [(0.5, 2.0, 1.0), (1.0, 4.0, 2.0), (0.5, 3.0, 1.0), (0.5, 2.0, 1.0), (0.25, 4.0, 0.5)]
    directions = (True, False, False)
    assert on_front(found, maximise=directions) == [True, True, False, False, True]
    # In the unit box: (0.5, 0.5, 0.5) covers 1/8; with energy 4 at the reference the others cover nothing.
    assert hypervolume_in_box(found, best=(1, 0, 0), worst=(0, 4, 2)) == pytest.approx(1 / 8)
    assert found[knee(found, maximise=directions, log=(False, False, False))] == (0.5, 2.0, 1.0)
