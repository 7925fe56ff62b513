"""`autospike evaluate`: top-1 and top-5 accuracy and energy of a model on a whole split, by the model's own evaluation protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autospike import files
from autospike.console import note, progress, table
from autospike.counting.counter import VERSION
from autospike.data import overview
from autospike.data.batches import FixedBatches
from autospike.data.partition import SplitName
from autospike.data.source import open_images
from autospike.energy.conventions import Convention, energies_mj
from autospike.energy.conventions import energy as energy_of
from autospike.errors import UserError
from autospike.evaluation.class_map import class_indices, relabelled
from autospike.evaluation.resumable import Part, measure_in_parts
from autospike.measured_model import check_writable, find_model, log_test_split, other_classes, read_calibrated
from autospike.model_folder import ExportedModel
from autospike.randomness import keyed
from autospike.report.energy import microjoules
from autospike.statistics import wilson_interval


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The options of the command.

    Attributes:
        model: An exported or imported folder, or a run.
        data: A source of images.
        split: The split to measure on.
        images: Number of images, drawn at random; None for all.
        batch_size: Images in a forward pass.
        time_steps: Values of T; none for the T of the model.
        convention: The energy convention.
        out: The folder to write to; None for MODEL/evaluation.
        class_map: Which class of the data each class of the model is; see `evaluation.class_map.class_indices`.
    """

    model: Path
    data: str
    split: SplitName
    images: int | None
    batch_size: int
    time_steps: Sequence[int]
    convention: Convention
    out: Path | None = None
    class_map: str | None = None


def evaluate(request: EvaluationRequest) -> dict[str, Any]:
    """Measure a model on a split, print the result and write it to `evaluation.json`.

    Finished parts are stored in `parts.jsonl` beside it. After an interruption the same command continues with the next part, with
    the same result.

    Args:
        request: The options.

    Returns:
        What `evaluation.json` holds.

    Raises:
        UserError: There is no such model or data, they do not fit, or the folder to write to is a file.
    """
    folder, trained = find_model(request.model)
    if not trained:
        raise UserError(f"{request.model}: a published name without weights; import a checkpoint first: autospike import")
    out = request.out or folder / "evaluation"
    check_writable(out)
    exported = read_calibrated(folder)
    if exported.model.architecture.decoder is not None:
        raise UserError(f"{request.model}: evaluate measures classifiers; measure a network with a decoder with: autospike verify")
    images = open_images(request.data, image_size=exported.input_spec.image_size)
    channels = exported.input_spec.channels
    if (channels not in (1, 3)) if images.time_steps is None else (channels != images.channels):
        raise UserError(f"--data: images of {images.channels} channels, but {request.model} takes {channels}; give data that fit")
    steps = sorted(set(request.time_steps)) or [exported.model.architecture.time_steps]
    images.check_time_steps(steps[-1])
    labels = class_indices(exported.classes, images.classes, request.class_map)
    if labels is None:
        raise UserError(f"{request.model}: {other_classes(exported, images)}")
    split = images.splits[request.split]
    if request.images is not None:
        split = split.sample(request.images, keyed(0, "evaluate"))
    overview.show(images, exported.input_spec.image_size)
    if request.split == "test":
        log_test_split(request.data, "evaluate", exported, len(split))
    note(f"evaluated with {exported.input_spec.description}")
    spec = exported.input_spec
    batches = FixedBatches(
        split=relabelled(split, labels), channels=spec.channels, image_size=spec.image_size, preparation=spec.preparation
    )
    key = {
        "weights": files.sha256(folder / "model.safetensors"),
        "data": images.fingerprint,
        "split": request.split,
        "labels": list(labels),
        "input": spec.description,
        "counting": VERSION,
    }
    with progress("evaluate", total=len(batches)) as show:
        measured = measure_in_parts(
            exported.model,
            batches,
            batch_size=request.batch_size,
            time_steps=steps[-1],
            store=out / "parts.jsonl",
            key=key,
            show=show,
        )
    report = _report(request, exported, measured, steps)
    _show(request, report)
    files.write_json(out / "evaluation.json", report)
    note(f"evaluation: see {out}")
    return report


def _report(request: EvaluationRequest, exported: ExportedModel, measured: Part, steps: Sequence[int]) -> dict[str, Any]:
    rows = []
    for t in steps:
        first, top, counts = measured.first[t - 1], measured.top[t - 1], measured.counts(t)
        rows.append(
            {
                "time_steps": t,
                "top1": first / measured.images,
                "top1_interval": list(wilson_interval(first, measured.images)),
                "top5": top / measured.images,
                "energy_mj": energy_of(counts, request.convention).energy_mj,
                "energies_mj": energies_mj(counts),
            }
        )
    return {
        "model": str(request.model),
        "data": request.data,
        "split": request.split,
        "images": measured.images,
        "input": exported.input_spec.description,
        "convention": request.convention.name,
        "results": rows,
    }


def _show(request: EvaluationRequest, report: dict[str, Any]) -> None:
    table(
        f"{request.model}: {report['images']} images of the {request.split} split",
        ["T", "top-1", "95 % interval", "top-5", "uJ/image"],
        [
            [
                str(row["time_steps"]),
                f"{row['top1']:.4f}",
                "{:.4f} to {:.4f}".format(*row["top1_interval"]),
                f"{row['top5']:.4f}",
                microjoules(row["energy_mj"], digits=3),
            ]
            for row in report["results"]
        ],
        f"energy under `{request.convention.name}`: {request.convention.source}",
    )
