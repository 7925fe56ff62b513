"""Energy and F_AEB, by hand and against the published table."""

from __future__ import annotations

import json
import math

import pytest
from builders import few, measurement, small
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autospike.config import FitnessConfig, SearchConfig
from autospike.energy import FUSED, SPIKFORMER, Convention, LayerCount, energy, from_rows, to_rows
from autospike.search.fitness import f_aeb
from autospike.search.objectives import OBJECTIVES

REAL = LayerCount(layer="stem.0", input="real", time_steps=4, macs=1000, acs=(), rate=())
BINARY = LayerCount(layer="q", input="binary", time_steps=4, macs=800, acs=(10.0, 20.5, 0.0, 4.5), rate=(0.1, 0.2, 0.0, 0.05))
INTEGER = LayerCount(layer="fc1", input="integer", time_steps=4, macs=500, acs=(400.0, 600.0, 0.0, 0.0), rate=(0.8, 1.2, 0.0, 0.0))

numbers = st.floats(0, 1e12)
counts = st.lists(
    st.builds(
        LayerCount,
        layer=st.text(max_size=8),
        input=st.sampled_from(["real", "integer", "binary"]),
        form=st.sampled_from(["always", "separate", "fused"]),
        time_steps=st.integers(1, 8),
        macs=st.integers(0, 10**12),
        acs=st.lists(numbers, max_size=8).map(tuple),
        rate=st.lists(numbers, max_size=8).map(tuple),
    ),
    max_size=5,
)


def test_a_real_input_multiplies_at_every_step() -> None:
    total = energy([REAL])
    assert (total.macs, total.acs) == (4000, 0)
    assert total.energy_mj == pytest.approx(4.6e-12 * 4000 * 1000, rel=1e-12)  # joules to millijoules


@pytest.mark.parametrize(("count", "acs"), [(BINARY, 35.0), (INTEGER, 1000.0)])
def test_a_spiking_input_accumulates(count: LayerCount, acs: float) -> None:
    total = energy([count])
    assert (total.macs, total.acs) == (0, acs)
    assert total.energy_mj == pytest.approx(0.9e-12 * acs * 1000, rel=1e-12)


def test_layers_add_up() -> None:
    total = energy([REAL, BINARY, INTEGER])
    assert (total.macs, total.acs) == (4000, 1035)
    assert total.energy_mj == pytest.approx((4.6 * 4000 + 0.9 * 1035) * 1e-9, rel=1e-12)
    assert total.convention == "fused"


# A convolution that trains as two maps, of which the second reads real values, and may run as one.
TRAINED = (
    LayerCount(layer="a.first", input="binary", form="separate", time_steps=2, macs=50, acs=(10.0, 5.0), rate=(0.2, 0.1)),
    LayerCount(layer="a.last", input="real", form="separate", time_steps=2, macs=100, acs=(), rate=()),
    LayerCount(layer="a.fused", input="binary", form="fused", time_steps=2, macs=450, acs=(90.0, 45.0), rate=(0.2, 0.1)),
)


@pytest.mark.parametrize(
    ("convention", "macs", "acs"), [(SPIKFORMER, 200.0, 15.0), (FUSED, 0.0, 135.0)], ids=["spikformer", "fused"]
)
def test_a_convention_takes_linear_maps_apart_or_fused(convention: Convention, macs: float, acs: float) -> None:
    total = energy(TRAINED, convention)
    assert (total.convention, total.macs, total.acs) == (convention.name, macs, acs)
    assert total.energy_mj == pytest.approx((4.6 * macs + 0.9 * acs) * 1e-9, rel=1e-12)
    with_others = energy([REAL, *TRAINED, BINARY], convention)
    assert (with_others.macs, with_others.acs) == (4000 + macs, 35 + acs)


def test_a_search_minimises_the_energy_of_fused_networks() -> None:
    assert energy(TRAINED) == energy(TRAINED, FUSED)


def test_conventions_agree_where_nothing_can_be_fused() -> None:
    one, other = (energy([REAL, BINARY, INTEGER], convention) for convention in (SPIKFORMER, FUSED))
    assert (one.macs, one.acs, one.energy_mj) == (other.macs, other.acs, other.energy_mj)


def test_no_layer_needs_no_energy() -> None:
    assert energy([]).energy_mj == 0


