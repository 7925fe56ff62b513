"""The search, on synthetic measurements: resuming, comparison with random search, and archived candidates.

A search proposes `population` candidates per generation and also evaluates their by-product candidates. A generation is
archived as a whole, so a killed search loses only the generation in progress.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import accumulate, chain, islice, pairwise, product
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from builders import CONDITIONAL, analytic, edited, evaluation_of, measurement, one_line_error, permits, small
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import WIDE, KilledError, make_search, recording, settings_of
from slow_parameters import slow_except

from autospike.config import SearchConfig
from autospike.energy.conventions import DEFAULT
from autospike.energy.counts import LayerCount
from autospike.events import CandidateEvent, Event, GenerationEvent
from autospike.measurement import Evaluation, Measurement
from autospike.pareto import hypervolume
from autospike.randomness import global_random, keyed
from autospike.searching.algorithms import ALGORITHMS, GenerationContext, Individual, fitness_of
from autospike.searching.archive import Archive
from autospike.searching.evolution import Evaluate
from autospike.searching.selection import front, pick
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.statistics import pack_mask

NAMES = sorted(ALGORITHMS)
ONE = slow_except(["nsga2"], NAMES)


def recording_calls(calls: list[list[Architecture]]) -> Evaluate:
    """Measure like `analytic` and record the architectures of each call."""

    def evaluate(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        calls.append(list(architectures))
        return map(analytic, calls[-1])

    return evaluate


def run_search(archive: Archive, config: SearchConfig, run: Evaluate, **rest: Any) -> None:
    make_search(archive, config, run, **rest).run()


def evaluations_of_search(config: SearchConfig, *, space_dict: dict[str, Any] = WIDE, seed: int = 0) -> list[Evaluation]:
    """Return all evaluations of a search with a new archive."""
    archive = Archive(Path(":memory:"), "p")
    run_search(archive, config, recording([]), space_dict=space_dict, seed=seed)
    evaluations = archive.all()
    archive.close()
    return evaluations


def contents(path: Path) -> tuple[list[Any], list[Any]]:
    """Return every row of both tables in order, without times."""
    db = sqlite3.connect(path)
    names = [row[1] for row in db.execute("PRAGMA table_info(evaluations)") if row[1] not in ("seconds", "measured_at")]
    rows = db.execute(f"SELECT {', '.join(names)} FROM evaluations ORDER BY rowid").fetchall()
    proposals = db.execute("SELECT * FROM proposals ORDER BY rowid").fetchall()
    db.close()
    return rows, proposals


def proposed(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Return the evaluations of proposed candidates."""
    return [e for e in evaluations if not e.by_product]


def with_by_products(space_dict: dict[str, Any], architecture: Architecture) -> set[Architecture]:
    """Return an architecture and its by-product candidates: every T, and every depth of the last stage up to its own."""
    *before, last = architecture.stages
    depths = [depth for depth in space_dict["stages"][-1]["depth"] if depth <= len(last.blocks)]
    return {
        replace(architecture, time_steps=time_steps, stages=(*before, replace(last, blocks=last.blocks[:depth])))
        for time_steps, depth in product(space_dict["time_steps"], depths)
    }


def with_by_products_of_all(space_dict: dict[str, Any], architectures: Iterable[Architecture]) -> set[Architecture]:
    return set().union(*(with_by_products(space_dict, architecture) for architecture in architectures))


def architectures_of(evaluations: Iterable[Evaluation]) -> list[Architecture]:
    return [e.measurement.architecture for e in evaluations]


