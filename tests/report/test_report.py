"""The report: tables, search histories and figures."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from builders import RANGES, analytic, edited, evaluation_of, few_examples, measurement, one_line_error, small
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from autospike.catalogue import files_of
from autospike.commands.plot import SearchReport, plot
from autospike.config import Experiment
from autospike.energy.conventions import CONVENTIONS, DEFAULT, EXACT, convention_of
from autospike.energy.counts import LayerCount, from_rows, to_rows
from autospike.execution.report_executor import MANY_CANDIDATES, report_executor
from autospike.execution.worker_process import WorkerProcess
from autospike.measurement import Evaluation, Measurement
from autospike.objectives import ACCURACY_AND_ENERGY
from autospike.process import available_cores
from autospike.report import energy as energy_tables
from autospike.report import figures, tables
from autospike.report.figures import Curve, Point
from autospike.report.record import record
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.archive_file import open_to_write
from autospike.searching.selection import front
from autospike.space.architecture import Architecture, Stage
from autospike.space.block import Block, Neuron, NeuronGroups, NeuronOverride
from autospike.space.search_space import SearchSpace

# Other programs read RUN/report/candidates.csv.
COLUMNS = [
    "id",
    "accuracy",
    "energy_mj",
    "params",
    "time_steps",
    "f_aeb",
    "generation",
    "free",
    "images",
    "on_front",
    "architecture",
]
WRITTEN = ["id", "accuracy", "accuracy_low", "accuracy_high", "energy_mj", "energy_uj", *COLUMNS[3:]]

SPACE: dict[str, Any] = {
    "time_steps": [1, 2],
    "stages": [
        {
            "embed_dim": [8, 16],
            "depth": [1, 2, 3],
            "block": {"num_heads": [1, 2, 4], "neuron": {"v_threshold": [0.5, 1.0]}},
        }
    ],
}


# One image, two steps: a still image, spikes, sums of spikes that RepConv leads to in both forms, a mean.
COUNTS = (
    LayerCount(layer="stages.0.embedding.conv", input="real", reads="image", time_steps=2, macs=200, acs=(), rate=()),
    LayerCount(layer="stages.0.blocks.0.token.q", input="binary", time_steps=2, macs=100, acs=(20.0, 40.0), rate=(0.25, 0.5)),
    LayerCount(
        layer="stages.0.blocks.0.token.rep.first",
        input="integer",
        form="separate",
        time_steps=2,
        macs=100,
        acs=(25.0, 25.0),
        rate=(0.25, 0.25),
    ),
    LayerCount(layer="stages.0.blocks.0.token.rep.last", input="real", form="separate", time_steps=2, macs=150, acs=(), rate=()),
    LayerCount(
        layer="stages.0.blocks.0.token.rep.fused",
        input="integer",
        form="fused",
        time_steps=2,
        macs=900,
        acs=(100.0, 100.0),
        rate=(0.25, 0.25),
    ),
    LayerCount(layer="head", input="real", reads="mean", time_steps=2, macs=60, acs=(), rate=()),
)

# MACs, ACs and their energy in pJ.
TOTALS = {
    "exact": (260, 260, 4.6 * 260 + 0.9 * 260),
    "rate": (260, 525, 4.6 * 260 + 0.9 * 525),
    "spikformer": (760, 125, 4.6 * 760 + 0.9 * 125),
    "binary-only": (960, 75, 4.6 * 960 + 0.9 * 75),
    "fused": (460, 525, 4.6 * 460 + 0.9 * 525),
    "integer": (260, 525, 4.6 * 260 + 0.9 * 525),  # that of `rate`: here are no neurons of several levels
    "memory": (260, 260, 24.6 * 260 + 30.9 * 260),
}


def evaluated(number: int, *, seed: int = 0, written: dict[str, Any] = SPACE) -> list[Evaluation]:
    """Evaluations of the largest architecture of a space and of distinct samples, as a search would archive them."""
    space, rng = SearchSpace.from_dict(written), random.Random(seed)
    distinct = {space.largest(): None}
    while len(distinct) < number:
        distinct[space.sample(rng)] = None
    found = [
        evaluation_of(analytic(architecture), f_aeb=rng.random(), generation=i // 4) for i, architecture in enumerate(distinct)
    ]
    return [replace(e, by_product=i % 4 == 3) for i, e in enumerate(found)]


def undominated(evaluations: list[Evaluation]) -> set[tuple[int, float]]:
    scores = [e.measurement for e in evaluations]
    points = {(score.correct, score.energy(DEFAULT).energy_mj) for score in scores}
    return {
        (correct, energy)
        for correct, energy in points
        if not any(c >= correct and e <= energy and (c, e) != (correct, energy) for c, e in points)
    }


def test_csv_is_written_as_pandas_writes_it() -> None:
    table = pd.DataFrame(
        {
            "number": [0.1, 1e-12, np.nan, np.inf],
            "count": [1, 2, 3, 10**12],
            "flag": [True, False, True, False],
            "text": ['{"a":[1,"b"]}', "plain", "two\nlines", ""],
            "gap": [None, 2.5, "x", float("nan")],
        }
    )
    assert tables.to_csv(table) == table.to_csv(index=False)
    assert tables.to_csv(table.iloc[:0]) == table.iloc[:0].to_csv(index=False)
    repeated = pd.concat([table] * (tables.CSV_CHUNK // 3))  # the chunks end within the table
    assert tables.to_csv(repeated) == repeated.to_csv(index=False)
    assert len(list(tables.csv_chunks(repeated))) > 2


def test_candidates_have_the_documented_columns() -> None:
    assert list(tables.candidates(evaluated(5)).columns) == COLUMNS


def test_candidates_are_rows_in_the_order_of_measurement() -> None:
    evaluations = evaluated(12)
    rows = tables.candidates(evaluations).to_dict("records")
    assert len(rows) == 12
    for row, e in zip(rows, evaluations, strict=True):
        measured = e.measurement
        assert row["id"] == measured.architecture.id
        assert Architecture.from_json(row["architecture"]) == measured.architecture
        assert row["accuracy"] == measured.correct / measured.images
        assert row["energy_mj"] == measured.energy(DEFAULT).energy_mj
        assert (row["params"], row["time_steps"]) == (measured.params, measured.architecture.time_steps)
        assert (row["f_aeb"], row["generation"]) == (e.f_aeb, e.generation)
        assert (row["free"], row["images"]) == (e.by_product, measured.images)


@few_examples
@given(st.integers(1, 40), st.integers(0, 1000))
def test_front_has_the_undominated_candidates_by_ascending_energy(number: int, seed: int) -> None:
    evaluations = evaluated(number, seed=seed)
    table = tables.candidates(evaluations)
    best = tables.front(table)
    assert list(best.columns) == COLUMNS
    images = evaluations[0].measurement.images
    found = [(round(accuracy * images), energy) for accuracy, energy in zip(best["accuracy"], best["energy_mj"], strict=True)]
    assert set(found) == undominated(evaluations)
    assert len(found) == len(set(found)) == table["on_front"].sum()
    assert best["energy_mj"].is_monotonic_increasing


FOUR = pd.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "accuracy": [0.5, 0.4, 0.75, 0.25],
        "energy_mj": [4.0, 6.0, 6.0, 2.0],
        "f_aeb": [0.6, 0.7, 0.65, 0.9],
    }
)
BOX = tables.Box(best=(1.0, 0.0), worst=(0.0, 8.0))


def test_search_history_by_hand() -> None:
    # Of the box 8 x 1, a covers 4 x 0.5, b nothing more, c 2 x 0.25 more and d 2 x 0.25 more.
    history = tables.search_history("nsga2-1", [["a"], ["b"], ["c", "d"]], FOUR, box=BOX)
    assert history.search_id == "nsga2-1"
    assert history.hypervolume == pytest.approx([2 / 8, 2 / 8, 3 / 8], rel=1e-12)
    assert history.best_f_aeb == [0.6, 0.7, 0.9]


def test_search_history_of_a_killed_search() -> None:
    history = tables.search_history("s", [["a", "b"], ["c", "proposed but not measured"]], FOUR, box=BOX)
    assert history.hypervolume == pytest.approx([2 / 8, 2.5 / 8], rel=1e-12)
    assert history.best_f_aeb == [0.7, 0.7]


@few_examples
@given(st.integers(0, 1000), st.integers(1, 7))
def test_search_history_never_decreases(seed: int, size: int) -> None:
    evaluations = evaluated(24, seed=seed)
    table = tables.candidates(evaluations)
    names = list(table["id"])
    generations = [names[i : i + size] for i in range(0, len(names), size)]
    history = tables.search_history("s", generations, table, box=tables.Box.of(table, ACCURACY_AND_ENERGY, names[0]))
    assert history.hypervolume == sorted(history.hypervolume)
    assert history.best_f_aeb == sorted(history.best_f_aeb)
    assert history.best_f_aeb[-1] == max(e.f_aeb for e in evaluations)


def of_blocks(*blocks: tuple[int, float], embed_dim: int = 8) -> Evaluation:
    """An evaluation whose blocks have these head counts and thresholds."""
    built = tuple(Block(num_heads=heads, neuron=Neuron(v_threshold=threshold)) for heads, threshold in blocks)
    return evaluation_of(measurement(small(embed_dim=embed_dim, blocks=built), correct=1), f_aeb=0.1, generation=0)


def test_gene_shares_by_hand() -> None:
    found = [of_blocks((1, 0.5)), of_blocks((1, 1.0), (2, 1.0), (4, 1.0), embed_dim=16), of_blocks((2, 1.0))]
    assert tables.gene_shares(SearchSpace.from_dict(SPACE), found)[0] == {
        "time_steps": {"1": 0.0, "2": 1.0},
        "embed_dim": {"8": 2 / 3, "16": 1 / 3},
        "depth": {"1": 2 / 3, "2": 0.0, "3": 1 / 3},
        "num_heads": {"1": 2 / 5, "2": 2 / 5, "4": 1 / 5},
        "neuron.v_threshold": {"0.5": 1 / 5, "1": 4 / 5},
    }


def test_gene_shares_divide_a_range_into_five_intervals() -> None:
    space = SearchSpace.from_dict(edited(SPACE, "stages.0.block.neuron.v_threshold", {"low": 0.5, "high": 1.5, "sigma": 0.1}))
    found = [of_blocks((1, 0.5)), of_blocks((1, 0.69)), of_blocks((1, 0.71)), of_blocks((1, 1.25), (1, 1.5))]
    assert tables.gene_shares(space, found)[0]["neuron.v_threshold"] == {
        "0.5 to 0.7": 2 / 5,
        "0.7 to 0.9": 1 / 5,
        "0.9 to 1.1": 0.0,
        "1.1 to 1.3": 1 / 5,
        "1.3 to 1.5": 1 / 5,
    }


def test_gene_shares_include_embedding_and_neuron_groups() -> None:
    space = SearchSpace.from_dict(RANGES)
    (evaluation,) = evaluated(1, written=RANGES)
    assert set(tables.gene_shares(space, [evaluation])[0]) == {
        "time_steps",
        "embedding.neuron.v_threshold",
        "embed_dim",
        "depth",
        "num_heads",
        "neuron.v_threshold",
        "neuron.tau",
        "groups.attention.v_threshold",
        "groups.fc1.tau",
    }


def test_gene_shares_pool_positions_that_differ() -> None:
    stage = {"embed_dim": 8, "depth": [1, 2], "blocks": [{"num_heads": [1, 2]}, {"num_heads": [2, 4]}]}
    space = SearchSpace.from_dict({"time_steps": 2, "stages": [stage]})
    found = [of_blocks((1, 1.0)), of_blocks((1, 1.0), (4, 1.0)), of_blocks((2, 1.0), (2, 1.0))]
    assert tables.gene_shares(space, found)[0]["num_heads"] == {"1": 2 / 5, "2": 2 / 5, "4": 1 / 5}


TWO_STAGES: dict[str, Any] = {
    "family": "meta_spikeformer",
    "time_steps": 2,
    "shortcut": ["membrane", "sew"],
    "stages": [
        {"embed_dim": [8, 16], "depth": 1, "block": {"token_mixer": ["sdsa_3", "none"], "num_heads": [1, 2]}},
        {
            "embed_dim": [16, 32],
            "depth": 1,
            "block": {"token_mixer": "none", "channel_mixer": ["mlp", "conv"], "groups": {"fc2": {"tau": [2, 3]}}},
        },
    ],
}


def staged(
    shortcut: Literal["membrane", "sew"], width: int, heads: int | None, channel: Literal["mlp", "conv"], tau: float | None
) -> Evaluation:
    first = Block(token_mixer="none") if heads is None else Block(num_heads=heads)
    second = Block(token_mixer="none", channel_mixer=channel, groups=NeuronGroups(fc2=NeuronOverride(tau=tau)))
    stages = (Stage(embed_dim=width, blocks=(first,)), Stage(embed_dim=32, blocks=(second,)))
    built = Architecture(family="meta_spikeformer", time_steps=2, shortcut=shortcut, stages=stages)
    return evaluation_of(measurement(built, correct=1), f_aeb=0.1, generation=0)


def test_gene_shares_of_stages_by_hand() -> None:
    # A gene counts in the architectures that have it: two have heads, one has fc2 neurons. Stages are numbered as in the file.
    found = [staged("membrane", 8, 1, "mlp", None), staged("membrane", 16, 1, "conv", None), staged("sew", 8, None, "mlp", 3)]
    found.append(staged("membrane", 8, None, "mlp", None))
    (shares,) = tables.gene_shares(SearchSpace.from_dict(TWO_STAGES), found)
    assert shares == {
        "shortcut": {"membrane": 3 / 4, "sew": 1 / 4},
        "stage 1 embed_dim": {"8": 3 / 4, "16": 1 / 4},
        "stage 1 token_mixer": {"sdsa_3": 1 / 2, "none": 1 / 2},
        "stage 1 num_heads": {"1": 1.0, "2": 0.0},
        "stage 2 embed_dim": {"16": 0.0, "32": 1.0},
        "stage 2 channel_mixer": {"mlp": 3 / 4, "conv": 1 / 4},
        "stage 2 groups.fc2.tau": {"2": 0.0, "3": 1.0},
    }
    assert list(shares["stage 1 token_mixer"]) == ["sdsa_3", "none"]


@pytest.mark.parametrize("path", [pytest.param(path, id=name) for name, path in files_of("search_spaces").items()])
def test_gene_shares_of_every_space_are_those_of_its_architectures(path: Path) -> None:
    """The blocks are found in the JSON without parsing it."""
    space, rng = SearchSpace.load(path), random.Random(0)
    architectures = [space.largest(), *(space.sample(rng) for _ in range(8))]
    counts: dict[str, Counter[str]] = {}
    for found in (gene for architecture in architectures for gene in space.genes(architecture) if gene.gene.size > 1):
        counts.setdefault(tables.gene_name(found.path, len(space.stages)), Counter())[tables.level(found.gene, found.value)] += 1
    (shares,) = tables.gene_shares_of(space, [architecture.to_json() for architecture in architectures])
    assert {gene: {level: share for level, share in of.items() if share} for gene, of in shares.items()} == {
        gene: {level: number / counted.total() for level, number in counted.items()} for gene, counted in counts.items()
    }


def test_gene_shares_omit_a_gene_that_no_candidate_has() -> None:
    (shares,) = tables.gene_shares(SearchSpace.from_dict(TWO_STAGES), [staged("membrane", 8, None, "mlp", None)])
    names = {"stage 1 embed_dim", "stage 1 token_mixer", "stage 2 embed_dim", "stage 2 channel_mixer"}
    assert set(shares) == {"shortcut"} | names


def test_gene_figure_of_a_front_that_lacks_a_gene() -> None:
    space = SearchSpace.from_dict(TWO_STAGES)
    best = [staged("membrane", 8, None, "mlp", None)]
    evaluations = [*best, staged("sew", 8, 1, "mlp", 3)]
    shares = tables.gene_shares(space, evaluations, best)
    panels = {axes.get_title(loc="left") for axes in figures.genes(*shares, title="digits").axes if axes.axison}
    assert panels == set(shares[0]) == set(shares[1])
    assert shares[0]["stage 1 num_heads"] == {"1": 1.0, "2": 0.0}
    assert shares[1]["stage 1 num_heads"] == {"1": 0.0, "2": 0.0}


def test_gene_shares_of_all_groups_have_the_same_values() -> None:
    """Positions differ here. A value that does not occur on the front has a share of 0 there."""
    blocks = [{"num_heads": [1, 2]}, {"token_mixer": ["none", "sdsa_3"], "num_heads": [2, 4]}]
    space = SearchSpace.from_dict({"stages": [{"embed_dim": 8, "depth": 2, "blocks": blocks}]})
    best, other = (space.sample(random.Random(seed)) for seed in (0, 1))
    evaluations = [
        evaluation_of(measurement(a, correct=1), f_aeb=0.1, generation=0)
        for a in (replaced_mixer(best, "none"), replaced_mixer(other, "sdsa_3"))
    ]
    uninterrupted, part = tables.gene_shares(space, evaluations, evaluations[:1])
    assert {name: set(shares) for name, shares in uninterrupted.items()} == {name: set(shares) for name, shares in part.items()}
    figures.genes(uninterrupted, part, title="digits")


def replaced_mixer(architecture: Architecture, mixer: Literal["none", "sdsa_3"]) -> Architecture:
    (stage,) = architecture.stages
    second = Block(token_mixer=mixer, num_heads=4 if mixer == "sdsa_3" else None)
    return replace(architecture, stages=(replace(stage, blocks=(stage.blocks[0], second)),))


def only_axes(figure: Figure) -> Any:
    """The axes of a figure with one panel. What they contain has general types in matplotlib."""
    (axes,) = figure.axes
    return axes


REFERENCE = Curve(
    label="reference network",
    kind="reference",
    points=(
        Point(accuracy=0.25, interval=(0.125, 0.5), energy_mj=0.0005, note="T = 1"),
        Point(accuracy=0.5, interval=(0.25, 0.75), energy_mj=0.001, note="T = 2"),
    ),
)
EXPORTED = Curve(label="exported subnet", kind="exported", points=(Point(accuracy=0.75, interval=(0.5, 1.0), energy_mj=0.002),))


@pytest.mark.parametrize("number", [1, 2, 40])
def test_pareto_figure_shows_every_candidate_and_the_front(number: int) -> None:
    evaluations = evaluated(number)
    table = tables.candidates(evaluations)
    axes = only_axes(figures.pareto(table, [REFERENCE, EXPORTED], title="digits", convention="exact"))
    shown = sorted(axes.collections[0].get_offsets().tolist())
    assert shown == sorted(
        [energy * 1000, accuracy] for energy, accuracy in zip(table["energy_mj"], table["accuracy"], strict=True)
    )
    by_label = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    expected = sorted([energy * 1000, correct / 1_000_000] for correct, energy in undominated(evaluations))
    line = by_label["Pareto front (95 % intervals)"]
    assert line.get_xydata().tolist() == [pytest.approx(point, rel=1e-12) for point in expected]
    assert line.get_drawstyle() == "steps-post"
    assert by_label["reference network"].get_xydata().tolist() == [[0.5, 0.25], [1.0, 0.5]]
    assert by_label["exported subnet"].get_xydata().tolist() == [[2.0, 0.75]]
    assert axes.get_xscale() == "log"


def test_points_have_their_intervals_as_bars_and_their_notes() -> None:
    axes = only_axes(figures.pareto(tables.candidates(evaluated(3)), [REFERENCE], title="digits", convention="exact"))
    bars = axes.collections[-1].get_segments()
    assert [bar.tolist() for bar in bars] == [[[0.5, 0.125], [0.5, 0.5]], [[1.0, 0.25], [1.0, 0.75]]]
    assert [text.get_text() for text in axes.texts] == ["T = 1", "T = 2"]


def test_the_front_has_wilson_intervals() -> None:
    """36 of 40, by hand: (0.94802 -+ 0.10464) / 1.09604."""
    table = tables.candidates([evaluation_of(measurement(small(), correct=36, images=40, acs=10.0), f_aeb=0.1, generation=0)])
    axes = only_axes(figures.pareto(table, [], title="digits", convention="exact"))
    ((low, high),) = axes.collections[1].get_segments()
    assert [low[1], high[1]] == pytest.approx([0.76948, 0.96042], abs=1e-5)


def test_pareto_figure_has_a_title_and_a_legend() -> None:
    axes = only_axes(figures.pareto(tables.candidates(evaluated(3)), [REFERENCE], title="digits", convention="exact"))
    assert axes.get_title(loc="left") == "digits"
    assert axes.get_xlabel() == "energy per image (µJ, counted, `exact`)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "3 subnets, measured",
        "Pareto front (95 % intervals)",
        "knee",
        "reference network",
    ]


def test_search_figure_has_a_line_for_each_search() -> None:
    histories = [
        tables.SearchHistory(search_id=name, hypervolume=[0.1, offset], best_f_aeb=[0.3, offset + 0.1])
        for name, offset in [("nsga2-1", 0.2), ("aeb-2", 0.4)]
    ]
    panels: list[Any] = figures.search(histories, title="digits").axes
    left, right = panels
    assert [line.get_ydata().tolist() for line in left.lines] == [[0.1, 0.2], [0.1, 0.4]]
    assert [line.get_ydata().tolist() for line in right.lines] == [[0.3, pytest.approx(0.3)], [0.3, 0.5]]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["NSGA-II", "evolution on F_AEB"]


def test_searches_of_one_algorithm_are_numbered() -> None:
    names = figures.search_names(["nsga2-0f1e2d3c4b5a", "random-1", "nsga2-ffffffffffff"])
    assert names == ["NSGA-II (1)", "random search", "NSGA-II (2)"]


def test_gene_figure_has_a_panel_for_each_gene() -> None:
    space, evaluations = SearchSpace.from_dict(SPACE), evaluated(20)
    all_shares, front_shares = tables.gene_shares(space, evaluations, front(evaluations))
    figure = figures.genes(all_shares, front_shares, title="digits")
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert set(panels) == {"time_steps", "embed_dim", "depth", "num_heads", "neuron.v_threshold"}
    for name, axes in panels.items():
        heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
        assert heights == [list(all_shares[name].values()), list(front_shares[name].values())]


def test_layers_are_rows_under_a_convention() -> None:
    uninterrupted = energy_tables.by_layer(COUNTS, EXACT).to_dict("records")
    assert [row["layer"] for row in uninterrupted] == [count.layer for count in COUNTS]
    assert all(row["energy_mj"] == row["share"] == 0 for row in uninterrupted if row["form"] == "separate")
    rows = [row for row in uninterrupted if row["form"] != "separate"]
    assert [row["layer"].rpartition(".")[2] for row in rows] == ["conv", "q", "fused", "head"]
    columns = ("input", "reads", "form", "time_steps", "dense_macs", "macs", "acs")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("real", "image", "always", 2, 200, 200, 0),
        ("binary", "stream", "always", 2, 100, 0, 60),
        ("integer", "stream", "fused", 2, 900, 0, 200),
        ("real", "mean", "always", 2, 60, 60, 0),
    ]
    picojoules = [4.6 * 200, 0.9 * 60, 0.9 * 200, 4.6 * 60]
    assert [row["energy_mj"] for row in rows] == pytest.approx([pj * 1e-9 for pj in picojoules], rel=1e-12)
    assert [row["share"] for row in rows] == pytest.approx([pj / 1430 for pj in picojoules], rel=1e-12)
    _, q, fused, _ = rows
    assert [(row["rate"], row["acs_1"], row["acs_2"], row["rate_1"], row["rate_2"]) for row in (q, fused)] == [
        (0.375, 20, 40, 0.25, 0.5),
        (0.25, 100, 100, 0.25, 0.25),
    ]
    assert all(pd.isna(row[name]) for row in (rows[0], rows[3]) for name in ("rate", "acs_1", "rate_2"))


def test_layers_have_their_energy_under_every_convention() -> None:
    conv, q, *_, head = energy_tables.by_layer(COUNTS, EXACT).to_dict("records")
    names = ["exact", "rate", "spikformer", "binary-only", "fused", "integer", "memory"]
    found = [[row[f"energy_mj_{name}"] * 1e9 for name in names] for row in (conv, q, head)]
    assert found == [
        pytest.approx([920, 920, 1840, 1840, 1840, 920, 24.6 * 200], rel=1e-12),
        pytest.approx([54, 67.5, 67.5, 67.5, 67.5, 67.5, 30.9 * 60], rel=1e-12),
        pytest.approx([276] * 6 + [24.6 * 60], rel=1e-12),
    ]


def test_layers_have_the_documented_columns() -> None:
    """For any kind of input of the first layer."""
    columns = ["layer", "input", "reads", "form", "time_steps", "dense_macs", "rate", "macs", "acs", "energy_mj", "share"]
    columns += ["acs_1", "acs_2", "rate_1", "rate_2"] + [f"energy_mj_{name}" for name in TOTALS]
    assert list(energy_tables.by_layer(COUNTS[1:], EXACT).columns) == columns
    assert list(energy_tables.by_layer(COUNTS, EXACT).columns) == columns


@pytest.mark.parametrize("name", TOTALS)
def test_layers_sum_to_the_total(name: str) -> None:
    table = energy_tables.by_layer(COUNTS, CONVENTIONS[name])
    macs, acs, picojoules = TOTALS[name]
    assert (table["macs"].sum(), table["acs"].sum()) == (macs, acs)
    assert table["energy_mj"].sum() == pytest.approx(picojoules * 1e-9, rel=1e-12)
    assert table["energy_mj"].tolist() == table[f"energy_mj_{name}"].tolist()
    assert table["share"].sum() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("chosen", ["exact", "spikformer"])
def test_layers_sum_to_the_total_of_every_other_convention(chosen: str) -> None:
    """Also of a convention that includes operations which the chosen one excludes."""
    table = energy_tables.by_layer(COUNTS, CONVENTIONS[chosen])
    found = {name: table[f"energy_mj_{name}"].sum() for name in TOTALS}
    assert found == pytest.approx({name: picojoules * 1e-9 for name, (_, _, picojoules) in TOTALS.items()}, rel=1e-12)


def test_a_table_without_layers_has_the_same_columns() -> None:
    table = energy_tables.by_layer([], EXACT)
    assert len(table) == 0
    assert list(table.columns)[:11] == list(energy_tables.by_layer(COUNTS, EXACT).columns)[:11]


@pytest.mark.parametrize("chosen", ["exact", "binary-only", "memory"])
def test_totals_begin_with_the_chosen_convention(chosen: str) -> None:
    table = energy_tables.by_convention(COUNTS, CONVENTIONS[chosen])
    assert list(table.columns) == ["convention", "source", "macs", "acs", "energy_mj", "ratio"]
    assert table["convention"].tolist() == [chosen, *(name for name in TOTALS if name != chosen)]
    for row in table.to_dict("records"):
        macs, acs, picojoules = TOTALS[row["convention"]]
        assert (row["macs"], row["acs"], row["source"]) == (macs, acs, CONVENTIONS[row["convention"]].source)
        assert row["energy_mj"] == pytest.approx(picojoules * 1e-9, rel=1e-12)
        assert row["ratio"] == pytest.approx(picojoules / TOTALS[chosen][2], rel=1e-12)


def test_totals_under_a_convention_with_modifiers() -> None:
    table = energy_tables.by_convention(COUNTS, convention_of("spikformer/int8/image-once"))
    assert table["convention"].tolist() == ["spikformer/int8/image-once", *TOTALS]
    assert table["energy_mj"].iloc[0] == pytest.approx((0.23 * 560 + 0.03 * 125) * 1e-9, rel=1e-12)


def test_totals_without_layers_have_no_ratio() -> None:
    table = energy_tables.by_convention([], EXACT)
    assert table["energy_mj"].tolist() == [0] * len(TOTALS)
    assert table["ratio"].isna().all()


def test_each_number_of_time_steps_is_a_row() -> None:
    """At T = 1: 200 + 60 MACs, 20 + 100 ACs exactly; 400 - 200 + 150 + 60 + 100 MACs and 25 ACs where only spikes accumulate."""
    two = Measurement(architecture=small(time_steps=2), correct=2, images=4, counts=COUNTS, params=7, seconds=0.5)
    one_step = replace(two, architecture=small(time_steps=1), correct=3, counts=tuple(c.first(1) for c in COUNTS))
    table = energy_tables.by_time_steps([one_step, two], CONVENTIONS["binary-only"])
    assert list(table.columns) == ["time_steps", "accuracy", "images", "energy_mj", *(f"energy_mj_{name}" for name in TOTALS)]
    assert (table["time_steps"].tolist(), table["accuracy"].tolist()) == ([1, 2], [0.75, 0.5])
    assert table["energy_mj"].tolist() == table["energy_mj_binary-only"].tolist()
    one = {"exact": 4.6 * 260 + 0.9 * 120, "binary-only": 4.6 * 510 + 0.9 * 25}
    for name, picojoules in one.items():
        expected = [picojoules * 1e-9, TOTALS[name][2] * 1e-9]
        assert table[f"energy_mj_{name}"].tolist() == pytest.approx(expected, rel=1e-12)


def many(number: int) -> pd.DataFrame:
    """Layers of one MAC each: an embedding's convolution, then blocks of two layers in each of two parts, then a head."""
    parts = [f"stages.0.blocks.{i // 4}.{('token', 'channel')[i // 2 % 2]}.mixer.l{i % 2}" for i in range(number - 2)]
    names = ["stages.0.embedding.conv", *parts, "head"]
    counts = [LayerCount(layer=name, input="real", time_steps=1, macs=1, acs=(), rate=()) for name in names]
    return energy_tables.by_layer(counts, EXACT)


