"""The search, on a made-up network: resumed as uninterrupted, better than chance, and no candidate archived twice.

A search asks for `population` candidates a generation; their relatives are measured along and cost nothing. A generation is
archived as a whole, so a search that is killed loses the one at hand.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import accumulate, chain, islice, pairwise, product
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from builders import CONDITIONAL, analytic, edited, measurement, one_line_error, permits, scored, small
from hypothesis import given, settings
from hypothesis import strategies as st

from autospike.config import SearchConfig
from autospike.energy.conventions import DEFAULT
from autospike.energy.counts import LayerCount
from autospike.measurement import Evaluation, Measurement
from autospike.pareto import hypervolume
from autospike.randomness import global_random, keyed
from autospike.search import algorithms
from autospike.search.algorithms import ALGORITHMS, GenerationContext, Individual, fitness_of
from autospike.search.archive import Archive
from autospike.search.evolution import Evaluate, Search
from autospike.search.selection import front, pick
from autospike.search.variation import CROSSOVERS
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace

NAMES = sorted(ALGORITHMS)

# 25 million architectures: 3 numbers of steps, 4 widths, and 128 blocks, up to three deep.
WIDE: dict[str, Any] = {
    "time_steps": [1, 2, 3],
    "stages": [
        {
            "embed_dim": [16, 32, 48, 64],
            "depth": [1, 2, 3],
            "block": {
                "num_heads": [1, 2, 4, 8],
                "mlp_ratio": [1, 2, 3, 4],
                "neuron": {"v_threshold": [0.6, 1.0, 1.4, 1.8], "tau": [1.25, 2]},
            },
        }
    ],
}


class KilledError(Exception):
    """Stands for a signal that ends the process."""


def executor(
    measured: list[Architecture],
    *,
    after: float = float("inf"),
    wait: bool = True,
    measure: Callable[[Architecture], Measurement] = analytic,
) -> Evaluate:
    """Measure like `analytic` and record each architecture; raise after `after` of them, lazily if `wait`."""

    def one_by_one(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        for architecture in architectures:
            if len(measured) >= after:
                raise KilledError
            measured.append(architecture)
            yield measure(architecture)

    return one_by_one if wait else lambda architectures: iter(list(one_by_one(architectures)))


def requests(of: list[list[Architecture]]) -> Evaluate:
    """Measure like `analytic` and record the architectures of each call."""

    def recording(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        of.append(list(architectures))
        return map(analytic, of[-1])

    return recording


def settings_of(algorithm: str, **changed: object) -> SearchConfig:
    return SearchConfig.model_validate({"algorithm": algorithm, "population": 6, "generations": 4, "parents": 3, **changed})


def prepared(
    archive: Archive,
    config: SearchConfig,
    run: Evaluate,
    *,
    written: dict[str, Any] = WIDE,
    seed: int = 0,
    anchors: tuple[Architecture, ...] = (),
    on_evaluation: Callable[[Evaluation], None] = lambda _evaluation: None,
    on_resume: Callable[[int, float], None] = lambda _proposed, _best: None,
) -> Search:
    space = SearchSpace.from_dict(written)
    return Search(
        space=space,
        anchors=anchors,
        evaluate=run,
        archive=archive,
        config=config,
        seed=seed,
        on_evaluation=on_evaluation,
        on_resume=on_resume,
    )


def search(archive: Archive, config: SearchConfig, run: Evaluate, **rest: Any) -> None:
    prepared(archive, config, run, **rest).run()


def searched(config: SearchConfig, *, written: dict[str, Any] = WIDE, seed: int = 0) -> list[Evaluation]:
    """All that a search from nothing measures."""
    archive = Archive(Path(":memory:"), "p")
    search(archive, config, executor([]), written=written, seed=seed)
    evaluations = archive.all()
    archive.close()
    return evaluations


def contents(path: Path) -> tuple[list[Any], list[Any]]:
    """Every row of both tables in order, without what a clock says."""
    db = sqlite3.connect(path)
    names = [row[1] for row in db.execute("PRAGMA table_info(evaluations)") if row[1] not in ("seconds", "measured_at")]
    rows = db.execute(f"SELECT {', '.join(names)} FROM evaluations ORDER BY rowid").fetchall()
    proposals = db.execute("SELECT * FROM proposals ORDER BY rowid").fetchall()
    db.close()
    return rows, proposals


def proposed(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """The proposed candidates."""
    return [e for e in evaluations if not e.by_product]


def with_by_products(written: dict[str, Any], architecture: Architecture) -> set[Architecture]:
    """Who is measured along with an architecture, itself among them: every T, its last stage cut to every depth up to its own."""
    *before, last = architecture.stages
    depths = [depth for depth in written["stages"][-1]["depth"] if depth <= len(last.blocks)]
    return {
        replace(architecture, time_steps=time_steps, stages=(*before, replace(last, blocks=last.blocks[:depth])))
        for time_steps, depth in product(written["time_steps"], depths)
    }


def union(written: dict[str, Any], architectures: Iterable[Architecture]) -> set[Architecture]:
    return set().union(*(with_by_products(written, architecture) for architecture in architectures))


def architectures_of(evaluations: Iterable[Evaluation]) -> list[Architecture]:
    return [e.measurement.architecture for e in evaluations]


@cache
def uninterrupted(algorithm: str, generations: int = 4) -> tuple[list[Any], list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.sqlite"
        archive = Archive(path, "p")
        search(archive, settings_of(algorithm, generations=generations), executor([]))
        archive.close()
        return contents(path)


def archived_after_generation(algorithm: str) -> list[int]:
    """How many are archived after each walk, of a generation, of an uninterrupted search."""
    rows, proposals = uninterrupted(algorithm)
    generations = [row[1] for row in proposals]
    assert len(rows) == len(generations)
    return [0, *accumulate(generations.count(i) for i in range(4))]


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_same_seed_finds_the_same_front(algorithm: str) -> None:
    first, second = (searched(settings_of(algorithm), seed=7) for _ in range(2))
    assert second == first
    assert front(second) == front(first)


@pytest.mark.parametrize("algorithm", NAMES)
def test_another_seed_proposes_other_candidates(algorithm: str) -> None:
    one, other = (set(architectures_of(searched(settings_of(algorithm), seed=seed))) for seed in (7, 8))
    assert len(one & other) < len(one) / 2


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_killed_search_ends_as_an_uninterrupted_one(algorithm: str, share: float, wait: bool) -> None:
    """Only the generation in progress is measured again."""
    measured: list[Architecture] = []
    *ends, everyone = archived_after_generation(algorithm)
    killed_after = int(share * everyone)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.sqlite"
        archive = Archive(path, "p")
        with pytest.raises(KilledError):
            search(archive, settings_of(algorithm), executor(measured, after=killed_after))
        assert len(measured) == killed_after
        kept = max(end for end in ends if end <= killed_after)
        assert [row[0] for row in contents(path)[0]] == [architecture.id for architecture in measured[:kept]]
        archive.close()
        archive = Archive(path, "p")
        search(archive, settings_of(algorithm), executor(measured, wait=wait))
        archive.close()
        assert contents(path) == uninterrupted(algorithm)
    again = measured[:kept] + measured[killed_after:]
    assert len(again) == len(set(again)) == everyone


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_killed_search_of_a_conditional_space(algorithm: str, tmp_path: Path) -> None:
    measured: list[Architecture] = []
    expected = searched(settings_of(algorithm), written=CONDITIONAL)
    generations = [e.generation for e in expected]
    first, killed_after = generations.count(0), generations.count(0) + generations.count(1) // 2
    archive = Archive(tmp_path / "archive.sqlite", "p")
    with pytest.raises(KilledError):
        search(archive, settings_of(algorithm), executor(measured, after=killed_after), written=CONDITIONAL)
    assert archive.all() == expected[:first]
    search(archive, settings_of(algorithm), executor(measured), written=CONDITIONAL)
    assert archive.all() == expected
    again = measured[:first] + measured[killed_after:]
    assert len(again) == len(set(again)) == len(expected)
    assert len(proposed(expected)) == 24


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_search_killed_again_and_again(algorithm: str, tmp_path: Path) -> None:
    """Whenever it is killed, what it archived before is not measured again."""
    ends = archived_after_generation(algorithm)
    for kept, end in pairwise(ends):
        for lost in (0, 1, end - kept - 1):
            measured: list[Architecture] = []
            archive = Archive(tmp_path / "archive.sqlite", "p")
            with pytest.raises(KilledError):
                search(archive, settings_of(algorithm), executor(measured, after=lost))
            assert len(archive.all()) == kept
            archive.close()
        archive = Archive(tmp_path / "archive.sqlite", "p")
        with pytest.raises(KilledError) if end < ends[-1] else nullcontext():
            search(archive, settings_of(algorithm), executor([], after=end - kept))
        assert contents(tmp_path / "archive.sqlite")[0] == uninterrupted(algorithm)[0][:end]
        archive.close()
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_finished_search_measures_nothing_again(algorithm: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.sqlite", "p")
    search(archive, settings_of(algorithm), executor([]))
    search(archive, settings_of(algorithm), executor([], after=0))
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)


@pytest.mark.parametrize("algorithm", NAMES)
def test_more_generations_lengthen_a_search(algorithm: str, tmp_path: Path) -> None:
    measured: list[Architecture] = []
    archive = Archive(tmp_path / "archive.sqlite", "p")
    for generations in (1, 2, 4):
        search(archive, settings_of(algorithm, generations=generations), executor(measured))
        assert len(measured) == len(set(measured)) == len(archive.all()) == archived_after_generation(algorithm)[generations]
        assert len(proposed(archive.all())) == 6 * generations
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)
    assert list(archive.proposals()) == list({row[0] for row in uninterrupted(algorithm)[1]})


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_archive_does_not_depend_on_when_results_arrive(algorithm: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.sqlite", "p")
    search(archive, settings_of(algorithm), executor([], wait=False))
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)


def test_searches_share_what_is_measured(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.sqlite", "p")
    measured: list[Architecture] = []
    for algorithm in NAMES:
        search(archive, settings_of(algorithm), executor(measured))
    assert len(measured) == len(set(measured)) == len(archive.all())
    first = [generations[0] for generations in archive.proposals().values()]
    assert len(first) == 3  # one search each
    assert first[0] == first[1] == first[2]  # which begin alike, so the first generation is measured once
    assert len(measured) <= sum(map(len, chain(*archive.proposals().values()))) - 2 * len(first[0])


def test_another_protocol_measures_anew(tmp_path: Path) -> None:
    measured: list[Architecture] = []
    for protocol in ("p", "q"):
        search(Archive(tmp_path / "archive.sqlite", protocol), settings_of("nsga2"), executor(measured))
    assert len(measured) == 2 * archived_after_generation("nsga2")[-1]
    assert measured[: len(measured) // 2] == measured[len(measured) // 2 :]


class TestAlgorithm:
    """The interface of every algorithm."""

    @pytest.fixture(params=NAMES)
    def algorithm(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_candidates_are_distinct_members_in_the_right_number(self, algorithm: str) -> None:
        evaluations = searched(settings_of(algorithm, population=10, generations=5), seed=3)
        found = architectures_of(evaluations)
        assert len(found) == len(set(found))
        assert len(proposed(evaluations)) == 50
        assert all(permits(WIDE, architecture) for architecture in found)

    def test_candidates_of_a_conditional_space(self, algorithm: str) -> None:
        evaluations = searched(settings_of(algorithm, population=10, generations=5), written=CONDITIONAL, seed=3)
        found = architectures_of(evaluations)
        assert len(found) == len({architecture.id for architecture in found})
        assert len(proposed(evaluations)) == 50
        assert all(permits(CONDITIONAL, architecture) for architecture in found)
        assert {architecture.shortcut for architecture in found} == {"membrane", "sew"}

    def test_generations_are_of_the_population(self, algorithm: str, tmp_path: Path) -> None:
        archive = Archive(tmp_path / "archive.sqlite", "p")
        search(archive, settings_of(algorithm, population=7, generations=3), executor([]))
        (generations,) = archive.proposals().values()
        assert [e.generation for e in proposed(archive.all())] == [0] * 7 + [1] * 7 + [2] * 7
        found = list(zip(*[iter(architectures_of(proposed(archive.all())))] * 7, strict=True))
        assert [set(generation) for generation in generations] == [
            {a.id for a in union(WIDE, found[i]) - union(WIDE, chain(*found[:i]))} for i in range(3)
        ]
        assert [architecture.id for architecture in architectures_of(archive.all())] == list(chain(*generations))

    def test_the_first_generation_holds_the_anchors(self, algorithm: str) -> None:
        archive = Archive(Path(":memory:"), "p")
        space = SearchSpace.from_dict(WIDE)
        inside = space.sample(random.Random(99))
        outside = small(embed_dim=128)
        search(archive, settings_of(algorithm), executor([]), anchors=(outside, inside))
        found = architectures_of(archive.all())
        assert {*found[:6]} >= {space.largest(), space.smallest(), inside}
        assert found[0] == space.largest()
        assert outside not in found

    def test_an_anchor_that_is_a_by_product_candidate_is_not_proposed(self, algorithm: str) -> None:
        largest = SearchSpace.from_dict(WIDE).largest()
        related = replace(largest, time_steps=1)
        received: list[Evaluation] = []
        archive = Archive(Path(":memory:"), "p")
        search(archive, settings_of(algorithm), executor([]), anchors=(related, largest), on_evaluation=received.append)
        assert related not in architectures_of(received)
        assert [(e.by_product, e.generation) for e in archive.all() if e.measurement.architecture == related] == [(True, 0)]

    def test_by_product_candidates_are_evaluated(self, algorithm: str) -> None:
        """All by-product candidates of proposed ones are evaluated, and neither are proposed again."""
        for written in (WIDE, CONDITIONAL):
            received: list[Evaluation] = []
            archive = Archive(Path(":memory:"), "p")
            search(archive, settings_of(algorithm), executor([]), written=written, on_evaluation=received.append)
            candidates = architectures_of(received)
            assert set(architectures_of(archive.all())) == union(written, candidates)
            assert len(archive.all()) > 2 * len(candidates)
            for i, candidate in enumerate(candidates):
                assert candidate not in union(written, candidates[:i])

    def test_a_generation_is_evaluated_in_one_call(self, algorithm: str) -> None:
        """Proposed candidates precede by-product candidates."""
        found: list[list[Architecture]] = []
        archive = Archive(Path(":memory:"), "p")
        search(archive, settings_of(algorithm), requests(found))
        by_generation = [[e for e in archive.all() if e.generation == i] for i in range(4)]
        assert found == [architectures_of(generation) for generation in by_generation]
        for generation in by_generation:
            assert [e.by_product for e in generation] == [False] * 6 + [True] * (len(generation) - 6)

    def test_by_product_candidates_are_part_of_the_offspring(self, algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """`tell` is called with whole generations."""
        received: list[list[Architecture]] = []
        plain = ALGORITHMS[algorithm]

        class Watched:
            def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:
                return plain().ask(population, context)

            def tell(
                self, population: list[Individual], offspring: list[Individual], context: GenerationContext
            ) -> list[Individual]:
                received.append([individual.architecture for individual in offspring])
                return plain().tell(population, offspring, context)

        monkeypatch.setitem(ALGORITHMS, algorithm, Watched)
        archive = Archive(Path(":memory:"), "p")
        search(archive, settings_of(algorithm), executor([]))
        expected = [[e.measurement.architecture for e in archive.all() if e.generation == i] for i in range(4)]
        assert received == expected
        received.clear()
        search(archive, settings_of(algorithm), executor([], after=0))  # finished generations are not repeated
        assert received == []

    def test_ask_yields_without_end(self, algorithm: str) -> None:
        for number in (1, 2, 3, 5, 9):
            context, population = generation_context(algorithm), individuals(number)
            population = ALGORITHMS[algorithm]().tell([], population, context)
            asked = list(islice(ALGORITHMS[algorithm]().ask(population, context), 40))
            assert len(asked) == 40
            assert all(permits(WIDE, architecture) for architecture in asked)

    def test_survivors_are_individuals_of_both_arguments(self, algorithm: str) -> None:
        received = individuals(20)
        survivors = ALGORITHMS[algorithm]().tell(received[:10], received[10:], generation_context(algorithm))
        assert survivors
        assert {id(survivor) for survivor in survivors} <= {id(individual) for individual in received}
        assert len({id(survivor) for survivor in survivors}) == len(survivors)

    def test_it_leaves_the_global_generator_as_it_was(self, algorithm: str) -> None:
        random.seed(5)
        expected = random.random()
        random.seed(5)
        searched(settings_of(algorithm))
        assert random.random() == expected

    def test_it_does_not_depend_on_the_global_generator(self, algorithm: str) -> None:
        random.seed(1)
        first = searched(settings_of(algorithm))
        random.seed(2)
        assert searched(settings_of(algorithm)) == first

    def test_the_callback_is_called_once_for_each_proposed_candidate(self, algorithm: str) -> None:
        received: list[Evaluation] = []
        archive = Archive(Path(":memory:"), "p")
        search(archive, settings_of(algorithm), executor([]), on_evaluation=received.append)
        assert received == proposed(archive.all())
        assert len(received) == 24

    def test_finished_generations_are_reported_instead_of_repeated(self, algorithm: str) -> None:
        archive, resumed, received = Archive(Path(":memory:"), "p"), list[tuple[int, float]](), list[Evaluation]()
        search(archive, settings_of(algorithm, generations=2), executor([]))
        best = max(e.f_aeb for e in proposed(archive.all()))
        search(
            archive, settings_of(algorithm), executor([]), on_evaluation=received.append, on_resume=lambda *of: resumed.append(of)
        )
        assert resumed == [(12, best)]
        assert [e.generation for e in received] == [2] * 6 + [3] * 6

    def test_without_a_stored_population_generations_are_replayed_to_the_same_end(self, algorithm: str, tmp_path: Path) -> None:
        """As in an archive of an older version."""
        archive = Archive(tmp_path / "archive.sqlite", "p")
        search(archive, settings_of(algorithm, generations=3), executor([]))
        archive.close()
        db = sqlite3.connect(tmp_path / "archive.sqlite")
        db.execute("DROP TABLE populations")
        db.close()
        archive, measured = Archive(tmp_path / "archive.sqlite", "p"), list[Architecture]()
        search(archive, settings_of(algorithm), executor(measured))
        archive.close()
        assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_a_small_space_is_exhausted(self, algorithm: str, size: int) -> None:
        thresholds = [round(0.5 + i / 10, 1) for i in range(size)]
        block = {"num_heads": 1, "neuron": {"v_threshold": thresholds}}
        written = {"stages": [{"embed_dim": 8, "depth": 1, "block": block}]}
        found = searched(settings_of(algorithm, population=4, generations=10), written=written)
        assert sorted(a.stages[0].blocks[0].neuron.v_threshold for a in architectures_of(found)) == thresholds

    def test_a_small_space_of_several_genes_is_exhausted(self, algorithm: str) -> None:
        written = {"time_steps": [1, 2], "stages": [{"embed_dim": [8, 16], "depth": [1, 2], "block": {"num_heads": [1, 2]}}]}
        found = searched(settings_of(algorithm, population=5, generations=20), written=written)
        assert len(set(architectures_of(found))) == len(found) == 2 * 2 * (2 + 4)

    def test_a_small_conditional_space_is_exhausted(self, algorithm: str) -> None:
        block = {"token_mixer": ["sdsa_3", "sdsa_1", "none"], "num_heads": [1, 2], "groups": {"projection": {"tau": [2, 3]}}}
        stages = [{"embed_dim": 8, "depth": 1, "block": block}, {"embed_dim": 8, "depth": 1, "block": {"token_mixer": "none"}}]
        written = {"family": "meta_spikeformer", "shortcut": ["membrane", "sew"], "stages": stages}
        found = searched(settings_of(algorithm, population=5, generations=20), written=written)
        assert len(set(architectures_of(found))) == len(found) == (2 + 1 + 1) + (2 * 2 + 2 + 1)

    def test_a_new_fitness_scores_all_again_without_measuring(self, algorithm: str) -> None:
        archive = Archive(Path(":memory:"), "p")
        search(archive, settings_of(algorithm, generations=1), executor([]))
        weighted = settings_of(algorithm, generations=1, fitness={"form": "weighted", "alpha": 0.25})
        search(archive, weighted, executor([], after=0))
        reference = analytic(SearchSpace.from_dict(WIDE).largest()).energy(DEFAULT).energy_mj
        measurements = [e.measurement for e in archive.all()]
        expected = [0.25 * m.accuracy + 0.75 * (1 - m.energy(DEFAULT).energy_mj / reference) for m in measurements]
        assert [e.f_aeb for e in archive.all()] == pytest.approx(expected, rel=1e-12)


def with_sums(architecture: Architecture) -> Measurement:
    """As `analytic`, and a layer that reads sums of spikes: the narrower a network, the more of them."""
    measured, steps = analytic(architecture), architecture.time_steps
    dense = 10**7 // architecture.stages[0].embed_dim
    sums = LayerCount(layer="sums", input="integer", time_steps=steps, macs=dense, acs=(5.0,) * steps, rate=(0.5,) * steps)
    return replace(measured, counts=(*measured.counts, sums))


def binary_only_mj(architecture: Architecture) -> float:
    """By hand: 100 real MACs a step, 9 operations of spikes at rate 0.25, and the sums densely."""
    dense = 10**7 // architecture.stages[0].embed_dim
    return 1e-9 * architecture.time_steps * (4.6 * (100 + dense) + 0.9 * 9 * 0.25)


def under(path: Path, config: SearchConfig, run: Evaluate, **rest: Any) -> list[Evaluation]:
    """All that an archive holds after a search under the convention of its settings."""
    archive = Archive(path, "p", config.energy_convention)
    try:
        search(archive, config, run, **rest)
        return archive.all()
    finally:
        archive.close()


def test_chance_measures_nothing_for_another_convention(tmp_path: Path) -> None:
    """It draws the same whatever energy is, so the archive ends as if it had searched under the other convention only."""
    again, fresh = tmp_path / "again.sqlite", tmp_path / "fresh.sqlite"
    exact, binary = (settings_of("random", convention=name) for name in ("exact", "binary-only"))
    under(again, exact, executor([], measure=with_sums))
    found = under(again, binary, executor([], after=0))
    assert found == under(fresh, binary, executor([], measure=with_sums))
    rows, proposals = contents(again)
    assert rows == contents(fresh)[0]
    assert proposals[len(proposals) // 2 :] == contents(fresh)[1]
    assert [e.energy.energy_mj for e in found] == pytest.approx([binary_only_mj(a) for a in architectures_of(found)], rel=1e-12)


SMALL: dict[str, Any] = {"time_steps": [1, 2], "stages": [{"embed_dim": [8, 16], "depth": [1, 2], "block": {"num_heads": [1, 2]}}]}


@pytest.mark.parametrize("algorithm", NAMES)
def test_an_exhausted_space_is_not_measured_again_under_another_convention(algorithm: str, tmp_path: Path) -> None:
    again, fresh = tmp_path / "again.sqlite", tmp_path / "fresh.sqlite"
    exact, binary = (settings_of(algorithm, population=5, generations=20, convention=name) for name in ("exact", "binary-only"))
    before = under(again, exact, executor([], measure=with_sums), written=SMALL)
    found = under(again, binary, executor([], after=0), written=SMALL)
    expected = under(fresh, binary, executor([], measure=with_sums), written=SMALL)
    assert len(found) == len(expected) == 2 * 2 * (2 + 4)
    assert {e.measurement.architecture: e.f_aeb for e in found} == {e.measurement.architecture: e.f_aeb for e in expected}
    assert set(architectures_of(front(found))) == set(architectures_of(front(expected)))
    assert set(architectures_of(front(found))) != set(architectures_of(front(before)))


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_search_under_another_convention_takes_its_own_course(algorithm: str, tmp_path: Path) -> None:
    """It asks for whom a search from nothing asks for; of those, whom the archive knows is not measured."""
    again, fresh = tmp_path / "again.sqlite", tmp_path / "fresh.sqlite"
    exact, binary = (settings_of(algorithm, convention=name) for name in ("exact", "binary-only"))
    known = architectures_of(under(again, exact, executor([], measure=with_sums)))
    measured: list[Architecture] = []
    found = under(again, binary, executor(measured, measure=with_sums))
    expected = under(fresh, binary, executor([], measure=with_sums))
    wanted = architectures_of(expected)
    assert measured == [architecture for architecture in wanted if architecture not in known]
    assert [row[1:4] for row in contents(again)[1][len(known) :]] == [row[1:4] for row in contents(fresh)[1]]
    own = [e for e in found if e.measurement.architecture in wanted]
    assert set(architectures_of(front(own))) == set(architectures_of(front(expected)))


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_search_under_another_convention_may_be_killed(algorithm: str, tmp_path: Path) -> None:
    """Every row is of the search that was begun last, those that it measured and those that it found."""
    path, other, config = tmp_path / "archive.sqlite", {"seed": 9}, settings_of(algorithm, convention="binary-only")
    known = len(under(path, settings_of(algorithm), executor([], measure=with_sums)))
    first: list[Architecture] = []
    shutil.copy(path, tmp_path / "copy.sqlite")
    under(tmp_path / "copy.sqlite", config.model_copy(update={"generations": 1}), executor(first, measure=with_sums), **other)
    with pytest.raises(KilledError):
        under(path, config, executor([], after=len(first) + 8, measure=with_sums), **other)
    rows = sqlite3.connect(path).execute("SELECT architecture, accuracy, convention, energy_mj, f_aeb FROM evaluations").fetchall()
    assert len(rows) == known + len(first) > known
    reference = binary_only_mj(SearchSpace.from_dict(WIDE).largest())
    for text, accuracy, convention, energy_mj, f_aeb in rows:
        expected = binary_only_mj(Architecture.from_json(text))
        assert (convention, energy_mj) == ("binary-only", pytest.approx(expected, rel=1e-12))
        assert f_aeb == pytest.approx(accuracy * (expected / reference) ** -0.07, rel=1e-12)


def test_the_best_by_faeb_are_those_of_the_search_s_convention(tmp_path: Path) -> None:
    """With a steep fitness, what survives needs little energy as this search counts it."""
    config = {"generations": 8, "fitness": {"beta": 2}}
    best = {
        name: max(
            under(tmp_path / name, settings_of("aeb", convention=name, **config), executor([], measure=with_sums)), key=fitness
        )
        for name in ("exact", "binary-only")
    }
    widths = {name: e.measurement.architecture.stages[0].embed_dim for name, e in best.items()}
    assert widths["exact"] < widths["binary-only"] == 64


def fitness(evaluation: Evaluation) -> float:
    return evaluation.f_aeb


def individuals(number: int) -> list[Individual]:
    space, rng = SearchSpace.from_dict(WIDE), random.Random(0)
    measured = [analytic(space.sample(rng)) for _ in range(number)]
    return [
        Individual(
            architecture=m.architecture,
            f_aeb=m.accuracy,
            fitness=fitness_of([m.accuracy, m.energy(DEFAULT).energy_mj], [True, False]),
        )
        for m in measured
    ]


def generation_context(algorithm: str) -> GenerationContext:
    return GenerationContext(
        space=SearchSpace.from_dict(WIDE), config=settings_of(algorithm), rng=random.Random(0), key=(0, "deap", 1)
    )


@pytest.mark.parametrize("algorithm", NAMES)
def test_f_aeb_is_relative_to_the_largest(algorithm: str) -> None:
    evaluations = searched(settings_of(algorithm, fitness={"beta": 0.5}))
    reference = analytic(SearchSpace.from_dict(WIDE).largest()).energy(DEFAULT).energy_mj
    measurements = [e.measurement for e in evaluations]
    expected = [m.accuracy * (reference / m.energy(DEFAULT).energy_mj) ** 0.5 for m in measurements]
    assert [e.f_aeb for e in evaluations] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("algorithm", ["nsga2", "random"])
def test_what_does_not_select_by_fitness_measures_nothing_for_a_new_one(algorithm: str) -> None:
    archive = Archive(Path(":memory:"), "p")
    search(archive, settings_of(algorithm), executor([]))
    search(archive, settings_of(algorithm, fitness={"beta": 0.5}), executor([], after=0))
    assert len(archive.all()) == archived_after_generation(algorithm)[-1]


def test_aeb_selects_the_highest_faeb() -> None:
    received = individuals(20)
    survivors = ALGORITHMS["aeb"]().tell(received[:10], received[10:], generation_context("aeb"))
    assert [s.f_aeb for s in survivors] == sorted((i.f_aeb for i in received), reverse=True)[:3]


def test_survivors_of_nsga2_are_the_front_first() -> None:
    received = individuals(30)
    found = {(i.fitness.values, i.architecture) for i in received}
    undominated = {
        architecture
        for (accuracy, energy), architecture in found
        if not any(a >= accuracy and e <= energy and (a, e) != (accuracy, energy) for (a, e), _ in found)
    }
    survivors = {i.architecture for i in ALGORITHMS["nsga2"]().tell(received[:15], received[15:], generation_context("nsga2"))}
    assert len(survivors) == 6
    assert survivors <= undominated or undominated <= survivors


def test_objectives_steer_nsga2() -> None:
    # With the number of steps as the one objective, what is left after a few generations takes one step, mutants aside: of five
    # searches' 30 last candidates the mean is below 1.5; of random ones, 2.
    last: list[int] = []
    for seed in range(5):
        archive = Archive(Path(":memory:"), "p")
        config = settings_of("nsga2", objectives=("time_steps",), generations=8, global_mutation=0.1)
        search(archive, config, executor([]), seed=seed)
        last += [e.measurement.architecture.time_steps for e in proposed(archive.all()) if e.generation == 7]
    assert len(last) == 30
    assert mean(last) < 1.5


def share(evaluations: list[Evaluation]) -> float:
    measurements = [e.measurement for e in evaluations]
    reference = analytic(SearchSpace.from_dict(WIDE).largest()).energy(DEFAULT).energy_mj
    return hypervolume([(m.accuracy, m.energy(DEFAULT).energy_mj) for m in measurements], energy_reference=reference)


BUDGET = {"population": 16, "generations": 10, "parents": 8}


@cache
def volumes_and_best(algorithm: str) -> tuple[list[float], list[float]]:
    """Of six seeds, on one budget: the hypervolume of all that was measured, and the best F_AEB."""
    runs = [searched(settings_of(algorithm, **BUDGET, fitness={"beta": 0.3}), seed=seed) for seed in range(6)]
    assert [len(proposed(evaluations)) for evaluations in runs] == [160] * 6
    return [share(evaluations) for evaluations in runs], [max(e.f_aeb for e in evaluations) for evaluations in runs]


def test_nsga2_finds_a_larger_hypervolume_than_chance() -> None:
    found, drawn = volumes_and_best("nsga2")[0], volumes_and_best("random")[0]
    assert mean(found) > mean(drawn) + 0.03


def test_aeb_finds_a_better_fitness_than_chance() -> None:
    found, drawn = volumes_and_best("aeb")[1], volumes_and_best("random")[1]
    assert mean(found) > mean(drawn) * 1.05
    assert min(found) > mean(drawn)


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_front_is_what_nothing_dominates(algorithm: str) -> None:
    evaluations = searched(settings_of(algorithm, population=12, generations=6))
    points = {e.measurement.architecture: (e.measurement.correct, e.energy.energy_mj) for e in evaluations}
    undominated = {
        architecture
        for architecture, (correct, energy) in points.items()
        if not any(c >= correct and e <= energy and (c, e) != (correct, energy) for c, e in points.values())
    }
    best = architectures_of(front(evaluations))
    assert {points[architecture] for architecture in best} == {points[architecture] for architecture in undominated}
    assert [points[a][1] for a in best] == sorted(points[a][1] for a in best)
    assert [points[a][0] for a in best] == sorted(points[a][0] for a in best)


def test_the_id_of_a_search_names_its_settings_but_not_its_length() -> None:
    def identity(algorithm: str = "nsga2", *, seed: int = 0, **changed: object) -> str:
        return prepared(Archive(Path(":memory:"), "p"), settings_of(algorithm, **changed), executor([]), seed=seed).id

    base = identity()
    assert base.startswith("nsga2-")
    assert identity(generations=2) == base
    others = [identity("random"), identity(seed=1), identity(population=8), identity(block_mutation=0.3)]
    others += [identity(global_mutation=0.3), identity(objectives=("accuracy", "params")), identity(fitness={"beta": 0.1})]
    others += [identity(crossover="uniform"), identity(late_point=2.0)]
    others += [identity(convention="binary-only"), identity(convention="exact/int8")]
    assert identity(convention="exact/fp32") == base
    assert len({base, *others}) == 1 + len(others)


def test_a_search_in_a_continuous_space_does_not_run_dry() -> None:
    written = edited(WIDE, "stages.0.block.neuron.tau", {"low": 1.1, "high": 4.0, "sigma": 0.3})
    for algorithm in NAMES:
        found = searched(settings_of(algorithm), written=written)
        assert len(proposed(found)) == 24
        assert all(permits(written, architecture) for architecture in architectures_of(found))


def test_measurements_in_another_order_are_refused() -> None:
    def reversed_order(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        return map(analytic, reversed(list(architectures)))

    archive = Archive(Path(":memory:"), "p")
    with pytest.raises(RuntimeError, match="in the order of the architectures"):
        search(archive, settings_of("nsga2"), reversed_order)
    assert archive.all() == []


@pytest.mark.parametrize("crossover", ["one-point", "uniform"])
def test_nsga2_breeds_as_configured(crossover: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every child is of the crossover that is named, which is received how the search is configured."""
    crossed: list[tuple[str, float]] = []

    def noting(name: str) -> Callable[..., Architecture]:
        original = CROSSOVERS[name]
        return lambda *args: crossed.append((name, args[-1].late_point)) or original(*args)  # type: ignore[func-returns-value]

    monkeypatch.setattr(algorithms, "CROSSOVERS", {name: noting(name) for name in ("one-point", "uniform")})
    searched(settings_of("nsga2", crossover=crossover, late_point=7.0))
    assert set(crossed) == {(crossover, 7.0)}
    assert len(crossed) >= 18


