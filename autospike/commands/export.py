"""`autospike export`: select a candidate, write it as a timm model and in other formats, and measure it on the test split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autospike import files
from autospike.console import note, table, working
from autospike.data.batches import FixedBatches
from autospike.energy.conventions import UJ_PER_MJ
from autospike.evaluation.finalists import Finalist, Weights, choose, finalists
from autospike.evaluation.front import measured_front, searched_front
from autospike.evaluation.rivals import measure_rival, rival_digest, trained_rivals
from autospike.evaluation.setup import (
    calibrated_subnet,
    held_out_batches,
    open_for_measurement,
    protocol_id,
)
from autospike.evaluation.trained_alone import read_measurement
from autospike.exporting import completion, upload
from autospike.exporting.variants import VariantName
from autospike.lock import locked
from autospike.model_folder import complete_report, final_measurement, write_report, write_run_model
from autospike.models.contract import SpikingModel
from autospike.report import comparison
from autospike.report.test_split import EVENT, HeldOutUses
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.selection import pick_finalists
from autospike.space.architecture import Architecture, digest
from autospike.space.search_space import SearchSpace
from autospike.tasks.pictures import draw_predictions
from autospike.training.rivals import trained_rival
from autospike.training.setup import Setup, load_trained_supernet

# The picture of predictions on the first images of the test split, and their number.
PICTURE, PICTURED = "predictions.png", 24


def export(
    run: RunDirectory,
    out: Path,
    formats: Sequence[str] = (),
    variants: Sequence[VariantName] = ("exact",),
    push: str | None = None,
) -> None:
    """Export the candidate that `export.pick` selects, unless the folder holds the same export already.

    If `autospike run` has fine-tuned finalists, the rule selects among them and the candidate with inherited weights.

    Args:
        run: The run.
        out: The folder to write to.
        formats: Names of formats besides timm's, of `autospike.exporting.formats.FORMATS`.
        variants: The variants of the model that are written in these formats, and measured.
        push: Name OWNER/NAME of a repository on Hugging Face to upload the folder to; None for no upload.

    Raises:
        UserError: Nothing was trained or searched yet, no candidate fits `export.pick`, or a format cannot express the model.
    """
    completion.check_replaceable(out, formats, variants)
    files.check_replaceable(out, (PICTURE,))
    setup = open_for_measurement(run)
    protocol = protocol_id(setup, run.supernet)
    evaluations = pick_finalists(run, protocol, lambda damage: note(f"export: {damage}"), setup.input_shape)
    networks = finalists(run, setup, protocol, evaluations)
    selected, best = choose(run, setup, networks), searched_front(run, protocol)
    architecture = selected.architecture
    provenance = _provenance(run, setup, protocol, networks, best)
    report = complete_report(out, {"architecture_id": architecture.id, "provenance": provenance})
    # Reports of versions without fine-tuning do not name their weights.
    if report is not None and report.get("weights", "inherited") == selected.weights:
        note(f"export: {out} already holds this subnet")
    else:
        files.check_writable(out, "--out")
        with locked(out, "autospike export"), working(f"measure {architecture.id} and the reference network on the test split"):
            generations = {e.measurement.architecture: e.generation for e in evaluations}
            report = _write_and_measure(run, setup, selected, networks, best, out) | {"generation": generations[architecture]}
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
        upload.push(out, push)


def _log(run: RunDirectory, event: str, **details: object) -> None:
    """Log an event of a run, or print it if the run is only read."""
    if run.is_writable:
        run.log(event, **details)
    else:
        note(f"export: {event} ({', '.join(f'{k} {v}' for k, v in details.items())}); not in the log, {run.folder} is read-only")


def _provenance(
    run: RunDirectory, setup: Setup, protocol: str, networks: Sequence[Finalist], best: Sequence[Architecture]
) -> dict[str, Any]:
    """Everything besides the selected architecture on which a report depends."""
    search = run.experiment.search
    first = networks[0].architecture
    fine_tunings = {network.architecture.id: network.protocol_id for network in networks[1:]}
    others = {architecture_id: found for architecture_id, found in fine_tunings.items() if architecture_id != first.id}
    rivals = {training.name: rival_digest(setup, training) for training in trained_rivals(run, setup)}
    return {
        "run": str(run.folder.resolve()),
        **run.experiment.export.model_dump(exclude_none=True),  # as earlier versions, without the margin of early exit
        "protocol_id": protocol,
        "fine_tuning": fine_tunings.get(first.id),
        "front": digest([architecture.id for architecture in best]),
        **({"rivals": rivals} if rivals else {}),
        "convention": search.energy_convention.name,
        "fitness": search.fitness.model_dump(),
        # Absent if there are none, as in reports of earlier versions.
        **({"fine_tunings": others} if others else {}),
        **({"constraints": limits} if (limits := search.constraints.model_dump(exclude_none=True)) else {}),
        **({"space": search.space} if search.space is not None else {}),
    }


def _write_and_measure(
    run: RunDirectory, setup: Setup, selected: Finalist, networks: Sequence[Finalist], best: Sequence[Architecture], out: Path
) -> dict[str, Any]:
    """Write the subnet, then open the test split, and measure it, the other finalists and the reference network.

    Returns:
        The report without its provenance. The caller writes it, as the last file of the export.
    """
    reference = run.experiment.baseline_architecture
    same = [network for network in networks if network.architecture == selected.architecture]
    models: dict[Weights, SpikingModel] = {network.weights: _load(run, setup, network) for network in same}
    models.setdefault("inherited", _inherited(run, setup, selected.architecture))
    others = [(network, _load(run, setup, network)) for network in networks if network.architecture != selected.architecture]
    reference_model = _trained_alone(setup, reference, run.baseline) if reference else None
    # Loaded before anything is written: a damaged checkpoint must not leave half an export.
    rivals = [(training, trained_rival(setup, training)) for training in trained_rivals(run, setup)]
    tested = [selected.architecture, *(network.architecture for network, _ in others), *([reference] if reference else [])]
    _log(run, EVENT, images=len(setup.images.splits["test"]), command="export", architecture_ids=[a.id for a in tested])
    if run.experiment.export.exit_margin is not None:  # otherwise that of the architecture
        for model in models.values():
            model.exit_margin = run.experiment.export.exit_margin
    write_run_model(setup, models[selected.weights], out)
    test = held_out_batches(setup)
    if setup.images.is_dense:
        _draw_predictions(models[selected.weights], test, out)
    measured = {way: final_measurement(run, model, test) for way, model in models.items()}
    accuracies = {network.weights: network.accuracy for network in same}
    return {
        "search_accuracy": selected.accuracy,
        "f_aeb": selected.f_aeb,
        "weights": selected.weights,
        **measured[selected.weights],
        **({} if setup.images.is_dense else {"most_frequent_class": largest_share(setup.images.splits["test"].labels)}),
        "by_weights": {way: _summary(measured[way], accuracies.get(way)) for way in measured},
        "finalists": [
            {"weights": network.weights, **final_measurement(run, model, test), "search_accuracy": network.accuracy}
            for network, model in others
        ],
        "baseline": final_measurement(run, reference_model, test) if reference_model else None,
        "front": measured_front(run, setup, best, test),
        "rivals": [measure_rival(run, training, rival, test, "test") for training, rival in rivals],
    }


def largest_share(labels: Sequence[int]) -> float:
    """Return the share of the most frequent class, which a network reaches that predicts it for every image.

    Args:
        labels: The classes of the images; at least one.
    """
    return max(Counter(labels).values()) / len(labels)


def _draw_predictions(model: SpikingModel, test: FixedBatches, out: Path) -> None:
    """Write a picture of the predictions on the first images of the test split."""
    picture = draw_predictions(model, test.batch((0, min(PICTURED, len(test)))))
    with files.replacing(out / PICTURE) as temporary:
        picture.save(temporary, format="PNG")


def _load(run: RunDirectory, setup: Setup, network: Finalist) -> SpikingModel:
    if network.checkpoints is None:
        return _inherited(run, setup, network.architecture)
    return _trained_alone(setup, network.architecture, network.checkpoints)


def _inherited(run: RunDirectory, setup: Setup, architecture: Architecture) -> SpikingModel:
    return calibrated_subnet(setup, load_trained_supernet(setup, run.experiment.search_space, run.supernet), architecture)


def _trained_alone(setup: Setup, architecture: Architecture, folder: Path) -> SpikingModel:
    return calibrated_subnet(setup, load_trained_supernet(setup, SearchSpace.of(architecture), folder), architecture)


def _summary(measured: dict[str, Any], search_accuracy: float | None) -> dict[str, Any]:
    fields = ("test_accuracy", "test_accuracy_interval", "correct_mask", "score", "energy_mj", "energy_uj", "energy_mj_int8")
    known = {} if search_accuracy is None else {"search_accuracy": search_accuracy}
    return known | {name: measured[name] for name in fields if name in measured}


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
    if "early_exit" in report:
        found = report["early_exit"]
        note(
            f"early exit at margin {found['exit_margin']:g}: test accuracy {found['accuracy']:.4f}, mean T "
            f"{found['mean_time_steps']:.2f}, {found['energy_mj'] * UJ_PER_MJ:.4g} uJ"
        )
    for line in comparison.warnings(report):
        note(line)
