"""Images by what a user names: a folder, an experiment, a run, or the digits."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from autospike.config import DataConfig, load_experiment
from autospike.data.images import Images, load_images
from autospike.errors import UserError
from autospike.run_directory import Run

# What tells a folder's kind: the first of these that is in it.
FOLDERS = {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}


def open_images(source: str, *, image_size: int) -> Images:
    """The images of a source with their splits: those of the experiment or run, or else drawn as its defaults are, by seed 0.

    Raises:
        UserError: there is no such source, or a run's images are not those that it was trained on.
    """
    path = Path(source)
    if (path / "experiment.yaml").exists():
        images = _of_experiment(path / "experiment.yaml", image_size)
        run = Run.resume(path)
        if run.trained:  # else there is nothing that it could have learnt from other images
            run.check_data(images.fingerprint)
        return images
    if path.suffix in (".yaml", ".yml"):
        return _of_experiment(path, image_size)
    if source == "digits":
        return load_images(DataConfig(name="digits", image_size=image_size), seed=0)
    if not path.is_dir():
        raise UserError(
            f"--data {source}: no such folder; give a folder of images (CLASS/image.png), of event frames (CLASS/frames.npz) or of "
            "CIFAR, an experiment (YAML), a run, or digits"
        )
    return load_images(DataConfig.model_validate({"name": _kind(path), "root": path, "image_size": image_size}), seed=0)


def _of_experiment(path: Path, image_size: int) -> Images:
    held = load_experiment(path)
    return load_images(held.data.model_copy(update={"image_size": image_size}), seed=held.seed)


def _kind(folder: Path) -> str:
    known = next((kind for name, kind in FOLDERS.items() if (folder / name).is_dir()), None)
    frames = next(chain(folder.glob("*/*.npz"), folder.glob("train/*/*.npz")), None)
    return known or ("events" if frames else "folder")
