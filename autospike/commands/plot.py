"""`autospike plot`: figures and tables from the archive, under any energy convention. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from autospike import files
from autospike.console import note
from autospike.energy.conventions import Convention, energy
from autospike.energy.counts import from_rows
from autospike.errors import UserError
from autospike.report import figures, tables
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.selection import with_fitness


def plot(run: RunDirectory, convention: Convention | None = None, out: Path | None = None) -> None:
    """Write figures and tables to RUN/report, or to RUN/report/CONVENTION under another convention than that of the search.

    The run itself is only read.

    Args:
        run: A searched run.
        convention: The energy convention; that of the search if None.
        out: The folder to write to instead.

    Raises:
        UserError: Nothing was searched yet, or a file cannot be written.
    """
    report = SearchReport.of(run, convention or run.experiment.search.energy_convention)
    if out is not None:
        report = replace(report, folder=out)
    files.check_writable(report.folder, "--out")
    report.write()
    if report.damage is not None:
        note(f"plot: {report.damage}")
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
        damage: A line on rows of the archive that are damaged and left out, or None.
    """

    folder: Path
    convention: str
    title: str
    candidates: pd.DataFrame
    histories: list[tables.SearchHistory]
    all_shares: dict[str, dict[str, float]]
    front_shares: dict[str, dict[str, float]]
    reference: tuple[float, float] | None
    damage: str | None = None

    @classmethod
    def of(cls, run: RunDirectory, convention: Convention) -> SearchReport:
        """Compute the tables from the archive and from the measurement of the reference network.

        Args:
            run: A searched run.
            convention: The energy convention.

        Raises:
            UserError: Nothing was searched yet, or the reference network was measured by an older version.
        """
        archive = Archive.newest(run.existing_archive(), convention)
        try:
            archived, proposals, damage = with_fitness(archive, run), archive.proposals(), archive.damage()
        finally:
            archive.close()
        if archived.empty:
            raise UserError(f"{damage or f'{run.archive}: no candidates yet'}; run: autospike search {run.folder}")
        space, search = run.experiment.search_space, run.experiment.search
        table = tables.candidates_of(archived)
        largest_mj = float(table.set_index("id").loc[space.largest().id, "energy_mj"])  # type: ignore[arg-type]
        best = tables.front(table)
        all_shares, front_shares = tables.gene_shares_of(space, table["architecture"].tolist(), best["architecture"].tolist())
        return cls(
            folder=run.report if convention == search.energy_convention else run.report / convention.name.replace("/", "-"),
            convention=convention.name,
            title=f"{run.experiment.data.name}, `{convention.name}`",
            candidates=table,
            histories=[tables.search_history(name, ids, table, reference_mj=largest_mj) for name, ids in proposals.items()],
            all_shares=all_shares,
            front_shares=front_shares,
            reference=_reference(run, convention) if run.experiment.baseline_architecture else None,
            damage=damage,
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


def _reference(run: RunDirectory, convention: Convention) -> tuple[float, float]:
    """Accuracy and energy in mJ of the reference network, on the search split."""
    path = run.baseline / "measurement.json"
    measured = files.read_json(path)
    if isinstance(measured, dict) and "layers" not in measured:
        raise UserError(f"{run.baseline}: measured by an older version; run: autospike search {run.folder}")
    try:
        return float(measured["search_accuracy"]), energy(from_rows(measured["layers"]), convention).energy_mj
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}); delete it, then run: autospike search {run.folder}") from None
