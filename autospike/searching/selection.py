"""Selection rules: the candidate of an archive to retrain or export."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pandas as pd

from autospike import statistics
from autospike.config import Experiment, ExportConfig, SearchConfig
from autospike.energy.conventions import UJ_PER_MJ
from autospike.errors import UserError
from autospike.measurement import Evaluation
from autospike.objectives import ACCURACY_AND_ENERGY, Objectives, objectives_of
from autospike.pareto import knee, on_front
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.archived_row import scores_without_a_group
from autospike.searching.constraints import Constraints
from autospike.searching.fitness import f_aeb_of_all
from autospike.searching.objective_columns import with_objectives
from autospike.space.architecture import NEVER, Architecture
from autospike.space.genes import fixed
from autospike.space.input_shape import InputShape
from autospike.statistics import SIGNIFICANCE, JackknifeComparison, PairedComparison, unpaired_p_value_below

Points = list[tuple[float, float]]


def _accuracy_and_energy(evaluations: Sequence[Evaluation]) -> Points:
    """Return (accuracy, energy in mJ) of each evaluation.

    Args:
        evaluations: The candidates.
    """
    return [(e.measurement.accuracy, e.energy.energy_mj) for e in evaluations]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a selection rule reads of the candidates, in one order.

    Attributes:
        ids: Architecture ids.
        points: Accuracy on the search split, and energy in mJ.
        f_aeb: Fitness.
        images: Number of images on which each was measured.
        correct_masks: Which images each classifies correctly, as `autospike.statistics.pack_mask` returns it; empty if unknown.
        without: The accuracy of each without one group of images (`autospike.measurement.Score.without`); empty for classification.
        objectives: What the rule `knee` compares.
        values: The values of these objectives of each candidate; `points` if empty.
    """

    ids: Sequence[str]
    points: Points
    f_aeb: Sequence[float]
    images: Sequence[int]
    correct_masks: Sequence[bytes]
    without: Sequence[tuple[float, ...]] = ()
    objectives: Objectives = field(default_factory=lambda: ACCURACY_AND_ENERGY)
    values: Sequence[tuple[float, ...]] = ()

    def at(self, indices: Sequence[int]) -> Choices:
        """Return the candidates at some positions.

        Args:
            indices: The positions, in the order of the result.
        """
        return Choices(
            ids=[self.ids[i] for i in indices],
            points=[self.points[i] for i in indices],
            f_aeb=[self.f_aeb[i] for i in indices],
            images=[self.images[i] for i in indices],
            correct_masks=[self.correct_masks[i] for i in indices],
            without=[self.without[i] for i in indices] if self.without else (),
            objectives=self.objectives,
            values=[self.values[i] for i in indices] if self.values else (),
        )


def _most_accurate(choices: Choices) -> int:
    """The most accurate candidate; of equally accurate ones that of least energy."""
    return max(range(len(choices.points)), key=lambda i: (choices.points[i][0], -choices.points[i][1]))


def _least_energy(choices: Choices) -> int:
    """The candidate of least energy; of equal ones the most accurate."""
    return min(range(len(choices.points)), key=lambda i: (choices.points[i][1], -choices.points[i][0]))


def _best_faeb(choices: Choices) -> int:
    return max(range(len(choices.f_aeb)), key=lambda i: choices.f_aeb[i])


def _cheapest_within_noise(choices: Choices) -> int:
    """The candidate of least energy whose accuracy is not significantly below that of the most accurate one.

    The test is McNemar's, one-sided at the 5 % level, on the images of the search split; for a dense task a t-test with the
    deviation of the jackknife. Candidates that successive halving has
    stopped early are not considered.
    """
    images = max(choices.images)
    complete = [i for i, count in enumerate(choices.images) if count == images]
    best = complete[_most_accurate(choices.at(complete))]
    by_energy = sorted(complete, key=lambda i: (choices.points[i][1], -choices.points[i][0]))
    below = _all_significantly_below(choices, by_energy, best)
    return next(i for i, flag in zip(by_energy, below, strict=True) if i == best or not flag)


def _all_significantly_below(choices: Choices, first: Sequence[int], second: int) -> Iterator[bool]:
    """Return `significantly_below` for each of several candidates; computed together if all have masks of one length."""
    masks = [choices.correct_masks[i] for i in first]
    if any(choices.without) or {len(mask) for mask in masks} != {len(choices.correct_masks[second])} or not all(masks):
        return (significantly_below(choices, i, second) for i in first)
    return iter(statistics.paired_significantly_below(masks, choices.correct_masks[second], choices.images[second]).tolist())


