"""The report: tables that agree with brute force, a course computed by hand, and figures that are pictures."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import yaml
from builders import RANGES, analytic, edited, few, measurement, one_line_error, small
from hypothesis import given
from hypothesis import strategies as st

from autospike.architecture import Architecture, Block, Neuron, NeuronGroups, NeuronOverride, Stage
from autospike.commands.plot import plot
from autospike.report import figures, tables
from autospike.rundir import Run
from autospike.search.archive import Archive, Evaluation
from autospike.search.selection import front
from autospike.space import SearchSpace

# Other programs read RUN/report/candidates.csv.
COLUMNS = ["id", "accuracy", "energy_mj", "params", "time_steps", "f_aeb", "generation", "on_front", "architecture"]

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


def evaluated(number: int, *, seed: int = 0, written: dict[str, Any] = SPACE) -> list[Evaluation]:
    """The largest of a space and distinct draws from it, as a search would have left them."""
    space, rng = SearchSpace.from_dict(written), random.Random(seed)
    distinct = {space.largest(): None}
    while len(distinct) < number:
        distinct[space.sample(rng)] = None
    return [
        Evaluation(measurement=analytic(architecture), f_aeb=rng.random(), generation=i // 4)
        for i, architecture in enumerate(distinct)
    ]


def undominated(evaluations: list[Evaluation]) -> set[tuple[int, float]]:
    scores = [e.measurement.score for e in evaluations]
    points = {(score.correct, score.energy.energy_mj) for score in scores}
    return {
        (correct, energy)
        for correct, energy in points
        if not any(c >= correct and e <= energy and (c, e) != (correct, energy) for c, e in points)
    }


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
        assert row["accuracy"] == measured.score.correct / measured.score.images
        assert row["energy_mj"] == measured.score.energy.energy_mj
        assert (row["params"], row["time_steps"]) == (measured.params, measured.architecture.time_steps)
        assert (row["f_aeb"], row["generation"]) == (e.f_aeb, e.generation)


@few
@given(st.integers(1, 40), st.integers(0, 1000))
def test_front_is_what_nothing_dominates_by_rising_energy(number: int, seed: int) -> None:
    evaluations = evaluated(number, seed=seed)
    table = tables.candidates(evaluations)
    best = tables.front(table)
    assert list(best.columns) == COLUMNS
    images = evaluations[0].measurement.score.images
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


def test_course_by_hand() -> None:
    # Of the box 8 x 1: a covers 4 x 0.5; b nothing more; c 2 x 0.25 more; d 2 x 0.25 more.
    course = tables.course("nsga2-1", [["a"], ["b"], ["c", "d"]], FOUR, reference_mj=8.0)
    assert course.search_id == "nsga2-1"
    assert course.hypervolume == pytest.approx([2 / 8, 2 / 8, 3 / 8], rel=1e-12)
    assert course.best_f_aeb == [0.6, 0.7, 0.9]


def test_course_of_a_search_that_was_killed() -> None:
    course = tables.course("s", [["a", "b"], ["c", "asked but never measured"]], FOUR, reference_mj=8.0)
    assert course.hypervolume == pytest.approx([2 / 8, 2.5 / 8], rel=1e-12)
    assert course.best_f_aeb == [0.7, 0.7]


@few
@given(st.integers(0, 1000), st.integers(1, 7))
def test_course_never_falls(seed: int, size: int) -> None:
    evaluations = evaluated(24, seed=seed)
    table = tables.candidates(evaluations)
    names = list(table["id"])
    generations = [names[i : i + size] for i in range(0, len(names), size)]
    course = tables.course("s", generations, table, reference_mj=table["energy_mj"].iloc[0])
    assert course.hypervolume == sorted(course.hypervolume)
    assert course.best_f_aeb == sorted(course.best_f_aeb)
    assert course.best_f_aeb[-1] == max(e.f_aeb for e in evaluations)


def of_blocks(*blocks: tuple[int, float], embed_dim: int = 8) -> Evaluation:
    """A member whose blocks have these head counts and thresholds."""
    built = tuple(Block(num_heads=heads, neuron=Neuron(v_threshold=threshold)) for heads, threshold in blocks)
    return Evaluation(measurement=measurement(small(embed_dim=embed_dim, blocks=built), correct=1), f_aeb=0.1, generation=0)


def test_gene_shares_by_hand() -> None:
    found = [of_blocks((1, 0.5)), of_blocks((1, 1.0), (2, 1.0), (4, 1.0), embed_dim=16), of_blocks((2, 1.0))]
    assert tables.gene_shares(SearchSpace.from_dict(SPACE), found)[0] == {
        "time_steps": {"1": 0.0, "2": 1.0},
        "embed_dim": {"8": 2 / 3, "16": 1 / 3},
        "depth": {"1": 2 / 3, "2": 0.0, "3": 1 / 3},
        "num_heads": {"1": 2 / 5, "2": 2 / 5, "4": 1 / 5},
        "neuron.v_threshold": {"0.5": 1 / 5, "1": 4 / 5},
    }


def test_gene_shares_cut_a_range_in_five() -> None:
    space = SearchSpace.from_dict(edited(SPACE, "stages.0.block.neuron.v_threshold", {"low": 0.5, "high": 1.5, "sigma": 0.1}))
    found = [of_blocks((1, 0.5)), of_blocks((1, 0.69)), of_blocks((1, 0.71)), of_blocks((1, 1.25), (1, 1.5))]
    assert tables.gene_shares(space, found)[0]["neuron.v_threshold"] == {
        "0.5 to 0.7": 2 / 5,
        "0.7 to 0.9": 1 / 5,
        "0.9 to 1.1": 0.0,
        "1.1 to 1.3": 1 / 5,
        "1.3 to 1.5": 1 / 5,
    }


def test_gene_shares_name_embedding_and_groups() -> None:
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


def staged(shortcut: str, width: int, heads: int | None, channel: str, tau: float | None) -> Evaluation:
    first = Block(token_mixer="none") if heads is None else Block(num_heads=heads)
    second = Block(token_mixer="none", channel_mixer=channel, groups=NeuronGroups(fc2=NeuronOverride(tau=tau)))
    stages = (Stage(embed_dim=width, blocks=(first,)), Stage(embed_dim=32, blocks=(second,)))
    built = Architecture(family="meta_spikeformer", time_steps=2, shortcut=shortcut, stages=stages)
    return Evaluation(measurement=measurement(built, correct=1), f_aeb=0.1, generation=0)


def test_gene_shares_of_stages_by_hand() -> None:
    # A gene counts in the architectures that have it: two have heads, one has fc2 neurons. Stages are numbered as in the file.
    found = [staged("membrane", 8, 1, "mlp", None), staged("membrane", 16, 1, "conv", None), staged("sew", 8, None, "mlp", 3)]
    found.append(staged("membrane", 8, None, "mlp", None))
    (shares,) = tables.gene_shares(SearchSpace.from_dict(TWO_STAGES), found)
    assert shares == {
        "shortcut": {"membrane": 3 / 4, "sew": 1 / 4},
        "stage 0 embed_dim": {"8": 3 / 4, "16": 1 / 4},
        "stage 0 token_mixer": {"sdsa_3": 1 / 2, "none": 1 / 2},
        "stage 0 num_heads": {"1": 1.0, "2": 0.0},
        "stage 1 embed_dim": {"16": 0.0, "32": 1.0},
        "stage 1 channel_mixer": {"mlp": 3 / 4, "conv": 1 / 4},
        "stage 1 groups.fc2.tau": {"2": 0.0, "3": 1.0},
    }
    assert list(shares["stage 0 token_mixer"]) == ["sdsa_3", "none"]


def test_gene_shares_leave_out_a_gene_that_nobody_has() -> None:
    (shares,) = tables.gene_shares(SearchSpace.from_dict(TWO_STAGES), [staged("membrane", 8, None, "mlp", None)])
    names = {"stage 0 embed_dim", "stage 0 token_mixer", "stage 1 embed_dim", "stage 1 channel_mixer"}
    assert set(shares) == {"shortcut"} | names


def test_gene_figure_of_a_front_that_lacks_a_gene() -> None:
    space = SearchSpace.from_dict(TWO_STAGES)
    best = [staged("membrane", 8, None, "mlp", None)]
    everyone = [*best, staged("sew", 8, 1, "mlp", 3)]
    shares = tables.gene_shares(space, everyone, best)
    panels = {axes.get_title(loc="left") for axes in figures.genes(*shares).axes if axes.axison}
    assert panels == set(shares[0]) == set(shares[1])
    assert shares[0]["stage 0 num_heads"] == {"1": 1.0, "2": 0.0}
    assert shares[1]["stage 0 num_heads"] == {"1": 0.0, "2": 0.0}


def test_gene_shares_of_all_parts_have_the_same_values() -> None:
    """Where positions differ, values that the front lacks stay in its table with a share of 0."""
    blocks = [{"num_heads": [1, 2]}, {"token_mixer": ["none", "sdsa_3"], "num_heads": [2, 4]}]
    space = SearchSpace.from_dict({"stages": [{"embed_dim": 8, "depth": 2, "blocks": blocks}]})
    best, other = (space.sample(random.Random(seed)) for seed in (0, 1))
    everyone = [
        Evaluation(measurement=measurement(a, correct=1), f_aeb=0.1, generation=0)
        for a in (replaced_mixer(best, "none"), replaced_mixer(other, "sdsa_3"))
    ]
    whole, part = tables.gene_shares(space, everyone, everyone[:1])
    assert {name: set(shares) for name, shares in whole.items()} == {name: set(shares) for name, shares in part.items()}
    figures.genes(whole, part)


def replaced_mixer(architecture: Architecture, mixer: str) -> Architecture:
    (stage,) = architecture.stages
    second = Block(token_mixer=mixer, num_heads=4 if mixer == "sdsa_3" else None)
    return replace(architecture, stages=(replace(stage, blocks=(stage.blocks[0], second)),))


@pytest.mark.parametrize("number", [1, 2, 40])
def test_pareto_figure_shows_every_candidate_and_the_front(number: int) -> None:
    evaluations = evaluated(number)
    table = tables.candidates(evaluations)
    figure = figures.pareto(table, {"accuracy": 0.5, "energy_mj": 0.001}, "digits")
    (axes,) = figure.axes
    shown = sorted(axes.collections[0].get_offsets().tolist())
    assert shown == sorted(
        [energy * 1000, accuracy] for energy, accuracy in zip(table["energy_mj"], table["accuracy"], strict=True)
    )
    line, _knee, baseline = axes.lines
    expected = sorted([energy * 1000, correct / 1_000_000] for correct, energy in undominated(evaluations))
    assert line.get_xydata().tolist() == [pytest.approx(point, rel=1e-12) for point in expected]
    assert baseline.get_xydata().tolist() == [[1.0, 0.5]]
    assert axes.get_xscale() == "log"


def test_search_figure_has_a_line_for_each_search() -> None:
    courses = [
        tables.Course(search_id=name, hypervolume=[0.1, offset], best_f_aeb=[0.3, offset + 0.1])
        for name, offset in [("nsga2-1", 0.2), ("aeb-2", 0.4)]
    ]
    left, right = figures.search(courses).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[0.1, 0.2], [0.1, 0.4]]
    assert [line.get_ydata().tolist() for line in right.lines] == [[0.3, pytest.approx(0.3)], [0.3, 0.5]]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["nsga2-1", "aeb-2"]


def test_gene_figure_has_a_panel_for_each_gene() -> None:
    space, evaluations = SearchSpace.from_dict(SPACE), evaluated(20)
    everyone, best = tables.gene_shares(space, evaluations, front(evaluations))
    figure = figures.genes(everyone, best)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert set(panels) == {"time_steps", "embed_dim", "depth", "num_heads", "neuron.v_threshold"}
    for name, axes in panels.items():
        heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
        assert heights == [list(everyone[name].values()), list(best[name].values())]


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.read_bytes().endswith(b"IEND\xaeB`\x82")


def is_svg(path: Path) -> bool:
    return ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_figures_are_pictures_and_always_the_same(tmp_path: Path) -> None:
    table = tables.candidates(evaluated(8))
    for name in ("one", "two"):
        figure = figures.pareto(table, {"accuracy": 0.5, "energy_mj": 0.001}, "digits")
        figures.save(figure, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    assert is_png(tmp_path / "one.png")
    assert is_svg(tmp_path / "one.svg")
    for ending in ("png", "svg"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose baseline is measured and whose archive is empty."""
    written = {"space": SPACE, "data": {"name": "digits", "image_size": 8}, "training": {"epochs": 1}}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(written))
    started = Run.start(tmp_path / "experiment.yaml", tmp_path / "run", [])
    started.record()
    started.baseline.mkdir()
    (started.baseline / "measurement.json").write_text(json.dumps({"accuracy": 0.5, "energy_mj": 0.001}))
    return started


