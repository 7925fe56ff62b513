"""Variants of an architecture, and the table of an ablation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import analytic, one_line_error
from tiny_experiment import TINY_SPACE

from autospike.energy.conventions import DEFAULT
from autospike.report.ablation import draw, table, variants
from autospike.report.record import record
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import with_values
from autospike.statistics import pack_mask

SPACE = SearchSpace.from_dict(TINY_SPACE)


def changes(first: Architecture, second: Architecture) -> int:
    """Number of genes in which two architectures differ, among those that both have."""
    values = [{found.path: found.value for found in SPACE.genes(a)} for a in (first, second)]
    return sum(values[0][path] != values[1][path] for path in values[0].keys() & values[1].keys())


def test_each_variant_differs_in_one_gene() -> None:
    """Two blocks with four genes of two values, and T, width and depth: eleven variants."""
    largest = SPACE.largest()
    found = variants(SPACE, largest)
    assert len(found) == len({variant.architecture for variant in found}) == 2 * 4 + 3
    assert all(SPACE.contains(variant.architecture) for variant in found)
    assert [changes(largest, variant.architecture) for variant in found] == [1] * 11
    steps = next(variant for variant in found if variant.gene == "time_steps")
    assert (steps.before, steps.after, steps.architecture.time_steps) == ("3", "2", 2)


def test_a_gene_may_be_changed_in_all_blocks() -> None:
    largest = SPACE.largest()
    found = variants(SPACE, largest, genes=["tau"], together=True)
    other = 1.5 if largest.stages[0].blocks[0].neuron.tau == 2 else 2
    assert [block.neuron.tau for block in found[0].architecture.stages[0].blocks] == [other, other]
    mixed = with_values(SPACE, largest, {("stages", 0, "blocks", 1, "neuron", "tau"): other})
    assert len(variants(SPACE, mixed, genes=["tau"], together=True)) == 2
    assert len(variants(SPACE, largest, genes=["tau"])) == 2
    assert len(variants(SPACE, largest, genes=["stage 1 block 2 neuron.tau"])) == 1


def test_an_unknown_gene_is_refused() -> None:
    assert "time_steps" in one_line_error(lambda: variants(SPACE, SPACE.largest(), genes=["steps"]))


def test_the_table_by_hand() -> None:
    largest = SPACE.largest()
    (variant,) = variants(SPACE, largest, genes=["time_steps"])
    measured = {a: replace(analytic(a), correct=3, images=4) for a in (largest, variant.architecture)}
    masks = {largest: bytes([1, 1, 1, 0]), variant.architecture: bytes([0, 1, 1, 0])}
    records = {
        a: record(replace(m, correct_mask=pack_mask(masks[a]), correct=sum(masks[a])), DEFAULT, "search")
        for a, m in measured.items()
    }
    found = table(largest, [variant], records)
    assert found["id"].tolist() == [largest.id, variant.architecture.id]
    assert found["accuracy"].tolist() == [0.75, 0.5]
    assert found["difference"].tolist() == [0.0, -0.25]
    # Bonett and Price: p = 1/6, q = 2/6, n = 6.
    half = 1.959963984540054 * ((1 / 6 + 2 / 6 - 1 / 36) / 6) ** 0.5
    assert found["difference_low"][1] == pytest.approx(-1 / 6 - half)
    assert found["energy_ratio"][1] == pytest.approx(records[variant.architecture]["energy_mj"] / records[largest]["energy_mj"])
    figure = draw(found, title="digits", convention="exact", metric="accuracy")
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["original", "time_steps: 3 → 2"]
    assert np.asarray(figure.axes[2].get_lines()[0].get_xdata()).tolist() == [7, 7]  # the parameters of the original network