def significantly_below(choices: Choices, first: int, second: int) -> bool:
    """Whether a candidate is less accurate than another one on the same images, at the 5 % level.

    Args:
        choices: The candidates.
        first: Position of the candidate that may be less accurate.
        second: Position of the other one.

    Returns:
        The result of a paired test, or of an unpaired one if a candidate has no mask of correct predictions because its archive was
        written by an older version. Scores of dense tasks are compared by the jackknife.
    """
    if choices.without and all(choices.without[i] for i in (first, second)):
        difference = choices.points[first][0] - choices.points[second][0]
        without = tuple(a - b for a, b in zip(choices.without[first], choices.without[second], strict=True))
        return JackknifeComparison(difference=difference, without=without).significantly_below
    masks, images = (choices.correct_masks[first], choices.correct_masks[second]), choices.images[second]
    if all(masks):
        return PairedComparison.of(*masks, images).significantly_below
    correct = [round(choices.points[i][0] * images) for i in (first, second)]
    return unpaired_p_value_below(correct[0], images, correct[1], images) < SIGNIFICANCE


def _knee(choices: Choices) -> int:
    """The knee of the front of the objectives; candidates without a value of one are left out."""
    objectives, values = choices.objectives.values(), choices.values or choices.points
    known = [i for i, row in enumerate(values) if not any(map(math.isnan, row))]
    if not known:
        raise UserError(f"no candidate has values of {', '.join(choices.objectives)}; run: autospike search RUN")
    maximise, log = [o.maximise for o in objectives], [o.log for o in objectives]
    return known[knee([values[i] for i in known], maximise=maximise, log=log)]