@cache
def uninterrupted(algorithm: str, generations: int = 4) -> tuple[list[Any], list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.sqlite"
        archive = Archive(path, "p")
        run_search(archive, settings_of(algorithm, generations=generations), recording([]))
        archive.close()
        return contents(path)


def archived_after_generation(algorithm: str) -> list[int]:
    """Return the numbers of archived candidates after 0, 1, ... generations of an uninterrupted search."""
    rows, proposals = uninterrupted(algorithm)
    generations = [row[1] for row in proposals]
    assert len(rows) == len(generations)
    return [0, *accumulate(generations.count(i) for i in range(4))]


@pytest.mark.parametrize("algorithm", NAMES)
def test_equal_seeds_give_equal_fronts(algorithm: str) -> None:
    first, second = (evaluations_of_search(settings_of(algorithm), seed=7) for _ in range(2))
    assert second == first
    assert front(second) == front(first)


@pytest.mark.parametrize("algorithm", ONE)
def test_another_seed_gives_other_candidates(algorithm: str) -> None:
    one, other = (set(architectures_of(evaluations_of_search(settings_of(algorithm), seed=seed))) for seed in (7, 8))
    assert len(one & other) < len(one) / 2


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(NAMES), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_killed_search_resumes_to_the_archive_of_an_uninterrupted_one(algorithm: str, fraction: float, lazy: bool) -> None:
    """Only the generation in progress is measured again."""
    measured: list[Architecture] = []
    *ends, total = archived_after_generation(algorithm)
    killed_after = int(fraction * total)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.sqlite"
        archive = Archive(path, "p")
        with pytest.raises(KilledError):
            run_search(archive, settings_of(algorithm), recording(measured, kill_after=killed_after))
        assert len(measured) == killed_after
        archived = max(end for end in ends if end <= killed_after)
        assert [row[0] for row in contents(path)[0]] == [architecture.id for architecture in measured[:archived]]
        archive.close()
        archive = Archive(path, "p")
        run_search(archive, settings_of(algorithm), recording(measured, lazy=lazy))
        archive.close()
        assert contents(path) == uninterrupted(algorithm)
    measured_once = measured[:archived] + measured[killed_after:]
    assert len(measured_once) == len(set(measured_once)) == total


@pytest.mark.parametrize("algorithm", NAMES)
def test_a_killed_search_of_a_conditional_space_resumes(algorithm: str, tmp_path: Path) -> None:
    measured: list[Architecture] = []
    expected = evaluations_of_search(settings_of(algorithm), space_dict=CONDITIONAL)
    generations = [e.generation for e in expected]
    first, killed_after = generations.count(0), generations.count(0) + generations.count(1) // 2
    archive = Archive(tmp_path / "archive.sqlite", "p")
    with pytest.raises(KilledError):
        run_search(archive, settings_of(algorithm), recording(measured, kill_after=killed_after), space_dict=CONDITIONAL)
    assert archive.all() == expected[:first]
    run_search(archive, settings_of(algorithm), recording(measured), space_dict=CONDITIONAL)
    assert archive.all() == expected
    measured_once = measured[:first] + measured[killed_after:]
    assert len(measured_once) == len(set(measured_once)) == len(expected)
    assert len(proposed(expected)) == 24


@pytest.mark.parametrize("algorithm", ONE)
def test_a_search_killed_several_times_measures_archived_candidates_once(algorithm: str, tmp_path: Path) -> None:
    """Archived candidates are not measured again."""
    ends = archived_after_generation(algorithm)
    for archived, end in pairwise(ends):
        for lost in (0, 1, end - archived - 1):
            measured: list[Architecture] = []
            archive = Archive(tmp_path / "archive.sqlite", "p")
            with pytest.raises(KilledError):
                run_search(archive, settings_of(algorithm), recording(measured, kill_after=lost))
            assert len(archive.all()) == archived
            archive.close()
        archive = Archive(tmp_path / "archive.sqlite", "p")
        with pytest.raises(KilledError) if end < ends[-1] else nullcontext():
            run_search(archive, settings_of(algorithm), recording([], kill_after=end - archived))
        assert contents(tmp_path / "archive.sqlite")[0] == uninterrupted(algorithm)[0][:end]
        archive.close()
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)


@pytest.mark.parametrize("algorithm", ONE)
def test_a_finished_search_measures_nothing_again(algorithm: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.sqlite", "p")
    run_search(archive, settings_of(algorithm), recording([]))
    run_search(archive, settings_of(algorithm), recording([], kill_after=0))
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)


@pytest.mark.parametrize("algorithm", ONE)
def test_more_generations_extend_a_search(algorithm: str, tmp_path: Path) -> None:
    measured: list[Architecture] = []
    archive = Archive(tmp_path / "archive.sqlite", "p")
    for generations in (1, 2, 4):
        run_search(archive, settings_of(algorithm, generations=generations), recording(measured))
        assert len(measured) == len(set(measured)) == len(archive.all()) == archived_after_generation(algorithm)[generations]
        assert len(proposed(archive.all())) == 6 * generations
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)
    assert list(archive.proposals()) == list({row[0] for row in uninterrupted(algorithm)[1]})


@pytest.mark.parametrize("algorithm", ONE)
def test_the_archive_is_independent_of_when_results_arrive(algorithm: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.sqlite", "p")
    run_search(archive, settings_of(algorithm), recording([], lazy=False))
    assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)


