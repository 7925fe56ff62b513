"""Selection rules: the candidate of an archive to retrain or export."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autospike.errors import UserError
from autospike.measurement import Evaluation, Measurement
from autospike.pareto import knee, on_front
from autospike.run_directory import Run
from autospike.search.archive import Archive
from autospike.search.fitness import refitted
from autospike.statistics import SIGNIFICANCE, PairedComparison, unpaired_p_value_below

Points = list[tuple[float, float]]


def accuracy_and_energy(evaluations: Sequence[Evaluation]) -> Points:
    """Return (accuracy, energy in mJ) of each evaluation."""
    return [(e.measurement.accuracy, e.energy.energy_mj) for e in evaluations]


def _most_accurate(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the most accurate candidate; of equally accurate ones that of least energy."""
    return max(zip(evaluations, accuracy_and_energy(evaluations), strict=True), key=lambda pair: (pair[1][0], -pair[1][1]))[0]


def _least_energy(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the candidate of least energy; of equal ones the most accurate."""
    return min(zip(evaluations, accuracy_and_energy(evaluations), strict=True), key=lambda pair: (pair[1][1], -pair[1][0]))[0]


def _best_faeb(evaluations: Sequence[Evaluation]) -> Evaluation:
    return max(evaluations, key=lambda e: e.f_aeb)


def _knee(evaluations: Sequence[Evaluation]) -> Evaluation:
    return evaluations[knee(accuracy_and_energy(evaluations))]


def _cheapest_within_noise(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the candidate of least energy whose accuracy is not significantly below that of the most accurate one.

    The test is McNemar's, one-sided at the 5 % level, on the images of the search split. Candidates that successive halving has
    stopped early are not considered.
    """
    images = max(e.measurement.images for e in evaluations)
    complete = [e for e in evaluations if e.measurement.images == images]
    best = _most_accurate(complete)
    return _least_energy([e for e in complete if not significantly_below(e.measurement, best.measurement)])


def significantly_below(first: Measurement, second: Measurement) -> bool:
    """Whether a network is less accurate than another one on the same images, at the 5 % level.

    Args:
        first: The network that may be less accurate.
        second: The other one, on the same images.

    Returns:
        The result of a paired test, or of an unpaired one if a measurement has no mask of correct predictions because its archive
        was written by an older version.
    """
    if first.correct_mask and second.correct_mask:
        return PairedComparison.of(first.correct_mask, second.correct_mask, first.images).significantly_below
    return unpaired_p_value_below(first.correct, first.images, second.correct, second.images) < SIGNIFICANCE


RULES: dict[str, Callable[[Sequence[Evaluation]], Evaluation]] = {
    "cheapest-within-noise": _cheapest_within_noise,
    "knee": _knee,
    "best-accuracy": _most_accurate,
    "least-energy": _least_energy,
    "best-faeb": _best_faeb,
}


def pick(evaluations: Sequence[Evaluation], rule: str, *, min_accuracy: float = 0.0, tolerance: float = 1.0) -> Evaluation:
    """Select a candidate by a rule or by its id.

    Args:
        evaluations: The candidates.
        rule: A key of `RULES`, an architecture id, or a unique prefix of one. The arguments below do not apply to ids.
        min_accuracy: Smallest accuracy on the search split, a fraction.
        tolerance: Largest difference from the accuracy of the most accurate candidate.

    Returns:
        The selected candidate.

    Raises:
        UserError: There is no candidate, none is accurate enough, or `rule` is neither a rule nor an id.
    """
    if not evaluations:
        raise UserError("the archive holds no candidate of this supernet; run: autospike search RUN")
    if rule not in RULES:
        return _by_id(evaluations, rule)
    best = max(e.measurement.accuracy for e in evaluations)
    enough = [e for e in evaluations if e.measurement.accuracy >= max(min_accuracy, best - tolerance)]
    if not enough:
        raise UserError(f"no candidate reaches accuracy {min_accuracy:g} on the search split; the best has {best:.4f}")
    return RULES[rule](enough)


def archived_evaluations(run: Run, protocol_id: str) -> list[Evaluation]:
    """Read what was measured under a protocol, with the energy convention and the fitness of the run's search.

    Args:
        run: The run.
        protocol_id: See `evaluation.setup.protocol_id`.

    Returns:
        The evaluations, in the order of the archive.

    Raises:
        UserError: Nothing was searched yet.
    """
    archive = Archive(run.existing_archive(), protocol_id, run.experiment.search.energy_convention)
    evaluations = archive.all()
    archive.close()
    return refitted(evaluations, run.experiment.search_space.largest(), run.experiment.search.fitness)


def front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the non-dominated candidates, by increasing energy.

    Args:
        evaluations: The candidates.

    Returns:
        The Pareto front of (accuracy, energy).
    """
    points = accuracy_and_energy(evaluations)
    selected = [(point[1], e) for point, e, flag in zip(points, evaluations, on_front(points), strict=True) if flag]
    return [e for _, e in sorted(selected, key=lambda pair: pair[0])]


def _by_id(evaluations: Sequence[Evaluation], given: str) -> Evaluation:
    """Return the candidate whose id has the given prefix."""
    matches = [e for e in evaluations if e.measurement.architecture.id.startswith(given)]
    if len(matches) != 1:
        found = f"{len(matches)} candidates' ids have this prefix" if matches else "no candidate has that id"
        raise UserError(f"--pick {given}: {found}; choose {', '.join(RULES)}, or an id from RUN/report/candidates.csv")
    return matches[0]
