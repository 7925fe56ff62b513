"""Candidates as trials of Optuna. The package is an extra: `pip install 'autospike[optuna]'`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from autospike.errors import UserError
from autospike.searching.algorithms import Individual
from autospike.space.genes import Range
from autospike.space.search_space import SearchSpace
from autospike.space.visitor import GenePath

if TYPE_CHECKING:
    import optuna


def import_optuna() -> Any:
    """Import Optuna.

    Returns:
        The module.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "optuna is not installed, which the algorithms of Optuna and search.optuna_storage need; run: pip install "
            "'autospike[optuna]', or leave them out"
        ) from None
    return optuna


@contextmanager
def without_messages() -> Iterator[None]:
    """Without Optuna's messages about new studies and experimental parts."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def directions(maximise: Sequence[bool]) -> list[Literal["maximize", "minimize"]]:
    """Return the direction of each objective.

    Args:
        maximise: For each objective, whether it is maximised.
    """
    return ["maximize" if larger_is_better else "minimize" for larger_is_better in maximise]


def parameter_name(path: GenePath) -> str:
    """Return the name of a gene, for example `stages.0.blocks.1.neuron.tau`.

    Args:
        path: Its path in an architecture.
    """
    return ".".join(map(str, path))


def trial_of(
    individual: Individual,
    space: SearchSpace,
    *,
    user_attributes: Mapping[str, Any] | None = None,
    system_attributes: Mapping[str, Any] | None = None,
) -> optuna.trial.FrozenTrial:
    """Return the finished trial of an individual.

    A choice is a categorical parameter, a range a float; genes with one value are left out. The violation of limits is a
    constraint.

    Args:
        individual: The individual.
        space: Its search space.
        user_attributes: What else is known of it.
        system_attributes: What a sampler reads.
    """
    import optuna

    distributions: dict[str, Any] = {}
    params = {}
    for found in space.genes(individual.architecture):
        if found.gene.size == 1:
            continue
        is_range = isinstance(found.gene, Range)
        kind: Any = optuna.distributions.FloatDistribution if is_range else optuna.distributions.CategoricalDistribution
        params[parameter_name(found.path)] = found.value
        distributions[parameter_name(found.path)] = kind(*found.gene.values) if is_range else kind(found.gene.values)
    violation = individual.fitness.violation
    return optuna.trial.create_trial(
        values=list(individual.fitness.values),
        params=params,
        distributions=distributions,
        user_attrs=dict(user_attributes or {}),
        system_attrs=dict(system_attributes or {}),
        constraints={"limits": violation} if violation else None,
    )
