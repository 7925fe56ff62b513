"""The networks among which an export chooses: the selected candidate with inherited weights, and the fine-tuned finalists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autospike.energy.conventions import energy
from autospike.energy.counts import from_rows
from autospike.evaluation.trained_alone import read_measurement
from autospike.measurement import Evaluation
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.constraints import Constraints
from autospike.searching.fitness import f_aeb
from autospike.searching.selection import RULES, Choices, pick_index, significantly_below
from autospike.space.architecture import Architecture
from autospike.training.retraining import fine_tuned
from autospike.training.setup import Setup

Weights = Literal["inherited", "fine-tuned"]


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A network on the search split.

    Attributes:
        architecture: Its architecture.
        weights: Where its weights come from.
        checkpoints: The folder of its fine-tuning; None with inherited weights.
        protocol_id: The protocol of the measurement.
        accuracy: Accuracy on the search split.
        energy_mj: Energy per image in mJ.
        f_aeb: Fitness.
        images: Number of images.
        correct_mask: Which of them it classifies correctly, as `autospike.statistics.pack_mask` returns it.
        without: The accuracy without one group of images (`autospike.measurement.Score.without`); empty for classification.
    """

    architecture: Architecture
    weights: Weights
    checkpoints: Path | None
    protocol_id: str
    accuracy: float
    energy_mj: float
    f_aeb: float
    images: int
    correct_mask: bytes
    without: tuple[float, ...]


def finalists(run: RunDirectory, setup: Setup, protocol: str, evaluations: Sequence[Evaluation]) -> list[Finalist]:
    """Return the networks among which an export chooses.

    Args:
        run: A searched run.
        setup: Configuration, data and device.
        protocol: The protocol of the archive; see `evaluation.setup.protocol_id`.
        evaluations: The candidates of `autospike.searching.selection.pick_finalists`.

    Returns:
        The first candidate with inherited weights, then each candidate whose fine-tuning has finished and was measured.
    """
    selected = evaluations[0]
    score = selected.measurement.score
    inherited = Finalist(
        architecture=selected.measurement.architecture,
        weights="inherited",
        checkpoints=None,
        protocol_id=protocol,
        accuracy=selected.measurement.accuracy,
        energy_mj=selected.energy.energy_mj,
        f_aeb=selected.f_aeb,
        images=selected.measurement.images,
        correct_mask=selected.measurement.correct_mask,
        without=score.without if score else (),
    )
    reference_mj = _largest_energy_mj(run, protocol)
    tuned = (_fine_tuned(run, setup, evaluation.measurement.architecture, reference_mj) for evaluation in evaluations)
    return [inherited, *(found for found in tuned if found is not None)]


def _largest_energy_mj(run: RunDirectory, protocol: str) -> float:
    """Energy of the largest subnet of the space, to which F_AEB is relative."""
    archive = Archive(run.existing_archive(), protocol, run.experiment.search.energy_convention, read_only=True)
    try:
        largest = archive.get(run.experiment.search_space.largest())
    finally:
        archive.close()
    assert largest is not None  # `pick_finalists` has needed it
    return largest.energy.energy_mj


def _fine_tuned(run: RunDirectory, setup: Setup, architecture: Architecture, reference_mj: float) -> Finalist | None:
    """The network after its fine-tuning, or None if that has not finished or was not measured."""
    folder = fine_tuned(run, architecture, seed=0).checkpoints
    found = read_measurement(setup, folder)
    if found is None:
        return None
    search, accuracy = run.experiment.search, found["search_accuracy"]
    energy_mj = energy(from_rows(found["layers"]), search.energy_convention).energy_mj
    return Finalist(
        architecture=architecture,
        weights="fine-tuned",
        checkpoints=folder,
        protocol_id=found["protocol_id"],
        accuracy=accuracy,
        energy_mj=energy_mj,
        f_aeb=f_aeb(accuracy, energy_mj, reference_mj=reference_mj, config=search.fitness),
        images=found["search_images"],
        correct_mask=bytes.fromhex(found["correct_mask"]),
        without=tuple(found["score"]["without"]) if "score" in found else (),
    )


def choose(run: RunDirectory, setup: Setup, networks: Sequence[Finalist]) -> Finalist:
    """Choose the network that is exported by `export.pick` on the search split; the more accurate one, if that is an id.

    Of the candidate with both kinds of weights, the fine-tuned ones compete, unless they are significantly less accurate than the
    inherited ones. The accuracy of the inherited weights is one of the highest of hundreds on the same images, so it is too high on
    average; that of the fine-tuned ones is not.

    Args:
        run: Selection rule and limits.
        setup: Input and output size of the networks.
        networks: As `finalists` returns them.

    Returns:
        The network. The inherited weights, if no fine-tuned network is within the limits and accurate enough.
    """
    config, constraints = run.experiment.export, Constraints.of(run.experiment.search, setup.input_shape)
    rule = config.pick if config.pick in RULES else "best-accuracy"
    allowed = [
        network
        for network in networks
        if network.accuracy >= config.min_accuracy and not constraints.measured_violation(network.accuracy, network.energy_mj)
    ] or list(networks[:1])
    allowed = _with_one_kind_of_weights(allowed)
    return allowed[pick_index(_choices(allowed), rule, tolerance=config.tolerance)]


def _with_one_kind_of_weights(networks: Sequence[Finalist]) -> list[Finalist]:
    """Leave out the inherited or the fine-tuned weights of the candidate that has both."""
    first, *others = networks
    same = [network for network in others if network.architecture == first.architecture]
    if first.weights != "inherited" or not same:
        return [first, *others]
    worse = significantly_below(_choices([*same, first]), 0, 1)
    return [first, *(network for network in others if network not in same)] if worse else others


def _choices(networks: Sequence[Finalist]) -> Choices:
    return Choices(
        ids=[network.architecture.id for network in networks],
        points=[(network.accuracy, network.energy_mj) for network in networks],
        f_aeb=[network.f_aeb for network in networks],
        images=[network.images for network in networks],
        correct_masks=[network.correct_mask for network in networks],
        without=[network.without for network in networks],
    )
