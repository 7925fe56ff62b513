"""A run on disk: the contract that other programs rely on.

RUN/experiment.yaml     resolved, search space and all
RUN/environment.json    versions, seed, machine
RUN/log.jsonl           what happened, one event a line
RUN/data.json           a digest of which image is in which split
RUN/supernet/           checkpoints of the supernet        RUN/baseline/   the same of the hand-made architecture
RUN/tensorboard/        the course of both trainings, for TensorBoard
RUN/archive.sqlite      every candidate ever measured
RUN/export/             the exported subnet
RUN/report/             figures and tables
RUN/retrain/            subnets trained again: ID/inherited, ID/fine-tuned/seed-K, ID/scratch/seed-K; hand-made/seed-K; report.json
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from autospike import files
from autospike.config import Experiment, continued, load_experiment, with_start
from autospike.errors import UserError
from autospike.machine import processor_name

RECORDED_PACKAGES = (
    "autospike",
    "torch",
    "torchvision",
    "timm",
    "spikingjelly",
    "deap",
    "numpy",
    "pandas",
    "scikit-learn",
    "matplotlib",
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """An experiment and the folder in which it happens."""

    folder: Path
    experiment: Experiment

    @classmethod
    def start(cls, experiment_path: Path, folder: Path, overrides: Sequence[str]) -> Run:
        """Begin a run, or go on with one that the same experiment began. Nothing is written before `record`.

        Raises:
            UserError: the experiment does not fit, or the folder holds a run of a different one.
        """
        experiment = load_experiment(experiment_path, overrides)
        run = cls(folder=folder, experiment=experiment)
        if run.trained:
            held = load_experiment(folder / "experiment.yaml")
            if experiment.training.start_from is None:  # where the weights came from need not be said again
                experiment = with_start(experiment, held.training.start_from)
            continued(held, experiment, source=str(folder))
        return cls(folder=folder, experiment=experiment)

    @classmethod
    def resume(cls, folder: Path, overrides: Sequence[str] = ()) -> Run:
        """Open the run in a folder, with fields changed that training did not fix. Nothing is written before `record`.

        Raises:
            UserError: the folder holds no run, or an override does not fit.
        """
        if not (folder / "experiment.yaml").exists():
            raise UserError(
                f"{folder}: no run here (no experiment.yaml); start one with: autospike train EXPERIMENT --run {folder}"
            )
        held = load_experiment(folder / "experiment.yaml")
        changed = load_experiment(folder / "experiment.yaml", overrides)
        return cls(folder=folder, experiment=continued(held, changed, source=str(folder)))

    def record(self) -> None:
        """Make this the run's experiment, once it is known to work: a rejected option must not come back by itself."""
        files.write_text(self.folder / "experiment.yaml", self.experiment.to_yaml())
        if not (self.folder / "environment.json").exists():
            files.write_json(self.folder / "environment.json", _environment(self.experiment.seed))

    def check_data(self, fingerprint: str) -> None:
        """Hold the run to the images, and the splits, that it began with.

        Raises:
            UserError: they changed; images that were trained on could be searched or tested on.
        """
        path = self.folder / "data.json"
        if not self.trained:
            files.write_json(path, {"fingerprint": fingerprint})
        elif files.read_json(path)["fingerprint"] != fingerprint:
            raise UserError(
                f"{self.folder}: the images are not those that this run was trained on; bring them back, or start a new run"
            )

    @property
    def trained(self) -> bool:
        """Whether a checkpoint was written; before that, there is nothing that a change could spoil."""
        return (self.supernet / "checkpoint.json").exists()

    @property
    def supernet(self) -> Path:
        return self.folder / "supernet"

    @property
    def baseline(self) -> Path:
        return self.folder / "baseline"

    @property
    def archive(self) -> Path:
        return self.folder / "archive.sqlite"

    def searched(self) -> Path:
        """The archive of a search that was begun.

        Raises:
            UserError: there is none.
        """
        if not self.archive.exists():
            raise UserError(f"{self.folder}: no archive yet; run: autospike search {self.folder}")
        return self.archive

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def retrain(self) -> Path:
        return self.folder / "retrain"

    @property
    def report(self) -> Path:
        return self.folder / "report"

    def log(self, event: str, **details: object) -> None:
        """Append to `log.jsonl`."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        files.append_jsonl(self.folder / "log.jsonl", time=now, event=event, **details)


def _environment(seed: int) -> dict[str, object]:
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
        "machine": {"system": platform.platform(), "processor": processor_name(), "cores": os.cpu_count()},
    }
