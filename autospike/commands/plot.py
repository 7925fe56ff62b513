"""`autospike plot`: figures and tables from the archive, under any energy convention. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from autospike import files
from autospike.console import note
from autospike.energy.conventions import Convention, energy
from autospike.energy.counts import from_rows
from autospike.errors import UserError
from autospike.report import figures, tables
from autospike.run_directory import Run
from autospike.search.archive import Archive
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
    report = SearchReport.of(run, convention or run.experiment.search.energy_convention)
    report.write()
    on_front = int(report.candidates["on_front"].sum())
    note(f"plot: {len(report.candidates)} candidates, {on_front} on the front under `{report.convention}`; see {report.folder}")


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The tables of a searched run under one energy convention.

    Attributes:
        folder: The folder to write to.
        convention: Name of the energy convention.
        title: Title of the Pareto figure.
        candidates: All candidates; see `report.tables.candidates`.
        histories: Progress of each search of the archive; see `report.tables.search_history`.
        all_shares: How often each value of a gene occurs among all candidates; see `report.tables.gene_shares`.
        front_shares: The same on the Pareto front.
        reference: Accuracy and energy in mJ of the reference network, on the search split; None if the run has none.
    """

    folder: Path
    convention: str
    title: str
    candidates: pd.DataFrame
    histories: list[tables.SearchHistory]
    all_shares: dict[str, dict[str, float]]
    front_shares: dict[str, dict[str, float]]
    reference: tuple[float, float] | None

    @classmethod
    def of(cls, run: Run, convention: Convention) -> SearchReport:
        """Compute the tables from the archive and from the measurement of the reference network.

        Args:
            run: A searched run.
            convention: The energy convention.

        Raises:
            UserError: Nothing was searched yet, or the reference network was measured by an older version.
        """
        archive = Archive.newest(run.existing_archive(), convention)
        evaluations, proposals = archive.all(), archive.proposals()
        archive.close()
        if not evaluations:
            raise UserError(f"{run.archive}: no candidates yet; run: autospike search {run.folder}")
        space, search = run.experiment.search_space, run.experiment.search
        evaluations = refitted(evaluations, space.largest(), search.fitness)
        table = tables.candidates(evaluations)
        largest_mj = float(table.set_index("id").loc[space.largest().id, "energy_mj"])  # type: ignore[arg-type]
        all_shares, front_shares = tables.gene_shares(space, evaluations, front(evaluations))
        return cls(
            folder=run.report if convention == search.energy_convention else run.report / convention.name.replace("/", "-"),
            convention=convention.name,
            title=f"{run.experiment.data.name}, `{convention.name}`",
            candidates=table,
            histories=[tables.search_history(name, ids, table, reference_mj=largest_mj) for name, ids in proposals.items()],
            all_shares=all_shares,
            front_shares=front_shares,
            reference=_reference(run, convention) if run.experiment.baseline_architecture else None,
        )

    def write(self) -> None:
        """Write the tables as CSV and the figures.

        Raises:
            UserError: A file cannot be written.
        """
        files.write_text(self.folder / "candidates.csv", self.candidates.to_csv(index=False))
        files.write_text(self.folder / "front.csv", tables.front(self.candidates).to_csv(index=False))
        pareto = figures.pareto(self.candidates, self.reference, self.title)
        figures.save(pareto, self.folder / "pareto.png", self.folder / "pareto.svg")
        figures.save(figures.search(self.histories), self.folder / "search.png")
        figures.save(figures.genes(self.all_shares, self.front_shares), self.folder / "genes.png")


def _reference(run: Run, convention: Convention) -> tuple[float, float]:
    """Accuracy and energy in mJ of the reference network, on the search split."""
    measured = files.read_json(run.baseline / "measurement.json")
    if "layers" not in measured:
        raise UserError(f"{run.baseline}: measured by an older version; run: autospike search {run.folder}")
    return measured["search_accuracy"], energy(from_rows(measured["layers"]), convention).energy_mj