def test_a_key_names_a_generator() -> None:
    assert keyed(3, "search", 1).random() == keyed(3, "search", 1).random()
    assert len({keyed(*key).random() for key in [(3, "search", 1), (3, "search", 2), (4, "search", 1), (3, "training", 1)]}) == 4


def test_the_global_generator_is_lent() -> None:
    random.seed(1)
    with global_random(5, "deap"):
        first = random.random()
    with pytest.raises(KilledError), global_random(5, "deap"):
        assert random.random() == first
        raise KilledError
    expected = random.Random(1).random()
    assert random.random() == expected


# Correct of 100, accumulations, F_AEB. The worse of a tie stands before the better.
OFFERED = {
    "worse": (40, 10.0, 0.1),
    "cheap": (50, 10.0, 0.3),
    "middle": (88, 30.0, 0.1),
    "wasteful": (90, 2000.0, 0.15),
    "costly": (90, 1000.0, 0.2),
    "bad": (50, 500.0, 0.4),
}


def offered() -> dict[str, Evaluation]:
    return {
        name: scored(measurement(small(embed_dim=8 * i), correct=correct, acs=acs), f_aeb=f_aeb, generation=0)
        for i, (name, (correct, acs, f_aeb)) in enumerate(OFFERED.items(), start=1)
    }


