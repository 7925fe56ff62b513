"""Confidence intervals and paired comparisons, against scipy and published examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from autospike.statistics import (
    Z_95,
    PairedComparison,
    pack_mask,
    paired_significantly_below,
    unpaired_p_value_below,
    wilson_interval,
)


def test_z_is_the_quantile_of_the_normal_distribution() -> None:
    assert norm.ppf(0.975) == pytest.approx(Z_95, abs=1e-15)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_equals_scipy(counts: tuple[int, int]) -> None:
    correct, images = counts
    expected = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_of_the_digits_test_split() -> None:
    """By hand: p = 0.975, n = 360. Centre (0.975 + 0.005335) / 1.010671, half width 0.016928 / 1.010671."""
    low, high = wilson_interval(351, 360)
    assert (low, high) == pytest.approx((0.9532, 0.9868), abs=1e-4)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_p_value_equals_the_binomial_test(only_first: int, only_second: int) -> None:
    found = PairedComparison(only_first=only_first, only_second=only_second, images=200).p_value_below
    n = only_first + only_second
    expected = binomtest(only_first, n, 0.5, alternative="less").pvalue if n else 1.0
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("only_second", "below"), [(4, False), (5, True)])
def test_five_images_against_none_are_significant(only_second: int, below: bool) -> None:
    """One-sided p-values 1/16 and 1/32."""
    assert PairedComparison(only_first=0, only_second=only_second, images=100).significantly_below is below


@given(st.integers(1, 30), st.data())
def test_many_comparisons_equal_one_after_the_other(images: int, data: st.DataObject) -> None:
    """Also if the last byte has bits beyond the images, which no comparison reads."""
    mask = st.binary(min_size=(images + 7) // 8, max_size=(images + 7) // 8)
    masks, other = data.draw(st.lists(mask, max_size=5)), data.draw(mask)
    expected = [PairedComparison.of(first, other, images).significantly_below for first in masks]
    assert paired_significantly_below(masks, other, images).tolist() == expected


def test_paired_interval_by_hand() -> None:
    """Bonett and Price: n = 100, 3 and 11 discordant images give p = 4/102, q = 12/102, half width 1.96 * 0.03825."""
    comparison = PairedComparison(only_first=3, only_second=11, images=100)
    p, q = 4 / 102, 12 / 102
    half = 1.959964 * np.sqrt((p + q - (p - q) ** 2) / 102)
    assert comparison.difference == pytest.approx(-0.08)
    assert comparison.interval == pytest.approx((p - q - half, p - q + half), abs=1e-6)


def test_paired_interval_covers_the_true_difference() -> None:
    """In 2,000 draws with known discordance rates, about 95 % of the intervals contain the true difference."""
    rng = np.random.default_rng(0)
    draws = rng.multinomial(300, [0.06, 0.03, 0.91], size=2000)
    intervals = [PairedComparison(only_first=int(a), only_second=int(b), images=300).interval for a, b, _ in draws]
    covered = np.mean([low <= 0.03 <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.975


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_comparison_of_packed_masks_counts_the_discordant_images(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (pack_mask(bytes(column)) for column in zip(*pairs, strict=True))
    found = PairedComparison.of(first, second, len(pairs))
    assert found.only_first == sum(a and not b for a, b in pairs)
    assert found.only_second == sum(b and not a for a, b in pairs)


def test_unpaired_p_value_by_hand() -> None:
    """180 of 200 against 190 of 200: pooled 0.925, deviation sqrt(0.925 * 0.075 * 2 / 200) = 0.026339, z = -1.8983."""
    assert unpaired_p_value_below(180, 200, 190, 200) == pytest.approx(norm.cdf(-0.05 / 0.0263391), abs=1e-5)


def test_equal_and_perfect_accuracies_are_not_below_each_other() -> None:
    assert unpaired_p_value_below(10, 10, 10, 10) == 1.0
    assert unpaired_p_value_below(5, 10, 50, 100) == 0.5
