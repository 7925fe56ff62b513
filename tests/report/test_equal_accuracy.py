"""Energy at equal accuracy, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autospike.report.equal_accuracy import energy_at_equal_accuracy, front_energy

ENERGIES = np.array([1.0, 4.0, 16.0])


@pytest.mark.parametrize(
    ("accuracy", "energy"),
    [(0.5, 1.0), (0.6, 1.0), (0.7, 2.0), (0.8, 4.0), (0.85, 8.0), (0.9, 16.0), (0.91, math.inf)],
)
def test_accuracy_is_linear_in_the_logarithm_of_the_energy(accuracy: float, energy: float) -> None:
    assert front_energy(np.array([0.6, 0.8, 0.9]), ENERGIES, accuracy) == pytest.approx(energy, rel=1e-9)


def test_a_less_accurate_point_of_more_energy_is_pooled() -> None:
    """0.8 and 0.6 become 0.7 at both energies: halfway between 0.5 and 0.7 is the geometric mean of 1 and 4."""
    accuracies = np.array([0.5, 0.8, 0.6])
    assert front_energy(accuracies, ENERGIES, 0.6) == pytest.approx(2.0, rel=1e-9)
    assert front_energy(accuracies, ENERGIES, 0.75) == math.inf


def first(correct: int, images: int = 200) -> np.ndarray:
    """The first `correct` images are classified correctly."""
    return np.arange(images) < correct


def test_a_network_on_the_front_has_a_ratio_without_uncertainty() -> None:
    """Whichever images are drawn, the other network is as accurate as the second subnet."""
    front = np.stack([first(100), first(160), first(190)])
    found = energy_at_equal_accuracy(front, [1.0, 4.0, 16.0], first(160), 8.0)
    assert found.ratio == pytest.approx(0.5, rel=1e-6)
    assert [found.low, found.high] == pytest.approx([0.5, 0.5], rel=1e-6)
    assert found.energy_mj == pytest.approx(4.0, rel=1e-6)
    assert not found.is_bound


def test_the_order_of_the_subnets_has_no_effect() -> None:
    front = np.stack([first(190), first(100), first(160)])
    found = energy_at_equal_accuracy(front, [16.0, 1.0, 4.0], first(130), 8.0)
    assert found.ratio == pytest.approx(2.0 / 8.0, rel=1e-6)


def test_the_interval_contains_the_ratio_and_shrinks_with_more_images() -> None:
    """The other network errs on other images, so the difference is uncertain. Four times the images: half the width."""
    widths = []
    for images in (400, 1600):
        other = np.arange(images) >= images * 3 // 10  # 70 %
        front = np.stack([first(images * 5 // 10, images), first(images * 9 // 10, images)])
        found = energy_at_equal_accuracy(front, [1.0, 16.0], other, 4.0)
        assert found.ratio == pytest.approx(1.0, rel=1e-6)
        assert found.low is not None
        assert found.high is not None
        assert found.low < 1.0 < found.high
        widths.append(math.log(found.high / found.low))
    assert widths[0] / widths[1] == pytest.approx(2.0, rel=0.25)


def test_an_accuracy_that_the_front_does_not_reach_has_no_ratio() -> None:
    found = energy_at_equal_accuracy(np.stack([first(100), first(150)]), [1.0, 2.0], first(190), 4.0)
    assert (found.energy_mj, found.ratio, found.low, found.high) == (None, None, None, None)


def test_an_accuracy_below_the_whole_front_gives_an_upper_bound() -> None:
    found = energy_at_equal_accuracy(np.stack([first(100), first(150)]), [1.0, 2.0], first(50), 4.0)
    assert found.is_bound
    assert found.ratio == pytest.approx(0.25)
