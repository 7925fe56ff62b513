"""The trials of a search in a storage of Optuna, which optuna-dashboard shows while the search runs.

The archive is what a search resumes from. The storage is only written: it has each candidate of the finished generations of the
archive as a trial, whichever algorithm proposed it, and may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from autospike.energy.conventions import UJ_PER_MJ
from autospike.errors import UserError
from autospike.events import Event, GenerationEvent
from autospike.measurement import Evaluation
from autospike.objectives import Objective, objectives_of
from autospike.searching.evolution import Search
from autospike.searching.individuals import offspring_of
from autospike.searching.optuna_trials import directions, import_optuna, trial_of, without_messages

if TYPE_CHECKING:
    import optuna

STORAGE = "optuna.log"
"""File of the trials in the folder of a run that is searched by a sampler of Optuna, unless the experiment names a storage."""

_FIELD = "search.optuna_storage"


class _StorageError(Exception):
    """A storage cannot be opened or written."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """An opened storage of Optuna.

    Attributes:
        name: Its URL or path.
        backend: The storage.
    """

    name: str
    backend: optuna.storages.BaseStorage


def open_storage(name: str) -> Storage:
    """Open a storage of Optuna, and create it if it does not exist.

    Args:
        name: A URL of SQLAlchemy, for example `sqlite:////home/me/optuna.db`, or the path of a journal file.

    Returns:
        The storage.

    Raises:
        UserError: Optuna is not installed, or the storage cannot be opened.
    """
    optuna = import_optuna()
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    try:
        with _storage_errors():
            backend = optuna.storages.get_storage(name) if "://" in name else JournalStorage(JournalFileBackend(name))
    except _StorageError as error:
        raise _unusable(name, error) from None
    return Storage(name=name, backend=backend)


@dataclass(kw_only=True)
class StudyWriter:
    """Callback of a search that writes its candidates to a study, by the generation.

    Trials that cannot be written wait for the next generation.

    Attributes:
        search: The search.
        study: The study.
        on_failure: Called with a line if trials could not be written.
        waiting: Trials that are not written yet.
    """

    search: Search
    study: optuna.Study
    on_failure: Callable[[str], None]
    waiting: list[optuna.trial.FrozenTrial] = field(default_factory=list)

    @classmethod
    def of(cls, search: Search, storage: Storage, on_failure: Callable[[str], None]) -> StudyWriter:
        """Open the study of a search, and write the candidates of its finished generations that it lacks.

        A study with other trials than the archive is written again.

        Args:
            search: The search.
            storage: The storage.
            on_failure: Called with a line if trials of a later generation could not be written.

        Returns:
            The callback.

        Raises:
            UserError: The storage cannot be written.
        """
        import optuna

        maximise = [objective.maximise for objective in _objectives(search)]
        name = _study_name(search)
        create = partial(optuna.create_study, storage=storage.backend, study_name=name, directions=directions(maximise))
        expected = {trial.user_attrs["architecture"]: trial for trial in _finished_trials(search)}
        try:
            with _storage_errors(), without_messages():
                study = create(load_if_exists=True)
                stored = {trial.user_attrs.get("architecture"): trial.values for trial in study.get_trials(deepcopy=False)}
                if any(known not in expected or values != expected[known].values for known, values in stored.items()):
                    optuna.delete_study(study_name=name, storage=storage.backend)
                    study, stored = create(), {}
                _describe(study, search)
                study.add_trials([trial for known, trial in expected.items() if known not in stored])
        except _StorageError as error:
            raise _unusable(storage.name, error) from None
        return cls(search=search, study=study, on_failure=on_failure)

    def __call__(self, event: Event) -> None:
        """Write the candidates of a finished generation, and what is waiting."""
        if not isinstance(event, GenerationEvent):
            return
        self.waiting += _trials(self.search, [*event.evaluations, *event.by_products], event.generation)
        try:
            with _storage_errors(), without_messages():
                while self.waiting:
                    self.study.add_trial(self.waiting[0])
                    del self.waiting[0]
        except _StorageError as error:
            left = f"{len(self.waiting)} trials are not written ({error})"
            self.on_failure(f"{_FIELD}: {left}; they are written after the next generation, or when the search is resumed")


def _study_name(search: Search) -> str:
    """The id of the search in the archive, and the protocol, which the weights determine."""
    return f"{search.id}-{search.archive.protocol_id}"


def _describe(study: optuna.Study, search: Search) -> None:
    """Name the objectives, and say where the search is from. Values that are there are not written again."""
    names = list(search.config.objectives)
    if study.metric_names != names:
        study.set_metric_names(names)
    for name, value in {"run": str(search.archive.path.absolute().parent), "convention": search.archive.convention.name}.items():
        if study.user_attrs.get(name) != value:
            study.set_user_attr(name, value)


def _finished_trials(search: Search) -> Iterator[optuna.trial.FrozenTrial]:
    """The trials of the generations from which a search resumes."""
    resumed = search.archive.population(search.id)
    if resumed is None:
        return
    evaluations = {evaluation.measurement.architecture.id: evaluation for evaluation in search.archive.all()}
    for generation, ids in enumerate(search.archive.proposals()[search.id][: resumed[0] + 1]):
        yield from _trials(search, [evaluations[name] for name in ids if name in evaluations], generation)


def _trials(search: Search, evaluations: Sequence[Evaluation], generation: int) -> list[optuna.trial.FrozenTrial]:
    """The trials of a generation; as in the search, without dominated ones with early exit."""
    by_id = {evaluation.measurement.architecture.id: evaluation for evaluation in evaluations}
    individuals = offspring_of(evaluations, _objectives(search), search.constraints)
    return [
        trial_of(individual, search.space, user_attributes=_attributes(by_id[individual.architecture.id], generation))
        for individual in individuals
    ]


def _attributes(evaluation: Evaluation, generation: int) -> dict[str, Any]:
    measured = evaluation.measurement
    attributes = {
        "architecture": measured.architecture.id,
        "accuracy": measured.accuracy,
        "energy_uj": evaluation.energy.energy_mj * UJ_PER_MJ,
        "time_steps": measured.architecture.time_steps,
        "params": measured.params,
        "f_aeb": evaluation.f_aeb,
        "generation": generation,
        "by_product": evaluation.by_product,
    }
    exits = {"exit_margin": measured.architecture.exit_margin, "mean_time_steps": measured.mean_time_steps}
    return attributes | (exits if measured.mean_time_steps is not None else {})


def _objectives(search: Search) -> list[Objective]:
    return list(objectives_of(search.config.objectives, search.constraints.shape).values())


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Raise what a storage raises as one type: errors of files, of damaged journals, of drivers and of databases."""
    import optuna
    import sqlalchemy

    own = (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError)
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, *own) as error:
        cause = error.__cause__ or error
        raise _StorageError(" ".join(f"{type(cause).__name__}: {cause}".split())[:160]) from None


def _unusable(name: str, error: _StorageError) -> UserError:
    return UserError(
        f"{_FIELD}: {name}: cannot be used ({error}); give a URL such as sqlite:///FILE.db, or the path of a journal file; "
        "delete a damaged one, and the search writes it again"
    )
