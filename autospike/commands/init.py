"""`autospike init`: a commented experiment to start from. Does not import torch."""

from __future__ import annotations

from pathlib import Path

from autospike import files
from autospike.console import note
from autospike.errors import UserError

EXPERIMENT = """\
# An experiment of autospike. Run it:    autospike run {path} --run {folder}/run
# Another run: the same command with another --run. If a run is stopped, the same command resumes it.
# Paths are relative to this file. `--set a.b=c` replaces any field; docs/training.md explains more of them.

seed: 0                       # splits, initial weights, sampling and search depend on it
space: spike_driven_small     # a name from `autospike list spaces`, or the path of a file

data:
  name: glyphs                # 26,000 images of letters that need no download, to see that everything works
  # name: folder              # your own images: images/CLASS/*.png, or images/train/CLASS/*.png and images/test/CLASS/*.png
  # root: images
  image_size: 32              # images are resized to 32x32 pixels

training:
  epochs: 4                   # with 2,000 images, take 30 or more; --budget 20m plans them by time
  batch_size: 32
  learning_rate: 5e-3
  augmentation:
    min_scale: 0.8            # a random crop covers at least 80 percent of the image
    # flip: 0.5               # mirror images; not for letters or digits
    # mixup: 0.2

search:
  objectives: [accuracy, energy_mj]
  population: 24              # candidates in each generation
  generations: 10

export:
  pick: cheapest-within-noise # least energy among the candidates that are not significantly less accurate than the best

retrain:
  cheaper_finalists: 1        # fine-tune a candidate with at most 0.7 of the energy of the others, too
"""


def init(folder: Path) -> None:
    """Write a commented experiment.

    Args:
        folder: The folder to write `experiment.yaml` to. It is created if it does not exist.

    Raises:
        UserError: There is such a file, or it cannot be written.
    """
    path = folder / "experiment.yaml"
    if path.exists():
        raise UserError(f"{path}: exists already; choose another folder")
    files.check_writable(folder, "DIR")
    files.write_text(path, EXPERIMENT.format(path=path, folder=folder))
    note(f"init: wrote {path}; edit it, then run: autospike run {path} --run {folder / 'run'}")
