"""`autospike export`: select a candidate, write it as a timm model and in other formats, and measure it on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from autospike import files
from autospike.console import note, table, working
from autospike.data.batches import FixedBatches
from autospike.evaluation.front import measured_front, searched_front
from autospike.evaluation.rivals import measure_rival, rival_digest, trained_rivals
from autospike.evaluation.setup import (
    calibrated_subnet,
    held_out_batches,
    open_for_measurement,
    protocol_id,
)
from autospike.evaluation.trained_alone import read_measurement
from autospike.exporting import completion
from autospike.exporting.variants import VariantName
from autospike.lock import locked
from autospike.measurement import Evaluation
from autospike.model_folder import check_replaceable, complete_report, final_measurement, write_report, write_run_model
from autospike.models.contract import SpikingModel
from autospike.report import comparison
from autospike.report.test_split import EVENT, HeldOutUses
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.selection import pick_archived
from autospike.space.architecture import Architecture, digest
from autospike.space.search_space import SearchSpace
from autospike.tasks.pictures import draw_predictions
from autospike.training.retraining import fine_tuned
from autospike.training.rivals import trained_rival
from autospike.training.setup import Setup, load_trained_supernet

# Images of the test split in `predictions.png`.
PICTURED = 24

Weights = Literal["inherited", "fine-tuned"]


def export(
    run: RunDirectory,
    out: Path,
    formats: Sequence[str] = (),
    variants: Sequence[VariantName] = ("exact",),
    push: str | None = None,
) -> None:
    """Export the candidate that `export.pick` selects, unless the folder holds the same export already.

    If `autospike run` has fine-tuned the candidate, the weights with the higher accuracy on the search split are exported.

    Args:
        run: The run.
        out: The folder to write to.
        formats: Names of formats besides timm's, of `autospike.exporting.formats.FORMATS`.
        variants: The variants of the model that are written in these formats, and measured.
        push: Name OWNER/NAME of a repository on Hugging Face to upload the folder to; None for no upload.

    Raises:
        UserError: Nothing was trained or searched yet, no candidate fits `export.pick`, or a format cannot express the model.
    """
    setup, config = open_for_measurement(run), run.experiment.export
    protocol = protocol_id(setup, run.supernet)
    (selected,) = pick_archived(run, protocol, [config.pick], lambda damage: note(f"export: {damage}"), setup.input_shape)
    architecture = selected.measurement.architecture
    fine_tuning = _fine_tuning(run, setup, architecture)
    best = searched_front(run, protocol)
    provenance = _provenance(run, setup, protocol, fine_tuning, best)
    report = complete_report(out, {"architecture_id": architecture.id, "provenance": provenance})
    if report is not None:
        note(f"export: {out} already holds this subnet")
    else:
        files.check_writable(out, "--out")
        with locked(out, "autospike export"), working(f"measure {architecture.id} and the reference network on the test split"):
            report = _write_and_measure(run, setup, selected, fine_tuning, best, out)
            uses = HeldOutUses.of(run).with_export(architecture.id)
            report |= {"supernet": _supernet_quality(run, setup, protocol), "test_split": uses.to_json(), "provenance": provenance}
            write_report(out, report)
        _log(run, "exported", architecture_id=architecture.id, folder=str(out))
    _show(report, out)
    warning = HeldOutUses.of(run).warning()
    if warning is not None:
        note(warning)
    completion.complete(run, setup, out, report, formats, variants, partial(_log, run))
    if push is not None:
        completion.push(out, push)


def _log(run: RunDirectory, event: str, **details: object) -> None:
    """Log an event of a run, or print it if the run is only read."""
    if run.is_writable:
        run.log(event, **details)
    else:
        note(f"export: {event} ({', '.join(f'{k} {v}' for k, v in details.items())}); not in the log, {run.folder} is read-only")


@dataclass(frozen=True, kw_only=True)
class _FineTuning:
    """The finished fine-tuning of a candidate.

    Attributes:
        folder: Of its checkpoints.
        measurement: On the search split, as `measure_trained_alone` returns it.
    """

    folder: Path
    measurement: dict[str, Any]


def _fine_tuning(run: RunDirectory, setup: Setup, architecture: Architecture) -> _FineTuning | None:
    """The fine-tuning of a candidate, if it has finished and was measured."""
    folder = fine_tuned(run, architecture, seed=0).checkpoints
    measurement = read_measurement(setup, folder)
    return _FineTuning(folder=folder, measurement=measurement) if measurement else None


def _provenance(
    run: RunDirectory, setup: Setup, protocol: str, fine_tuning: _FineTuning | None, best: Sequence[Architecture]
) -> dict[str, Any]:
    """Everything besides the selected architecture on which a report depends."""
    search = run.experiment.search
    rivals = {training.name: rival_digest(setup, training) for training in trained_rivals(run, setup)}
    return {
        "run": str(run.folder.resolve()),
        **run.experiment.export.model_dump(),
        "protocol_id": protocol,
        "fine_tuning": fine_tuning and fine_tuning.measurement["protocol_id"],
        "front": digest([architecture.id for architecture in best]),
        **({"rivals": rivals} if rivals else {}),
        "convention": search.energy_convention.name,
        "fitness": search.fitness.model_dump(),
        # Absent if there are none, as in reports of earlier versions.
        **({"constraints": limits} if (limits := search.constraints.model_dump(exclude_none=True)) else {}),
        **({"space": search.space} if search.space is not None else {}),
    }


def _write_and_measure(
    run: RunDirectory, setup: Setup, selected: Evaluation, fine_tuning: _FineTuning | None, best: Sequence[Architecture], out: Path
) -> dict[str, Any]:
    """Write the subnet, then open the test split, and measure the subnet and the reference network.

    Returns:
        The report without its provenance. The caller writes it, as the last file of the export.
    """
    measurement, reference = selected.measurement, run.experiment.baseline_architecture
    accuracies: dict[Weights, float] = {"inherited": measurement.accuracy}
    models: dict[Weights, SpikingModel] = {"inherited": _inherited(run, setup, measurement.architecture)}
    if fine_tuning is not None:
        accuracies["fine-tuned"] = fine_tuning.measurement["search_accuracy"]
        models["fine-tuned"] = _trained_alone(setup, measurement.architecture, fine_tuning.folder)
    weights = max(accuracies, key=lambda way: accuracies[way])  # the inherited ones if both are equal
    reference_model = _trained_alone(setup, reference, run.baseline) if reference else None
    # Loaded before anything is written: a damaged checkpoint must not leave half an export.
    rivals = [(training, trained_rival(setup, training)) for training in trained_rivals(run, setup)]
    check_replaceable(out)
    tested = [architecture.id for architecture in (measurement.architecture, reference) if architecture]
    _log(run, EVENT, images=len(setup.images.splits["test"]), command="export", architecture_ids=tested)
    write_run_model(setup, models[weights], out)
    test = held_out_batches(setup)
    if setup.images.is_dense:
        _draw_predictions(models[weights], test, out)
    measured = {way: final_measurement(run, model, test) for way, model in models.items()}
    return {
        "search_accuracy": accuracies[weights],
        "f_aeb": selected.f_aeb,
        "generation": selected.generation,
        "weights": weights,
        **measured[weights],
        "by_weights": {way: _summary(measured[way], search_accuracy=accuracies[way]) for way in measured},
        "baseline": final_measurement(run, reference_model, test) if reference_model else None,
        "front": measured_front(run, setup, best, test),
        "rivals": [measure_rival(run, training, rival, test, "test") for training, rival in rivals],
    }


def _draw_predictions(model: SpikingModel, test: FixedBatches, out: Path) -> None:
    """Write a picture of the predictions on the first images of the test split."""
    picture = draw_predictions(model, test.batch((0, min(PICTURED, len(test)))))
    with files.replacing(out / "predictions.png") as temporary:
        picture.save(temporary, format="PNG")


def _inherited(run: RunDirectory, setup: Setup, architecture: Architecture) -> SpikingModel:
    return calibrated_subnet(setup, load_trained_supernet(setup, run.experiment.search_space, run.supernet), architecture)


def _trained_alone(setup: Setup, architecture: Architecture, folder: Path) -> SpikingModel:
    return calibrated_subnet(setup, load_trained_supernet(setup, SearchSpace.of(architecture), folder), architecture)


def _summary(measured: dict[str, Any], *, search_accuracy: float) -> dict[str, Any]:
    fields = ("test_accuracy", "test_accuracy_interval", "correct_mask", "score", "energy_mj", "energy_uj", "energy_mj_int8")
    return {"search_accuracy": search_accuracy, **{name: measured[name] for name in fields if name in measured}}


def _supernet_quality(run: RunDirectory, setup: Setup, protocol: str) -> dict[str, Any] | None:
    """Accuracy of the largest subnet with inherited weights and of the reference network, both on the search split."""
    largest, architecture = run.experiment.search_space.largest(), run.experiment.baseline_architecture
    archive = Archive(run.existing_archive(), protocol, run.experiment.search.energy_convention, read_only=True)
    try:
        found = archive.get(largest)
    finally:
        archive.close()
    reference = read_measurement(setup, run.baseline) if architecture else None
    if found is None or not (found.measurement.correct_mask or found.measurement.score) or reference is None:
        return None
    return comparison.supernet_quality(found.measurement, reference, same_architecture=largest == architecture)


def _show(report: dict[str, Any], out: Path) -> None:
    """Print the exported subnet next to the reference network, and in words what the numbers mean."""
    title = f"{out}: subnet {report['architecture_id']}"
    table(title, comparison.columns(report), comparison.rows(report), comparison.caption(report))
    for line in comparison.warnings(report):
        note(line)
