"""`autospike export`: select a candidate, write it as a timm model, and measure it on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autospike import files
from autospike.console import note, table, working
from autospike.energy.conventions import UJ_PER_MJ
from autospike.evaluation.setup import calibrated_subnet, held_out_batches, open_for_measurement, protocol_id
from autospike.export import complete_report, final_measurement, write_report, write_run_model
from autospike.lock import locked
from autospike.measurement import Evaluation
from autospike.run_directory import Run
from autospike.search.selection import pick_archived
from autospike.space.search_space import SearchSpace
from autospike.training.setup import Setup, load_trained_supernet


def export(run: Run, out: Path) -> None:
    """Export the candidate that `export.pick` selects, unless the folder holds the same export already.

    Args:
        run: The run.
        out: The folder to write to.

    Raises:
        UserError: Nothing was trained or searched yet, or no candidate fits `export.pick`.
    """
    setup, config = open_for_measurement(run), run.experiment.export
    protocol = protocol_id(setup, run.supernet)
    (selected,) = pick_archived(run, protocol, [config.pick], lambda damage: note(f"export: {damage}"))
    architecture_id, provenance = selected.measurement.architecture.id, _provenance(run, protocol)
    report = complete_report(out, {"architecture_id": architecture_id, "provenance": provenance})
    if report is not None:
        note(f"export: {out} already holds this subnet")
    else:
        files.check_writable(out, "--out")
        with locked(out, "autospike export"), working(f"measure {architecture_id} and the reference network on the test split"):
            report = _write_and_measure(run, setup, selected, out, provenance)
        _log(run, "exported", architecture_id=architecture_id, folder=str(out))
    _show(report, out)


def _log(run: Run, event: str, **details: object) -> None:
    """Log an event of a run, or print it if the run is only read."""
    if run.is_writable:
        run.log(event, **details)
    else:
        note(f"export: {event} ({', '.join(f'{k} {v}' for k, v in details.items())}); not in the log, {run.folder} is read-only")


def _provenance(run: Run, protocol: str) -> dict[str, Any]:
    """Everything besides the selected architecture on which a report depends."""
    search = run.experiment.search
    return {
        "run": str(run.folder.resolve()),
        **run.experiment.export.model_dump(),
        "protocol_id": protocol,
        "convention": search.energy_convention.name,
        "fitness": search.fitness.model_dump(),
    }


def _write_and_measure(run: Run, setup: Setup, selected: Evaluation, out: Path, provenance: dict[str, Any]) -> dict[str, Any]:
    """Write the subnet, then open the test split, measure the subnet and the reference network, and write the report last.

    Returns:
        The report.
    """
    architecture, reference = selected.measurement.architecture, run.experiment.baseline_architecture
    supernet = load_trained_supernet(setup, run.experiment.search_space, run.supernet)
    reference_supernet = load_trained_supernet(setup, SearchSpace.of(reference), run.baseline)
    subnet = calibrated_subnet(setup, supernet, architecture)
    reference_model = calibrated_subnet(setup, reference_supernet, reference)
    (out / "report.json").unlink(missing_ok=True)
    write_run_model(setup, subnet, out)

    _log(run, "test split opened", images=len(setup.images.splits["test"]))
    test = held_out_batches(setup)
    report = {
        "search_accuracy": selected.measurement.accuracy,
        "f_aeb": selected.f_aeb,
        "generation": selected.generation,
        **final_measurement(run, subnet, test),
        "baseline": final_measurement(run, reference_model, test),
        "provenance": provenance,
    }
    write_report(out, report)
    return report


def _show(report: dict[str, Any], out: Path) -> None:
    """Print the exported subnet next to the reference network."""
    rows = [
        [name, f"{r['test_accuracy']:.4f}", f"{r['energy_mj'] * UJ_PER_MJ:.3f}", f"{r['params']:,}", str(r["time_steps"])]
        for name, r in (("exported subnet", report), ("reference network", report["baseline"]))
    ]
    columns = ["", "test accuracy", "energy (uJ/image)", "parameters", "T"]
    ratio = report["energy_mj"] / report["baseline"]["energy_mj"]
    caption = f"{report['test_images']} test images, opened for this measurement only. The subnet needs {ratio:.0%} of the energy."
    table(f"{out}: subnet {report['architecture_id']}", columns, rows, caption)
