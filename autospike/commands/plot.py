"""`autospike plot`: figures and tables from the archive. It loads no torch."""

from __future__ import annotations

from autospike import files
from autospike.commands.display import note
from autospike.errors import UserError
from autospike.report import figures, tables
from autospike.rundir import Run
from autospike.search.archive import Archive, newest_protocol
from autospike.search.selection import front


def plot(run: Run) -> None:
    """Draw RUN/report anew from what is archived.

    Raises:
        UserError: nothing was searched yet.
    """
    archive = Archive(run.searched(), newest_protocol(run.archive))
    evaluations, proposals = archive.all(), archive.proposals()
    archive.close()
    if not evaluations:
        raise UserError(f"{run.archive}: holds no candidate yet; run: autospike search {run.folder}")
    table, space = tables.candidates(evaluations), run.experiment.search_space
    reference_mj = float(table.set_index("id").loc[space.largest().id, "energy_mj"])  # type: ignore[arg-type]
    courses = [tables.course(name, generations, table, reference_mj=reference_mj) for name, generations in proposals.items()]
    baseline = files.read_json(run.baseline / "measurement.json")

    report = run.report
    files.write_text(report / "candidates.csv", table.to_csv(index=False))
    files.write_text(report / "front.csv", tables.front(table).to_csv(index=False))
    figures.save(figures.pareto(table, baseline, run.experiment.data.name), report / "pareto.png", report / "pareto.svg")
    figures.save(figures.search(courses), report / "search.png")
    shares = tables.gene_shares(space, evaluations, front(evaluations))
    figures.save(figures.genes(*shares), report / "genes.png")
    note(f"plot: {len(table)} candidates, {int(table['on_front'].sum())} on the front; see {report}")
