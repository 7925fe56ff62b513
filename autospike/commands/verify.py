"""`autospike verify`: check an export from scratch, as a reviewer does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from autospike import files
from autospike.console import note, table, working
from autospike.data.batches import FixedBatches
from autospike.data.source import open_images
from autospike.energy.conventions import convention_of
from autospike.errors import UserError
from autospike.evaluation.single import measure_stepwise
from autospike.exporting.formats import FORMATS, MANIFEST, Comparison, read_manifest, read_probes, versions
from autospike.model_folder import ExportedModel, read_model
from autospike.models.decoders import as_tensor
from autospike.report.record import record
from autospike.space.architecture import Architecture

Result = Literal["equal", "different", "not checked"]
# Energies are sums of counts; a sum in another order may differ by this fraction.
ENERGY_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check.

    Attributes:
        what: What was checked.
        result: Whether it is as written.
        detail: What was found, in words.
    """

    what: str
    result: Result
    detail: str


def verify(folder: Path, data: str | None = None, *, batch_size: int = 64) -> list[Check]:
    """Check an export: digests, architecture, logits of the probes, accuracy and energy on the test split, and versions.

    Args:
        folder: The folder of the export.
        data: The data; the run that made the export, if it is there, unless given.
        batch_size: Images in a forward pass; does not change results.

    Returns:
        The checks, all of which are printed.

    Raises:
        UserError: The folder is no export, or `data` cannot be opened.
    """
    manifest = read_manifest(folder)
    if not manifest:
        raise UserError(f"{folder}: no export to verify (no {MANIFEST}); write one with: autospike export RUN")
    with working(f"verify {folder}"):
        checks = [*_digests(folder, manifest), *_model(folder, manifest), *_measurements(folder, data, batch_size)]
        checks.append(_versions(manifest))
    different = sum(check.result == "different" for check in checks)
    rows = [[check.what, check.result, check.detail] for check in checks]
    table(f"{folder}", ["check", "result", "found"], rows, f"{different} of {len(checks)} checks differ")
    return checks


def _digests(folder: Path, manifest: dict[str, Any]) -> Iterator[Check]:
    """Digests of all files, by format."""
    groups = {"files of the model": {"": manifest.get("files", {})}}
    groups |= {f"files of {name}": {name: entry["files"]} for name, entry in manifest["formats"].items()}
    for what, group in groups.items():
        expected = {folder / prefix / name: digest for prefix, names in group.items() for name, digest in names.items()}
        wrong = [path for path, digest in expected.items() if _digest(path) != digest]
        detail = f"{len(expected)} files" if not wrong else f"changed or missing: {', '.join(path.name for path in wrong)}"
        yield Check(what=what, result="different" if wrong else "equal", detail=detail)


def _digest(path: Path) -> str | None:
    try:
        return files.sha256(path)
    except OSError:
        return None


def _model(folder: Path, manifest: dict[str, Any]) -> Iterator[Check]:
    """Architecture, and the logits of the model and of every format."""
    try:
        exported, report = read_model(folder), files.read_json(folder / "report.json")
        images, stored = read_probes(folder)
        configured = Architecture.from_dict(files.read_json(folder / "config.json")["model_args"]["architecture"]).id
        ids = {exported.model.architecture.id, configured, report["architecture_id"]}
    except (UserError, KeyError, TypeError) as error:
        yield Check(what="model", result="different", detail=f"cannot be opened: {error}")
        return
    yield Check(what="architecture", result="equal" if len(ids) == 1 else "different", detail=", ".join(sorted(ids)))
    with torch.no_grad():
        found = as_tensor(exported.model(images))
    yield _compared("logits of the model", Comparison.of(found, stored["exact"]))
    for name, entry in manifest["formats"].items():
        what = f"logits of {name}"
        try:
            loaded = FORMATS[entry["format"]].load(folder / name, exported.model.architecture.time_steps)
            yield _compared(what, Comparison.of(loaded(images), stored[entry["variant"]]))
        except UserError as error:
            yield Check(what=what, result="not checked", detail=str(error))
        except Exception as error:  # whatever a reader of a damaged file raises
            yield Check(what=what, result="different", detail=f"cannot be run: {' '.join(str(error).split())[:100]}")


