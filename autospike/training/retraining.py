"""What a retraining compares, over seeds: picked subnets as inherited, fine-tuned and from scratch, and the hand-made architecture.

A retrained network is the supernet of a space of one, so it is trained, checkpointed and resumed as any other. Its folder holds

    recipe.json   how it was trained, its checkpoints beside it
    model/        what timm opens, and `report.json`: what was measured
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from autospike import files
from autospike.config import Experiment, TrainingConfig, fixed_part
from autospike.errors import UserError
from autospike.run_directory import Run
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.checkpoint import Checkpoints
from autospike.training.initialisation import NetworkOfRun

Way = Literal["inherited", "fine-tuned", "scratch", "hand-made"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network of the comparison: an architecture, how it comes by its weights, and where they are."""

    architecture: Architecture
    way: Way
    seed: int
    """Number of the repetition; 0 trains by the run's own seed."""
    experiment: Experiment
    """The run's, with the training of this network."""
    folder: Path
    checkpoints: Path

    @property
    def name(self) -> str:
        whose = "" if self.way == "hand-made" else f"{self.architecture.id}/"
        return f"{whose}{self.way}/{self.seed}"

    @property
    def space(self) -> SearchSpace:
        """Of the supernet that holds its weights."""
        return self.experiment.search_space if self.way == "inherited" else SearchSpace.of(self.architecture)

    @property
    def starts_from(self) -> NetworkOfRun:
        """Of a run to start from, which network."""
        return "supernet" if self.way == "fine-tuned" else "baseline"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def check_recipe(self) -> None:
        """Raises:
        UserError: what its folder holds was trained in another way.
        """
        path = self.folder / "recipe.json"
        if Checkpoints(folder=self.checkpoints).record is None or not path.exists():
            return
        written = files.read_json(path)
        try:
            held = _fixed(self.experiment, TrainingConfig.model_validate(written["training"])) | {"supernet": written["supernet"]}
        except (KeyError, TypeError, ValidationError):
            raise UserError(f"{path}: does not say how this was trained; delete {self.folder} to train it again") from None
        now = _fixed(self.experiment, self.experiment.training) | {"supernet": self._supernet}
        name = next((name for name in now if held[name] != now[name]), None)
        if name is not None:
            raise UserError(
                f"{self.folder}: was trained with {name} {held[name]}, not {now[name]}; go on with that, "
                "or delete the folder to train it again"
            )

    def write_recipe(self) -> None:
        if self.checkpoints == self.folder:  # the run's own networks have theirs in its experiment
            training = self.experiment.training.model_dump(mode="json")
            files.write_json(self.folder / "recipe.json", {"training": training, "supernet": self._supernet})

    @property
    def _supernet(self) -> str | None:
        """Names the weights that it is fine-tuned from."""
        source = self.experiment.training.start_from
        if self.way != "fine-tuned" or source is None:
            return None
        record = Checkpoints(folder=source / "supernet").record
        return record.sha256 if record else None


def _fixed(experiment: Experiment, training: TrainingConfig) -> dict[str, Any]:
    """What weights depend on, less where they came from: a run may move."""
    fixed = fixed_part(_with(experiment, training), "training")
    return {name: value for name, value in fixed.items() if name != "start_from"}


def networks(run: Run, architectures: Iterable[Architecture]) -> list[Network]:
    """Every network that is compared: subnet by subnet, and the hand-made one last."""
    seeds = range(run.experiment.retrain.seeds)
    found = []
    for architecture in architectures:
        found.append(_inherited(run, architecture))
        found += [_fine_tuned(run, architecture, seed) for seed in seeds]
        found += [_from_scratch(run, architecture, seed) for seed in seeds]
    return found + [_hand_made(run, seed) for seed in seeds]


def _inherited(run: Run, architecture: Architecture) -> Network:
    return Network(
        architecture=architecture,
        way="inherited",
        seed=0,
        experiment=run.experiment,
        folder=run.retrain / architecture.id / "inherited",
        checkpoints=run.supernet,
    )


def _fine_tuned(run: Run, architecture: Architecture, seed: int) -> Network:
    training = run.experiment.fine_tuning.model_copy(update={"start_from": run.folder.resolve()})
    return _retrained(run, architecture, "fine-tuned", seed, training)


def _from_scratch(run: Run, architecture: Architecture, seed: int) -> Network:
    training = run.experiment.from_scratch.model_copy(update={"start_from": None})
    return _retrained(run, architecture, "scratch", seed, training)


def _retrained(run: Run, architecture: Architecture, way: Way, seed: int, training: TrainingConfig) -> Network:
    folder = run.retrain / architecture.id / way / f"seed-{seed}"
    return Network(
        architecture=architecture, way=way, seed=seed, experiment=_with(run.experiment, training), folder=folder, checkpoints=folder
    )


def _hand_made(run: Run, seed: int) -> Network:
    """By the run's own recipe; the first is the run's own, if it was trained for as long."""
    folder, training = run.retrain / "hand-made" / f"seed-{seed}", run.experiment.from_scratch
    own = seed == 0 and training == run.experiment.training
    return Network(
        architecture=run.experiment.baseline_architecture,
        way="hand-made",
        seed=seed,
        experiment=_with(run.experiment, training),
        folder=folder,
        checkpoints=run.baseline if own else folder,
    )


def _with(experiment: Experiment, training: TrainingConfig) -> Experiment:
    return experiment.model_copy(update={"training": training})