def test_searches_share_measurements(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive.sqlite", "p")
    measured: list[Architecture] = []
    for algorithm in NAMES:
        run_search(archive, settings_of(algorithm), recording(measured))
    assert len(measured) == len(set(measured)) == len(archive.all())
    first = [generations[0] for generations in archive.proposals().values()]
    assert len(first) == len(NAMES)  # one search each
    assert all(generation == first[0] for generation in first)  # equal first generations, which are measured once
    assert len(measured) <= sum(map(len, chain(*archive.proposals().values()))) - (len(NAMES) - 1) * len(first[0])


def test_another_protocol_measures_all_candidates_again(tmp_path: Path) -> None:
    measured: list[Architecture] = []
    for protocol in ("p", "q"):
        run_search(Archive(tmp_path / "archive.sqlite", protocol), settings_of("nsga2"), recording(measured))
    assert len(measured) == 2 * archived_after_generation("nsga2")[-1]
    assert measured[: len(measured) // 2] == measured[len(measured) // 2 :]


class TestAlgorithm:
    """The interface of every algorithm."""

    @pytest.fixture(params=ONE)
    def algorithm(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_candidates_are_distinct_members(self, algorithm: str) -> None:
        evaluations = evaluations_of_search(settings_of(algorithm, population=10, generations=5), seed=3)
        found = architectures_of(evaluations)
        assert len(found) == len(set(found))
        assert len(proposed(evaluations)) == 50
        assert all(permits(WIDE, architecture) for architecture in found)

    def test_candidates_of_a_conditional_space_are_distinct_members(self, algorithm: str) -> None:
        evaluations = evaluations_of_search(settings_of(algorithm, population=10, generations=5), space_dict=CONDITIONAL, seed=3)
        found = architectures_of(evaluations)
        assert len(found) == len({architecture.id for architecture in found})
        assert len(proposed(evaluations)) == 50
        assert all(permits(CONDITIONAL, architecture) for architecture in found)
        assert {architecture.shortcut for architecture in found} == {"membrane", "sew"}

    def test_each_generation_proposes_population_candidates(self, algorithm: str, tmp_path: Path) -> None:
        archive = Archive(tmp_path / "archive.sqlite", "p")
        run_search(archive, settings_of(algorithm, population=7, generations=3), recording([]))
        (generations,) = archive.proposals().values()
        assert [e.generation for e in proposed(archive.all())] == [0] * 7 + [1] * 7 + [2] * 7
        found = list(zip(*[iter(architectures_of(proposed(archive.all())))] * 7, strict=True))
        assert [set(generation) for generation in generations] == [
            {a.id for a in with_by_products_of_all(WIDE, found[i]) - with_by_products_of_all(WIDE, chain(*found[:i]))}
            for i in range(3)
        ]
        assert [architecture.id for architecture in architectures_of(archive.all())] == list(chain(*generations))

    def test_the_first_generation_contains_the_anchors(self, algorithm: str) -> None:
        archive = Archive(Path(":memory:"), "p")
        space = SearchSpace.from_dict(WIDE)
        inside = space.sample(random.Random(99))
        outside = small(embed_dim=128)
        run_search(archive, settings_of(algorithm), recording([]), anchors=(outside, inside))
        found = architectures_of(archive.all())
        assert {*found[:6]} >= {space.largest(), space.smallest(), inside}
        assert found[0] == space.largest()
        assert outside not in found

    def test_an_anchor_that_is_a_by_product_candidate_is_not_proposed(self, algorithm: str) -> None:
        largest = SearchSpace.from_dict(WIDE).largest()
        related = replace(largest, time_steps=1)
        received: list[Evaluation] = []
        archive = Archive(Path(":memory:"), "p")
        run_search(archive, settings_of(algorithm), recording([]), anchors=(related, largest), on_evaluation=received.append)
        assert related not in architectures_of(received)
        assert [(e.by_product, e.generation) for e in archive.all() if e.measurement.architecture == related] == [(True, 0)]

    def test_by_product_candidates_are_evaluated(self, algorithm: str) -> None:
        """All by-product candidates of proposed ones are evaluated, and neither are proposed again."""
        for space_dict in (WIDE, CONDITIONAL):
            received: list[Evaluation] = []
            archive = Archive(Path(":memory:"), "p")
            run_search(archive, settings_of(algorithm), recording([]), space_dict=space_dict, on_evaluation=received.append)
            candidates = architectures_of(received)
            assert set(architectures_of(archive.all())) == with_by_products_of_all(space_dict, candidates)
            assert len(archive.all()) > 2 * len(candidates)
            for i, candidate in enumerate(candidates):
                assert candidate not in with_by_products_of_all(space_dict, candidates[:i])

    def test_a_generation_is_evaluated_in_one_call(self, algorithm: str) -> None:
        """Proposed candidates precede by-product candidates."""
        found: list[list[Architecture]] = []
        archive = Archive(Path(":memory:"), "p")
        run_search(archive, settings_of(algorithm), recording_calls(found))
        by_generation = [[e for e in archive.all() if e.generation == i] for i in range(4)]
        assert found == [architectures_of(generation) for generation in by_generation]
        for generation in by_generation:
            assert [e.by_product for e in generation] == [False] * 6 + [True] * (len(generation) - 6)

    def test_ask_yields_without_end(self, algorithm: str) -> None:
        for number in (1, 2, 3, 5, 9):
            context, population = generation_context(algorithm), individuals(number)
            population = ALGORITHMS[algorithm]().tell([], population, context)
            candidates = list(islice(ALGORITHMS[algorithm]().ask(population, context), 40))
            assert len(candidates) == 40
            assert all(permits(WIDE, architecture) for architecture in candidates)

    def test_survivors_are_individuals_of_both_arguments(self, algorithm: str) -> None:
        received = individuals(20)
        survivors = ALGORITHMS[algorithm]().tell(received[:10], received[10:], generation_context(algorithm))
        assert survivors
        assert {id(survivor) for survivor in survivors} <= {id(individual) for individual in received}
        assert len({id(survivor) for survivor in survivors}) == len(survivors)

    def test_a_search_restores_the_global_generator(self, algorithm: str) -> None:
        random.seed(5)
        expected = random.random()
        random.seed(5)
        evaluations_of_search(settings_of(algorithm))
        assert random.random() == expected

    def test_a_search_is_independent_of_the_global_generator(self, algorithm: str) -> None:
        random.seed(1)
        first = evaluations_of_search(settings_of(algorithm))
        random.seed(2)
        assert evaluations_of_search(settings_of(algorithm)) == first

    def test_the_callback_is_called_once_for_each_proposed_candidate(self, algorithm: str) -> None:
        received: list[Evaluation] = []
        archive = Archive(Path(":memory:"), "p")
        run_search(archive, settings_of(algorithm), recording([]), on_evaluation=received.append)
        assert received == proposed(archive.all())
        assert len(received) == 24

    def test_each_generation_has_an_event_after_those_of_its_candidates(self, algorithm: str) -> None:
        archive, received = Archive(Path(":memory:"), "p"), list[Event]()
        search = replace(make_search(archive, settings_of(algorithm), recording([])), on_event=received.append)
        search.run()
        assert [type(event) for event in received] == [*[CandidateEvent] * 6, GenerationEvent] * 4
        generations = [event for event in received if isinstance(event, GenerationEvent)]
        assert [event.generation for event in generations] == [0, 1, 2, 3]
        assert [list(event.evaluations) for event in generations] == [
            [event.evaluation for event in received if isinstance(event, CandidateEvent) and event.generation == i]
            for i in range(4)
        ]
        assert sum(event.measured for event in generations) == len(archive.all())
        assert [e for event in generations for e in event.by_products] == [e for e in archive.all() if e.by_product]

    def test_finished_generations_are_reported_instead_of_repeated(self, algorithm: str) -> None:
        archive, resumed, received = Archive(Path(":memory:"), "p"), list[tuple[int, float]](), list[Evaluation]()
        run_search(archive, settings_of(algorithm, generations=2), recording([]))
        best = max(e.f_aeb for e in proposed(archive.all()))
        run_search(
            archive, settings_of(algorithm), recording([]), on_evaluation=received.append, on_resume=lambda *of: resumed.append(of)
        )
        assert resumed == [(12, best)]
        assert [e.generation for e in received] == [2] * 6 + [3] * 6

    def test_without_a_stored_population_generations_are_replayed_to_the_same_end(self, algorithm: str, tmp_path: Path) -> None:
        """As in an archive of an older version."""
        archive = Archive(tmp_path / "archive.sqlite", "p")
        run_search(archive, settings_of(algorithm, generations=3), recording([]))
        archive.close()
        db = sqlite3.connect(tmp_path / "archive.sqlite")
        db.execute("DROP TABLE populations")
        db.close()
        archive, measured = Archive(tmp_path / "archive.sqlite", "p"), list[Architecture]()
        run_search(archive, settings_of(algorithm), recording(measured))
        archive.close()
        assert contents(tmp_path / "archive.sqlite") == uninterrupted(algorithm)

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_a_small_space_is_exhausted(self, algorithm: str, size: int) -> None:
        thresholds = [round(0.5 + i / 10, 1) for i in range(size)]
        block = {"num_heads": 1, "neuron": {"v_threshold": thresholds}}
        space_dict = {"stages": [{"embed_dim": 8, "depth": 1, "block": block}]}
        found = evaluations_of_search(settings_of(algorithm, population=4, generations=10), space_dict=space_dict)
        assert sorted(a.stages[0].blocks[0].neuron.v_threshold for a in architectures_of(found)) == thresholds

    def test_a_small_space_of_several_genes_is_exhausted(self, algorithm: str) -> None:
        space_dict = {"time_steps": [1, 2], "stages": [{"embed_dim": [8, 16], "depth": [1, 2], "block": {"num_heads": [1, 2]}}]}
        found = evaluations_of_search(settings_of(algorithm, population=5, generations=20), space_dict=space_dict)
        assert len(set(architectures_of(found))) == len(found) == 2 * 2 * (2 + 4)

    def test_a_small_conditional_space_is_exhausted(self, algorithm: str) -> None:
        block = {"token_mixer": ["sdsa_3", "sdsa_1", "none"], "num_heads": [1, 2], "groups": {"projection": {"tau": [2, 3]}}}
        stages = [{"embed_dim": 8, "depth": 1, "block": block}, {"embed_dim": 8, "depth": 1, "block": {"token_mixer": "none"}}]
        space_dict = {"family": "meta_spikeformer", "shortcut": ["membrane", "sew"], "stages": stages}
        found = evaluations_of_search(settings_of(algorithm, population=5, generations=20), space_dict=space_dict)
        assert len(set(architectures_of(found))) == len(found) == (2 + 1 + 1) + (2 * 2 + 2 + 1)

    def test_another_fitness_rescores_without_measuring(self, algorithm: str) -> None:
        archive = Archive(Path(":memory:"), "p")
        run_search(archive, settings_of(algorithm, generations=1), recording([]))
        weighted = settings_of(algorithm, generations=1, fitness={"form": "weighted", "alpha": 0.25})
        run_search(archive, weighted, recording([], kill_after=0))
        reference = analytic(SearchSpace.from_dict(WIDE).largest()).energy(DEFAULT).energy_mj
        measurements = [e.measurement for e in archive.all()]
        expected = [0.25 * m.accuracy + 0.75 * (1 - m.energy(DEFAULT).energy_mj / reference) for m in measurements]
        assert [e.f_aeb for e in archive.all()] == pytest.approx(expected, rel=1e-12)


def with_integer_inputs(architecture: Architecture) -> Measurement:
    """Return `analytic` with one more layer that reads sums of spikes; the narrower the network, the more MACs it has."""
    measured, steps = analytic(architecture), architecture.time_steps
    dense = 10**7 // architecture.stages[0].embed_dim
    sums = LayerCount(layer="sums", input="integer", time_steps=steps, macs=dense, acs=(5.0,) * steps, rate=(0.5,) * steps)
    return replace(measured, counts=(*measured.counts, sums))


def binary_only_mj(architecture: Architecture) -> float:
    """Return the energy: per step 100 real MACs, 9 operations on spikes with rate 0.25, and dense MACs on sums of spikes."""
    dense = 10**7 // architecture.stages[0].embed_dim
    return 1e-9 * architecture.time_steps * (4.6 * (100 + dense) + 0.9 * 9 * 0.25)


def run_search_under(path: Path, config: SearchConfig, run: Evaluate, **rest: Any) -> list[Evaluation]:
    """Run a search under the convention of its settings; return all evaluations in the archive."""
    archive = Archive(path, "p", config.energy_convention)
    try:
        run_search(archive, config, run, **rest)
        return archive.all()
    finally:
        archive.close()


def test_random_search_under_another_convention_measures_nothing(tmp_path: Path) -> None:
    """Its samples are independent of energy, so the archive equals that of a search under the other convention only."""
    reused, fresh = tmp_path / "reused.sqlite", tmp_path / "fresh.sqlite"
    exact, binary = (settings_of("random", convention=name) for name in ("exact", "binary-only"))
    run_search_under(reused, exact, recording([], measure=with_integer_inputs))
    found = run_search_under(reused, binary, recording([], kill_after=0))
    assert found == run_search_under(fresh, binary, recording([], measure=with_integer_inputs))
    rows, proposals = contents(reused)
    assert rows == contents(fresh)[0]
    assert proposals[len(proposals) // 2 :] == contents(fresh)[1]
    assert [e.energy.energy_mj for e in found] == pytest.approx([binary_only_mj(a) for a in architectures_of(found)], rel=1e-12)


SMALL: dict[str, Any] = {"time_steps": [1, 2], "stages": [{"embed_dim": [8, 16], "depth": [1, 2], "block": {"num_heads": [1, 2]}}]}


@pytest.mark.parametrize("algorithm", ONE)
def test_an_exhausted_space_is_not_measured_again_under_another_convention(algorithm: str, tmp_path: Path) -> None:
    reused, fresh = tmp_path / "reused.sqlite", tmp_path / "fresh.sqlite"
    exact, binary = (settings_of(algorithm, population=5, generations=20, convention=name) for name in ("exact", "binary-only"))
    before = run_search_under(reused, exact, recording([], measure=with_integer_inputs), space_dict=SMALL)
    found = run_search_under(reused, binary, recording([], kill_after=0), space_dict=SMALL)
    expected = run_search_under(fresh, binary, recording([], measure=with_integer_inputs), space_dict=SMALL)
    assert len(found) == len(expected) == 2 * 2 * (2 + 4)
    assert {e.measurement.architecture: e.f_aeb for e in found} == {e.measurement.architecture: e.f_aeb for e in expected}
    assert set(architectures_of(front(found))) == set(architectures_of(front(expected)))
    assert set(architectures_of(front(found))) != set(architectures_of(front(before)))


@pytest.mark.parametrize("algorithm", ONE)
def test_a_search_under_another_convention_proposes_the_candidates_of_a_new_search(algorithm: str, tmp_path: Path) -> None:
    """Those in the archive are not measured again."""
    reused, fresh = tmp_path / "reused.sqlite", tmp_path / "fresh.sqlite"
    exact, binary = (settings_of(algorithm, convention=name) for name in ("exact", "binary-only"))
    known = architectures_of(run_search_under(reused, exact, recording([], measure=with_integer_inputs)))
    measured: list[Architecture] = []
    found = run_search_under(reused, binary, recording(measured, measure=with_integer_inputs))
    expected = run_search_under(fresh, binary, recording([], measure=with_integer_inputs))
    new_candidates = architectures_of(expected)
    assert measured == [architecture for architecture in new_candidates if architecture not in known]
    assert [row[1:4] for row in contents(reused)[1][len(known) :]] == [row[1:4] for row in contents(fresh)[1]]
    evaluations = [e for e in found if e.measurement.architecture in new_candidates]
    assert set(architectures_of(front(evaluations))) == set(architectures_of(front(expected)))


@pytest.mark.parametrize("algorithm", ONE)
def test_a_killed_search_under_another_convention_leaves_all_rows_under_it(algorithm: str, tmp_path: Path) -> None:
    """This includes the rows that an earlier search measured."""
    path, other, config = tmp_path / "archive.sqlite", {"seed": 9}, settings_of(algorithm, convention="binary-only")
    known = len(run_search_under(path, settings_of(algorithm), recording([], measure=with_integer_inputs)))
    first: list[Architecture] = []
    shutil.copy(path, tmp_path / "copy.sqlite")
    run_search_under(
        tmp_path / "copy.sqlite",
        config.model_copy(update={"generations": 1}),
        recording(first, measure=with_integer_inputs),
        **other,
    )
    with pytest.raises(KilledError):
        run_search_under(path, config, recording([], kill_after=len(first) + 8, measure=with_integer_inputs), **other)
    rows = sqlite3.connect(path).execute("SELECT architecture, accuracy, convention, energy_mj, f_aeb FROM evaluations").fetchall()
    assert len(rows) == known + len(first) > known
    reference = binary_only_mj(SearchSpace.from_dict(WIDE).largest())
    for text, accuracy, convention, energy_mj, f_aeb in rows:
        expected = binary_only_mj(Architecture.from_json(text))
        assert (convention, energy_mj) == ("binary-only", pytest.approx(expected, rel=1e-12))
        assert f_aeb == pytest.approx(accuracy * (expected / reference) ** -0.07, rel=1e-12)


@pytest.mark.slow
def test_aeb_maximises_f_aeb_under_the_convention_of_the_search(tmp_path: Path) -> None:
    """With beta = 2, the best candidate needs little energy under the convention of the search."""
    config = {"generations": 8, "fitness": {"beta": 2}}
    best = {
        name: max(
            run_search_under(
                tmp_path / name, settings_of("aeb", convention=name, **config), recording([], measure=with_integer_inputs)
            ),
            key=fitness,
        )
        for name in ("exact", "binary-only")
    }
    widths = {name: e.measurement.architecture.stages[0].embed_dim for name, e in best.items()}
    assert widths["exact"] < widths["binary-only"] == 64


def fitness(evaluation: Evaluation) -> float:
    return evaluation.f_aeb


def individual(architecture: Architecture) -> Individual:
    measured = analytic(architecture)
    values = [measured.accuracy, measured.energy(DEFAULT).energy_mj]
    return Individual(architecture=architecture, f_aeb=measured.accuracy, fitness=fitness_of(values, [True, False]))


def individuals(number: int) -> list[Individual]:
    space, rng = SearchSpace.from_dict(WIDE), random.Random(0)
    return [individual(space.sample(rng)) for _ in range(number)]


def generation_context(algorithm: str) -> GenerationContext:
    return GenerationContext(
        space=SearchSpace.from_dict(WIDE), config=settings_of(algorithm), rng=random.Random(0), key=(0, "deap", 1)
    )


@pytest.mark.parametrize("algorithm", ONE)
def test_f_aeb_is_relative_to_the_energy_of_the_largest_subnet(algorithm: str) -> None:
    evaluations = evaluations_of_search(settings_of(algorithm, fitness={"beta": 0.5}))
    reference = analytic(SearchSpace.from_dict(WIDE).largest()).energy(DEFAULT).energy_mj
    measurements = [e.measurement for e in evaluations]
    expected = [m.accuracy * (reference / m.energy(DEFAULT).energy_mj) ** 0.5 for m in measurements]
    assert [e.f_aeb for e in evaluations] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("algorithm", ["nsga2", "random"])
def test_algorithms_without_fitness_measure_nothing_for_another_fitness(algorithm: str) -> None:
    archive = Archive(Path(":memory:"), "p")
    run_search(archive, settings_of(algorithm), recording([]))
    run_search(archive, settings_of(algorithm, fitness={"beta": 0.5}), recording([], kill_after=0))
    assert len(archive.all()) == archived_after_generation(algorithm)[-1]


def test_aeb_selects_the_highest_faeb() -> None:
    received = individuals(20)
    survivors = ALGORITHMS["aeb"]().tell(received[:10], received[10:], generation_context("aeb"))
    assert [s.f_aeb for s in survivors] == sorted((i.f_aeb for i in received), reverse=True)[:3]


def test_nsga2_selects_the_front_first() -> None:
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


@pytest.mark.slow
def test_nsga2_optimises_the_configured_objective() -> None:
    # With T as the only objective, most candidates of the last generation have T = 1. The mean of the last 30 candidates of five
    # searches is below 1.5; of random samples it is 2.
    last: list[int] = []
    for seed in range(5):
        archive = Archive(Path(":memory:"), "p")
        config = settings_of("nsga2", objectives=("time_steps",), generations=8, global_mutation=0.1)
        run_search(archive, config, recording([]), seed=seed)
        last += [e.measurement.architecture.time_steps for e in proposed(archive.all()) if e.generation == 7]
    assert len(last) == 30
    assert mean(last) < 1.5


def fraction(evaluations: list[Evaluation]) -> float:
    measurements = [e.measurement for e in evaluations]
    reference = analytic(SearchSpace.from_dict(WIDE).largest()).energy(DEFAULT).energy_mj
    return hypervolume([(m.accuracy, m.energy(DEFAULT).energy_mj) for m in measurements], energy_reference=reference)


BUDGET = {"population": 16, "generations": 10, "parents": 8}


@cache
def hypervolumes_and_best_fitness(algorithm: str) -> tuple[list[float], list[float]]:
    """Return the hypervolume and the best F_AEB of the measured candidates for four seeds with the same budget."""
    runs = [evaluations_of_search(settings_of(algorithm, **BUDGET, fitness={"beta": 0.3}), seed=seed) for seed in range(4)]
    assert [len(proposed(evaluations)) for evaluations in runs] == [160] * 4
    return [fraction(evaluations) for evaluations in runs], [max(e.f_aeb for e in evaluations) for evaluations in runs]


@pytest.mark.slow
def test_nsga2_finds_a_larger_hypervolume_than_random_search() -> None:
    found, random_search = hypervolumes_and_best_fitness("nsga2")[0], hypervolumes_and_best_fitness("random")[0]
    assert mean(found) > mean(random_search) + 0.03


@pytest.mark.slow
def test_aeb_finds_a_better_fitness_than_random_search() -> None:
    found, random_search = hypervolumes_and_best_fitness("aeb")[1], hypervolumes_and_best_fitness("random")[1]
    assert mean(found) > mean(random_search) * 1.05
    assert min(found) > mean(random_search)


@pytest.mark.parametrize("algorithm", ONE)
def test_the_front_has_all_candidates_that_no_other_dominates(algorithm: str) -> None:
    evaluations = evaluations_of_search(settings_of(algorithm, population=12, generations=6))
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


def test_the_id_of_a_search_depends_on_all_settings_but_generations() -> None:
    def id_of(algorithm: str = "nsga2", *, seed: int = 0, **changed: object) -> str:
        return make_search(Archive(Path(":memory:"), "p"), settings_of(algorithm, **changed), recording([]), seed=seed).id

    base = id_of()
    assert base.startswith("nsga2-")
    assert id_of(generations=2) == base
    others = [id_of("random"), id_of(seed=1), id_of(population=8), id_of(block_mutation=0.3)]
    others += [id_of(global_mutation=0.3), id_of(objectives=("accuracy", "params")), id_of(fitness={"beta": 0.1})]
    others += [id_of(crossover="uniform"), id_of(late_point=2.0)]
    others += [id_of(convention="binary-only"), id_of(convention="exact/int8")]
    assert id_of(convention="exact/fp32") == base
    assert len({base, *others}) == 1 + len(others)


def test_a_search_of_a_continuous_space_fills_every_generation() -> None:
    space_dict = edited(WIDE, "stages.0.block.neuron.tau", {"low": 1.1, "high": 4.0, "sigma": 0.3})
    for algorithm in NAMES:
        found = evaluations_of_search(settings_of(algorithm), space_dict=space_dict)
        assert len(proposed(found)) == 24
        assert all(permits(space_dict, architecture) for architecture in architectures_of(found))


def test_by_product_candidates_are_parents_of_aeb() -> None:
    """The parents are the candidates of the greatest F_AEB, by-products among them: with this exponent the cheapest ones."""
    archive = Archive(Path(":memory:"), "p")
    settings = settings_of("aeb", generations=1, fitness={"beta": 5})
    run_search(archive, settings, recording([]))
    best = sorted(archive.all(), key=lambda e: -e.f_aeb)[: settings.parents]
    stored = archive.population(make_search(archive, settings, recording([])).id)
    assert stored is not None
    assert {architecture_id for architecture_id, _ in stored[1]} == {e.measurement.architecture.id for e in best}
    assert any(e.by_product for e in best)


def test_by_product_candidates_are_selected_as_parents_of_nsga2() -> None:
    """Every candidate has a by-product with T = 1. The objective selects T = 1, which does not mutate."""
    archive = Archive(Path(":memory:"), "p")
    settings = settings_of("nsga2", generations=2, global_mutation=0, block_mutation=0.5, objectives=("time_steps",))
    run_search(archive, settings, recording([]))
    first, second = ([e for e in archive.all() if e.generation == i] for i in range(2))
    assert {e.measurement.architecture.time_steps for e in proposed(first)} == {1, 2, 3}
    assert {e.measurement.architecture.time_steps for e in proposed(second)} == {1}


def test_measurements_in_another_order_are_an_error() -> None:
    def reversed_order(architectures: Iterable[Architecture]) -> Iterator[Measurement]:
        return map(analytic, reversed(list(architectures)))

    archive = Archive(Path(":memory:"), "p")
    with pytest.raises(RuntimeError, match="in the order of the architectures"):
        run_search(archive, settings_of("nsga2"), reversed_order)
    assert archive.all() == []


# Embedding and six blocks: seven crossover points. The smallest and the largest member differ in every gene.
SEVEN_POINTS = SearchSpace.from_dict({"stages": [{"embed_dim": [8, 16], "depth": 6, "block": {"num_heads": [1, 2]}}]})


def switches_of_children(**changed: object) -> list[list[int]]:
    """Return for each of 600 unmutated children of NSGA-II the positions where its genes change from one parent to the other."""
    config = settings_of("nsga2", block_mutation=0, global_mutation=0, **changed)
    context = GenerationContext(space=SEVEN_POINTS, config=config, rng=random.Random(0), key=(0, "deap", 1))
    population = [individual(SEVEN_POINTS.smallest()), individual(SEVEN_POINTS.largest())]
    found = []
    for child in islice(ALGORITHMS["nsga2"]().ask(population, context), 600):
        (stage,) = child.stages
        from_smallest = [stage.embed_dim == 8, *(block.num_heads == 1 for block in stage.blocks)]
        found.append([i for i in range(1, 7) if from_smallest[i] != from_smallest[i - 1]])
    return found


@pytest.mark.slow
def test_nsga2_uses_the_configured_crossover() -> None:
    assert max(map(len, switches_of_children(crossover="one-point"))) == 1
    assert max(map(len, switches_of_children(crossover="uniform"))) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("late_point", "last"), [(1.0, 1 / 6), (100.0, 64 / 126)])
def test_nsga2_uses_the_configured_late_point(late_point: float, last: float) -> None:
    # The last point is 64 times as likely as the first, so each is twice as likely as the one before it. About 280 children have
    # different parents and a point after the embedding: five standard deviations are 0.15.
    switches = [found[0] for found in switches_of_children(late_point=late_point) if found]
    assert switches.count(6) / len(switches) == pytest.approx(last, abs=0.15)


def test_keyed_generators_depend_on_every_part_of_the_key() -> None:
    assert keyed(3, "search", 1).random() == keyed(3, "search", 1).random()
    assert len({keyed(*key).random() for key in [(3, "search", 1), (3, "search", 2), (4, "search", 1), (3, "training", 1)]}) == 4


def test_global_random_seeds_and_restores_the_global_generator() -> None:
    random.seed(1)
    with global_random(5, "deap"):
        first = random.random()
    with pytest.raises(KilledError), global_random(5, "deap"):
        assert random.random() == first
        raise KilledError
    expected = random.Random(1).random()
    assert random.random() == expected


# Correct of 100, accumulations, F_AEB. The worse of two tied candidates is listed first.
CANDIDATES = {
    "worse": (40, 10.0, 0.1),
    "cheap": (50, 10.0, 0.3),
    "middle": (88, 30.0, 0.1),
    "wasteful": (90, 2000.0, 0.15),
    "costly": (90, 1000.0, 0.2),
    "bad": (50, 500.0, 0.4),
}


def candidates_by_name() -> dict[str, Evaluation]:
    return {
        name: evaluation_of(measurement(small(embed_dim=8 * i), correct=correct, acs=acs), f_aeb=f_aeb, generation=0)
        for i, (name, (correct, acs, f_aeb)) in enumerate(CANDIDATES.items(), start=1)
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
def test_each_selection_rule(rule: str, min_accuracy: float, expected: str) -> None:
    candidates = candidates_by_name()
    assert pick(list(candidates.values()), rule, min_accuracy=min_accuracy) == candidates[expected]


def with_errors(errors: range, *, acs: float, width: int) -> Evaluation:
    """A candidate that misclassifies some of 200 images."""
    mask = pack_mask(bytes(i not in errors for i in range(200)))
    found = measurement(small(embed_dim=width), correct=200 - len(errors), images=200, acs=acs, mask=mask)
    return evaluation_of(found, f_aeb=0.0, generation=0)


def test_cheapest_within_noise_by_hand() -> None:
    """The best misclassifies images 0 to 9. McNemar: 5 more errors give p = 1/32, 4 more give 1/16; 14 others against 10: 0.27."""
    best = with_errors(range(10), acs=1000, width=8)
    five_more = with_errors(range(15), acs=10, width=16)
    four_more = with_errors(range(14), acs=500, width=24)
    others = with_errors(range(100, 114), acs=100, width=32)
    costly = with_errors(range(10), acs=2000, width=40)
    assert pick([best, five_more, four_more, others, costly], "cheapest-within-noise") == others
    assert pick([best, five_more, four_more, costly], "cheapest-within-noise") == four_more
    assert pick([best, five_more, costly], "cheapest-within-noise") == best


def test_cheapest_within_noise_without_masks_uses_the_unpaired_test() -> None:
    """190 of 200 against 180 of 200: z = -1.90, p = 0.029; against 182: z = -1.58, p = 0.057."""
    best, below, near = (
        evaluation_of(measurement(small(embed_dim=w), correct=c, images=200, acs=a), f_aeb=0.0, generation=0)
        for w, c, a in ((8, 190, 1000.0), (16, 180, 10.0), (24, 182, 100.0))
    )
    assert pick([best, below], "cheapest-within-noise") == best
    assert pick([best, below, near], "cheapest-within-noise") == near


def test_cheapest_within_noise_leaves_out_candidates_that_were_stopped_early() -> None:
    stopped = evaluation_of(measurement(small(embed_dim=48), correct=50, images=50, acs=1), f_aeb=0.0, generation=0)
    best = with_errors(range(10), acs=1000, width=8)
    assert pick([best, stopped], "cheapest-within-noise") == best


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, "costly"), (0.019, "costly"), (0.0201, "middle"), (0.41, "cheap")])
def test_least_energy_within_a_tolerance_of_the_best_accuracy(tolerance: float, expected: str) -> None:
    candidates = candidates_by_name()
    assert pick(list(candidates.values()), "least-energy", tolerance=tolerance) == candidates[expected]


def test_selection_by_id() -> None:
    candidates = candidates_by_name()
    for evaluation in candidates.values():
        name = evaluation.measurement.architecture.id
        assert pick(list(candidates.values()), name) == evaluation
        assert pick(list(candidates.values()), name[:8], min_accuracy=1.0) == evaluation


@pytest.mark.parametrize(
    ("rule", "min_accuracy", "names"), [("best", 0.0, "best-accuracy"), ("", 0.0, "least-energy"), ("knee", 0.95, "0.9000")]
)
def test_unknown_rules_and_unreachable_accuracies_are_errors(rule: str, min_accuracy: float, names: str) -> None:
    assert names in one_line_error(lambda: pick(list(candidates_by_name().values()), rule, min_accuracy=min_accuracy))


def test_selection_from_no_candidates_is_an_error() -> None:
    assert "autospike search" in one_line_error(lambda: pick([], "knee"))
