"""The Python interface: a run with its training, search, front and models.

`Run` and the functions of this module call the same functions as the command line (`autospike.commands`), so a run may be continued
with either. What a run knows is in its folder; the objects of this module only refer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autospike import import_path
from autospike.config import Experiment
from autospike.config.data import DATASETS
from autospike.config.experiment import merged
from autospike.energy.conventions import UJ_PER_MJ, convention_of
from autospike.errors import UserError
from autospike.events import Callback
from autospike.measurement import Evaluation
from autospike.objectives import Objective, objective_of, objectives_of
from autospike.report import tables
from autospike.run_directory import RunDirectory
from autospike.searching.algorithms import Algorithm
from autospike.searching.archive import Archive
from autospike.searching.objective_columns import with_objectives
from autospike.searching.selection import with_fitness
from autospike.space.architecture import Architecture

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.data import Dataset

    from autospike.models.contract import SpikingModel


class Run:
    """A run: a folder with a trained supernet, the archive of its searches, and exported models.

        run = Run("runs/x", space="spikformer_32", train=images, test=test_images, seed=0)
        run.train(epochs=50)
        run.search(objectives=["accuracy", "energy_mj"], timeout=600)
        model = run.best("accuracy", max_energy_uj=1).model

    Args:
        folder: The folder of the run. It is created by `train`.
        experiment: An `Experiment`, the path or name of an experiment file, or a dict of its fields. Without it, the fields are
            those of the folder, if there is a run, and the keyword arguments.
        train: The user's own images for training: pairs of a sample and its class; see `autospike.data.datasets`.
        search: Images to score candidates on. Default: sampled from `train`.
        test: Images for the final measurement.
        **fields: Fields of an experiment that replace those of `experiment`: `space="spikformer_32"`, `seed=0`,
            `data={"name": "digits", "image_size": 8}`, `training={"epochs": 50}`.

    Raises:
        UserError: `experiment` cannot be read, or not all of the datasets are given that are needed.
    """

    def __init__(
        self,
        folder: str | Path,
        experiment: Experiment | str | Path | Mapping[str, Any] | None = None,
        *,
        train: Dataset[Any] | None = None,
        search: Dataset[Any] | None = None,
        test: Dataset[Any] | None = None,
        **fields: Any,
    ) -> None:
        self.folder = Path(folder)
        given = {"train": train, "search": search, "test": test}
        self._datasets = {name: dataset for name, dataset in given.items() if dataset is not None} or None
        if self._datasets is not None:
            fields = merged({"data": _data_of(self._datasets)}, fields)
        self._fields = merged(_fields_of(experiment), fields)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def experiment(self) -> Experiment:
        """The experiment that is stored in the folder, or else that of the arguments."""
        return self._stored().experiment if self._is_stored else self._new({}).experiment

    def train(self, *, callbacks: Sequence[Callback] = (), **settings: Any) -> None:
        """Train the reference network and the supernet, or resume their training.

        Args:
            callbacks: Receive the events of the training (`autospike.StepEvent` and others).
            **settings: Fields of the section `training`, for example `epochs=50`.

        Raises:
            UserError: A field is missing or invalid, the data cannot be opened, or the folder has a run of another experiment.
        """
        from autospike.commands.train import train

        directory = self._new({"training": settings} if settings else {}) if self._fields else self._stored(training=settings)
        train(directory, callbacks)

    def search(
        self,
        *,
        objectives: Sequence[str | Callable[[Evaluation], float]] | None = None,
        algorithm: str | Algorithm | None = None,
        timeout: float | None = None,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> None:
        """Search subnets of the trained supernet, or resume the search.

        Args:
            objectives: Names of objectives, or functions of an `Evaluation` at the top level of a module or notebook, which are
                minimised. `package.module:name` may also name an `Objective`, which says whether it is maximised.
            algorithm: The name of an algorithm, or an object with `ask` and `tell`.
            timeout: Largest duration in seconds. A generation that would probably exceed it is not started, except the first one.
            callbacks: Receive the events of the search (`autospike.CandidateEvent`, `autospike.GenerationEvent`).
            **settings: Fields of the section `search`, for example `population=24, generations=10`.

        Raises:
            UserError: The supernet is not trained, or a field is invalid.
        """
        from autospike.commands.search import search

        if objectives is not None:
            settings["objectives"] = [_name_of(objective) for objective in objectives]
        if algorithm is not None:
            settings["algorithm"] = algorithm if isinstance(algorithm, str) else import_path.of(type(algorithm), source="algorithm")
        own = None if isinstance(algorithm, str) else algorithm
        search(self._stored(search=settings), timeout_s=timeout, algorithm=own, callbacks=callbacks)

    def candidates(self, *, convention: str | None = None) -> pd.DataFrame:
        """Return all measured candidates.

        Args:
            convention: Energy convention. Default: that of the search.

        Returns:
            As `autospike.report.tables.candidates`.

        Raises:
            UserError: Nothing was searched yet.
        """
        archive, directory = self._archive(convention)
        objectives = objectives_of(directory.experiment.search.objectives, directory.input_shape)
        try:
            archived = with_objectives(archive, with_fitness(archive, directory), objectives)
        finally:
            archive.close()
        return tables.candidates_of(archived, objectives)

    def front(self, *, convention: str | None = None) -> pd.DataFrame:
        """Return the candidates on the Pareto front of `search.objectives`, by default of accuracy and energy.

        Args:
            convention: Energy convention. Default: that of the search.

        Returns:
            As `autospike.report.tables.candidates`, in ascending order of the first minimised objective.

        Raises:
            UserError: Nothing was searched yet.
        """
        directory = self._stored()
        objectives = objectives_of(directory.experiment.search.objectives, directory.input_shape)
        return tables.front(self.candidates(convention=convention), objectives)

    def best(
        self,
        objective: str | Callable[[Evaluation], float] | Objective = "accuracy",
        *,
        min_accuracy: float | None = None,
        max_energy_uj: float | None = None,
        max_params: int | None = None,
    ) -> Candidate:
        """Return the candidate with the best value of an objective, within limits.

        Args:
            objective: As in `search`, or an `Objective`. Of candidates with equal values, the one with less energy is returned.
            min_accuracy: Smallest accuracy on the search split, a fraction.
            max_energy_uj: Largest energy in uJ per image, under the convention of the search.
            max_params: Largest number of parameters.

        Returns:
            The candidate.

        Raises:
            UserError: Nothing was searched yet, or no candidate is within the limits.
        """
        table = self.candidates()
        within = table[
            (table["accuracy"] >= (min_accuracy or 0.0))
            & (table["energy_mj"] * UJ_PER_MJ <= (float("inf") if max_energy_uj is None else max_energy_uj))
            & (table["params"] <= (float("inf") if max_params is None else max_params))
        ]
        if within.empty:
            raise UserError(
                f"{self.folder}: no candidate is within the limits: accuracies up to {table['accuracy'].max():.4f}, energies from "
                f"{table['energy_mj'].min() * UJ_PER_MJ:.3g} uJ, parameters from {table['params'].min():,}"
            )
        measured = objective_of(objective, self._stored().input_shape) if isinstance(objective, str) else _objective(objective)
        sign = -1 if measured.maximise else 1
        evaluations = self.evaluations(within["id"])
        return Candidate(run=self, evaluation=min(evaluations, key=lambda e: (sign * measured.value(e), e.energy.energy_mj)))

    def evaluations(self, ids: Iterable[str]) -> list[Evaluation]:
        """Read measured candidates with their counts, by which an objective of one's own can be computed.

        Args:
            ids: Ids of architectures, for example of `front()`. Those that are not in the archive are left out.

        Returns:
            An evaluation for each.

        Raises:
            UserError: Nothing was searched yet.
        """
        archive, _ = self._archive()
        try:
            return [evaluation for evaluation in map(archive.get_by_id, ids) if evaluation is not None]
        finally:
            archive.close()

    def export(
        self,
        out: str | Path | None = None,
        *,
        pick: str | None = None,
        min_accuracy: float | None = None,
        exit_margin: float | None = None,
    ) -> Path:
        """Write a candidate as a timm model, and measure it on the test split.

        Args:
            out: The folder to write to. Default: `export` in the folder of the run.
            pick: Selection rule, or id of a candidate. Default: `export.pick` of the experiment.
            min_accuracy: Select among candidates with at least this accuracy on the search split.
            exit_margin: Confidence margin of early exit. Default: `export.exit_margin`, or no early exit.

        Returns:
            The folder, which `timm.create_model("local-dir:FOLDER")` opens.

        Raises:
            UserError: Nothing was searched yet, or no candidate is selected.
        """
        from autospike.commands.export import export

        directory = self._stored(export={"pick": pick, "min_accuracy": min_accuracy, "exit_margin": exit_margin})
        folder = directory.export if out is None else Path(out)
        export(directory, folder)
        return folder

    def retrain(
        self,
        picks: Sequence[str] | None = None,
        *,
        random: int = 0,
        seeds: int | None = None,
        epochs: int | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Path:
        """Train selected subnets separately, from scratch and from inherited weights, and compare them on the test split.

        Args:
            picks: Selection rules, or ids of candidates. Default: `export.pick` of the experiment.
            random: Number of random subnets of the energy of the first selected one that are trained as well.
            seeds: Number of trainings of each network. Default: `retrain.seeds`.
            epochs: Epochs from scratch. Default: `training.epochs`.
            callbacks: Receive the events of the trainings.

        Returns:
            The folder with the models and `report.json`.

        Raises:
            UserError: Nothing was searched yet, or no candidate is selected.
        """
        from autospike.commands.retrain import retrain

        directory = self._stored(retrain={"seeds": seeds, "epochs": epochs})
        retrain(directory, picks or [directory.experiment.export.pick], random=random, callbacks=callbacks)
        return directory.retrain

    def ablate(
        self,
        architecture: str | Path | Architecture | None = None,
        *,
        genes: Sequence[str] = (),
        together: bool = False,
        retrain: bool = False,
        epochs: int | None = None,
    ) -> Path:
        """Change one gene of a network at a time, and measure the variants on the search split.

        Args:
            architecture: An architecture, the path of its file or of an exported model, or the name of a published network; of a
                searched run also a selection rule or the id of a candidate. Default: `export.pick`.
            genes: Names of genes, for example `["tau", "time_steps"]`; all that have several values if empty.
            together: Change a gene in all blocks at once.
            retrain: Train each network alone from fresh weights, which needs no supernet, instead of measuring it with inherited
                weights.
            epochs: Epochs of these trainings. Default: `training.epochs`.

        Returns:
            The folder with tables and figures.

        Raises:
            UserError: There is no supernet to inherit from, no candidate is selected, the architecture is not in the space, or a
                gene does not exist.
        """
        from autospike.commands.ablate import AblationRequest, ablate

        settings = {"epochs": epochs}
        directory = self._stored(retrain=settings) if self._is_stored else self._new({"retrain": settings} if epochs else {})
        chosen = architecture or directory.experiment.export.pick
        chosen = str(chosen) if isinstance(chosen, Path) else chosen
        ablate(directory, AblationRequest(architecture=chosen, genes=genes, together=together, retrain=retrain))
        return directory.ablation

    def assess(self, candidates: int = 16, *, budget: float | None = None, epochs: int | None = None) -> Path:
        """Train candidates alone, and compare their ranking with that of their inherited weights.

        Args:
            candidates: Number of candidates, drawn from strata by energy.
            budget: Largest duration in seconds. A training that would probably exceed it is not started, except the first one.
            epochs: Epochs of each. Default: `training.epochs`.

        Returns:
            The folder with `assessment.json`, a table and a figure.

        Raises:
            UserError: Nothing was searched yet.
        """
        from autospike.commands.assess import assess

        directory = self._stored(retrain={"epochs": epochs})
        assess(directory, candidates=candidates, budget_s=budget)
        return directory.assess

    def plot(self, out: str | Path | None = None, *, convention: str | None = None) -> None:
        """Write figures and tables of the search.

        Args:
            out: The folder to write to. Default: `report` in the folder of the run.
            convention: Energy convention. Default: that of the search.

        Raises:
            UserError: Nothing was searched yet, or a file cannot be written.
        """
        from autospike.commands.plot import plot

        plot(self._stored(), convention_of(convention) if convention else None, None if out is None else Path(out))

    @property
    def _is_stored(self) -> bool:
        return (self.folder / "experiment.yaml").exists()

    def _new(self, sections: Mapping[str, Any]) -> RunDirectory:
        """The run of the arguments."""
        experiment = Experiment.from_dict(merged(self._fields, sections), source=repr(self))
        return RunDirectory.start(experiment, self.folder, datasets=self._datasets)

    def _stored(self, **sections: Mapping[str, Any]) -> RunDirectory:
        """The run in the folder, with other values of the fields that are not None."""
        directory = RunDirectory.resume(self.folder, datasets=self._datasets)
        changes = {name: {k: v for k, v in section.items() if v is not None} for name, section in sections.items()}
        return directory.changed(**{name: section for name, section in changes.items() if section})

    def _archive(self, convention: str | None = None) -> tuple[Archive, RunDirectory]:
        directory = self._stored()
        chosen = convention_of(convention) if convention else directory.experiment.search.energy_convention
        return Archive.newest(directory.existing_archive(), chosen), directory

    def _model(self, architecture: Architecture) -> SpikingModel:
        from autospike.evaluation.setup import calibrated_subnet, open_for_measurement
        from autospike.training.setup import load_trained_supernet

        directory = self._stored()
        setup = open_for_measurement(directory)
        supernet = load_trained_supernet(setup, directory.experiment.search_space, directory.supernet)
        return calibrated_subnet(setup, supernet, architecture)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A measured candidate of a run.

    Attributes:
        run: The run.
        evaluation: Its measurement on the search split.
    """

    run: Run
    evaluation: Evaluation

    def __repr__(self) -> str:
        values = f"accuracy={self.accuracy:.4f}, energy_uj={self.energy_uj:.4g}, params={self.params}"
        return f"Candidate(id={self.id!r}, {values}, time_steps={self.architecture.time_steps})"

    @property
    def id(self) -> str:
        """The id of its architecture."""
        return self.architecture.id

    @property
    def architecture(self) -> Architecture:
        """Its architecture."""
        return self.evaluation.measurement.architecture

    @property
    def accuracy(self) -> float:
        """Accuracy on the search split, a fraction."""
        return self.evaluation.measurement.accuracy

    @property
    def energy_uj(self) -> float:
        """Energy in uJ per image, under the convention of the search."""
        return self.evaluation.energy.energy_mj * UJ_PER_MJ

    @property
    def params(self) -> int:
        """Number of parameters."""
        return self.evaluation.measurement.params

    @cached_property
    def model(self) -> SpikingModel:
        """The subnet with its inherited weights and calibrated statistics: an `nn.Module` in eval mode.

        Raises:
            UserError: The data cannot be opened, from which the statistics are calibrated.
        """
        return self.run._model(self.architecture)

    def export(self, out: str | Path | None = None) -> Path:
        """Write the candidate as a timm model, and measure it on the test split; see `Run.export`.

        Args:
            out: The folder to write to. Default: `export` in the folder of the run.

        Returns:
            The folder.
        """
        return self.run.export(out, pick=self.id)


