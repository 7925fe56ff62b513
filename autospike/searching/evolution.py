"""Evolutionary search, one generation after the other: ask, evaluate, archive, tell.

The by-product candidates of a proposed candidate (`autospike.searching.by_products`) are evaluated at no extra cost. They compete
for the next generation like proposed candidates and are not proposed again.

To resume an interrupted search, run it again. It continues after the newest generation whose population is in the archive.
Generations of an older version, which stored no population, are replayed without a forward pass. The random generator of a
generation depends on (seed, generation) only, so a resumed search ends with the same front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Protocol

from autospike.config import SearchConfig
from autospike.events import Callback, CandidateEvent, GenerationEvent, ignore
from autospike.measurement import Evaluation, Latency, Measurement
from autospike.objectives import Objective, objectives_of
from autospike.randomness import keyed
from autospike.searching.algorithms import ALGORITHMS, Algorithm, GenerationContext, Individual, algorithm_of
from autospike.searching.archive import Archive
from autospike.searching.by_products import by_product_candidates
from autospike.searching.constraints import Constraints
from autospike.searching.fitness import f_aeb
from autospike.searching.individuals import individual_of, offspring_of
from autospike.space.architecture import Architecture, digest
from autospike.space.search_space import SearchSpace

Evaluate = Callable[[Iterable[Architecture]], Iterator[Measurement]]


class LatencyMeter(Protocol):
    """Measures the latency of architectures on the device of the search."""

    @property
    def device(self) -> str:
        """As in `autospike.measurement.Latency`; latencies of another device are measured again."""

    def __call__(self, architectures: Sequence[Architecture]) -> Mapping[Architecture, Latency]:
        """Return the latency of each architecture."""


# Limit of the proposals read from an algorithm, for each candidate of a generation. An algorithm that repeats itself may never
# propose enough new candidates; then the same number of random samples is tried. A space that is nearly exhausted ends the search.
DRAWS_PER_CANDIDATE = 50


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search of a space.

    Attributes:
        space: The search space.
        anchors: Architectures of the first generation, such as the reference network. Those outside the space are skipped.
        evaluate: Measures architectures and yields the measurements in the order of the architectures.
        archive: Stores the evaluations and the proposals. It defines the protocol and the energy convention.
        config: The settings of the search.
        seed: Seed of the random generators.
        constraints: The limits. Candidates beyond a static one are not measured, except the reference of F_AEB.
        reference: The architecture whose energy is the reference of F_AEB. Default: the largest of the space. It is measured, but
            selected only if it is in the space and within the static limits.
        on_event: Callback that receives an event for each proposed candidate, in the order of the proposals, and one for each
            finished generation.
        algorithm: The algorithm; None for the one that `config.algorithm` names.
        should_stop: Called after each generation; the search ends if it returns True.
        latency: Measures the latency of candidates, if an objective is one.
        on_resume: Callback that is called if finished generations are skipped, with the number of candidates that they proposed
            and their greatest F_AEB.
    """

    space: SearchSpace
    anchors: tuple[Architecture, ...]
    evaluate: Evaluate
    archive: Archive
    config: SearchConfig
    seed: int
    constraints: Constraints = Constraints()
    reference: Architecture | None = None
    on_event: Callback = ignore
    algorithm: Algorithm | None = None
    should_stop: Callable[[], bool] = lambda: False
    latency: LatencyMeter | None = None
    on_resume: Callable[[int, float], None] = lambda _proposed, _best: None

    @property
    def id(self) -> str:
        """Algorithm and digest of the seed and the settings, except the number of generations."""
        return f"{self.config.algorithm}-{digest({'seed': self.seed, **self.config.identity})}"

    def run(self) -> int:
        """Search until the last generation, until no new candidate is found, or until `should_stop` returns True.

        Returns:
            The number of finished generations.

        Raises:
            RuntimeError: `evaluate` returned the measurements in another order.
            UserError: No architecture of the space is within the static limits.
        """
        feasible = self.constraints.check_reachable(self.space) if self.constraints.static else self.space.smallest()
        self.archive.begin(self.id, self.config.model_dump_json())
        if self.archive.get(self._reference):
            reference_mj = self._reference_mj(())
            self.archive.rescore(lambda accuracy, mj: f_aeb(accuracy, mj, reference_mj=reference_mj, config=self.config.fitness))
        algorithm = self.algorithm or algorithm_of(self.config.algorithm)
        objectives = list(objectives_of(self.config.objectives, self.constraints.shape).values())
        first, population, skipped = self._resumed(objectives)
        seen: set[Architecture] = set()
        for generation in range(first, self.config.generations):
            if generation > first and self.should_stop():
                return generation
            context = GenerationContext(
                space=self.space,
                config=self.config,
                rng=keyed(self.seed, "search", generation),
                key=(self.seed, "deap", generation),
                is_allowed=lambda architecture: self.constraints.static_violation(architecture) == 0,
            )
            # Ask: new candidates and their by-product candidates.
            proposed = algorithm.ask(population, context) if generation else self._first_generation(context)
            seen_before = frozenset(seen)
            candidates = list(self._new_candidates(proposed, seen, skipped, context, feasible))
            if not candidates:
                return generation
            known = seen_before.union(candidates)
            related = chain.from_iterable(by_product_candidates(self.space, candidate) for candidate in candidates)
            by_products = [
                a
                for a in dict.fromkeys(related)
                if a not in known and not (skipped and a.id in skipped) and not self.constraints.static_violation(a)
            ]
            self.archive.propose(self.id, generation, candidates, by_products)
            # Evaluate what the archive does not contain, and archive it in one transaction.
            found = {architecture: self.archive.get(architecture) for architecture in (*candidates, *by_products)}
            missing = [a for a, e in found.items() if e is None or not self._is_complete(e)]
            extra = [] if self._reference in found or self.archive.get(self._reference) else [self._reference]
            new = self._evaluate([*missing, *extra], frozenset([*by_products, *extra]), generation)
            self.archive.add(new)
            found |= {e.measurement.architecture: e for e in new[: len(missing)]}
            evaluations = self._with_latencies([evaluation for evaluation in found.values() if evaluation is not None])
            for evaluation in evaluations[: len(candidates)]:
                self.on_event(CandidateEvent(evaluation=evaluation, generation=generation))
            # Tell: the algorithm selects the next population.
            population = algorithm.tell(population, offspring_of(evaluations, objectives, self.constraints), context)
            survivors = [(i.architecture.id, getattr(i.fitness, "crowding_dist", None)) for i in population]
            self.archive.store_population(self.id, generation, survivors)
            self.on_event(
                GenerationEvent(
                    generation=generation,
                    generations=self.config.generations,
                    evaluations=evaluations[: len(candidates)],
                    by_products=evaluations[len(candidates) :],
                    measured=len(new),
                )
            )
        return self.config.generations

    def _resumed(self, objectives: Sequence[Objective]) -> tuple[int, list[Individual], frozenset[str]]:
        """The first generation to run, the population before it, and the ids of all candidates of earlier generations."""
        stored = self.archive.population(self.id)
        if stored is None:
            return 0, [], frozenset()
        generation, survivors = stored
        stored_evaluations = [self.archive.get_by_id(architecture_id) for architecture_id, _ in survivors]
        evaluations = self._with_latencies([evaluation for evaluation in stored_evaluations if evaluation is not None])
        if len(evaluations) < len(survivors):  # a row is damaged
            return 0, [], frozenset()
        population = []
        for evaluation, (_, crowding) in zip(evaluations, survivors, strict=True):
            individual = individual_of(evaluation, objectives, self.constraints)
            if crowding is not None:
                individual.fitness.crowding_dist = crowding
            population.append(individual)
        first = generation + 1
        self.on_resume(*self.archive.progress(self.id, min(first, self.config.generations)))
        return first, population, self.archive.proposed_ids(self.id, first) if first < self.config.generations else frozenset()

    def _first_generation(self, context: GenerationContext) -> Iterator[Architecture]:
        """The largest and the smallest subnet, the anchors, then random samples."""
        anchors = (self.space.largest(), self.space.smallest(), *(a for a in self.anchors if self.space.contains(a)))
        return chain(anchors, ALGORITHMS["random"]().ask([], context))

    def _new_candidates(
        self,
        proposed: Iterator[Architecture],
        seen: set[Architecture],
        skipped: frozenset[str],
        context: GenerationContext,
        feasible: Architecture,
    ) -> Iterator[Architecture]:
        """Yield the first `population` new candidates; random samples if the algorithm proposes too few.

        Proposals beyond a static limit are repaired by crossover with `feasible`, or left out.

        A candidate is new if it is not in `seen` and its id not in `skipped`, the candidates of generations that were not replayed.

        A candidate and its by-product candidates are added to `seen` before the next proposal is read. Both iterators are lazy and
        share one random generator, so the number of proposals that are read is part of the result.
        """
        budget = DRAWS_PER_CANDIDATE * self.config.population
        remaining = self.config.population
        for proposal in chain(islice(proposed, budget), islice(ALGORITHMS["random"]().ask([], context), budget)):
            candidate = self.constraints.repaired(self.space, proposal, feasible, context.rng)
            if candidate is None or candidate in seen or (skipped and candidate.id in skipped):
                continue
            seen.update(by_product_candidates(self.space, candidate))
            yield candidate
            remaining -= 1
            if not remaining:
                return

    def _evaluate(
        self, architectures: list[Architecture], by_products: frozenset[Architecture], generation: int
    ) -> list[Evaluation]:
        """Measure architectures together and add energy and F_AEB to each measurement."""
        measurements = list(self.evaluate(architectures))
        if [measurement.architecture for measurement in measurements] != architectures:
            raise RuntimeError("`evaluate` must return one measurement for each architecture, in the order of the architectures")
        reference_mj = self._reference_mj(measurements)
        evaluations = []
        for measurement in measurements:
            energy = measurement.energy(self.archive.convention)
            fitness = f_aeb(measurement.accuracy, energy.energy_mj, reference_mj=reference_mj, config=self.config.fitness)
            by_product = measurement.architecture in by_products
            evaluations.append(
                Evaluation(measurement=measurement, energy=energy, f_aeb=fitness, generation=generation, by_product=by_product)
            )
        return evaluations

    def _is_complete(self, evaluation: Evaluation) -> bool:
        """Whether a candidate of the archive has what the objectives need: rows of older versions have no spikes."""
        return evaluation.measurement.spikes is not None or "spikes" not in self.config.objectives

    def _with_latencies(self, evaluations: list[Evaluation]) -> list[Evaluation]:
        """The evaluations with latencies of this device, if an objective needs them; missing ones are measured and archived."""
        meter = self.latency
        if meter is None:
            return evaluations
        missing = [e.measurement.architecture for e in evaluations if e.latency is None or e.latency.device != meter.device]
        measured = meter(missing)
        self.archive.add_latencies(measured)
        return [replace(e, latency=measured.get(e.measurement.architecture, e.latency)) for e in evaluations]

    def _reference_mj(self, measurements: Sequence[Measurement]) -> float:
        """Energy of the reference, from the archive or, in the first generation, from the measurements."""
        archived = self.archive.get(self._reference)
        reference = archived.measurement if archived else next(m for m in measurements if m.architecture == self._reference)
        return reference.energy(self.archive.convention).energy_mj

    @property
    def _reference(self) -> Architecture:
        return self.reference or self.space.largest()