@pytest.mark.parametrize(("giga_operations", "published_mj"), [(6.82, 7.734), (11.09, 11.577), (22.09, 21.477)])
def test_the_published_table(giga_operations: float, published_mj: float) -> None:
    # Spikformer 8-384, 8-512 and 8-768 at T = 4. Every row has the first convolution of D = 512: 3 to 64 channels, 224 x 224.
    first = LayerCount(layer="stem.0", input="real", time_steps=4, macs=3 * 64 * 9 * 224**2, acs=(), rate=())
    rest = LayerCount(layer="rest", input="integer", time_steps=4, macs=0, acs=(giga_operations * 1e9 / 4,) * 4, rate=(0.2,) * 4)
    assert energy([first, rest]).energy_mj == pytest.approx(published_mj, abs=0.001)


@few
@given(counts)
def test_rows_round_trip_through_json(found: list[LayerCount]) -> None:
    again = from_rows(json.loads(json.dumps(to_rows(found))))
    assert again == tuple(found)
    assert energy(again) == energy(found)


def test_a_row_says_what_was_counted() -> None:
    assert to_rows([BINARY]) == [
        {
            "layer": "q",
            "input": "binary",
            "form": "always",
            "time_steps": 4,
            "macs": 800,
            "acs": (10.0, 20.5, 0.0, 4.5),
            "rate": (0.1, 0.2, 0.0, 0.05),
        }
    ]


@pytest.mark.parametrize(
    ("accuracy", "energy_mj", "beta", "expected"),
    [
        (0.9, 2.0, 0.07, 0.9),  # the reference itself
        (0.9, 1.0, 1.0, 1.8),
        (0.9, 0.5, 0.5, 1.8),
        (0.6, 8.0, 0.5, 0.3),
        (0.9, 0.1, 0.0, 0.9),
        (0.9, 1.0, 0.07, 0.9 * math.exp(0.07 * math.log(2))),
        (0.0, 1.0, 0.07, 0.0),
    ],
)
def test_f_aeb_as_a_power(accuracy: float, energy_mj: float, beta: float, expected: float) -> None:
    config = FitnessConfig(form="power", beta=beta)
    assert f_aeb(accuracy, energy_mj, reference_mj=2.0, config=config) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("accuracy", "energy_mj", "alpha", "expected"),
    [
        (0.8, 0.8, 0.25, 0.25 * 0.8 + 0.75 * 0.6),
        (0.8, 2.0, 0.25, 0.2),  # the reference itself: no energy is saved
        (0.8, 0.8, 1.0, 0.8),
        (0.8, 0.8, 0.0, 0.6),
        (0.8, 3.0, 0.5, 0.4 - 0.25),
    ],
)
def test_f_aeb_as_a_weighted_sum(accuracy: float, energy_mj: float, alpha: float, expected: float) -> None:
    config = FitnessConfig(form="weighted", alpha=alpha)
    assert f_aeb(accuracy, energy_mj, reference_mj=2.0, config=config) == pytest.approx(expected, rel=1e-12)


def test_f_aeb_is_a_power_of_0_07_unless_said_otherwise() -> None:
    assert f_aeb(0.5, 1.0, reference_mj=4.0, config=FitnessConfig()) == pytest.approx(0.5 * 4**0.07, rel=1e-12)


@few
@given(st.sampled_from(["power", "weighted"]), st.floats(0.1, 0.9), st.floats(0.1, 10))
def test_f_aeb_rewards_accuracy_and_thrift(form: str, accuracy: float, energy_mj: float) -> None:
    config = FitnessConfig(form=form)
    score = f_aeb(accuracy, energy_mj, reference_mj=3.0, config=config)
    assert f_aeb(accuracy + 0.05, energy_mj, reference_mj=3.0, config=config) > score
    assert f_aeb(accuracy, energy_mj / 2, reference_mj=3.0, config=config) > score


def test_objectives_of_a_measurement() -> None:
    measured = measurement(small(time_steps=2), correct=80, macs=10, acs=30)
    values = {name: (objective.value(measured), objective.maximise) for name, objective in OBJECTIVES.items()}
    assert values == {
        "accuracy": (0.8, True),
        "energy_mj": (pytest.approx((4.6 * 20 + 0.9 * 30) * 1e-9, rel=1e-12), False),
        "params": (7, False),
        "time_steps": (2, False),
        "acs": (30, False),
    }


@pytest.mark.parametrize("names", [("accuracy", "joules"), ("accuracy", "accuracy"), ()])
def test_objectives_that_cannot_be(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as error:
        SearchConfig(objectives=names)
    assert all(name in str(error.value) for name in ("accuracy", "energy_mj", "params", "time_steps", "acs", *names))
