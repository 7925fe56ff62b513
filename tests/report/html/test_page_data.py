"""The data of the HTML report: thinning, and the page around it."""

from __future__ import annotations

import base64
import gzip
import json
import re

from autospike.report.html.data import _kept
from autospike.report.html.page import live_page, page


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
