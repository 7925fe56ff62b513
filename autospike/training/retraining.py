"""Networks that `autospike retrain` compares: selected subnets inherited, fine-tuned and from scratch, and the reference network.

A retrained network is a supernet of a space with one architecture, so the supernet trainer trains and resumes it. Its folder has

    recipe.json   the configuration of its training; the checkpoints are next to it
    model/        the timm model, and `report.json` with its measurement
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from autospike import files
from autospike.config import Experiment, TrainingConfig, fixed_part
from autospike.errors import UserError
from autospike.events import Callback
from autospike.run_directory import RunDirectory
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.initialisation import NetworkOfRun
from autospike.training.setup import Setup
from autospike.training.trainer import train_network

Way = Literal["inherited", "fine-tuned", "scratch", "hand-made"]


@dataclass(frozen=True, kw_only=True)
class RetrainedNetwork:
    """One network of the comparison.

    Attributes:
        architecture: The architecture.
        way: How its parameters are obtained.
        seed: Number of the repetition; 0 uses the seed of the run.
        experiment: That of the run, with the training of this network.
        folder: Of its recipe and its model.
        checkpoints: The folder of its checkpoints.
    """

    architecture: Architecture
    way: Way
    seed: int
    experiment: Experiment
    folder: Path
    checkpoints: Path

    @property
    def name(self) -> str:
        """Name in logs and folders."""
        prefix = "" if self.way == "hand-made" else f"{self.architecture.id}/"
        return f"{prefix}{self.way}/{self.seed}"

    @property
    def space(self) -> SearchSpace:
        """Space of the supernet that contains its parameters."""
        return self.experiment.search_space if self.way == "inherited" else SearchSpace.of(self.architecture)

    @property
    def starts_from(self) -> NetworkOfRun:
        """Network of a run that initialises the parameters, if `training.start_from` is a run."""
        return "supernet" if self.way == "fine-tuned" else "baseline"

    @property
    def model(self) -> Path:
        """Folder of the timm model."""
        return self.folder / "model"

    @property
    def is_trained(self) -> bool:
        """Whether its training has finished."""
        record = Checkpoints(folder=self.checkpoints).record
        return record is not None and record.finished

    def check_recipe(self) -> None:
        """Check that existing checkpoints were trained by the same recipe.

        Raises:
            UserError: They were trained by another one.
        """
        path = self.folder / "recipe.json"
        if Checkpoints(folder=self.checkpoints).record is None or not path.exists():
            return
        written = files.read_json(path)
        try:
            held = _fixed(self.experiment, TrainingConfig.model_validate(written["training"])) | {"supernet": written["supernet"]}
        except (KeyError, TypeError, ValidationError):
            raise UserError(f"{path}: not the recipe of a training; delete {self.folder} to train it again") from None
        now = _fixed(self.experiment, self.experiment.training) | {"supernet": self._supernet}
        name = next((name for name in now if held[name] != now[name]), None)
        if name is not None:
            raise UserError(
                f"{self.folder}: was trained with {name} {held[name]}, not {now[name]}; use the same value, "
                "or delete the folder to train it again"
            )

    def write_recipe(self) -> None:
        """Write `recipe.json`, unless the network is one of the run's own."""
        if self.checkpoints == self.folder:  # the recipe of the run's own networks is its experiment
            training = self.experiment.training.model_dump(mode="json")
            files.write_json(self.folder / "recipe.json", {"training": training, "supernet": self._supernet})

    @property
    def _supernet(self) -> str | None:
        """Digest of the supernet from which the network is fine-tuned."""
        source = self.experiment.training.start_from
        if self.way != "fine-tuned" or source is None:
            return None
        record = Checkpoints(folder=source / "supernet").record
        return record.sha256 if record else None


def _fixed(experiment: Experiment, training: TrainingConfig) -> dict[str, Any]:
    """Settings on which the parameters depend, except the path of the initial ones, because a run may be moved."""
    fixed = fixed_part(_with(experiment, training), "training")
    return {name: value for name, value in fixed.items() if name != "start_from"}