def train(run: Run, *, callbacks: Sequence[Callback] = (), **settings: Any) -> None:
    """Train the supernet of a run; see `Run.train`.

    Args:
        run: The run.
        callbacks: Receive the events of the training.
        **settings: Fields of the section `training`.
    """
    run.train(callbacks=callbacks, **settings)


def search(run: Run, **settings: Any) -> None:
    """Search subnets of the trained supernet of a run; see `Run.search`.

    Args:
        run: A trained run.
        **settings: Arguments of `Run.search`.
    """
    run.search(**settings)


def export(run: Run, out: str | Path | None = None, *, pick: str | None = None, min_accuracy: float | None = None) -> Path:
    """Write a candidate of a run as a timm model; see `Run.export`.

    Args:
        run: A searched run.
        out: The folder to write to. Default: `export` in the folder of the run.
        pick: Selection rule, or id of a candidate. Default: `export.pick` of the experiment.
        min_accuracy: Select among candidates with at least this accuracy on the search split, a fraction.

    Returns:
        The folder.
    """
    return run.export(out, pick=pick, min_accuracy=min_accuracy)


def retrain(
    run: Run,
    picks: Sequence[str] | None = None,
    *,
    random: int = 0,
    seeds: int | None = None,
    epochs: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train selected subnets of a run separately; see `Run.retrain`.

    Args:
        run: A searched run.
        picks: Selection rules, or ids of candidates. Default: `export.pick` of the experiment.
        random: Number of random subnets that are trained as well.
        seeds: Number of trainings of each network. Default: `retrain.seeds`.
        epochs: Epochs from scratch. Default: `training.epochs`.
        callbacks: Receive the events of the trainings.

    Returns:
        The folder with the models and `report.json`.
    """
    return run.retrain(picks, random=random, seeds=seeds, epochs=epochs, callbacks=callbacks)


def plot(run: Run, out: str | Path | None = None, *, convention: str | None = None) -> None:
    """Write figures and tables of the search of a run; see `Run.plot`.

    Args:
        run: A searched run.
        out: The folder to write to. Default: `report` in the folder of the run.
        convention: Energy convention. Default: that of the search.
    """
    run.plot(out, convention=convention)


def _fields_of(experiment: Experiment | str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(experiment, str | Path):
        experiment = Experiment.load(experiment)
    if isinstance(experiment, Experiment):
        return experiment.model_dump(mode="json")
    return dict(experiment or {})


def _data_of(datasets: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data` of a run with the user's own datasets."""
    from autospike.data.datasets import image_size_of

    if isinstance(datasets.get("search"), Mapping):
        raise UserError(
            "Run: search is a dataset, got a dict; its settings go to run.search, or to an experiment: Run(FOLDER, {...})"
        )
    if not {"train", "test"} <= datasets.keys():
        raise UserError(f"Run: the datasets train and test are required, search is optional; got {', '.join(datasets)}")
    return {"name": DATASETS, "image_size": image_size_of(datasets["train"])}


def _name_of(objective: str | Callable[[Evaluation], float]) -> str:
    return objective if isinstance(objective, str) else import_path.of(objective, source="objectives")


def _objective(objective: Callable[[Evaluation], float] | Objective) -> Objective:
    return objective if isinstance(objective, Objective) else Objective(value=objective)