def _compared(what: str, comparison: Comparison) -> Check:
    return Check(what=what, result="equal" if comparison.agrees else "different", detail=comparison.text)


def _measurements(folder: Path, data: str | None, batch_size: int) -> Iterator[Check]:
    """Accuracy, or the score of a dense task, and energy on the test split."""
    try:
        exported, report = read_model(folder), files.read_json(folder / "report.json")
    except UserError:
        return  # said by `_model`
    source = data or _run_of(folder, report)
    if source is None:
        detail = "the data are not here; give them with --data"
        yield Check(what="accuracy and energy", result="not checked", detail=detail)
        return
    measured = _measured(exported, source, report["convention"], batch_size)
    yield _score(measured, report) if "score" in report else _accuracy(measured, report)
    written, found = report["energy_mj_by_convention"], measured["energy_mj_by_convention"]
    wrong = [name for name, value in written.items() if abs(found[name] - value) > ENERGY_TOLERANCE * abs(value)]
    energies = f"{found[report['convention']]:.9g} mJ under {report['convention']}, written {report['energy_mj']:.9g}"
    detail = energies if not wrong else f"{energies}; different under {', '.join(wrong)}"
    yield Check(what="energy", result="different" if wrong else "equal", detail=detail)


def _accuracy(measured: dict[str, Any], report: dict[str, Any]) -> Check:
    same_images = measured["test_images"] == report["test_images"]
    correct = f"{measured['test_correct']} of {measured['test_images']} test images, written {report['test_correct']}"
    moved = _different_bits(measured["correct_mask"], report["correct_mask"]) if same_images else measured["test_images"]
    detail = correct if not moved else f"{correct}; {moved} predictions differ"
    return Check(what="accuracy", result="different" if moved else "equal", detail=detail)


def _score(measured: dict[str, Any], report: dict[str, Any]) -> Check:
    """The score of a dense task, which is a sum in double precision."""
    found, written = measured["score"]["value"], report["score"]["value"]
    detail = f"{found:.9g}, written {written:.9g}"
    same = abs(found - written) <= ENERGY_TOLERANCE
    return Check(what=report["score"]["metric"], result="equal" if same else "different", detail=detail)


def _run_of(folder: Path, report: dict[str, Any]) -> str | None:
    """The run that made an export, if it is here: the parent folder, or the run that the report names."""
    named = report.get("provenance", {}).get("run")
    runs = [folder.resolve().parent, *([Path(named)] if isinstance(named, str) else [])]
    return next((str(run) for run in runs if (run / "experiment.yaml").exists()), None)


def _measured(exported: ExportedModel, source: str, convention: str, batch_size: int) -> dict[str, Any]:
    """The measurement of a model on the test split of some data."""
    spec = exported.input_spec
    split = open_images(source, image_size=spec.image_size).splits["test"]
    batches = FixedBatches(split=split, channels=spec.channels, image_size=spec.image_size, preparation=spec.preparation)
    steps = exported.model.architecture.time_steps
    measured = measure_stepwise(exported.model, batches, batch_size=batch_size).at(steps)
    return record(measured, convention_of(convention), "test")


def _different_bits(found: str, written: str) -> int:
    pairs = zip(bytes.fromhex(found), bytes.fromhex(written), strict=True)
    return sum((a ^ b).bit_count() for a, b in pairs)


def _versions(manifest: dict[str, Any]) -> Check:
    """The versions here and those of the export."""
    here, there = versions(), manifest.get("versions", {})
    wrong = [f"{name} {version} here, {there.get(name)} there" for name, version in here.items() if there.get(name) != version]
    detail = "; ".join(wrong) or ", ".join(f"{name} {version}" for name, version in here.items())
    return Check(what="versions", result="different" if wrong else "equal", detail=detail)


def exit_code(checks: list[Check]) -> int:
    """Return 1 if anything differs, otherwise 0, and say so.

    Args:
        checks: The results of the comparison.
    """
    code = int(any(check.result == "different" for check in checks))
    note("verify: " + ("something differs from what was written" if code else "nothing differs"))
    return code
