"""The experiment as a whole, and which of its fields trained weights depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, ValidationInfo, model_validator

from autospike import catalogue
from autospike.config import loading
from autospike.config.checks import check_experiment
from autospike.config.data import DataConfig, NormalisationConfig
from autospike.config.fields import ProcessCount, Section
from autospike.config.search import EvaluationConfig, ExecutionConfig, ExportConfig, SearchConfig
from autospike.config.training import RetrainConfig, RivalsConfig, TrainingConfig
from autospike.errors import UserError, first_problem
from autospike.measurement import METRICS, TaskName
from autospike.space.architecture import NEVER, Architecture
from autospike.space.genes import Choice
from autospike.space.search_space import SearchSpace

# Exit margins of a search with early exit, and 1 for none. Most are close to 1, because trained networks are sure: on the digits a
# margin of 0.9 leaves 1.19 of 4 steps (docs/early_exit.md).
EXIT_MARGINS = (0.3, 0.6, 0.8, 0.9, 0.97, NEVER)


class Experiment(Section):
    """Complete configuration of a run.

    An experiment comes from a file (`Experiment.load`), from a dict (`Experiment.from_dict`) or from keyword arguments:

        Experiment(
            space="spikformer_32", data={"name": "folder", "root": "images", "image_size": 32}, training={"epochs": 50}
        )

    `space` may be a dict, the path of a file, or a name that `autospike list spaces` prints. Keyword arguments have paths relative
    to the current folder, and an invalid one raises pydantic's `ValidationError`.
    """

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Seed of every random number generator: splits, initial weights, sampling of subnets, and search."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of training and measurement; `auto` is CUDA if available, else the CPU."""
    threads: ProcessCount | None = None
    """CPU threads of torch. Default: torch's own choice, or 1 in each worker if there are several.

    1 is fastest for small networks, because threads that share a busy core wait for each other.
    """
    space: dict[str, Any]
    """Search space. An experiment may give a name that `autospike list spaces` prints instead, or the path of a search space."""
    baseline: dict[str, Any] | Literal["none"] | None = None
    """Architecture of the reference network, which is trained separately with the same recipe. Default: the largest of the space.

    An experiment file may give the name of a published architecture instead (`autospike.space.published`). With `none` no reference
    network is trained, and results are compared with nothing.
    """
    task: TaskName = "classification"
    """What networks are trained for. Segmentation and detection need a search space with a `decoder`, and data with masks or
    objects (docs/tasks.md)."""
    data: DataConfig
    """Data source and its splits."""
    training: TrainingConfig
    """Training of the supernet and of the reference network."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Measurement of candidates."""
    execution: ExecutionConfig = ExecutionConfig()
    """Where candidates are measured."""
    search: SearchConfig = SearchConfig()
    """Search algorithm and its operators."""
    export: ExportConfig = ExportConfig()
    """Selection rule for the candidate that is exported."""
    retrain: RetrainConfig = RetrainConfig()
    """Retraining of selected subnets."""
    rivals: RivalsConfig = RivalsConfig()
    """Networks that the subnets are compared with, besides the reference network."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), *, folder: Path | None = None) -> Self:
        """Read an experiment file, apply overrides and validate the result.

        Args:
            path: The experiment file, or a name that `autospike list experiments` prints.
            overrides: `--set` overrides, each `a.b=c` with c in YAML. The last one of a field applies. Paths in overrides are
                relative to the current folder.
            folder: The folder that the paths in the file are relative to. Default: that of the file; the current one for a name.

        Returns:
            The resolved experiment: search space and reference network are written out in full, and paths are absolute.

        Raises:
            UserError: The file cannot be read, or a field is invalid. The message is one line that names the field.
        """
        found = catalogue.find("experiments", str(path), Path())
        named = found.stem == str(path) and found.is_absolute()
        relative_to = folder or (Path.cwd() if named else found.parent)
        return cls._of(loading.read_fields(found, overrides, relative_to), source=str(found), folder=relative_to)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], *, source: str = "experiment", folder: Path | None = None) -> Self:
        """Validate the fields of an experiment.

        Args:
            fields: The fields, as in an experiment file.
            source: Where they are from, for error messages.
            folder: The folder that paths are relative to. Default: the current one.

        Returns:
            The resolved experiment.

        Raises:
            UserError: A field is invalid. The message is one line that names the field.
        """
        return cls._of(dict(fields), source=source, folder=folder or Path.cwd())

    def changed(self, sections: Mapping[str, Any], *, source: str = "experiment") -> Self:
        """Return an experiment with other values of some fields.

        Args:
            sections: The fields, nested as in an experiment file.
            source: Where they are from, for error messages.

        Raises:
            UserError: A field does not exist or is invalid.
        """
        return self.from_dict(merged(self.model_dump(mode="json"), sections), source=source)

    @classmethod
    def _of(cls, fields: dict[str, Any], *, source: str, folder: Path) -> Self:
        try:
            return cls.model_validate(fields, context={"source": source, "folder": folder})
        except ValidationError as error:
            raise first_problem(error, source) from None

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, fields: Any, info: ValidationInfo) -> Any:
        """Write out search space, reference network and learning rate, and make paths absolute."""
        if not isinstance(fields, dict):
            return fields
        context = info.context or {}
        source, folder = context.get("source", "experiment"), context.get("folder", Path.cwd())
        fields = loading.with_absolute_paths(fields, folder)
        return loading.resolve_learning_rate(loading.resolve_baseline(loading.resolve_space(fields, source, folder), source))

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            check_experiment(self)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def metric(self) -> str:
        """Name of the metric of the task."""
        return METRICS[self.task]

    @property
    def from_scratch(self) -> TrainingConfig:
        """Training configuration for retraining from fresh weights."""
        return self.training.model_copy(update={"epochs": self.retrain.epochs or self.training.epochs})

    @property
    def fine_tuning(self) -> TrainingConfig:
        """Training configuration for fine-tuning a subnet from inherited weights. Its warm-up is the default for its epochs."""
        learning_rate = self.retrain.fine_tune_learning_rate or self.training.learning_rate
        changes = {
            "epochs": self.retrain.fine_tune_epochs or max(1, self.from_scratch.epochs // 3),
            "learning_rate": learning_rate,
            "min_learning_rate": min(self.training.min_learning_rate, learning_rate),
            "warmup_epochs": None,
            "cooldown_epochs": 0,
            "single_step_share": 0.0,
        }
        return self.training.model_copy(update=changes)

    @property
    def search_space(self) -> SearchSpace:
        """The search space as an object."""
        return SearchSpace.from_dict(self.space, source="space")

    @property
    def searched_space(self) -> SearchSpace:
        """The space that a search chooses from: the narrowed one if `search.space` is set, otherwise that of the supernet."""
        narrowed = self.search.space
        space = self.search_space if narrowed is None else SearchSpace.from_dict(narrowed, source="search.space")
        return self._with_exit_margins(space)

    @property
    def archived_space(self) -> SearchSpace:
        """The space of all candidates of the archive: that of the supernet, with the exit margins that the search varies."""
        return self._with_exit_margins(self.search_space)

    def _with_exit_margins(self, space: SearchSpace) -> SearchSpace:
        varied = self.search.early_exit and space.exit_margin.size == 1
        return replace(space, exit_margin=Choice(values=EXIT_MARGINS)) if varied else space

    @property
    def baseline_architecture(self) -> Architecture | None:
        """The architecture of the reference network, with the default resolved; None if there is no reference network."""
        if self.baseline == "none":
            return None
        if self.baseline is None:
            return self.search_space.largest()
        return Architecture.from_dict(self.baseline, source="baseline")

    @property
    def comparable_architecture(self) -> Architecture:
        """The architecture whose size rivals have: that of the reference network, or the largest of the space if there is none."""
        return self.baseline_architecture or self.search_space.largest()

    def to_yaml(self) -> str:
        """Return the resolved experiment as YAML, which `Experiment.load` reads back as an equal experiment."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text


def merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested fields with other values of some of them.

    Args:
        fields: The fields.
        changes: The other values. A search space, a reference network and a value that is no mapping replace the old one.
    """
    result = dict(fields)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(name), Mapping) and name not in ("space", "baseline")
        result[name] = merged(result[name], value) if nested else value
    return result


# Trained weights depend on these fields. Later commands of the same run may change the others.
FIXED_BY_TRAINING = ("seed", "task", "space", "baseline", "data", "training")


def continued(trained: Experiment, changed: Experiment, *, source: str) -> Experiment:
    """Return the experiment of a later command, after checking that the trained weights of the run are valid for it.

    Args:
        trained: The experiment with which the run was trained.
        changed: The experiment of the later command.
        source: Prefix of the error message, usually the run folder.

    Raises:
        UserError: A field differs on which the trained weights depend.
    """
    for name in FIXED_BY_TRAINING:
        before, after = fixed_part(trained, name), fixed_part(changed, name)
        if before != after:
            names = (
                [f"{name}.{key}" for key in before if before[key] != after.get(key)]
                if isinstance(before, dict) and isinstance(after, dict)
                else []
            )
            field = (names or [name])[0]
            raise UserError(f"{source}: {field} differs from the experiment that this run began with; use another --run folder")
    return changed


def with_start(experiment: Experiment, start_from: Path | None) -> Experiment:
    """Return a copy of the experiment with `training.start_from` replaced.

    Args:
        experiment: The configuration.
        start_from: Initial weights, as `training.start_from` describes them; None for those of `training.initial`.
    """
    return experiment.model_copy(update={"training": experiment.training.model_copy(update={"start_from": start_from})})


def with_normalisation(experiment: Experiment, normalisation: NormalisationConfig | None) -> Experiment:
    """Return a copy of the experiment with `data.normalisation` replaced.

    Args:
        experiment: The configuration.
        normalisation: Mean and standard deviation of the pixels; None for the default.
    """
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"normalisation": normalisation})})


def fixed_part(experiment: Experiment, name: str) -> Any:
    """Return the part of a field on which trained weights depend, as a JSON value.

    The folders of the data and of its frames, the number of loader processes and the checkpoint interval are left out.

    Args:
        experiment: The configuration.
        name: Name of the field.
    """
    value = experiment.model_dump(mode="json")[name]
    ignored = {"data": ("root", "cache"), "training": ("workers", "checkpoint_epochs", "checkpoint_minutes")}.get(name, ())
    return {key: v for key, v in value.items() if key not in ignored} if isinstance(value, dict) else value
