"""Search by a sampler of Optuna.

The population of this algorithm is its whole history. `ask` builds a study in memory from it, with a sampler that is seeded by the
generation context, so that a resumed search proposes the same candidates.

The package `optuna` is an extra: `pip install 'autospike[optuna]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autospike.searching.algorithms import GenerationContext, Individual
from autospike.searching.optuna_trials import directions, import_optuna, parameter_name, trial_of, without_messages
from autospike.space.architecture import Architecture
from autospike.space.genes import Gene, Range
from autospike.space.visitor import GenePath, visit_genes

if TYPE_CHECKING:
    import optuna

CreateSampler = Callable[[int, int], "optuna.samplers.BaseSampler"]
"""Creates a sampler from a seed and the number of candidates of a generation."""


def tpe(seed: int, population: int) -> optuna.samplers.BaseSampler:  # noqa: ARG001
    """Create the tree-structured Parzen estimator.

    Source: Ozaki et al., JAIR 73, 2022.

    Args:
        seed: Seed of the sampler.
        population: Number of candidates of a generation; unused.

    Returns:
        The sampler.
    """
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def nsga3(seed: int, population: int) -> optuna.samplers.BaseSampler:
    """Create Optuna's NSGA-III.

    Source: Deb and Jain, IEEE TEVC 18(4), 2014.

    Args:
        seed: Seed of the sampler.
        population: Number of candidates of a generation.

    Returns:
        The sampler.
    """
    from optuna.samplers import NSGAIIISampler

    return NSGAIIISampler(seed=seed, population_size=population)


@dataclass(frozen=True, kw_only=True)
class OptunaSearch:
    """A search algorithm whose candidates a sampler of Optuna suggests.

    Genes are parameters of a trial by their paths, for example `stages.0.blocks.1.neuron.tau`: a choice is categorical, a range is
    a float. The violation of limits is a constraint of the trial.

    Attributes:
        sampler: Creates the sampler of a generation.
    """

    sampler: CreateSampler = tpe

    def ask(self, population: list[Individual], context: GenerationContext) -> Iterator[Architecture]:
        """Yield the suggestions of the sampler."""
        optuna = import_optuna()
        maximise = [weight > 0 for weight in population[0].fitness.weights]
        with without_messages():
            sampler = self.sampler(context.rng.getrandbits(32), context.config.population)
            study = optuna.create_study(sampler=sampler, directions=directions(maximise))
            # Genetic samplers select parents among the trials of earlier generations, which they recognise by an attribute. All
            # trials are of one earlier generation, so that the parents are the best of the whole history.
            known = {f"{type(sampler).__name__}:generation": 0}
            study.add_trials([trial_of(individual, context.space, system_attributes=known) for individual in population])
        while True:
            trial = study.ask()

            def suggest(gene: Gene, path: GenePath, *_: Any, trial: Any = trial) -> Any:
                name = parameter_name(path)
                if gene.size == 1:
                    return gene.values[0]
                if isinstance(gene, Range):
                    return gene.nearest(round(trial.suggest_float(name, gene.low, gene.high), 6))
                return trial.suggest_categorical(name, gene.values)

            yield visit_genes(context.space, suggest)

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:  # noqa: ARG002
        """Return all individuals so far."""
        return [*population, *offspring]


@dataclass(frozen=True, kw_only=True)
class OptunaNSGA3(OptunaSearch):
    """Search by Optuna's NSGA-III, whose parents are the best of the whole history."""

    sampler: CreateSampler = nsga3