def fill(run: Run, evaluations: list[Evaluation], protocol: str = "the newest supernet") -> None:
    archive = Archive(run.archive, protocol)
    archive.begin("nsga2-1", "{}")
    for e in evaluations:
        archive.add(e)
    architectures = [e.measurement.architecture for e in evaluations]
    for i in range(0, len(evaluations), 4):
        archive.propose("nsga2-1", i // 4, architectures[i : i + 4])
    archive.close()


def test_plot_writes_the_report(run: Run) -> None:
    evaluations = evaluated(20)
    fill(run, evaluated(9, seed=5), protocol="an older supernet")
    fill(run, evaluations)
    plot(run)
    assert {path.name for path in run.report.iterdir()} == {
        "candidates.csv",
        "front.csv",
        "genes.png",
        "pareto.png",
        "pareto.svg",
        "search.png",
    }
    assert all(is_png(run.report / f"{name}.png") for name in ("genes", "pareto", "search"))
    assert is_svg(run.report / "pareto.svg")
    candidates, best = (pd.read_csv(run.report / name, dtype={"id": str}) for name in ("candidates.csv", "front.csv"))
    assert list(candidates.columns) == list(best.columns) == COLUMNS
    assert list(candidates["id"]) == [e.measurement.architecture.id for e in evaluations]
    assert list(best["id"]) == [e.measurement.architecture.id for e in front(evaluations)]


def test_plot_of_a_space_without_a_choice(run: Run) -> None:
    only = Architecture(stages=(Stage(embed_dim=8, blocks=(Block(),)),))
    alone = {"stages": [{"embed_dim": 8, "depth": 1}]}
    fill(run, [Evaluation(measurement=analytic(only), f_aeb=0.5, generation=0)])
    plot(Run(folder=run.folder, experiment=run.experiment.model_copy(update={"space": alone})))
    assert is_png(run.report / "genes.png")


def test_plot_before_a_search_says_what_to_run(run: Run) -> None:
    message = one_line_error(lambda: plot(run))
    assert message.startswith(f"{run.folder}: ")
    assert "autospike search" in message


def test_plot_of_an_empty_archive_says_what_to_run(run: Run) -> None:
    Archive(run.archive, "p").close()
    assert "autospike search" in one_line_error(lambda: plot(run))
