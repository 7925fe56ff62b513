"""The folder of a run. Other programs read it, so names and contents of its files stay as they are.

RUN/experiment.yaml     complete configuration, with the search space; its first line, a comment, is the digest of the others
RUN/.lock               who writes to the folder, while a command does
RUN/environment.json    package versions, seed, machine
RUN/log.jsonl           events, one JSON object in each line
RUN/plan.json           plan of a run with a time budget, and the time that it has spent
RUN/data.json           digest of the images and their splits; channels and classes
RUN/data/               files.csv: every sample with class, split and digest; batch.png: training images as the network sees them
RUN/supernet/           checkpoints of the supernet
RUN/baseline/           checkpoints and measurement of the reference network
RUN/rivals/             networks without spikes, for comparison: checkpoints and measurement of each
RUN/tensorboard/        TensorBoard scalars of the trainings
RUN/archive.sqlite      every measured candidate
RUN/optuna.log          trials of a search by Optuna, for optuna-dashboard
RUN/export/             exported subnet
RUN/report/             figures and tables
RUN/retrain/            retrained networks: ID/inherited, ID/fine-tuned/seed-K, ID/scratch/seed-K, hand-made/seed-K (the
                        reference network); report.json
RUN/ablation/           ablations: ID-WEIGHTS.csv and .png; measurements.sqlite
RUN/assess/             inherited against stand-alone accuracy: assessment.json, candidates.csv, assessment.png
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autospike import files
from autospike.config import Experiment, continued, narrowing_overrides, with_normalisation, with_start
from autospike.errors import UserError
from autospike.lock import locked
from autospike.machine import processor_name
from autospike.space.input_shape import InputShape

# Packages whose versions are written to environment.json.
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

# Start of the first line of experiment.yaml.
DIGEST = "# sha256 of the lines below: "


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """An opened run: an experiment, and the folder that its results are written to.

    Attributes:
        folder: The folder; `start` does not create it.
        experiment: The configuration.
        datasets: The user's own datasets by split, if `data.name` is `datasets`; they are not stored.
    """

    folder: Path
    experiment: Experiment
    datasets: Mapping[str, Any] | None = None

    @classmethod
    def start(cls, experiment: Experiment, folder: Path, *, datasets: Mapping[str, Any] | None = None) -> RunDirectory:
        """Open a new run, or an existing run of the same experiment. Nothing is written before `save`.

        Args:
            experiment: The experiment.
            folder: The folder of the run.
            datasets: The user's own datasets, by split.

        Returns:
            The run. If the folder has a checkpoint and the experiment names no initial weights or no normalisation, those of the
            existing run are used.

        Raises:
            UserError: The folder has a run of a different experiment.
        """
        run = cls(folder=folder, experiment=experiment, datasets=datasets)
        if not run.has_training:
            return run
        older = _older_settings(folder)
        existing = load_stored_experiment(folder, older)
        if older and experiment.data.channels == "auto":
            experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"channels": 3})})
        if experiment.training.start_from is None:
            experiment = with_start(experiment, existing.training.start_from)
        if experiment.data.normalisation is None:
            experiment = with_normalisation(experiment, existing.data.normalisation)
        return replace(run, experiment=continued(existing, experiment, source=str(folder)))

    @classmethod
    def resume(cls, folder: Path, overrides: Sequence[str] = (), *, datasets: Mapping[str, Any] | None = None) -> RunDirectory:
        """Open an existing run. Nothing is written before `save`.

        Args:
            folder: The folder of the run.
            overrides: Fields to change, as `NAME=VALUE`. Fields on which the training depends cannot be changed, except that
                genes of `space` may be narrowed, which sets `search.space`.
            datasets: The user's own datasets, by split.

        Returns:
            The run.

        Raises:
            UserError: The folder has no run, or an override is invalid.
        """
        if not (folder / "experiment.yaml").exists():
            raise UserError(
                f"{folder}: no run here (no experiment.yaml); start one with: autospike train EXPERIMENT --run {folder}"
            )
        older = _older_settings(folder)
        existing = load_stored_experiment(folder, older)
        if cls(folder=folder, experiment=existing).has_checkpoint:
            overrides = narrowing_overrides(existing.space, overrides)
        changed = load_stored_experiment(folder, (*older, *overrides))
        return cls(folder=folder, experiment=continued(existing, changed, source=str(folder)), datasets=datasets)

    def changed(self, **sections: Mapping[str, Any]) -> RunDirectory:
        """Return the run with other settings. Nothing is written before `save`.

        Args:
            **sections: Fields to change, by section, for example `search={"generations": 3}`.

        Raises:
            UserError: A field does not exist or is invalid, or the training depends on it.
        """
        experiment = self.experiment.changed(sections, source=str(self.folder))
        return replace(self, experiment=continued(self.experiment, experiment, source=str(self.folder)))

    def save(self) -> None:
        """Write the experiment, and the environment if it was not written before.

        Call this after the configuration has been checked, so that later commands do not read a rejected option.

        Raises:
            UserError: A file cannot be written.
        """
        path, text = self.folder / "experiment.yaml", self.experiment.to_yaml()
        content = f"{DIGEST}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"
        if not path.exists() or path.read_bytes() != content.encode():
            files.write_text(path, content)
        if not (self.folder / "environment.json").exists():
            files.write_json(self.folder / "environment.json", _environment(self.experiment.seed))

    def save_data(self, fingerprint: str) -> None:
        """Write the digest of images and splits, unless there is a checkpoint of a network.

        Args:
            fingerprint: Digest of the images and their splits.

        Raises:
            UserError: The file cannot be written.
        """
        if not self.has_training:
            files.write_json(self._data_file, {"fingerprint": fingerprint})

    def check_data(self, fingerprint: str) -> None:
        """Check that images and splits are those of the training, if there is a checkpoint of a network.

        After a change, images of the training split could be used to search or test.

        Args:
            fingerprint: Digest of the images and their splits.

        Raises:
            UserError: They have changed.
        """
        path = self._data_file
        if not self.has_training:
            return
        written = files.read_json(path)
        if not isinstance(written, dict) or "fingerprint" not in written:
            raise UserError(f"{path}: has no fingerprint of the images; restore the file, or start a new run")
        if written["fingerprint"] != fingerprint:
            raise UserError(
                f"{self.folder}: the images are not those that this run was trained on; bring them back, or start a new run"
            )

    def save_input_shape(self, shape: InputShape) -> None:
        """Add the size of input and output to the file of the digest of the images, for commands that do not open the images.

        Args:
            shape: Input and output size of the networks.

        Raises:
            UserError: The file cannot be read or written.
        """
        written, added = files.read_json(self._data_file), {"channels": shape.channels, "classes": shape.classes}
        if isinstance(written, dict) and not added.items() <= written.items():
            files.write_json(self._data_file, {**written, **added})

    @property
    def input_shape(self) -> InputShape | None:
        """Input and output size of the networks; None if no search of this version was started yet."""
        written = files.read_json(self._data_file) if self._data_file.exists() else None
        if not isinstance(written, dict):
            return None
        channels, classes = written.get("channels"), written.get("classes")
        if not (isinstance(channels, int) and isinstance(classes, int)):
            return None
        return InputShape(image_size=self.experiment.data.image_size, channels=channels, classes=classes)

    @property
    def _data_file(self) -> Path:
        return self.folder / "data.json"

    @property
    def _log_file(self) -> Path:
        return self.folder / "log.jsonl"

    def locked(self, command: str) -> AbstractContextManager[None]:
        """Hold the lock of the folder for the length of a `with` block; see `autospike.lock.locked`.

        Args:
            command: Name of the command, for example `train`.

        Returns:
            The context manager of the block.

        Raises:
            UserError: The log cannot be written, because it is no file.
        """
        files.check_absent_or_regular(self._log_file)
        return locked(self.folder, f"autospike {command}")

    @property
    def is_writable(self) -> bool:
        """Whether the user may write to the folder. It may be on a read-only file system, or belong to another user."""
        return os.access(self.folder, os.W_OK)

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint of the supernet or of the reference network was written."""
        return _has_checkpoint((self.supernet, self.baseline))

    @property
    def has_training(self) -> bool:
        """Whether a checkpoint of any network was written. Before that, every field of the experiment may change."""
        return self.has_checkpoint or _has_checkpoint(self.retrain.glob("**/seed-*"))

    @property
    def supernet(self) -> Path:
        """Folder with the checkpoints of the supernet."""
        return self.folder / "supernet"

    @property
    def baseline(self) -> Path:
        """Folder with the checkpoints and the measurement of the reference network."""
        return self.folder / "baseline"

    @property
    def archive(self) -> Path:
        """File of the archive, which may not exist yet."""
        return self.folder / "archive.sqlite"

    def existing_archive(self) -> Path:
        """Return the file of the archive.

        Raises:
            UserError: It does not exist, because no search was started.
        """
        if not self.archive.exists():
            raise UserError(f"{self.folder}: no archive yet; run: autospike search {self.folder}")
        return self.archive

    @property
    def export(self) -> Path:
        """Folder of the exported subnet."""
        return self.folder / "export"

    @property
    def retrain(self) -> Path:
        """Folder of the retrained networks."""
        return self.folder / "retrain"

    @property
    def ablation(self) -> Path:
        """Folder of the ablations."""
        return self.folder / "ablation"

    @property
    def assess(self) -> Path:
        """Folder of the assessment of the supernet."""
        return self.folder / "assess"

    @property
    def rivals(self) -> Path:
        """Folder of the networks without spikes that are compared with the subnets."""
        return self.folder / "rivals"

    @property
    def report(self) -> Path:
        """Folder of figures and tables."""
        return self.folder / "report"

    def log(self, event: str, **details: object) -> None:
        """Append an event with the current time to `log.jsonl`.

        Args:
            event: Name of the event.
            **details: Fields of the event; values for JSON.

        Raises:
            UserError: The file cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        files.append_jsonl(self._log_file, time=now, event=event, **details)


def _has_checkpoint(folders: Iterable[Path]) -> bool:
    return any((folder / "checkpoint.json").exists() or any(folder.glob("step-*.safetensors")) for folder in folders)


def _older_settings(folder: Path) -> tuple[str, ...]:
    """Overrides for a trained run of a version that had no `data.channels`, in which every image folder had three channels."""
    fields = files.read_yaml(folder / "experiment.yaml")
    data = fields.get("data") if isinstance(fields, dict) else None
    older = isinstance(data, dict) and data.get("name") == "folder" and "channels" not in data
    return ("data.channels=3",) if older and (folder / "supernet" / "checkpoint.json").exists() else ()


def load_stored_experiment(folder: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Load the experiment of a run.

    Args:
        folder: The folder of the run.
        overrides: Fields to change, as `NAME=VALUE`.

    Returns:
        The experiment.

    Raises:
        UserError: The file is missing or invalid, or its content is not what was written: fields that are cut off would have their
            defaults.
    """
    path = folder / "experiment.yaml"
    try:
        files.check_regular(path)
        first, _, rest = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if first.startswith(DIGEST.encode()) and first.decode(errors="replace") != f"{DIGEST}{hashlib.sha256(rest).hexdigest()}":
        raise UserError(
            f"{path}: cut off or edited, its content does not have the digest of its first line; restore it, or, if it is "
            "complete, delete that line (--set changes a field)"
        )
    return Experiment.load(path, overrides, folder=Path.cwd())


def _environment(seed: int) -> dict[str, object]:
    """Content of environment.json."""
    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in RECORDED_PACKAGES},
        "machine": {"system": platform.platform(), "processor": processor_name(), "cores": os.cpu_count()},
    }
