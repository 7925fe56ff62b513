"""Tables of the front for papers."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from autospike.report import paper

FRONT = pd.DataFrame(
    {
        "id": ["aaaaaaaaaaaa", "bbbbbbbbbbbb"],
        "accuracy": [0.5, 1.0],
        "images": [4, 4],
        "energy_mj": [0.0012345678, 2.0],
        "params": [1234567, 12],
        "time_steps": [1, 4],
    }
)


def test_numbers_by_hand() -> None:
    """The Wilson interval of 2 of 4 is (0.5 + z^2/8 -+ z sqrt(1/16 + z^2/64)) / (1 + z^2/4) with z = 1.96: 0.150 to 0.850."""
    table = paper.numbers(FRONT)
    assert table["accuracy_low"][0] == pytest.approx(0.15003, abs=1e-4)
    assert table["accuracy_high"][0] == pytest.approx(0.84997, abs=1e-4)
    assert table["energy_uj"].tolist() == pytest.approx([1.2345678, 2000.0])


def test_plot_data_is_read_again() -> None:
    text = paper.plot_data(paper.numbers(FRONT))
    assert '"' not in text
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), paper.numbers(FRONT), rtol=1e-8)


def test_markdown() -> None:
    lines = paper.markdown(paper.numbers(FRONT), convention="exact", images=4, metric="accuracy").splitlines()
    assert lines[0] == "| candidate | accuracy (%) | energy (µJ) | parameters | T |"
    assert lines[2] == "| aaaaaaaaaaaa | 50.00 (15.00 to 85.00) | 1.235 | 1,234,567 | 1 |"
    assert "`exact`" in lines[-1]


def test_latex() -> None:
    text = paper.latex(paper.numbers(FRONT), convention="spikformer/int8", images=4, metric="accuracy")
    assert r"\texttt{aaaaaaaaaaaa} & $50.00$ [$15.00$, $85.00$] & 1.235 & 1\,234\,567 & 1 \\" in text
    assert r"95 \% Wilson intervals" in text
    assert r"\texttt{spikformer/int8}." in text
    assert text.count("{") == text.count("}")
