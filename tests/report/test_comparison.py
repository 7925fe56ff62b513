"""The closing table of an export and its warnings, with values by hand."""

from __future__ import annotations

from typing import Any

import pytest
from builders import measurement, small

from autospike.energy.conventions import DEFAULT
from autospike.report import comparison
from autospike.report.record import record
from autospike.statistics import pack_mask

IMAGES = 40


def measured(correct: int, *, acs: float, split: str = "test") -> dict[str, Any]:
    """A network that classifies the first `correct` of 40 images correctly."""
    mask = pack_mask(bytes(i < correct for i in range(IMAGES)))
    found = measurement(small(), correct=correct, images=IMAGES, acs=acs, mask=mask)
    return record(found, DEFAULT, "test" if split == "test" else "search")


def report(subnet: int, reference: int, **more: Any) -> dict[str, Any]:
    return {**measured(subnet, acs=1000.0), "baseline": measured(reference, acs=4000.0), "weights": "inherited", **more}


def test_rows_name_accuracy_interval_and_energy() -> None:
    """Energy: 1,000 accumulations of 0.9 pJ are 0.0009 uJ; the first layer has no operations. Wilson interval of 36 of 40."""
    found = report(36, 38)
    other = {**measured(30, acs=500.0), "search_accuracy": 0.7}
    found["by_weights"] = {"inherited": found, "fine-tuned": other}
    rows = comparison.rows(found)
    assert [row[0] for row in rows] == ["exported subnet (inherited)", "not exported (fine-tuned)", "reference network"]
    assert rows[0][1] == "0.9000 (0.769 to 0.960)"
    assert [row[2] for row in rows] == ["0.001", "0.000", "0.004"]


def test_caption_states_energy_and_accuracy_relative_to_the_reference_network() -> None:
    """Two of 40 images differ, both in favour of the reference: -5.0 points, Bonett-Price (p = 1/42, q = 3/42)."""
    text = comparison.caption(report(36, 38))
    assert "needs 25% of the energy" in text
    assert "5.0 points lower (95 % interval -14.0 to +4.5)" in text


@pytest.mark.parametrize(("subnet", "warns"), [(36, False), (35, False), (34, False), (33, True), (20, True)])
def test_a_significantly_worse_subnet_is_a_warning(subnet: int, warns: bool) -> None:
    """38 against 33: five images against none, p = 1/32."""
    found = comparison.warnings(report(subnet, 38))
    assert bool(found) is warns
    if warns:
        assert "significantly less accurate" in found[0]


def test_an_under_trained_supernet_is_a_warning() -> None:
    mask = pack_mask(bytes(i < 30 for i in range(IMAGES)))
    largest = measurement(small(), correct=30, images=IMAGES, mask=mask)
    quality = comparison.supernet_quality(largest, measured(39, acs=1.0, split="search"), same_architecture=True)
    assert quality["difference"] == pytest.approx(-9 / 40)
    (line,) = comparison.warnings(report(38, 38, supernet=quality))
    assert "under-trained" in line
    assert "0.7500" in line
    assert "0.9750" in line


def test_a_supernet_within_a_point_of_the_reference_is_no_warning() -> None:
    mask = pack_mask(bytes(i < 38 for i in range(IMAGES)))
    largest = measurement(small(), correct=38, images=IMAGES, mask=mask)
    quality = comparison.supernet_quality(largest, measured(39, acs=1.0, split="search"), same_architecture=True)
    assert comparison.warnings(report(38, 38, supernet=quality)) == []