@pytest.mark.parametrize(
    ("rule", "min_accuracy", "expected"),
    [
        ("knee", 0.0, "middle"),
        ("best-accuracy", 0.0, "costly"),
        ("least-energy", 0.0, "cheap"),
        ("least-energy", 0.5, "cheap"),
        ("least-energy", 0.501, "middle"),
        ("best-faeb", 0.0, "bad"),
        ("best-faeb", 0.6, "costly"),
    ],
)
def test_pick(rule: str, min_accuracy: float, expected: str) -> None:
    candidates = offered()
    assert pick(list(candidates.values()), rule, min_accuracy=min_accuracy) == candidates[expected]


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, "costly"), (0.019, "costly"), (0.0201, "middle"), (0.41, "cheap")])
def test_pick_close_to_the_best(tolerance: float, expected: str) -> None:
    candidates = offered()
    assert pick(list(candidates.values()), "least-energy", tolerance=tolerance) == candidates[expected]


def test_pick_by_id() -> None:
    candidates = offered()
    for evaluation in candidates.values():
        name = evaluation.measurement.architecture.id
        assert pick(list(candidates.values()), name) == evaluation
        assert pick(list(candidates.values()), name[:8], min_accuracy=1.0) == evaluation


@pytest.mark.parametrize(
    ("rule", "min_accuracy", "names"), [("best", 0.0, "best-accuracy"), ("", 0.0, "least-energy"), ("knee", 0.95, "0.9000")]
)
def test_pick_what_is_not_there(rule: str, min_accuracy: float, names: str) -> None:
    assert names in one_line_error(lambda: pick(list(offered().values()), rule, min_accuracy=min_accuracy))


def test_pick_from_nothing() -> None:
    assert "autospike search" in one_line_error(lambda: pick([], "knee"))
