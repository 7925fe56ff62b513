"""Completes the folder of an export: other formats, variants, probes, the model card and `export.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from autospike import __version__, files
from autospike.console import note, working
from autospike.energy.conventions import UJ_PER_MJ, convention_of, energy
from autospike.energy.counts import from_rows
from autospike.errors import UserError
from autospike.evaluation.setup import fixed_batches, held_out_batches
from autospike.exporting.formats import (
    FORMATS,
    MANIFEST,
    PROBES,
    Comparison,
    check_is_ours,
    folder_name,
    sound_manifest,
    versions,
    write_format,
    write_manifest,
    write_probes,
)
from autospike.exporting.variants import VariantName, variant_of
from autospike.lock import locked
from autospike.model_folder import MODEL_FILES, final_measurement, read_model
from autospike.models.contract import SpikingModel
from autospike.models.decoders import as_tensor
from autospike.randomness import keyed
from autospike.report.comparison import metric
from autospike.report.model_card import model_card
from autospike.run_directory import RunDirectory
from autospike.training.setup import Setup

CARD = "README.md"
PROBE_IMAGES = 16  # of the search split, on which every format is compared with the model


def complete(
    run: RunDirectory,
    setup: Setup,
    out: Path,
    report: dict[str, Any],
    formats: Sequence[str],
    variants: Sequence[VariantName],
    log: Callable[..., None],
) -> None:
    """Write formats, variants, probes, the model card and `export.json`, unless they are there already.

    Args:
        run: The run.
        setup: Its data and device.
        out: The folder of the export, with model and report.
        report: The content of `report.json`.
        formats: Names of formats, of `FORMATS`.
        variants: The variants of the model that are written in these formats, and measured.
        log: Called with the name of an event and its details.

    Raises:
        UserError: A file cannot be written, a format cannot express the model, or what was written computes another model.
    """
    if run.experiment.task == "detection" and (formats or set(variants) != {"exact"}):
        raise UserError("export: a detector is written for timm only; leave --format and --variant out")
    if not _is_current(out, formats, variants):
        with locked(out, "autospike export"):
            _write(run, setup, out, report, formats, variants, log)


def check_replaceable(out: Path, formats: Sequence[str], variants: Sequence[VariantName]) -> None:
    """Check that an export can be written to a folder, before the first file of it is.

    Args:
        out: The folder of the export, which may not exist yet.
        formats: Names of formats, of `FORMATS`.
        variants: The variants of the model that are written in these formats.

    Raises:
        UserError: A file or a folder is in the place of something else.
    """
    files.check_replaceable(out, (*MODEL_FILES, "report.json", CARD, PROBES, MANIFEST))
    for name in formats:
        for variant in variants:
            check_is_ours(out, folder_name(name, _variant(name, variant)))


def _is_current(out: Path, formats: Sequence[str], variants: Sequence[VariantName]) -> bool:
    """Whether the model card, the probes and all requested formats were written for the files that are there."""
    manifest = sound_manifest(out)
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
def _write(
    run: RunDirectory,
    setup: Setup,
    out: Path,
    report: dict[str, Any],
    formats: Sequence[str],
    variants: Sequence[VariantName],
    log: Callable[..., None],
) -> None:
    """Write and verify each format, measure each variant, then write model card, probes and `export.json`.

    Formats of an earlier export stay if the weights are the same.
    """
    exported, images = read_model(out), _probes(setup)
    manifest = sound_manifest(out)
    same = manifest.get("files", {}).get("model.safetensors") == files.sha256(out / "model.safetensors")
    entries: dict[str, Any] = dict(manifest.get("formats", {})) if same else {}
    measured: dict[str, Any] = dict(manifest.get("variants", {})) if same else {}
    logits = {"exact": as_tensor(exported.model(images))}
    _check_timm(out, images, logits["exact"])
    wanted = dict.fromkeys((name, _variant(name, variant)) for name in formats for variant in variants)
    earlier = [*(entry["variant"] for entry in entries.values()), *measured]
    for variant_name in dict.fromkeys([*(variant for _, variant in wanted), *variants, *earlier]):
        variant = variant_of(exported.model, variant_name)
        logits[variant_name] = as_tensor(variant.model(images))
        for name in (name for name, of in wanted if of == variant_name):
            with working(f"write {name} ({variant_name}) and compare it with the model"):
                folder, entry = write_format(out, name, variant, images)
            entries[folder] = entry
            note(f"export: {out / folder}, {entry['description']}: {Comparison(**entry['comparison']).text}")
        if variant_name in variants and variant_name != "exact" and variant_name not in measured:
            log("test split opened", images=len(setup.images.splits["test"]))
            measured[variant_name] = _measure_variant(run, setup, variant.model, variant_name)
            note(f"export: {variant_name}: {_variant_sentence(measured[variant_name], report)}")
    write_probes(out, images, logits)
    data = run.experiment.data.name if run.experiment.data.root is None else run.experiment.data.root.name
    card = model_card(report, data=data, version=__version__, formats=entries, variants=measured)
    files.write_text(out / CARD, card)
    write_manifest(out, entries, measured)


def _probes(setup: Setup) -> Tensor:
    """Images of the search split, as the model reads them."""
    split = setup.images.splits["search"]
    sample = split.sample(min(PROBE_IMAGES, len(split)), keyed(setup.experiment.seed, "probes"))
    return next(iter(fixed_batches(setup, sample)(PROBE_IMAGES))).images.cpu()


def _check_timm(out: Path, images: Tensor, expected: Tensor) -> None:
    """Open the folder as a user of timm does, and compare the logits, which must be the same bits."""
    found = as_tensor(timm.create_model(f"local-dir:{out}", pretrained=True).eval()(images))
    if not torch.equal(found, expected):
        raise UserError(f"{out}: refused, timm opens another model: {Comparison.of(found, expected).text}; please report it")


def _measure_variant(run: RunDirectory, setup: Setup, model: SpikingModel, name: VariantName) -> dict[str, Any]:
    """Accuracy and energy of a variant on the test split; that of 8-bit weights with the costs of 8-bit operations."""
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
        f"test {metric(report)} {measured['test_accuracy']:.4f} ({difference:+.2f} points), "
        f"{measured['energy_mj'] * UJ_PER_MJ:.3f} uJ/image under `{measured['convention']}`"
    )
