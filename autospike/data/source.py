"""Open the data that a command line option names: a folder, an experiment, a run, or an embedded data set."""

from __future__ import annotations

import os
from pathlib import Path

from autospike.config import DataConfig, Experiment
from autospike.data.event_sources import FRAME_FILES
from autospike.data.image_sources import IMAGE_FILES
from autospike.data.images import Images
from autospike.data.loading import load_images
from autospike.errors import UserError
from autospike.run_directory import RunDirectory

# Subfolders by which torchvision's copies of CIFAR are recognised.
CIFAR_FOLDERS = {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}

# Data sets that need no files.
EMBEDDED = ("digits", "glyphs", "motion")


def open_images(source: str, *, image_size: int) -> Images:
    """Open a dataset with the splits of an experiment or a run, or else with the default splits by seed 0.

    Args:
        source: A folder, an experiment (YAML), the folder of a run, or the name of an embedded data set.
        image_size: Height and width of the images.

    Returns:
        The dataset.

    Raises:
        UserError: The source does not exist, or the images of a run are not those that it was trained on.
    """
    path = Path(source)
    if (path / "experiment.yaml").exists():
        run = RunDirectory.resume(path)
        images = _open_experiment_data(run.experiment, image_size)
        if run.has_training:
            run.check_data(images.fingerprint)
        return images
    if path.suffix in (".yaml", ".yml"):
        return _open_experiment_data(Experiment.load(path), image_size)
    if source in EMBEDDED:
        return load_images(DataConfig.model_validate({"name": source, "image_size": image_size}), seed=0)
    if not path.is_dir():
        raise UserError(
            f"--data {source}: no such folder; give a folder of images (CLASS/image.png), of event frames (CLASS/frames.npz) or of "
            f"CIFAR, an experiment (YAML), a run, or {' or '.join(EMBEDDED)}"
        )
    return load_images(DataConfig.model_validate({"name": _kind(path), "root": path, "image_size": image_size}), seed=0)


def _open_experiment_data(experiment: Experiment, image_size: int) -> Images:
    return load_images(experiment.data.model_copy(update={"image_size": image_size}), seed=experiment.seed)


def _kind(folder: Path) -> str:
    """The `data.name` of a folder, by the first sample that is found in it."""
    known = next((kind for name, kind in CIFAR_FOLDERS.items() if (folder / name).is_dir()), None)
    extensions = (*FRAME_FILES.extensions, *IMAGE_FILES.extensions)
    names = (name.lower() for _, _, names in os.walk(folder) for name in sorted(names) if not name.startswith("."))
    first = next((name for name in names if name.endswith(extensions)), "")
    return known or ("events" if first.endswith(FRAME_FILES.extensions) else "folder")