def test_few_layers_have_a_bar_each() -> None:
    bars = energy_tables.bar_energies(many(48))
    assert list(bars.index) == many(48)["layer"].tolist()
    assert bars.tolist() == pytest.approx([4.6e-9] * 48, rel=1e-12)


def test_an_operation_that_a_convention_excludes_has_no_bar() -> None:
    for name, count in (("exact", 4), ("spikformer", 5)):
        bars = energy_tables.bar_energies(energy_tables.by_layer(COUNTS, CONVENTIONS[name]))
        assert len(bars) == count
        assert bars.sum() == pytest.approx(TOTALS[name][2] * 1e-9, rel=1e-12)


def test_many_layers_are_summed_by_part_of_a_block() -> None:
    bars = energy_tables.bar_energies(many(50))
    blocks = [f"stages.0.blocks.{i}.{part}" for i in range(12) for part in ("token", "channel")]
    assert list(bars.index) == ["stages.0.embedding", *blocks, "head"]
    assert bars.tolist() == pytest.approx([4.6e-9, *[9.2e-9] * 24, 4.6e-9], rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 9.0])
def test_energy_figure_has_a_bar_for_each_layer(scale: float) -> None:
    """From the top, in microjoules."""
    energies = pd.Series([2.0, 1.0, 3.0], index=["first", "second", "last"]) * scale
    axes = only_axes(figures.energy_by_layer(energies, title="a network", convention="exact"))
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([2000 * scale, 1000 * scale, 3000 * scale])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second", "last"]
    assert axes.yaxis_inverted()
    assert axes.get_title(loc="left") == "a network"
    assert axes.get_xlabel() == "energy per image (µJ, counted, `exact`)"


