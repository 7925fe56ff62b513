"""The search itself: generation by generation, every candidate looked up before it is measured, every walk archived as it ends.

With each candidate come its relatives (`autospike.search.by_products`), which cost nothing: they compete for the next generation as
if they had been asked for, and are not asked for again.

A killed search is resumed by running it again: the generations that the archive knows are replayed without a forward pass, and as
each generation is keyed by (seed, generation), the resumed search ends at the same front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from autospike.config import SearchConfig
from autospike.measurement import OBJECTIVES, Evaluation, Measurement
from autospike.randomness import keyed
from autospike.search.algorithms import ALGORITHMS, GenerationContext, Individual, fitness_of
from autospike.search.archive import Archive
from autospike.search.by_products import by_product_candidates
from autospike.search.fitness import f_aeb
from autospike.space.architecture import Architecture, digest
from autospike.space.search_space import SearchSpace

Evaluate = Callable[[Iterable[Architecture]], Iterator[Measurement]]
Fitness = Callable[[float, float], float]  # of accuracy and energy in mJ

# How often an algorithm may repeat itself before what lacks of its generation is drawn at random, and then random draws in turn.
DRAWS_PER_CANDIDATE = 50


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search of a space.

    Args:
        anchors: architectures that the first generation contains, such as the reference network; those outside the space are not.
        evaluate: measures architectures and gives their measurements in the order of the requests.
        measured: told of every candidate that was asked for, in that order.
    """

    space: SearchSpace
    anchors: tuple[Architecture, ...]
    evaluate: Evaluate
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
        """Search to the last generation, or until no candidate is found that was not seen."""
        self.archive.begin(self.id, self.config.model_dump_json())
        if self.archive.get(self.space.largest()):
            self.archive.rescore(self._fitness(()))
        algorithm = ALGORITHMS[self.config.algorithm]()
        population: list[Individual] = []
        seen: set[Architecture] = set()
        for generation in range(self.config.generations):
            turn = self._turn(generation)
            asked = algorithm.ask(population, turn) if generation else self._first_generation(turn)
            before = frozenset(seen)
            candidates = list(self._unseen(asked, seen, turn))
            if not candidates:
                return
            free = self._free(candidates, before)
            self.archive.propose(self.id, generation, candidates, free)
            offspring = [self._individual(e) for e in self._measure(candidates, free, generation)]
            population = algorithm.tell(population, offspring, turn)

    def _turn(self, generation: int) -> GenerationContext:
        rng, key = keyed(self.seed, "search", generation), (self.seed, "deap", generation)
        return GenerationContext(space=self.space, config=self.config, rng=rng, key=key)

    def _individual(self, evaluation: Evaluation) -> Individual:
        targets = [OBJECTIVES[name] for name in self.config.objectives]
        return Individual(
            architecture=evaluation.measurement.architecture,
            f_aeb=evaluation.f_aeb,
            fitness=fitness_of([t.value(evaluation) for t in targets], [t.maximise for t in targets]),
        )

    def _first_generation(self, turn: GenerationContext) -> Iterator[Architecture]:
        anchors = (self.space.largest(), self.space.smallest(), *(a for a in self.anchors if self.space.contains(a)))
        return chain(anchors, ALGORITHMS["random"]().ask([], turn))

    def _unseen(self, asked: Iterator[Architecture], seen: set[Architecture], turn: GenerationContext) -> Iterator[Architecture]:
        """The first `population` candidates that this search has not measured before, nor measures along with another; where
        the algorithm does not find as many, the rest are random."""
        budget = DRAWS_PER_CANDIDATE * self.config.population
        wanted = self.config.population
        for candidate in chain(islice(asked, budget), islice(ALGORITHMS["random"]().ask([], turn), budget)):
            if candidate in seen:
                continue
            seen.update(by_product_candidates(self.space, candidate))
            yield candidate
            wanted -= 1
            if not wanted:
                return

    def _free(self, candidates: list[Architecture], before: frozenset[Architecture]) -> list[Architecture]:
        """Who is measured along with some candidates, and was neither asked for nor measured before."""
        skipped = before.union(candidates)
        along = dict.fromkeys(chain.from_iterable(by_product_candidates(self.space, candidate) for candidate in candidates))
        return [architecture for architecture in along if architecture not in skipped]

    def _fitness(self, measured: Sequence[Measurement]) -> Fitness:
        """F_AEB. Its reference, the largest subnet, is a candidate of the first generation: archived, or measured just now."""
        largest = self.space.largest()
        known = self.archive.get(largest)
        reference = known.measurement if known else next(m for m in measured if m.architecture == largest)
        return partial(f_aeb, reference_mj=reference.energy(self.archive.convention).energy_mj, config=self.config.fitness)

    def _measure(self, candidates: list[Architecture], free: list[Architecture], generation: int) -> list[Evaluation]:
        """The evaluations of a generation; what the archive lacks of it is measured in one walk, and archived together."""
        wanted = [*candidates, *free]
        found = {architecture: self.archive.get(architecture) for architecture in wanted}
        missing = [architecture for architecture in wanted if found[architecture] is None]
        measured = list(self.evaluate(missing))
        evaluated = partial(self._evaluated, free=frozenset(free), generation=generation, fitness=self._fitness(measured))
        new = [evaluated(m, asked) for m, asked in zip(measured, missing, strict=True)]
        self.archive.add(new)
        found |= dict(zip(missing, new, strict=True))
        evaluations = [evaluation for evaluation in found.values() if evaluation is not None]
        for evaluation in evaluations[: len(candidates)]:
            self.measured(evaluation)
        return evaluations

    def _evaluated(
        self, measurement: Measurement, asked: Architecture, *, free: frozenset[Architecture], generation: int, fitness: Fitness
    ) -> Evaluation:
        if measurement.architecture != asked:
            raise RuntimeError("measurements came in another order than they were asked for")
        energy = measurement.energy(self.archive.convention)
        return Evaluation(
            measurement=measurement,
            energy=energy,
            f_aeb=fitness(measurement.accuracy, energy.energy_mj),
            generation=generation,
            by_product=asked in free,
        )
