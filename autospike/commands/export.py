"""`autospike export`: select a candidate, write it as a timm model and in other formats, and measure it on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from autospike import __version__, files
from autospike.console import note, table, working
from autospike.evaluation.setup import calibrated_subnet, fixed_batches, held_out_batches, open_for_measurement, protocol_id
from autospike.evaluation.trained_alone import read_measurement
from autospike.energy.conventions import UJ_PER_MJ, convention_of, energy
from autospike.energy.counts import from_rows
from autospike.errors import UserError
from autospike.export import check_replaceable, complete_report, final_measurement, read_model, write_report, write_run_model
from autospike.exporting.formats import (
    PROBES,
    FORMATS,
    Comparison,
    folder_name,
    read_manifest,
    read_probes,
    versions,
    write_format,
    write_manifest,
    write_probes,
)
from autospike.exporting.variants import VariantName, variant_of
from autospike.lock import locked
from autospike.measurement import Evaluation
from autospike.models.contract import SpikingModel
from autospike.randomness import keyed
from autospike.report import comparison
from autospike.report.model_card import model_card
from autospike.run_directory import Run
from autospike.search.archive import Archive
from autospike.search.selection import pick_archived
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.retraining import fine_tuned
from autospike.training.setup import Setup, load_trained_supernet

Weights = Literal["inherited", "fine-tuned"]
PROBE_IMAGES = 16  # of the search split, on which every format is compared with the model


def export(
    run: Run, out: Path, formats: Sequence[str] = (), variants: Sequence[VariantName] = ("exact",), push: str | None = None
) -> None:
    """Export the candidate that `export.pick` selects, unless the folder holds the same export already.

    If `autospike run` has fine-tuned the candidate, the weights with the higher accuracy on the search split are exported.

    Args:
        run: The run.
        out: The folder to write to.
        formats: Names of formats besides timm's, of `autospike.exporting.formats.FORMATS`.
        variants: The variants of the model that are written in these formats.
        push: Name OWNER/NAME of a repository on Hugging Face to upload the folder to; None for no upload.

    Raises:
        UserError: Nothing was trained or searched yet, no candidate fits `export.pick`, or a format cannot express the model.
    """
    setup, config = open_for_measurement(run), run.experiment.export
    protocol = protocol_id(setup, run.supernet)
    (selected,) = pick_archived(run, protocol, [config.pick], lambda damage: note(f"export: {damage}"))
    architecture = selected.measurement.architecture
    fine_tuning = _fine_tuning(run, setup, architecture)
    provenance = _provenance(run, protocol, fine_tuning)
    report = complete_report(out, {"architecture_id": architecture.id, "provenance": provenance})
    if report is not None:
        note(f"export: {out} already holds this subnet")
    else:
        files.check_writable(out, "--out")
        with locked(out, "autospike export"), working(f"measure {architecture.id} and the reference network on the test split"):
            report = _write_and_measure(run, setup, selected, fine_tuning, out)
            report |= {"supernet": _supernet_quality(run, setup, protocol), "provenance": provenance}
            write_report(out, report)
        _log(run, "exported", architecture_id=architecture.id, folder=str(out))
    _show(report, out)
    if out.exists() and not _is_current(out, formats, variants):
        with locked(out, "autospike export"):
            _write_formats(run, setup, out, report, formats, variants)
    if push is not None:
        _push(out, push)


def _is_current(out: Path, formats: Sequence[str], variants: Sequence[VariantName]) -> bool:
    """Whether the model card, the probes and all requested formats were written for the files that are there."""
    manifest = read_manifest(out)
    digests = manifest.get("files", {})
    wanted = {folder_name(name, _variant(name, variant)) for name in formats for variant in variants}
    return (
        wanted <= manifest.get("formats", {}).keys()
        and {variant for variant in variants if variant != "exact"} <= manifest.get("variants", {}).keys()
        and digests.keys() >= {"model.safetensors", "report.json", PROBES}
        and all((out / name).is_file() and files.sha256(out / name) == digest for name, digest in digests.items())
        and manifest.get("versions") == versions()
    )


def _variant(name: str, variant: VariantName) -> VariantName:
    """The variant that a format writes: one that needs BatchNorm folded has no `exact`."""
    return "fused" if FORMATS[name].folds and variant == "exact" else variant


@torch.no_grad()
def _write_formats(
    run: Run, setup: Setup, out: Path, report: dict[str, Any], formats: Sequence[str], variants: Sequence[VariantName]
) -> None:
    """Write and verify each format, measure each variant, then write model card, probes and `export.json`.

    Formats of an earlier export stay if the weights are the same.
    """
    exported, images = read_model(out), _probes(setup)
    manifest = read_manifest(out)
    same = manifest.get("files", {}).get("model.safetensors") == files.sha256(out / "model.safetensors")
    entries: dict[str, Any] = dict(manifest.get("formats", {})) if same else {}
    measured: dict[str, Any] = dict(manifest.get("variants", {})) if same else {}
    logits = dict(read_probes(out)[1]) if same and (out / PROBES).exists() else {}
    logits["exact"] = exported.model(images)
    _check_timm(out, images, logits["exact"])
    wanted = dict.fromkeys((name, _variant(name, variant)) for name in formats for variant in variants)
    for variant_name in dict.fromkeys([*(variant for _, variant in wanted), *variants]):
        variant = variant_of(exported.model, variant_name)
        logits[variant_name] = variant.model(images)
        for name in (name for name, of in wanted if of == variant_name):
            with working(f"write {name} ({variant_name}) and compare it with the model"):
                folder, entry = write_format(out, name, variant, images)
            entries[folder] = entry
            note(f"export: {out / folder}, {entry['description']}: {Comparison(**entry['comparison']).text}")
        if variant_name in variants and variant_name != "exact" and variant_name not in measured:
            measured[variant_name] = _measure_variant(run, setup, variant.model, variant_name)
            note(f"export: {variant_name}: {_variant_sentence(measured[variant_name], report)}")
    write_probes(out, images, logits)
    data = run.experiment.data.name if run.experiment.data.root is None else run.experiment.data.root.name
    card = model_card(report, data=data, version=__version__, formats=entries, variants=measured)
    files.write_text(out / "README.md", card)
    write_manifest(out, entries, measured)


def _probes(setup: Setup) -> Tensor:
    """Images of the search split, as the model reads them."""
    split = setup.images.splits["search"]
    sample = split.sample(min(PROBE_IMAGES, len(split)), keyed(setup.experiment.seed, "probes"))
    return next(iter(fixed_batches(setup, sample)(PROBE_IMAGES))).images.cpu()


def _check_timm(out: Path, images: Tensor, expected: Tensor) -> None:
    """Open the folder as a user of timm does, and compare the logits, which must be the same bits."""
    found = timm.create_model(f"local-dir:{out}", pretrained=True).eval()(images)
    if not torch.equal(found, expected):
        raise UserError(f"{out}: refused, timm opens another model: {Comparison.of(found, expected).text}; please report it")


def _measure_variant(run: Run, setup: Setup, model: SpikingModel, name: VariantName) -> dict[str, Any]:
    """Accuracy and energy of a variant on the test split; that of 8-bit weights with the costs of 8-bit operations."""
    _log(run, "test split opened", images=len(setup.images.splits["test"]))
    with working(f"measure the variant {name} on the test split"):
        found = final_measurement(run, model.to(setup.device), held_out_batches(setup))
    convention = run.experiment.search.energy_convention
    if name == "int8" and convention.costs.name == "fp32":
        convention = convention_of(f"{convention.name}/int8")
    counts = from_rows(found["layers"])
    kept = ("test_accuracy", "test_accuracy_interval", "test_images", "test_correct", "correct_mask")
    return {
        **{name: found[name] for name in kept},
        "convention": convention.name,
        "energy_mj": energy(counts, convention).energy_mj,
    }


def _variant_sentence(measured: dict[str, Any], report: dict[str, Any]) -> str:
    difference = (measured["test_accuracy"] - report["test_accuracy"]) * 100
    return (
        f"test accuracy {measured['test_accuracy']:.4f} ({difference:+.2f} points), {measured['energy_mj'] * UJ_PER_MJ:.3f} uJ/image "
        f"under `{measured['convention']}`"
    )


def _push(out: Path, name: str) -> None:
    """Upload the folder to Hugging Face with the credentials of its own command line."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=out, ignore_patterns=[".*"])
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--push {name}: {reason}; log in with: hf auth login, and give OWNER/NAME") from None
    note(f"export: uploaded to https://huggingface.co/{name}; load it with timm.create_model('hf-hub:{name}')")