@pytest.mark.parametrize("scale", [1e-6, 2.0])
def test_energy_curve_has_a_point_for_each_number_of_steps(scale: float) -> None:
    table = pd.DataFrame({"time_steps": [1, 2, 3], "accuracy": [0.25, 0.75, 0.5], "energy_mj": [scale, 2 * scale, 4 * scale]})
    axes = only_axes(figures.energy_curve(table.assign(images=40), title="a network", convention="exact", metric="accuracy"))
    line = axes.lines[-1]
    points = [[scale * 1000, 0.25], [2000 * scale, 0.75], [4000 * scale, 0.5]]
    assert line.get_xydata().tolist() == [pytest.approx(point, rel=1e-12) for point in points]
    assert [note.get_text() for note in axes.texts] == ["T = 1", "T = 2", "T = 3"]
    assert [list(note.xy) for note in axes.texts] == [pytest.approx(point, rel=1e-12) for point in points]
    ends = [[low[1], high[1]] for low, high in axes.collections[0].get_segments()]
    assert ends[2] == pytest.approx([0.35200, 0.64800], abs=1e-5)  # 20 of 40, by hand


def test_a_record_has_the_fields_of_a_measurement() -> None:
    architecture = small(time_steps=2)
    measured = Measurement(architecture=architecture, correct=3, images=4, counts=COUNTS, params=7, seconds=0.5)
    found = record(measured, convention_of("binary-only/fp16"), "search")
    by_name = found.pop("energy_mj_by_convention")
    assert list(by_name) == list(TOTALS)
    assert list(by_name.values()) == pytest.approx([pj * 1e-9 for _, _, pj in TOTALS.values()], rel=1e-12)
    layers = found.pop("layers")
    assert from_rows(json.loads(json.dumps(layers))) == COUNTS
    assert found == {
        "architecture_id": architecture.id,
        "architecture": architecture.to_dict(),
        "search_accuracy": 0.75,
        "search_images": 4,
        "search_correct": 3,
        "search_accuracy_interval": [pytest.approx(0.30064, abs=1e-5), pytest.approx(0.95441, abs=1e-5)],  # Wilson, by R
        "correct_mask": "",
        "energy_mj": pytest.approx((1.5 * 960 + 0.4 * 75) * 1e-9, rel=1e-12),
        "energy_uj": pytest.approx((1.5 * 960 + 0.4 * 75) * 1e-6, rel=1e-12),
        "energy_mj_int8": pytest.approx((0.23 * 960 + 0.03 * 75) * 1e-9, rel=1e-12),
        "convention": "binary-only/fp16",
        "macs": 960,
        "acs": 75,
        "pj_per_mac": 1.5,
        "pj_per_ac": 0.4,
        "params": 7,
        "time_steps": 2,
    }
    assert {"test_accuracy", "test_images"} <= record(measured, EXACT, "test").keys()
    assert record(measured, CONVENTIONS["memory"], "test")["energy_mj_int8"] is None


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.read_bytes().endswith(b"IEND\xaeB`\x82")


