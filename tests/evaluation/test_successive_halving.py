"""Successive halving: which candidates are dropped, and that survivors are measured as without it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import measurement
from populations import SEARCH, Start, make_evaluator, make_population_evaluator, measure_population, sample

from autospike.config import EvaluationConfig
from autospike.data.batches import Span
from autospike.energy.conventions import EXACT
from autospike.energy.totals import LayerTotal, OperandTotal
from autospike.evaluation.population import CalibrationJob, PopulationEvaluator
from autospike.evaluation.successive_halving import clearly_better, undominated
from autospike.evaluation.trie import HEAD, Trie
from autospike.evaluation.trie_evaluator import NodeResult
from autospike.execution.executor import Job, Serial
from autospike.measurement import Measurement
from autospike.space.architecture import Architecture, Embedding, Stage
from autospike.space.block import Block
from autospike.tasks.classification import CorrectPredictions

IMAGES = 400


def architecture_of(ratio: float, *, time_steps: int = 1, depth: int = 1) -> Architecture:
    blocks = (Block(num_heads=1, mlp_ratio=ratio),) * depth
    return Architecture(time_steps=time_steps, stages=(Stage(embed_dim=8, embedding=Embedding(stride=4), blocks=blocks),))


def measurement_of(correct: int, images: int, *, energy: float = 0.0) -> Measurement:
    return measurement(architecture_of(1), correct=correct, images=images, acs=energy)


def test_clearly_better_is_three_standard_deviations() -> None:
    """0.9 and 0.5 of 100 of 400 images: deviation sqrt((0.09 + 0.25) / 100 * 0.75) = 0.0505, the difference 7.9 deviations."""
    good, bad = measurement_of(90, 100), measurement_of(50, 100)
    deviations = 0.4 / math.sqrt(0.34 / 100 * 0.75)
    assert clearly_better(good, bad, deviations - 1e-6, images=IMAGES)
    assert not clearly_better(good, bad, deviations + 1e-6, images=IMAGES)
    assert not clearly_better(bad, good, 0.001, images=IMAGES)


def test_after_all_images_any_difference_is_clearly_better() -> None:
    assert clearly_better(measurement_of(201, 400), measurement_of(200, 400), 100, images=IMAGES)
    assert not clearly_better(measurement_of(200, 400), measurement_of(200, 400), 100, images=IMAGES)


def test_equal_accuracies_are_never_clearly_better() -> None:
    assert not clearly_better(measurement_of(100, 100), measurement_of(100, 100), 3, images=IMAGES)
    assert not clearly_better(measurement_of(0, 100), measurement_of(0, 100), 3, images=IMAGES)


def survivors_of(*correct_and_energy: tuple[int, float]) -> list[int]:
    """Return the indices of the survivors after 100 of 400 images."""
    scores = {architecture_of(i + 1): measurement_of(c, 100, energy=e) for i, (c, e) in enumerate(correct_and_energy)}
    names = list(scores)
    return sorted(names.index(a) for a in undominated(scores, EXACT, 3, images=IMAGES))


def test_survivors_are_not_clearly_dominated() -> None:
    """For 0.9 and 0.75, three standard deviations are about 0.13."""
    assert survivors_of((90, 10), (50, 20)) == [0]
    assert survivors_of((90, 10), (85, 20)) == [0, 1]
    assert survivors_of((90, 20), (50, 10)) == [0, 1]
    assert survivors_of((50, 10), (90, 20), (60, 30), (89, 40)) == [0, 1, 3]
    assert survivors_of((70, 10)) == [0]


def test_dropped_candidates_also_dominate_others() -> None:
    """0.9 dominates 0.7, and 0.7 dominates 0.5."""
    assert survivors_of((90, 10), (70, 20), (50, 30)) == [0]


def test_of_equal_energies_the_more_accurate_candidate_survives_in_any_order() -> None:
    assert survivors_of((90, 10), (50, 10)) == [0]
    assert survivors_of((50, 10), (90, 10)) == [1]


@dataclass
class Scripted:
    """An executor without networks: the correct images of each head are given, and each segment costs its depth."""

    right: dict[str, float]
    workers: int = 1
    scored: list[tuple[int, Span]] = field(default_factory=list)

    def run(self, job: Job, shards: Sequence[Span]) -> Iterator[tuple[int, Any]]:
        for i, (start, stop) in reversed(list(enumerate(shards))):
            if isinstance(job, CalibrationJob):
                yield i, {}
                continue
            population = job.population  # type: ignore[attr-defined]
            self.scored.append((len(population), (start, stop)))
            yield i, {key: self._done(node.name, key, start, stop) for key, node in Trie(population).nodes.items()}

    def close(self) -> None:
        """Do nothing."""

    def _done(self, name: str, key: str, start: int, stop: int) -> NodeResult:
        images = stop - start
        spikes = OperandTotal(kinds=(0, 0), sums=(images, images), acs=(images * 10.0, images * 10.0), elements=1)
        share = self.right.get(key, 0.5)
        correct = bytes(int((i + 1) * share) - int(i * share) for i in range(start, stop))
        state = CorrectPredictions(shards={start: correct})
        layers = (LayerTotal(layer=name, macs=1, time_steps=2, operands=(spikes,)),)
        return NodeResult(
            layers=layers, params=1, images=images, metric_states=dict.fromkeys((1, 2), state) if name == HEAD else {}
        )


def successive_halving(
    right: dict[Architecture, float], *, racing: float, workers: int = 1, batch_size: int = 64
) -> dict[Architecture, Measurement]:
    """Return measurements of candidates with given fractions of correct images."""
    trie = Trie(right)
    executor = Scripted({trie.paths[a][-1]: share for a, share in right.items()}, workers=workers)
    evaluator = PopulationEvaluator(
        executor=executor,
        calibration_images=2,
        search_images=IMAGES,
        config=EvaluationConfig(batch_size=batch_size, racing=racing),
        convention=EXACT,
    )
    return {m.architecture: m for m in evaluator(right)}


SHALLOW, DEEP, DEEPEST = architecture_of(1), architecture_of(1, depth=2), architecture_of(1, depth=3)
RIGHT = {SHALLOW: 0.9, DEEP: 0.2, DEEPEST: 0.95}


def test_a_clearly_dominated_candidate_is_dropped() -> None:
    """After 50 of 400 images; survivors are measured as without successive halving."""
    exact, raced = successive_halving(RIGHT, racing=0), successive_halving(RIGHT, racing=3)
    assert {a: s.images for a, s in raced.items()} == {SHALLOW: 400, DEEP: 50, DEEPEST: 400}
    assert {a: s.images for a, s in exact.items()} == dict.fromkeys(RIGHT, 400)
    assert [raced[a] for a in (SHALLOW, DEEPEST)] == [exact[a] for a in (SHALLOW, DEEPEST)]
    assert exact[SHALLOW].correct == 360
    assert raced[DEEP].correct == 10
    assert raced[DEEP].counts == exact[DEEP].counts


def test_candidates_with_the_head_of_a_survivor_survive() -> None:
    """One pass measures every T at no extra cost."""
    two = architecture_of(1, time_steps=2)
    scores = successive_halving({SHALLOW: 0.5, two: 0.5}, racing=3)
    assert {a: s.images for a, s in scores.items()} == {SHALLOW: 400, two: 400}


@pytest.mark.parametrize(("workers", "batch_size"), [(1, 7), (3, 64), (5, 1), (16, 1000)])
def test_dropped_candidates_do_not_depend_on_the_workers(workers: int, batch_size: int) -> None:
    assert successive_halving(RIGHT, racing=3, workers=workers, batch_size=batch_size) == successive_halving(RIGHT, racing=3)


@pytest.mark.parametrize("images", range(2, 40))
@pytest.mark.parametrize("racing", [0, 3])
def test_rounds_cover_every_image_once_without_batches_of_one_image(images: int, racing: float) -> None:
    """A convolution of a single image has another implementation and is not bit-identical."""
    executor = Scripted({})
    config = EvaluationConfig(batch_size=8, racing=racing)
    evaluator = PopulationEvaluator(executor=executor, calibration_images=2, search_images=images, config=config, convention=EXACT)
    list(evaluator([SHALLOW]))
    spans = sorted(span for _, span in executor.scored)
    assert [i for span in spans for i in range(*span)] == list(range(images))
    assert min(stop - start for start, stop in spans) >= 2


def test_survivors_of_real_networks_are_measured_as_without_successive_halving() -> None:
    """With a threshold of 0.05 standard deviations, almost every difference is clear."""
    evaluator = make_evaluator("sew")
    population = sample(evaluator.supernet.space, 6, seed=2)
    exact = measure_population(evaluator, population)
    for batch_size in (4, 9, 100):
        raced = list(make_population_evaluator(Serial(state=Start("sew")()), racing=0.05, batch_size=batch_size)(population))
        assert {m.images for m in raced} > {SEARCH}
        assert [r for r, e in zip(raced, exact, strict=True) if r.images == SEARCH and r != e] == []
        if batch_size == 4:
            first = raced
        assert raced == first


def test_the_exempt_candidate_is_measured_on_every_image() -> None:
    """Even if it is dominated, because it is the reference of F_AEB."""
    scores = successive_halving(RIGHT, racing=3.0)
    assert scores[DEEP].images < IMAGES
    trie = Trie(RIGHT)
    evaluator = PopulationEvaluator(
        executor=Scripted({trie.paths[a][-1]: share for a, share in RIGHT.items()}),
        calibration_images=2,
        search_images=IMAGES,
        config=EvaluationConfig(batch_size=64, racing=3.0),
        convention=EXACT,
        exempt=DEEP,
    )
    assert {m.architecture: m.images for m in evaluator(RIGHT)} == dict.fromkeys(RIGHT, IMAGES)