def _log(run: Run, event: str, **details: object) -> None:
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


def _fine_tuning(run: Run, setup: Setup, architecture: Architecture) -> _FineTuning | None:
    """The fine-tuning of a candidate, if it has finished and was measured."""
    folder = fine_tuned(run, architecture, seed=0).checkpoints
    measurement = read_measurement(setup, folder)
    return _FineTuning(folder=folder, measurement=measurement) if measurement else None


def _provenance(run: Run, protocol: str, fine_tuning: _FineTuning | None) -> dict[str, Any]:
    """Everything besides the selected architecture on which a report depends."""
    search = run.experiment.search
    return {
        "run": str(run.folder.resolve()),
        **run.experiment.export.model_dump(),
        "protocol_id": protocol,
        "fine_tuning": fine_tuning and fine_tuning.measurement["protocol_id"],
        "convention": search.energy_convention.name,
        "fitness": search.fitness.model_dump(),
    }


def _write_and_measure(run: Run, setup: Setup, selected: Evaluation, fine_tuning: _FineTuning | None, out: Path) -> dict[str, Any]:
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
    check_replaceable(out)
    _log(run, "test split opened", images=len(setup.images.splits["test"]))
    write_run_model(setup, models[weights], out)
    test = held_out_batches(setup)
    measured = {way: final_measurement(run, model, test) for way, model in models.items()}
    return {
        "search_accuracy": accuracies[weights],
        "f_aeb": selected.f_aeb,
        "generation": selected.generation,
        "weights": weights,
        **measured[weights],
        "by_weights": {way: _summary(measured[way], search_accuracy=accuracies[way]) for way in measured},
        "baseline": final_measurement(run, reference_model, test) if reference_model else None,
    }


