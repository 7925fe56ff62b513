"""Measurement of the rivals: networks without spikes, on the same images as the subnets."""

from __future__ import annotations

from typing import Any

import torch

from autospike import files
from autospike.data.batches import FixedBatches
from autospike.errors import UserError
from autospike.evaluation.setup import fixed_batches
from autospike.models.rivals import Rival, dense_counts
from autospike.report.record import Split, record_rival
from autospike.run_directory import RunDirectory
from autospike.training.checkpoint import Checkpoints
from autospike.training.rivals import RivalTraining, trained_rival
from autospike.training.setup import Setup


def measure_rival(run: RunDirectory, training: RivalTraining, rival: Rival, batches: FixedBatches, split: Split) -> dict[str, Any]:
    """Measure a trained rival.

    Args:
        run: Batch size and energy convention.
        training: Name and input of the rival.
        rival: The network of `autospike.training.rivals.trained_rival`.
        batches: The images.
        split: Their split.

    Returns:
        The measurement as `report.record.record_rival` returns it.
    """
    correct = b""
    with torch.no_grad():
        for batch in batches(run.experiment.evaluation.batch_size):
            hits = rival(batch.images).argmax(dim=-1) == batch.targets
            correct += bytes(hits.to(torch.uint8).tolist())
    params = sum(parameter.numel() for parameter in rival.parameters())
    counts = dense_counts(rival, training.reads)
    return record_rival(training.name, correct, counts, params, run.experiment.search.energy_convention, split)


def measure_on_search_split(run: RunDirectory, setup: Setup, training: RivalTraining) -> dict[str, Any]:
    """Measure a rival on the search split, unless its folder holds a measurement of the same weights and images.

    Args:
        run: The run.
        setup: Data and device.
        training: The rival, which is trained.

    Returns:
        The measurement with the key `weights`, which is written to `measurement.json` beside the checkpoints.

    Raises:
        UserError: The rival is not trained.
    """
    path, weights = training.folder / "measurement.json", rival_digest(setup, training)
    try:
        found: dict[str, Any] = files.read_json(path)
        if found["weights"] == weights:
            return found
    except (UserError, KeyError, TypeError):  # missing or damaged
        pass
    search = fixed_batches(setup, setup.images.splits["search"])
    found = {**measure_rival(run, training, trained_rival(setup, training), search, "search"), "weights": weights}
    files.write_json(path, found)
    return found


def rival_digest(setup: Setup, training: RivalTraining) -> str:
    """Return the digest of the weights of a trained rival and of the images.

    Args:
        setup: The images.
        training: The rival.
    """
    record = Checkpoints(folder=training.folder).record
    return f"{record.sha256 if record else None}/{setup.images.fingerprint}"


def trained_rivals(run: RunDirectory, setup: Setup) -> list[RivalTraining]:
    """Return the configured rivals of a run that are trained; none for a dense task.

    Args:
        run: The run.
        setup: Its data.
    """
    if run.experiment.task != "classification":
        return []
    trainings = [RivalTraining.of(run, setup, name) for name in run.experiment.rivals.networks]
    return [training for training in trainings if training.is_finished]
