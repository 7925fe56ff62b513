"""The search itself: generation by generation, every candidate looked up before it is measured, every measurement archived at once.

A killed search is resumed by running it again: the generations that the archive knows are replayed without a forward pass, and as
each generation is keyed by (seed, generation), the resumed search ends at the same front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from autospike.architecture import Architecture, digest
from autospike.config import SearchConfig
from autospike.measurement import Measurement
from autospike.randomness import keyed
from autospike.search.algorithms import ALGORITHMS, Individual, Turn, fitness_of
from autospike.search.archive import Archive, Evaluation
from autospike.search.fitness import f_aeb
from autospike.search.objectives import OBJECTIVES
from autospike.space import SearchSpace

Executor = Callable[[Iterable[Architecture]], Iterator[Measurement]]

# How often an algorithm may repeat itself before its generation is taken to be complete.
DRAWS_PER_CANDIDATE = 50


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search of a space.

    Args:
        anchors: architectures that the first generation must hold, such as the hand-made one; those outside the space are ignored.
        executor: measures architectures and gives their measurements in the order of the requests.
        measured: told of every candidate, in the order in which it was asked for.
    """

    space: SearchSpace
    anchors: tuple[Architecture, ...]
    executor: Executor
    archive: Archive
    config: SearchConfig
    seed: int
    measured: Callable[[Evaluation], None]

    @property
    def id(self) -> str:
        """Names the search by what its course depends on; more generations only lengthen it."""
        settings = self.config.model_dump(mode="json", exclude={"generations"})
        return f"{self.config.algorithm}-{digest({'seed': self.seed, **settings})}"

    def run(self) -> None:
        """Search to the last generation, or until the algorithm finds no candidate that it has not seen."""
        algorithm, targets = ALGORITHMS[self.config.algorithm](), [OBJECTIVES[name] for name in self.config.objectives]
        self.archive.begin(self.id, self.config.model_dump_json())
        reference_mj = self._reference_mj()
        self.archive.refit(
            lambda accuracy, energy_mj: f_aeb(accuracy, energy_mj, reference_mj=reference_mj, config=self.config.fitness)
        )
        population: list[Individual] = []
        seen: set[Architecture] = set()
        for generation in range(self.config.generations):
            turn = Turn(
                space=self.space,
                config=self.config,
                rng=keyed(self.seed, "search", generation),
                key=(self.seed, "deap", generation),
            )
            asked = algorithm.ask(population, turn) if generation else self._first_generation(turn)
            candidates = list(self._unseen(asked, seen))
            if not candidates:
                return
            self.archive.propose(self.id, generation, candidates)
            offspring = [
                Individual(
                    architecture=e.measurement.architecture,
                    f_aeb=e.f_aeb,
                    fitness=fitness_of([t.value(e.measurement) for t in targets], [t.maximise for t in targets]),
                )
                for e in self._measure(candidates, generation, reference_mj)
            ]
            population = algorithm.tell(population, offspring, turn)

    def _first_generation(self, turn: Turn) -> Iterator[Architecture]:
        anchors = (self.space.largest(), self.space.smallest(), *(a for a in self.anchors if self.space.contains(a)))
        return chain(anchors, ALGORITHMS["random"]().ask([], turn))

    def _unseen(self, asked: Iterator[Architecture], seen: set[Architecture]) -> Iterator[Architecture]:
        """The first `population` candidates that this search never asked for before."""
        budget = DRAWS_PER_CANDIDATE * self.config.population
        wanted = self.config.population
        for candidate in islice(asked, budget):
            if candidate in seen:
                continue
            seen.add(candidate)
            yield candidate
            wanted -= 1
            if not wanted:
                return

    def _reference_mj(self) -> float:
        """Energy of the largest subnet. It is measured first, and is a candidate of the first generation."""
        largest = self.space.largest()
        known = self.archive.get(largest)
        measurement = known.measurement if known else next(self.executor([largest]))
        if not known:  # its F_AEB follows from the reference that it is: `refit` sets it
            self.archive.add(Evaluation(measurement=measurement, f_aeb=measurement.score.accuracy, generation=0))
        return measurement.score.energy.energy_mj

    def _measure(self, candidates: list[Architecture], generation: int, reference_mj: float) -> Iterator[Evaluation]:
        known = {candidate: self.archive.get(candidate) for candidate in candidates}
        missing = self.executor([candidate for candidate in candidates if known[candidate] is None])
        for candidate in candidates:
            evaluation = known[candidate]
            if evaluation is None:
                measurement = next(missing)
                if measurement.architecture != candidate:
                    raise RuntimeError("the executor gave its measurements in another order than it was asked for them")
                evaluation = self._archived(measurement, generation, reference_mj)
            self.measured(evaluation)
            yield evaluation

    def _archived(self, measurement: Measurement, generation: int, reference_mj: float) -> Evaluation:
        score = measurement.score
        fitness = f_aeb(score.accuracy, score.energy.energy_mj, reference_mj=reference_mj, config=self.config.fitness)
        evaluation = Evaluation(measurement=measurement, f_aeb=fitness, generation=generation)
        self.archive.add(evaluation)
        return evaluation
