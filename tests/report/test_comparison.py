"""The closing table of an export and its warnings, with values by hand."""

from __future__ import annotations

from typing import Any

import pytest
from builders import measurement, small

from autospike.energy.conventions import DEFAULT
from autospike.energy.counts import LayerCount
from autospike.report import comparison, comparison_figure
from autospike.report.record import record, record_rival
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
    assert [row[2:4] for row in rows] == [["0.0009", "3e-05"], ["0.00045", "1.5e-05"], ["0.0036", "0.00012"]]


def rival(correct: int, *, macs: int) -> dict[str, Any]:
    counts = [LayerCount(layer="conv", input="real", time_steps=1, macs=macs, acs=(), rate=())]
    return record_rival("cnn", bytes(i < correct for i in range(IMAGES)), counts, 7, DEFAULT, "test")


def test_a_network_without_spikes_is_priced_by_its_dense_operations() -> None:
    """10,000 MACs: 4.6 pJ each are 0.046 uJ, 0.23 pJ each 0.0023 uJ."""
    found = comparison.rows(report(36, 38, rivals=[rival(37, macs=10_000)]))
    assert found[-1] == ["CNN", "0.9250 (0.801 to 0.974)", "0.046", "0.0023", "7", "1"]


@pytest.mark.parametrize(("correct", "macs", "said"), [(36, 100, True), (35, 100, False), (36, 10_000, False), (40, 150, True)])
def test_a_more_accurate_network_without_spikes_of_less_energy_is_named(correct: int, macs: int, said: bool) -> None:
    """The subnet has 36 of 40 right and needs 900 pJ; 100 MACs need 460 pJ, 10,000 need 46,000 pJ."""
    found = comparison.warnings(report(36, 38, rivals=[rival(correct, macs=macs)]))
    assert [("a spiking network does not pay here" in line) for line in found] == ([True] if said else [])


@pytest.mark.parametrize(("subnet", "warns"), [(34, False), (33, True), (20, True)])
def test_a_subnet_that_is_significantly_worse_than_a_network_without_spikes_is_a_warning(subnet: int, warns: bool) -> None:
    """38 against 33: five images against none, p = 1/32."""
    found = comparison.warnings(report(subnet, subnet, rivals=[rival(38, macs=10**6)]))
    assert bool(found) is warns
    if warns:
        assert f"significantly below that of the CNN (0.9500, p = {0.5 ** (38 - subnet):.2g})" in found[0]


@pytest.mark.parametrize(
    ("correct", "share", "warns"), [(9, 0.1, False), (8, 0.1, False), (7, 0.1, True), (0, 0.1, True), (7, 0.0, False)]
)
def test_a_subnet_at_chance_level_is_a_warning(correct: int, share: float, warns: bool) -> None:
    """Of 40 images with a share of 0.1, eight or more are correct by chance with probability 0.042, seven or more with 0.100."""
    found = comparison.warnings(report(correct, correct, most_frequent_class=share))
    assert bool(found) is warns
    if warns:
        assert "learned nothing" in found[0]
        assert f"{correct / 40:.4f}" in found[0]


def test_the_reference_network_has_a_row_for_each_number_of_steps() -> None:
    found = report(36, 38)
    steps = [{**measured(correct, acs=acs), "time_steps": t} for t, correct, acs in ((1, 20, 1000.0), (2, 38, 4000.0))]
    found["baseline"]["by_time_steps"] = steps
    rows = [row for row in comparison.rows(found) if row[0] == "reference network"]
    assert [(row[1][:6], row[5]) for row in rows] == [("0.9500", "2"), ("0.5000", "1")]


def test_the_caption_states_the_energy_of_the_front_at_equal_accuracy() -> None:
    """The front has the accuracy of the reference network at 2,000 accumulations, half of its energy."""
    front = [measured(30, acs=500.0), measured(38, acs=2000.0)]
    lines = comparison.caption(report(36, 38, front=front)).splitlines()
    assert lines[1] == (
        "At the accuracy of the reference network (0.9500), the front needs 0.50 of its energy (95 % interval 0.50 to 0.50)."
    )
    found = comparison.caption(report(36, 40, front=front)).splitlines()
    assert found[1] == "The front does not reach the accuracy of the reference network (1.0000): its curve ends at 0.9500."


def test_the_table_has_a_ratio_for_each_other_network() -> None:
    front = [measured(30, acs=500.0), measured(38, acs=2000.0)]
    table = comparison.table(report(36, 38, front=front, rivals=[rival(30, macs=1000)]))
    assert table["name"].tolist() == ["exported subnet (inherited)", "reference network", "CNN"]
    assert table["front_ratio"].tolist()[1:] == pytest.approx([0.5, 450 / 4600], rel=1e-6)
    assert table["energy_uj"].tolist() == pytest.approx([0.0009, 0.0036, 0.0046])
    assert table["accuracy_low"][0] == pytest.approx(0.76948, abs=1e-5)


def test_the_figure_has_the_networks_under_both_costs() -> None:
    front = [measured(30, acs=500.0), measured(38, acs=2000.0)]
    panels: list[Any] = comparison_figure.draw(report(36, 38, front=front, rivals=[rival(30, macs=1000)]), title="digits").axes
    assert [panel.get_title(loc="left") for panel in panels] == ["digits", "8-bit costs"]
    lines = [{line.get_label(): line.get_xydata() for line in panel.lines} for panel in panels]
    assert [float(found["CNN"][0][0]) for found in lines] == pytest.approx([0.0046, 0.00023])


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
        assert "significantly below" in found[0]


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
