"""The data of the HTML report: thinning, importance of genes, and the page around it."""

from __future__ import annotations

import base64
import gzip
import json
import re

import pytest

from autospike.report.html.data import _gene, _kept, correlation_ratio
from autospike.report.html.page import live_page, page


def test_correlation_ratio_by_hand() -> None:
    """Groups a: 1, 3 and b: 5, 7. Mean 4, between 2 * 4 + 2 * 4 = 16, total 9 + 1 + 1 + 9 = 20."""
    assert correlation_ratio(["a", "a", "b", "b"], [1.0, 3.0, 5.0, 7.0]) == pytest.approx(0.8)


@pytest.mark.parametrize(("values", "expected"), [([1.0, 1.0, 2.0, 2.0], 1.0), ([1.0, 2.0, 1.0, 2.0], 0.0), ([3.0] * 4, 0.0)])
def test_extremes_of_the_correlation_ratio(values: list[float], expected: float) -> None:
    assert correlation_ratio(["a", "a", "b", "b"], values) == pytest.approx(expected)


def test_names_of_genes_count_from_one() -> None:
    assert _gene(("stages", 0, "blocks", 2, "neuron", "tau")) == "stage 1 block 3 neuron.tau"
    assert _gene(("stages", 1, "embed_dim")) == "stage 2 embed_dim"
    assert _gene(("time_steps",)) == "time_steps"


def test_thinning_keeps_the_front() -> None:
    flags = [i % 10 == 3 for i in range(100)]
    kept = _kept(flags, 40)
    assert {i for i, flag in enumerate(flags) if flag} <= set(kept)
    assert 30 <= len(kept) <= 40
    assert kept == sorted(kept)
    assert _kept(flags, 100) == list(range(100))


def test_the_page_contains_its_data_and_loads_nothing() -> None:
    data = {"title": "A & B </script>", "numbers": list(range(1000))}
    text = page(data)
    (embedded,) = re.findall(r'id="data">([^<]*)</script>', text)
    assert json.loads(gzip.decompress(base64.b64decode(embedded))) == data
    assert "<title>A &amp; B &lt;/script&gt;</title>" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"@[A-Z]+@", text)
    assert page(data) == text


def test_style_and_script_are_small() -> None:
    assert len(live_page("run")) < 40_000
