"""Counts of the first time steps of a layer."""

from __future__ import annotations

from dataclasses import replace

from autospike.energy.counts import LayerCount


def test_the_first_steps_of_a_count() -> None:
    found = LayerCount(layer="q", input="binary", time_steps=3, macs=8, acs=(1.0, 2.0, 4.0), rate=(0.1, 0.2, 0.4))
    assert found.first(2) == replace(found, time_steps=2, acs=(1.0, 2.0), rate=(0.1, 0.2))
    assert found.first(3) == found.first(9) == found
    real = LayerCount(layer="head", input="real", reads="mean", time_steps=3, macs=8, acs=(), rate=())
    assert real.first(1) == replace(real, time_steps=1)


def test_the_first_steps_of_a_count_with_a_narrower_kind() -> None:
    found = LayerCount(
        layer="q",
        input="integer",
        input_by_step=("binary", "binary", "integer"),
        time_steps=3,
        macs=8,
        acs=(1.0, 2.0, 9.0),
        rate=(0.1, 0.2, 1.1),
    )
    assert found.first(3) == found
    assert found.first(2) == replace(found, input="binary", input_by_step=(), time_steps=2, acs=(1.0, 2.0), rate=(0.1, 0.2))


def test_the_first_steps_of_a_count_that_are_all_real() -> None:
    found = LayerCount(
        layer="q",
        input="real",
        input_by_step=("real", "real", "binary"),
        time_steps=3,
        macs=8,
        acs=(0.0, 0.0, 4.0),
        rate=(0.0, 0.0, 0.5),
    )
    assert found.first(2) == replace(found, input_by_step=(), time_steps=2, acs=(), rate=())
