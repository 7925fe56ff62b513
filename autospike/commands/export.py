"""`autospike export`: pick a candidate, open the test split, write the subnet and its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autospike import files
from autospike.console import note, table, working
from autospike.energy.conventions import UJ_PER_MJ
from autospike.evaluation.setup import calibrated_subnet, held_out_batches, open_for_measurement, protocol_id
from autospike.export import final_measurement, write_run_model
from autospike.measurement import Evaluation
from autospike.run_directory import Run
from autospike.search.selection import archived_evaluations, pick
from autospike.space.architecture import Architecture
from autospike.space.search_space import SearchSpace
from autospike.training.setup import Setup, load_trained_supernet


def export(run: Run, out: Path) -> None:
    """Export the candidate that `export.pick` names.

    Raises:
        UserError: nothing was trained or searched yet, or the pick names no candidate.
    """
    setup, config = open_for_measurement(run), run.experiment.export
    protocol = protocol_id(setup, run.supernet)
    chosen = pick(archived_evaluations(run, protocol), config.pick, min_accuracy=config.min_accuracy, tolerance=config.tolerance)
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


def _same(report: Any, architecture: Architecture, provenance: dict[str, object]) -> bool:
    return isinstance(report, dict) and report.get("architecture_id") == architecture.id and report.get("provenance") == provenance


def _export(run: Run, setup: Setup, chosen: Evaluation, out: Path) -> dict[str, Any]:
    architecture, baseline = chosen.measurement.architecture, run.experiment.baseline_architecture
    subnet = calibrated_subnet(setup, load_trained_supernet(setup, run.experiment.search_space, run.supernet), architecture)
    alone = calibrated_subnet(setup, load_trained_supernet(setup, SearchSpace.of(baseline), run.baseline), baseline)
    write_run_model(setup, subnet, out)
    run.log("test split opened", images=len(setup.images.splits["test"]))
    test = held_out_batches(setup)
    return {
        "search_accuracy": chosen.measurement.accuracy,
        "f_aeb": chosen.f_aeb,
        "generation": chosen.generation,
        **final_measurement(run, subnet, test),
        "baseline": final_measurement(run, alone, test),
    }


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
