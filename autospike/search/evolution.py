"""The search itself: generation by generation, every candidate looked up before it is measured, every measurement archived at once.

A killed search is resumed by running it again: the generations that the archive knows are replayed without a forward pass, and as
each generation is keyed by (seed, generation), the resumed search ends at the same front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from autospike.architecture import Architecture, digest
from autospike.config import SearchConfig
from autospike.measurement import Evaluation, Measurement
from autospike.randomness import keyed
from autospike.search.algorithms import ALGORITHMS, Individual, Turn, fitness_of
from autospike.search.archive import Archive
from autospike.search.fitness import f_aeb
from autospike.search.objectives import OBJECTIVES
from autospike.space import SearchSpace

Executor = Callable[[Iterable[Architecture]], Iterator[Measurement]]
Fitness = Callable[[float, float], float]  # of accuracy and energy in mJ

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
        self.archive.begin(self.id, self.config.model_dump_json())
        fitness = partial(f_aeb, reference_mj=self._reference_mj(), config=self.config.fitness)
        self.archive.rescore(fitness)
        algorithm = ALGORITHMS[self.config.algorithm]()
        population: list[Individual] = []
        seen: set[Architecture] = set()
        for generation in range(self.config.generations):
            turn = self._turn(generation)
            asked = algorithm.ask(population, turn) if generation else self._first_generation(turn)
            candidates = list(self._unseen(asked, seen))
            if not candidates:
                return
            self.archive.propose(self.id, generation, candidates)
            offspring = [self._individual(e) for e in self._measure(candidates, generation, fitness)]
            population = algorithm.tell(population, offspring, turn)

    def _turn(self, generation: int) -> Turn:
        rng, key = keyed(self.seed, "search", generation), (self.seed, "deap", generation)
        return Turn(space=self.space, config=self.config, rng=rng, key=key)

    def _individual(self, evaluation: Evaluation) -> Individual:
        targets = [OBJECTIVES[name] for name in self.config.objectives]
        return Individual(
            architecture=evaluation.measurement.architecture,
            f_aeb=evaluation.f_aeb,
            fitness=fitness_of([t.value(evaluation) for t in targets], [t.maximise for t in targets]),
        )

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
        energy = measurement.score.energy(self.archive.convention)
        if not known:  # its F_AEB follows from the reference that it is: `rescore` sets it
            self.archive.add(Evaluation(measurement=measurement, energy=energy, f_aeb=measurement.score.accuracy, generation=0))
        return energy.energy_mj

    def _measure(self, candidates: list[Architecture], generation: int, fitness: Fitness) -> Iterator[Evaluation]:
        known = {candidate: self.archive.get(candidate) for candidate in candidates}
        missing = self.executor([candidate for candidate in candidates if known[candidate] is None])
        for candidate in candidates:
            evaluation = known[candidate] or self._archived(next(missing), candidate, generation, fitness)
            self.measured(evaluation)
            yield evaluation

    def _archived(self, measurement: Measurement, asked: Architecture, generation: int, fitness: Fitness) -> Evaluation:
        if measurement.architecture != asked:
            raise RuntimeError("the executor gave its measurements in another order than it was asked for them")
        energy = measurement.score.energy(self.archive.convention)
        f_aeb = fitness(measurement.score.accuracy, energy.energy_mj)
        evaluation = Evaluation(measurement=measurement, energy=energy, f_aeb=f_aeb, generation=generation)
        self.archive.add(evaluation)
        return evaluation
