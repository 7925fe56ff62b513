"""Search by a sampler of Optuna, and its storage in the run folder, which optuna-dashboard shows while the search runs.

The population of this algorithm is its whole history. `ask` builds a study in memory from it, with a sampler that is seeded by the
generation context, so that a resumed search proposes the same candidates. The storage is only written: `tell` adds the trials that
it lacks, and it may be deleted.

The package `optuna` is an extra: `pip install 'autospike[optuna]'`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autospike.errors import UserError
from autospike.searching.algorithms import GenerationContext, Individual
from autospike.space.architecture import Architecture
from autospike.space.genes import Gene, Range
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath, visit_genes

if TYPE_CHECKING:
    import optuna

STORAGE = "optuna.log"
"""File of the storage in the folder of a run."""

NOT_INSTALLED = "search.algorithm: optuna is not installed; run: pip install 'autospike[optuna]', or choose nsga2"

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
        optuna = _optuna()
        with _quiet():
            sampler = self.sampler(context.rng.getrandbits(32), context.config.population)
            study = optuna.create_study(sampler=sampler, directions=_directions(population))
            study.add_trials([trial_of(individual, context.space, of=sampler) for individual in population])
        while True:
            trial = study.ask()

            def suggest(gene: Gene, path: GenePath, *_: Any, trial: Any = trial) -> Any:
                name = _name(path)
                if gene.size == 1:
                    return gene.values[0]
                if isinstance(gene, Range):
                    return gene.nearest(round(trial.suggest_float(name, gene.low, gene.high), 6))
                return trial.suggest_categorical(name, gene.values)

            yield visit_genes(context.space, suggest)

    def tell(self, population: list[Individual], offspring: list[Individual], context: GenerationContext) -> list[Individual]:
        """Return all individuals so far, and add them to the storage of the run."""
        history = [*population, *offspring]
        if context.folder is not None:
            _store(context.folder / STORAGE, history, context)
        return history


@dataclass(frozen=True, kw_only=True)
class OptunaNSGA3(OptunaSearch):
    """Search by Optuna's NSGA-III, whose parents are the best of the whole history."""

    sampler: CreateSampler = nsga3


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError(NOT_INSTALLED) from None
    return optuna


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's messages about new studies and experimental parts."""
    optuna = _optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _directions(population: Sequence[Individual]) -> list[str]:
    """Direction of each objective."""
    weights: tuple[float, ...] = population[0].fitness.weights
    return ["maximize" if weight > 0 else "minimize" for weight in weights]


def _name(path: GenePath) -> str:
    return ".".join(map(str, path))


def trial_of(individual: Individual, space: SearchSpace, *, of: Any = None) -> Any:
    """Return the finished trial of an individual.

    Optuna's genetic samplers select parents among the trials of earlier generations, which they recognise by an attribute. In the
    study of a generation all trials are of one earlier generation, so that the parents are the best of the whole history.

    Args:
        individual: The individual.
        space: Its search space.
        of: The sampler of the study; None for a study that is only stored.

    Returns:
        An `optuna.trial.FrozenTrial`.
    """
    optuna = _optuna()
    distributions, params = {}, {}
    for found in space.genes(individual.architecture):
        if found.gene.size == 1:
            continue
        is_range = isinstance(found.gene, Range)
        kind = optuna.distributions.FloatDistribution if is_range else optuna.distributions.CategoricalDistribution
        params[_name(found.path)] = found.value
        distributions[_name(found.path)] = kind(*found.gene.values) if is_range else kind(found.gene.values)
    violation = individual.fitness.violation
    return optuna.trial.create_trial(
        values=list(individual.fitness.values),
        params=params,
        distributions=distributions,
        user_attrs={"architecture": individual.architecture.id, "f_aeb": individual.f_aeb},
        system_attrs={} if of is None else {f"{type(of).__name__}:generation": 0},
        constraints={"limits": violation} if violation else None,
    )


def _store(path: Path, history: Sequence[Individual], context: GenerationContext) -> None:
    """Add the individuals that the storage lacks; it may have some of a generation that was interrupted."""
    optuna = _optuna()
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    try:
        with _quiet():
            storage = JournalStorage(JournalFileBackend(str(path)))
            study = optuna.create_study(
                storage=storage, study_name=context.search_id, directions=_directions(history), load_if_exists=True
            )
            study.set_metric_names(list(context.config.objectives))
            known = {trial.user_attrs.get("architecture") for trial in study.get_trials(deepcopy=False)}
            study.add_trials([trial_of(i, context.space) for i in history if i.architecture.id not in known])
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: cannot be written ({reason}); delete it, and the search writes it again") from None