def train_retrained(run: RunDirectory, setup: Setup, network: RetrainedNetwork, callbacks: Sequence[Callback] = ()) -> None:
    """Train a network of the comparison, unless its training has finished.

    Args:
        run: Where progress is logged.
        setup: The setup of the run.
        network: The network; not an inherited one.
        callbacks: Receive the events of the training.

    Raises:
        UserError: A checkpoint or the initial parameters cannot be read, or the loss is not finite.
        Interrupted: By a signal, after a checkpoint.
    """
    network.write_recipe()
    repeated = replace(setup, experiment=network.experiment, repetition=network.seed)
    train_network(
        run, repeated, network.space, network.checkpoints, name=network.name, source=network.starts_from, callbacks=callbacks
    )


def networks(run: RunDirectory, architectures: Iterable[Architecture]) -> list[RetrainedNetwork]:
    """List the networks of a comparison.

    Args:
        run: A searched run.
        architectures: The selected subnets.

    Returns:
        The networks of each subnet, then those of the reference network.
    """
    seeds = range(run.experiment.retrain.seeds)
    found = []
    for architecture in architectures:
        found.append(_inherited(run, architecture))
        found += [fine_tuned(run, architecture, seed=seed) for seed in seeds]
        found += [from_scratch(run, architecture, seed=seed) for seed in seeds]
    reference = run.experiment.baseline_architecture
    return found if reference is None else found + [_reference(run, reference, seed) for seed in seeds]


def _inherited(run: RunDirectory, architecture: Architecture) -> RetrainedNetwork:
    return RetrainedNetwork(
        architecture=architecture,
        way="inherited",
        seed=0,
        experiment=run.experiment,
        folder=run.retrain / architecture.id / "inherited",
        checkpoints=run.supernet,
    )


def fine_tuned(run: RunDirectory, architecture: Architecture, *, seed: int) -> RetrainedNetwork:
    """Describe the fine-tuning of a subnet from its inherited weights.

    Args:
        run: A searched run.
        architecture: The subnet.
        seed: Number of the repetition, from 0.

    Returns:
        The network to train.
    """
    training = run.experiment.fine_tuning.model_copy(update={"start_from": run.folder.resolve()})
    return _retrained(run, architecture, "fine-tuned", seed, training)


def from_scratch(run: RunDirectory, architecture: Architecture, *, seed: int) -> RetrainedNetwork:
    """Describe the training of a subnet from fresh weights.

    Args:
        run: A trained run.
        architecture: The subnet.
        seed: Number of the repetition, from 0.

    Returns:
        The network to train.
    """
    training = run.experiment.from_scratch.model_copy(update={"start_from": None})
    return _retrained(run, architecture, "scratch", seed, training)


def _retrained(run: RunDirectory, architecture: Architecture, way: Way, seed: int, training: TrainingConfig) -> RetrainedNetwork:
    folder = run.retrain / architecture.id / way / f"seed-{seed}"
    return RetrainedNetwork(
        architecture=architecture, way=way, seed=seed, experiment=_with(run.experiment, training), folder=folder, checkpoints=folder
    )


def _reference(run: RunDirectory, architecture: Architecture, seed: int) -> RetrainedNetwork:
    """Trained by the recipe of the run. The first one is that of the run, if it was trained for as many epochs."""
    folder, training = run.retrain / "hand-made" / f"seed-{seed}", run.experiment.from_scratch
    own = seed == 0 and training == run.experiment.training
    return RetrainedNetwork(
        architecture=architecture,
        way="hand-made",
        seed=seed,
        experiment=_with(run.experiment, training),
        folder=folder,
        checkpoints=run.baseline if own else folder,
    )


def _with(experiment: Experiment, training: TrainingConfig) -> Experiment:
    return experiment.model_copy(update={"training": training})
