"""`autospike export`: pick a candidate, open the test split, write the subnet and its report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from autospike import files
from autospike.console import note, table, working
from autospike.counting.firing import FiringRates
from autospike.data.batches import FixedBatches
from autospike.evaluation.setup import calibrated_subnet, held_out_batches, open_for_measurement, protocol_id
from autospike.evaluation.single import evaluate
from autospike.export import Pixels, write_model
from autospike.measurement import Evaluation, Measurement
from autospike.models.contract import SpikingModel
from autospike.report.record import record
from autospike.run_directory import Run
from autospike.search.archive import Archive
from autospike.search.fitness import refitted
from autospike.search.selection import pick
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.setup import Setup, load_trained_supernet

UJ_PER_MJ = 1000


def export(run: Run, out: Path) -> None:
    """Export the candidate that `export.pick` names.

    Raises:
        UserError: nothing was trained or searched yet, or the pick names no candidate.
    """
    setup, config = open_for_measurement(run), run.experiment.export
    protocol = protocol_id(setup, run.supernet)
    chosen = pick(archived(run, protocol), config.pick, min_accuracy=config.min_accuracy, tolerance=config.tolerance)
    architecture = chosen.measurement.architecture
    search = run.experiment.search
    provenance = {
        "run": str(run.folder.resolve()),
        **config.model_dump(),
        "protocol_id": protocol,
        "convention": search.energy_convention.name,
        "fitness": search.fitness.model_dump(),
    }
    report_path = out / "report.json"
    if report_path.exists() and _same(files.read_json(report_path), architecture, provenance):
        note(f"export: {out} holds this subnet already")
    else:
        report_path.unlink(missing_ok=True)  # a folder with a report is complete
        with working(f"measure {architecture.id} and the hand-made architecture on the test split"):
            report = _export(run, setup, chosen, out) | {"provenance": provenance}
        files.write_json(report_path, report)
        run.log("exported", architecture_id=architecture.id, folder=str(out))
    show(files.read_json(report_path), out)


def archived(run: Run, protocol_id: str) -> list[Evaluation]:
    """What was measured under a protocol, with the fitness and the energy of the run's search.

    Raises:
        UserError: nothing was searched yet.
    """
    archive = Archive(run.searched(), protocol_id, run.experiment.search.energy_convention)
    evaluations = archive.all()
    archive.close()
    return refitted(evaluations, run.experiment.search_space.largest(), run.experiment.search.fitness)


def _same(report: Any, architecture: Architecture, provenance: dict[str, object]) -> bool:
    return isinstance(report, dict) and report.get("architecture_id") == architecture.id and report.get("provenance") == provenance


def _export(run: Run, setup: Setup, chosen: Evaluation, out: Path) -> dict[str, Any]:
    architecture, baseline = chosen.measurement.architecture, run.experiment.baseline_architecture
    subnet = calibrated_subnet(setup, load_trained_supernet(setup, run.experiment.search_space, run.supernet), architecture)
    alone = calibrated_subnet(setup, load_trained_supernet(setup, SearchSpace.of(baseline), run.baseline), baseline)
    write(setup, subnet, out)
    run.log("test split opened", images=len(setup.images.splits["test"]))
    test = held_out_batches(setup)
    return {
        "search_accuracy": chosen.measurement.score.accuracy,
        "f_aeb": chosen.f_aeb,
        "generation": chosen.generation,
        **final(run, subnet, test),
        "baseline": final(run, alone, test),
    }


def write(setup: Setup, model: SpikingModel, out: Path) -> None:
    """Write a calibrated model of these images as a folder that timm opens."""
    images = setup.images
    pixels = Pixels.ours(images.channels, setup.experiment.data.image_size, events=images.time_steps is not None)
    write_model(out, model, model.architecture, classes=images.classes, pixels=pixels)


def final(run: Run, model: SpikingModel, test: FixedBatches) -> dict[str, Any]:
    """The final measurement of a calibrated model."""
    architecture, firing, started = model.architecture, FiringRates(), time.perf_counter()
    found = evaluate(model, test, batch_size=run.experiment.evaluation.batch_size, firing=firing)
    measured = Measurement(
        architecture=architecture,
        score=found.score(architecture.time_steps),
        params=sum(p.numel() for p in model.parameters()),
        seconds=time.perf_counter() - started,
    )
    return {**record(measured, run.experiment.search.energy_convention, "test"), "firing_rates": firing.rates()}


def show(report: dict[str, Any], out: Path) -> None:
    """The closing table: the exported subnet beside the hand-made one."""
    rows = [
        [name, f"{r['test_accuracy']:.4f}", f"{r['energy_mj'] * UJ_PER_MJ:.3f}", f"{r['params']:,}", str(r["time_steps"])]
        for name, r in (("exported subnet", report), ("hand-made network", report["baseline"]))
    ]
    columns = ["", "test accuracy", "energy (uJ/image)", "parameters", "T"]
    ratio = report["energy_mj"] / report["baseline"]["energy_mj"]
    caption = f"{report['test_images']} test images, opened for this measurement alone. The subnet needs {ratio:.0%} of the energy."
    table(f"{out}: subnet {report['architecture_id']}", columns, rows, caption)