def is_svg(path: Path) -> bool:
    return ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_equal_figures_have_equal_files(tmp_path: Path) -> None:
    table = tables.candidates(evaluated(8))
    for name in ("one", "two"):
        figures.save(figures.pareto(table, [REFERENCE], title="digits", convention="exact"), tmp_path / f"{name}.png")
    assert is_png(tmp_path / "one.png")
    assert is_svg(tmp_path / "one.svg")
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")
    for ending in ("png", "svg", "pdf"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
    assert set(tmp_path.iterdir()) == {*figures.paths(tmp_path / "one.png"), *figures.paths(tmp_path / "two.png")}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run whose baseline is measured and whose archive is empty."""
    written = {"space": SPACE, "data": {"name": "digits", "image_size": 8}, "training": {"epochs": 1}}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(written))
    started = RunDirectory.start(Experiment.load(tmp_path / "experiment.yaml"), tmp_path / "run")
    started.save()
    started.baseline.mkdir()
    (started.baseline / "measurement.json").write_text(
        json.dumps({"search_accuracy": 0.5, "time_steps": 2, "layers": to_rows(COUNTS)})
    )
    return started


def fill(run: RunDirectory, evaluations: list[Evaluation], protocol: str = "the newest supernet") -> None:
    archive = Archive(run.archive, protocol)
    archive.begin("nsga2-1", "{}")
    archive.add(evaluations)
    architectures = [e.measurement.architecture for e in evaluations]
    for i in range(0, len(evaluations), 4):
        archive.propose("nsga2-1", i // 4, architectures[i : i + 4])
    archive.close()


def test_plot_writes_the_report(run: RunDirectory) -> None:
    evaluations = evaluated(20)
    fill(run, evaluated(9, seed=5), protocol="an older supernet")
    fill(run, evaluations)
    plot(run)
    assert {path.name for path in run.report.iterdir()} == {
        "candidates.csv",
        "front.csv",
        "importance.csv",
        *("front.md", "front.tex", "front_plot.csv", "report.html"),
        *(f"{name}.{ending}" for name in ("genes", "pareto", "search") for ending in ("png", "svg", "pdf")),
    }
    assert all(is_png(run.report / f"{name}.png") for name in ("genes", "pareto", "search"))
    assert is_svg(run.report / "pareto.svg")
    candidates, best = (pd.read_csv(run.report / name, dtype={"id": str}) for name in ("candidates.csv", "front.csv"))
    assert list(candidates.columns) == list(best.columns) == WRITTEN
    assert candidates["energy_uj"].tolist() == pytest.approx((candidates["energy_mj"] * 1000).tolist(), rel=1e-12)
    assert list(candidates["id"]) == [e.measurement.architecture.id for e in evaluations]
    assert list(best["id"]) == [e.measurement.architecture.id for e in front(evaluations)]


def test_plot_of_a_space_without_a_choice(run: RunDirectory) -> None:
    only = Architecture(stages=(Stage(embed_dim=8, blocks=(Block(),)),))
    alone = {"stages": [{"embed_dim": 8, "depth": 1}]}
    fill(run, [evaluation_of(analytic(only), f_aeb=0.5, generation=0)])
    plot(RunDirectory(folder=run.folder, experiment=run.experiment.model_copy(update={"space": alone})))
    assert is_png(run.report / "genes.png")


def analytic_with_integer_inputs(architecture: Architecture) -> Measurement:
    """Return `analytic` with one more layer that reads sums of spikes; the narrower the network, the more MACs it has."""
    measured, width, steps = analytic(architecture), architecture.stages[0].embed_dim, architecture.time_steps
    sums = LayerCount(
        layer="sums", input="integer", time_steps=steps, macs=10**6 // width, acs=(width,) * steps, rate=(0.5,) * steps
    )
    return replace(measured, counts=(*measured.counts, sums))


def by_hand(architecture: Architecture) -> dict[str, float]:
    """Return the energies in mJ: sums are accumulations or dense, and 9 MACs per step read spikes with rate 0.25."""
    width, steps = architecture.stages[0].embed_dim, architecture.time_steps
    analytic_acs = sum(analytic(architecture).counts[1].acs)
    return {
        "binary-only": 1e-9 * steps * (4.6 * (100 + 10**6 // width) + 0.9 * 9 * 0.25),
        "exact": 1e-9 * (4.6 * 100 * steps + 0.9 * (analytic_acs + width * steps)),
        "rate/int8": 1e-9 * steps * (0.23 * 100 + 0.03 * (9 * 0.25 + 0.5 * (10**6 // width))),
    }


def searched(run: RunDirectory) -> list[Evaluation]:
    """An archive of candidates with sums of spikes, as a search under `exact` leaves it."""
    measured = [analytic_with_integer_inputs(e.measurement.architecture) for e in evaluated(20)]
    evaluations = [evaluation_of(m, f_aeb=0.125, generation=i // 4) for i, m in enumerate(measured)]
    fill(run, evaluations)
    return evaluations


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "candidates.csv", dtype={"id": str})


def energies_of(evaluations: list[Evaluation], convention: str) -> Any:
    return pytest.approx([by_hand(e.measurement.architecture)[convention] for e in evaluations], rel=1e-12)


@pytest.mark.slow
def test_another_convention_has_its_own_folder(run: RunDirectory) -> None:
    """The report under the convention of the search and the archive do not change."""
    searched(run)
    plot(run)
    own, archived = written(run.report), run.archive.read_bytes()
    plot(run, convention_of("rate/int8"))
    assert written(run.report) == own
    assert run.archive.read_bytes() == archived
    assert written(run.report / "rate-int8").keys() == own.keys()
    assert table_of(run.report / "rate-int8")["id"].tolist() == table_of(run.report)["id"].tolist()


@pytest.mark.parametrize(("convention", "folder"), [("binary-only", "binary-only"), ("rate/int8", "rate-int8")])
def test_energy_and_fitness_follow_from_the_counts(run: RunDirectory, convention: str, folder: str) -> None:
    """F_AEB is relative to the energy that the largest subnet has under the same convention."""
    evaluations = searched(run)
    found = SearchReport.of(run, convention_of(convention))
    table = found.candidates
    assert found.folder == run.report / folder
    assert list(table.columns) == COLUMNS
    assert table["energy_mj"].tolist() == energies_of(evaluations, convention)
    reference = by_hand(SearchSpace.from_dict(SPACE).largest())[convention]
    expected = [a * (e / reference) ** -0.07 for a, e in zip(table["accuracy"], table["energy_mj"], strict=True)]
    assert table["f_aeb"].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_convention_may_change_the_front(run: RunDirectory) -> None:
    """Narrow candidates need little energy for accumulations and much for dense operations."""
    searched(run)
    found = [SearchReport.of(run, convention_of(name)).candidates for name in ("exact", "binary-only")]
    fronts = [set(table["id"][table["on_front"]]) for table in found]
    assert fronts[0] != fronts[1]


def test_another_name_of_the_convention_of_the_search_gives_the_same_report(run: RunDirectory) -> None:
    evaluations = searched(run)
    found = SearchReport.of(run, convention_of("exact/fp32/image-once"))
    assert (found.folder, found.convention) == (run.report, "exact")
    assert found.candidates["energy_mj"].tolist() == energies_of(evaluations, "exact")


@pytest.mark.slow
def test_a_worker_process_writes_the_same_report(run: RunDirectory) -> None:
    searched(run)
    plot(run)
    expected = {path.name: path.read_bytes() for path in run.report.iterdir()}
    plot(run, executor=WorkerProcess(print))
    assert {path.name: path.read_bytes() for path in run.report.iterdir()} == expected
    assert len(expected["pareto.png"]) > 1000


@pytest.mark.parametrize("candidates", [MANY_CANDIDATES - 1, pytest.param(MANY_CANDIDATES, marks=pytest.mark.slow)])
def test_a_large_archive_has_a_worker_process_where_there_are_two_cores(tmp_path: Path, candidates: int) -> None:
    db = open_to_write(tmp_path / "archive.sqlite")
    columns = [name for _, name, _, required, _, _ in db.execute("PRAGMA table_info(evaluations)") if required]
    others = ", 0" * (len(columns) - 1)
    counted = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
    db.execute(f"{counted} INSERT INTO evaluations ({', '.join(columns)}) SELECT n{others} FROM numbers", (candidates,))
    db.close()
    with report_executor(tmp_path / "archive.sqlite") as executor:
        found = executor.submit(os.getpid).result()
    assert (found != os.getpid()) == (candidates >= MANY_CANDIDATES and available_cores() > 1)


@pytest.mark.slow
def test_plot_uses_the_convention_of_the_search(run: RunDirectory) -> None:
    evaluations = searched(run)
    changed = RunDirectory.resume(run.folder, ["search.convention=binary-only"])
    plot(changed)
    plot(changed, convention_of("exact"))
    assert table_of(run.report)["energy_mj"].tolist() == energies_of(evaluations, "binary-only")
    assert table_of(run.report / "exact")["energy_mj"].tolist() == energies_of(evaluations, "exact")


@pytest.mark.slow
@pytest.mark.parametrize("convention", ["exact", "binary-only"])
def test_the_reference_network_is_scored_under_the_same_convention(run: RunDirectory, convention: str, tmp_path: Path) -> None:
    """Its energy is computed from the counts in its measurement, and drawn: equal figures have equal files."""
    searched(run)
    found = SearchReport.of(run, convention_of(convention))
    selected, reference = found.curves
    (point,) = reference.points
    assert (point.accuracy, point.note) == (0.5, "T = 2")
    assert point.energy_mj == pytest.approx(TOTALS[convention][2] * 1e-9, rel=1e-12)
    figures.save(found.figures()["pareto.png"], found.folder / "pareto.png")
    title = "digits: accuracy and energy of the subnets"
    figures.save(
        figures.pareto(found.candidates, [selected, reference], title=title, convention=convention), tmp_path / "expected.png"
    )
    assert (found.folder / "pareto.svg").read_bytes() == (tmp_path / "expected.svg").read_bytes()


def test_the_reference_network_is_a_curve_over_time_steps(run: RunDirectory) -> None:
    """Counts at T = 1 are the first steps: 200 + 60 MACs, 20 + 100 ACs."""
    searched(run)
    steps = [{"time_steps": t, "search_accuracy": a, "search_accuracy_interval": [0, 1]} for t, a in ((1, 0.25), (2, 0.5))]
    measured = {"search_accuracy": 0.5, "layers": to_rows(COUNTS), "by_time_steps": steps}
    (run.baseline / "measurement.json").write_text(json.dumps(measured))
    points = SearchReport.of(run, EXACT).curves[-1].points
    assert [(point.accuracy, point.note) for point in points] == [(0.25, "T = 1"), (0.5, "T = 2")]
    expected = [(4.6 * 260 + 0.9 * 120) * 1e-9, TOTALS["exact"][2] * 1e-9]
    assert [point.energy_mj for point in points] == pytest.approx(expected, rel=1e-12)


def test_the_subnet_in_the_export_folder_is_marked(run: RunDirectory) -> None:
    """Without an export, it is the one that the selection rule selects; an export of another supernet does not count."""
    evaluations = searched(run)
    assert SearchReport.of(run, EXACT).curves[0].label == "selected subnet (cheapest-within-noise)"
    chosen = evaluations[7].measurement
    for protocol, label in (("another", "selected subnet (cheapest-within-noise)"), ("the newest supernet", "exported subnet")):
        run.export.mkdir(exist_ok=True)
        report = {"architecture_id": chosen.architecture.id, "provenance": {"protocol_id": protocol}}
        (run.export / "report.json").write_text(json.dumps(report))
        assert SearchReport.of(run, EXACT).curves[0].label == label
    (point,) = SearchReport.of(run, EXACT).curves[0].points
    assert (point.accuracy, point.energy_mj) == (chosen.accuracy, chosen.energy(EXACT).energy_mj)
    tuned = run.retrain / chosen.architecture.id / "fine-tuned" / "seed-0"
    tuned.mkdir(parents=True)
    measured = {"search_accuracy": 0.9, "search_images": 40, "layers": to_rows(COUNTS)}
    (tuned / "measurement.json").write_text(json.dumps(measured))
    found = SearchReport.of(run, EXACT).curves[1]
    assert found.kind == "fine-tuned"
    assert found.points[0].accuracy == 0.9
    assert found.points[0].interval[0] == pytest.approx(0.76948, abs=1e-5)


def test_a_reference_network_without_counts_is_an_error_naming_the_command(run: RunDirectory) -> None:
    """An older version did not write counts."""
    searched(run)
    (run.baseline / "measurement.json").write_text(json.dumps({"accuracy": 0.5, "energy_mj": 0.001}))
    for convention in (None, convention_of("binary-only")):
        message = one_line_error(lambda convention=convention: plot(run, convention))  # type: ignore[misc]
        assert message.startswith(f"{run.baseline}: ")
        assert "autospike search" in message


def test_plot_before_a_search_is_an_error_naming_the_command(run: RunDirectory) -> None:
    message = one_line_error(lambda: plot(run))
    assert message.startswith(f"{run.folder}: ")
    assert "autospike search" in message


def test_plot_of_an_empty_archive_is_an_error_naming_the_command(run: RunDirectory) -> None:
    Archive(run.archive, "p").close()
    assert "autospike search" in one_line_error(lambda: plot(run))
