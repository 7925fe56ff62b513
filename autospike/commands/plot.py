"""`autospike plot`: figures and tables from the archive, under any energy convention. Does not import torch."""

from __future__ import annotations

from autospike import files
from autospike.console import note
from autospike.energy.conventions import Convention, energy
from autospike.energy.counts import from_rows
from autospike.errors import UserError
from autospike.report import figures, tables
from autospike.run_directory import Run
from autospike.search.archive import Archive, newest_protocol
from autospike.search.fitness import refitted
from autospike.search.selection import front


def plot(run: Run, convention: Convention | None = None) -> None:
    """Write figures and tables to RUN/report, or to RUN/report/CONVENTION under another convention than that of the search.

    Args:
        run: A searched run.
        convention: The energy convention; that of the search if None.

    Raises:
        UserError: Nothing was searched yet.
    """
    searched = run.experiment.search.energy_convention
    convention = convention or searched
    archive = Archive(run.existing_archive(), newest_protocol(run.archive), convention)
    evaluations, proposals = archive.all(), archive.proposals()
    archive.close()
    if not evaluations:
        raise UserError(f"{run.archive}: no candidates yet; run: autospike search {run.folder}")
    space = run.experiment.search_space
    evaluations = refitted(evaluations, space.largest(), run.experiment.search.fitness)
    table = tables.candidates(evaluations)
    reference_mj = float(table.set_index("id").loc[space.largest().id, "energy_mj"])  # type: ignore[arg-type]
    histories = [
        tables.search_history(name, generations, table, reference_mj=reference_mj) for name, generations in proposals.items()
    ]

    reference = _reference(run, convention)
    report = run.report if convention == searched else run.report / convention.name.replace("/", "-")
    files.write_text(report / "candidates.csv", table.to_csv(index=False))
    files.write_text(report / "front.csv", tables.front(table).to_csv(index=False))
    title = f"{run.experiment.data.name}, `{convention.name}`"
    figures.save(figures.pareto(table, reference, title), report / "pareto.png", report / "pareto.svg")
    figures.save(figures.search(histories), report / "search.png")
    shares = tables.gene_shares(space, evaluations, front(evaluations))
    figures.save(figures.genes(*shares), report / "genes.png")
    note(f"plot: {len(table)} candidates, {int(table['on_front'].sum())} on the front under `{convention.name}`; see {report}")


def _reference(run: Run, convention: Convention) -> tuple[float, float]:
    """Accuracy and energy in mJ of the reference network, on the search split."""
    measured = files.read_json(run.baseline / "measurement.json")
    if "layers" not in measured:
        raise UserError(f"{run.baseline}: measured by an older version; run: autospike search {run.folder}")
    return measured["search_accuracy"], energy(from_rows(measured["layers"]), convention).energy_mj