RULES: dict[str, Callable[[Choices], int]] = {
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
    choices = Choices(
        ids=[e.measurement.architecture.id for e in evaluations],
        points=_accuracy_and_energy(evaluations),
        f_aeb=[e.f_aeb for e in evaluations],
        images=[e.measurement.images for e in evaluations],
        correct_masks=[e.measurement.correct_mask for e in evaluations],
        without=[() if e.measurement.score is None else e.measurement.score.without for e in evaluations],
    )
    return evaluations[pick_index(choices, rule, min_accuracy=min_accuracy, tolerance=tolerance)]


def pick_index(choices: Choices, rule: str, *, min_accuracy: float = 0.0, tolerance: float = 1.0) -> int:
    """Select a candidate as `pick` does.

    Args:
        choices: The candidates.
        rule: A key of `RULES`, an architecture id, or a unique prefix of one.
        min_accuracy: Smallest accuracy on the search split, a fraction; does not apply to ids.
        tolerance: Largest difference from the accuracy of the most accurate candidate, a fraction; does not apply to ids.

    Returns:
        The position of the selected candidate.

    Raises:
        UserError: There is no candidate, none is accurate enough, or `rule` is neither a rule nor an id.
    """
    if not choices.ids:
        raise UserError("the archive holds no candidate of this supernet; run: autospike search RUN")
    if rule not in RULES:
        return _by_id(choices.ids, rule)
    best = max(accuracy for accuracy, _ in choices.points)
    enough = [i for i, (accuracy, _) in enumerate(choices.points) if accuracy >= max(min_accuracy, best - tolerance)]
    if not enough:
        raise UserError(f"no candidate reaches accuracy {min_accuracy:g} on the search split; the best has {best:.4f}")
    return enough[RULES[rule](choices.at(enough))]


def pick_archived(
    run: RunDirectory, protocol_id: str, rules: Sequence[str], on_damage: Callable[[str], None], shape: InputShape | None = None
) -> list[Evaluation]:
    """Select candidates among what was measured under a protocol, with energy convention and fitness of the run's search.

    Rules select among the candidates within the limits and the space of the search; ids are found among all.

    Args:
        run: The run.
        protocol_id: See `evaluation.setup.protocol_id`.
        rules: Selection rules or ids; see `pick`.
        shape: Input and output size of the networks; that of the run if None.
        on_damage: Called with a line on rows that are damaged and left out, if there are any.

    Returns:
        The selected candidate of each rule.

    Raises:
        UserError: Nothing was searched yet, no candidate is within the limits, or a rule selects no candidate.
    """
    with _opened(run, protocol_id, rules, on_damage, shape) as candidates:
        return [candidates.select(rule) for rule in rules]


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """The candidates of an opened archive among which rules select.

    Attributes:
        archive: The archive.
        table: Its table, with the objectives that rules compare.
        allowed: The rows within the limits and the space of the search.
        config: Smallest accuracy and tolerance.
        objectives: What the rule `knee` compares.
    """

    archive: Archive
    table: pd.DataFrame
    allowed: pd.DataFrame
    config: ExportConfig
    objectives: Objectives

    def select(self, rule: str) -> Evaluation:
        """Return the candidate of a rule among those allowed, or of an id among all."""
        return _archived(self.archive, self.allowed if rule in RULES else self.table, rule, self.config, self.objectives)


@contextmanager
def _opened(
    run: RunDirectory, protocol_id: str, rules: Sequence[str], on_damage: Callable[[str], None], shape: InputShape | None
) -> Iterator[_Candidates]:
    """Read the archive of a run once; see `pick_archived`. Damage is reported at the end of the block."""
    search = run.experiment.search
    archive = Archive(run.existing_archive(), protocol_id, search.energy_convention, read_only=True)
    try:
        constraints = Constraints.of(search, shape or run.input_shape)
        objectives = _compared(search, rules, constraints.shape)
        table = with_objectives(archive, with_fitness(archive, run), objectives)
        allowed = table[within_limits(table, constraints, run.experiment)]
        if allowed.empty and not table.empty and any(rule in RULES for rule in rules):
            raise UserError(nothing_within_limits(table, constraints))
        yield _Candidates(archive=archive, table=table, allowed=allowed, config=run.experiment.export, objectives=objectives)
        damage = archive.damage()
    finally:
        archive.close()
    if damage is not None:
        on_damage(damage)


def _compared(search: SearchConfig, rules: Sequence[str], shape: InputShape | None) -> Objectives:
    """The objectives that rules compare: those of the search only for `knee`, because the user's own may not be importable."""
    return objectives_of(search.objectives, shape) if "knee" in rules else ACCURACY_AND_ENERGY


# Largest share of the energy of the other finalists that a cheaper one needs. Our choice; other shares were not compared.
CHEAPER = 0.7


def pick_finalists(
    run: RunDirectory, protocol_id: str, on_damage: Callable[[str], None], shape: InputShape | None = None
) -> list[Evaluation]:
    """Select the candidates that are fine-tuned before the export.

    They are the candidate of `export.pick`, and what the rule selects among the candidates of each smaller T: a supernet that was
    trained for a short time underrates small T, and fine-tuning makes up for it. At most `retrain.finalists`. For the same reason
    `retrain.cheaper_finalists` more, each the most accurate candidate with at most `CHEAPER` of the energy of all before it.

    Args:
        run: The run.
        protocol_id: See `evaluation.setup.protocol_id`.
        on_damage: Called with a line on rows that are damaged and left out, if there are any.
        shape: Input and output size of the networks; that of the run if None.

    Returns:
        The selected candidate, then the others by descending T, then the cheaper ones by descending energy. Only the first if
        `export.pick` is an id.

    Raises:
        UserError: Nothing was searched yet, no candidate is within the limits, or the rule selects no candidate.
    """
    rule = run.experiment.export.pick
    with _opened(run, protocol_id, [rule], on_damage, shape) as candidates:
        found, allowed = [candidates.select(rule)], candidates.allowed
        # Fine-tuning may still reach `min_accuracy`; the export checks it.
        config = candidates.config.model_copy(update={"min_accuracy": 0.0})
        smaller = range(found[0].measurement.architecture.time_steps - 1, 0, -1) if rule in RULES else ()
        for steps in smaller:
            rows = allowed[allowed["time_steps"] == steps]
            if not rows.empty and len(found) < run.experiment.retrain.finalists:
                found.append(_archived(candidates.archive, rows, rule, config, candidates.objectives))
        for _ in range(run.experiment.retrain.cheaper_finalists if rule in RULES else 0):
            rows = allowed[allowed["energy_mj"] <= CHEAPER * min(evaluation.energy.energy_mj for evaluation in found)]
            if not rows.empty:
                found.append(_archived(candidates.archive, rows, "best-accuracy", config, candidates.objectives))
    return found


def within_limits(table: pd.DataFrame, constraints: Constraints, experiment: Experiment) -> pd.Series[bool]:
    """Return which candidates of an archive are within the limits and the space of a search.

    Args:
        table: As `Archive.table` returns it.
        constraints: The limits.
        experiment: The experiment with the space.

    Returns:
        One flag for each row.
    """
    inside = pd.Series(data=True, index=table.index)
    if constraints.limits:
        inside &= _violations(table, constraints) == 0
    if experiment.archived_space.exit_margin == fixed(NEVER):  # the archive may be of a search with early exit
        inside &= table["exit_margin"] == NEVER
    if experiment.search.space is not None:
        space = experiment.searched_space
        inside &= table["architecture"].map(lambda text: space.contains(Architecture.from_json(text))).astype(bool)
    return inside


def _violations(table: pd.DataFrame, constraints: Constraints) -> pd.Series[float]:
    """By how much each candidate of an archive violates the limits."""
    measured = [constraints.measured_violation(*point) for point in zip(table["accuracy"], table["energy_mj"], strict=True)]
    found = pd.Series(measured, index=table.index, dtype=float)
    if constraints.static:
        found += table["architecture"].map(lambda text: constraints.static_violation(Architecture.from_json(text)))
    return found


def nothing_within_limits(table: pd.DataFrame, constraints: Constraints) -> str:
    """Describe that no candidate is within the limits, and which one is nearest.

    Args:
        table: As `Archive.table` returns it; at least one row.
        constraints: The limits.

    Returns:
        The message, one line.
    """
    if not constraints.limits:
        return "no measured candidate is in the narrowed space; run: autospike search RUN"
    limits = ", ".join(f"{name} {value:,g}" for name, value in constraints.limits.items())
    nearest = table.iloc[int(_violations(table, constraints).to_numpy().argmin())]
    has = f"{nearest['energy_mj'] * UJ_PER_MJ:.3f} uJ, accuracy {nearest['accuracy']:.4f}, {nearest['params']:,} parameters"
    return (
        f"none of {len(table)} measured candidates is within the limits ({limits}); the nearest is {nearest['id']} ({has}); loosen "
        "a limit, or search on: autospike search RUN --set search.generations=N"
    )


def with_fitness(archive: Archive, run: RunDirectory) -> pd.DataFrame:
    """Return the table of an archive with F_AEB as the run's search defines it.

    Args:
        archive: The archive; its convention gives the energies.
        run: The run.

    Returns:
        As `Archive.table`.

    Raises:
        UserError: The archive has candidates, but not the largest subnet, whose energy is the reference of F_AEB.
    """
    table, largest = archive.table(), run.experiment.search_space.largest().id
    if table.empty:
        return table
    reference = table.loc[table["id"] == largest, "energy_mj"]
    if reference.empty:
        reason = archive.damage() or f"{archive.path}: has no row of the largest subnet ({largest})"
        raise UserError(f"{reason}; F_AEB is relative to the largest subnet, so run: autospike search {run.folder}")
    points = list(zip(table["accuracy"].tolist(), table["energy_mj"].tolist(), strict=True))
    return table.assign(f_aeb=f_aeb_of_all(points, reference_mj=float(reference.iloc[0]), config=run.experiment.search.fitness))


def _archived(archive: Archive, table: pd.DataFrame, rule: str, config: ExportConfig, objectives: Objectives) -> Evaluation:
    """The candidate of one rule. One whose counts turn out to be damaged is left out."""
    while True:
        index = pick_row(table, rule, config, objectives)
        row = table.iloc[index]
        evaluation = archive.get_by_id(str(row["id"]))
        if evaluation is not None:
            return replace(evaluation, f_aeb=float(row["f_aeb"]))
        table = table.drop(index=table.index[index])


def pick_row(table: pd.DataFrame, rule: str, config: ExportConfig, objectives: Objectives = ACCURACY_AND_ENERGY) -> int:
    """Select a candidate of an archive as `pick` does.

    Args:
        table: As `with_fitness` returns it.
        rule: A selection rule or an id.
        config: Smallest accuracy and tolerance.
        objectives: What the rule `knee` compares; columns of the table.

    Returns:
        The position of its row.

    Raises:
        UserError: No candidate is selected.
    """
    choices = Choices(
        ids=table["id"].tolist(),
        points=list(zip(table["accuracy"].tolist(), table["energy_mj"].tolist(), strict=True)),
        f_aeb=table["f_aeb"].tolist(),
        images=table["images"].tolist(),
        correct_masks=[mask if isinstance(mask, bytes) else b"" for mask in table["correct_mask"]],
        without=[scores_without_a_group(score) for score in table["score"]],
        objectives=objectives,
        values=list(table[list(objectives)].astype(float).itertuples(index=False, name=None)),
    )
    return pick_index(choices, rule, min_accuracy=config.min_accuracy, tolerance=config.tolerance)


def front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the non-dominated candidates, by increasing energy.

    Args:
        evaluations: The candidates.

    Returns:
        The Pareto front of (accuracy, energy).
    """
    points = _accuracy_and_energy(evaluations)
    selected = [(point[1], e) for point, e, flag in zip(points, evaluations, on_front(points), strict=True) if flag]
    return [e for _, e in sorted(selected, key=lambda pair: pair[0])]


def _by_id(ids: Sequence[str], given: str) -> int:
    """Return the position of the candidate whose id has the given prefix."""
    matches = [i for i, name in enumerate(ids) if name.startswith(given)]
    if len(matches) != 1:
        found = f"{len(matches)} candidates' ids have this prefix" if matches else "no candidate has that id"
        raise UserError(f"--pick {given}: {found}; choose {', '.join(RULES)}, or an id from RUN/report/candidates.csv")
    return matches[0]
