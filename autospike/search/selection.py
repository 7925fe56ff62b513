"""Selection rules: the candidate of an archive to retrain or export."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autospike.errors import UserError
from autospike.measurement import Evaluation
from autospike.pareto import knee, on_front
from autospike.run_directory import Run
from autospike.search.archive import Archive
from autospike.search.fitness import refitted

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


RULES: dict[str, Callable[[Sequence[Evaluation]], Evaluation]] = {
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