def _inherited(run: Run, setup: Setup, architecture: Architecture) -> SpikingModel:
    return calibrated_subnet(setup, load_trained_supernet(setup, run.experiment.search_space, run.supernet), architecture)


def _trained_alone(setup: Setup, architecture: Architecture, folder: Path) -> SpikingModel:
    return calibrated_subnet(setup, load_trained_supernet(setup, SearchSpace.of(architecture), folder), architecture)


def _summary(measured: dict[str, Any], *, search_accuracy: float) -> dict[str, Any]:
    fields = ("test_accuracy", "test_accuracy_interval", "correct_mask", "energy_mj")
    return {"search_accuracy": search_accuracy, **{name: measured[name] for name in fields}}


def _supernet_quality(run: Run, setup: Setup, protocol: str) -> dict[str, Any] | None:
    """Accuracy of the largest subnet with inherited weights and of the reference network, both on the search split."""
    largest, architecture = run.experiment.search_space.largest(), run.experiment.baseline_architecture
    archive = Archive(run.existing_archive(), protocol, run.experiment.search.energy_convention, read_only=True)
    try:
        found = archive.get(largest)
    finally:
        archive.close()
    reference = read_measurement(setup, run.baseline) if architecture else None
    if found is None or not found.measurement.correct_mask or reference is None:
        return None
    return comparison.supernet_quality(found.measurement, reference, same_architecture=largest == architecture)


def _show(report: dict[str, Any], out: Path) -> None:
    """Print the exported subnet next to the reference network, and in words what the numbers mean."""
    columns = ["", "test accuracy (95 % interval)", "uJ/image", "parameters", "T"]
    table(f"{out}: subnet {report['architecture_id']}", columns, comparison.rows(report), comparison.caption(report))
    for line in comparison.warnings(report):
        note(line)
