"""`autospike plot`: figures and tables from the archive, under any energy convention. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from autospike import files
from autospike.console import note
from autospike.energy.conventions import Convention
from autospike.errors import UserError
from autospike.execution.worker_process import ThisProcess
from autospike.memory.allocator import gc_disabled
from autospike.objectives import Objectives, objectives_of, titles
from autospike.report import comparison, comparison_figure, figures, paper, tables
from autospike.report.comparison import RIVAL_NAMES, kind_of
from autospike.report.figures import Curve, Point
from autospike.report.html.data import page_data
from autospike.report.html.page import page
from autospike.report.importance import importance, sample
from autospike.report.measured_networks import point_of, reference_curve, single
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.archived_row import scores_without_a_group
from autospike.searching.objective_columns import with_objectives
from autospike.searching.selection import pick_row, with_fitness
from autospike.statistics import jackknife_interval, wilson_interval


def plot(
    run: RunDirectory, convention: Convention | None = None, out: Path | None = None, *, executor: Executor | None = None
) -> None:
    """Write figures and tables to RUN/report, or to RUN/report/CONVENTION under another convention than that of the search.

    The run itself is only read.

    Args:
        run: A searched run.
        convention: The energy convention; that of the search if None.
        out: The folder to write to instead.
        executor: Computes the importance of genes and writes the figures; it is shut down. This process if None. See
            `autospike.execution.report_executor`.

    Raises:
        UserError: Nothing was searched yet, or a file cannot be written.
    """
    try:
        with executor or ThisProcess() as executor, gc_disabled():
            report = _plotted(run, convention or run.experiment.search.energy_convention, out, executor)
    except BrokenProcessPool:
        raise UserError("plot: its worker process was killed, for example for lack of memory; run the same command again") from None
    if report.damage is not None:
        note(f"plot: {report.damage}")
    on_front = int(report.candidates["on_front"].sum())
    note(f"plot: {len(report.candidates)} candidates, {on_front} on the front under `{report.convention}`; see {report.folder}")


def _plotted(run: RunDirectory, convention: Convention, out: Path | None, executor: Executor) -> SearchReport:
    """Write figures, tables and the page together, or none of them; see `plot`."""
    report = SearchReport.of(run, convention, executor)
    if out is not None:
        report = replace(report, folder=out)
    files.check_writable(report.folder, "--out")
    same = report.convention == run.experiment.search.energy_convention.name  # the page is of the convention of the search
    known: dict[str, Any] = (
        {"table": report.candidates, "gene_importance": report.importance, "proposals": report.proposals} if same else {}
    )
    with files.replacing_all(report.folder) as temporary, executor:  # the executor writes to the folder, so it ends first
        drawn = report.figures()
        name, last = drawn.popitem()
        saved = [executor.submit(figures.save, figure, temporary / name) for name, figure in drawn.items()]
        files.write_text(temporary / "report.html", page(page_data(run, **known)))
        replace(report, folder=temporary).write_tables()
        figures.save(last, temporary / name)  # a worker process is still busy with the others
        for future in saved:
            future.result()
    return report


Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """The tables of a searched run under one energy convention.

    Attributes:
        folder: The folder to write to.
        convention: Name of the energy convention.
        data: Name of the data set, for titles.
        metric: Name of the metric of the task.
        objectives: What the front is of.
        candidates: All candidates; see `report.tables.candidates`.
        proposals: The candidates of each search; see `Archive.proposals`.
        histories: Progress of each search of the archive; see `report.tables.search_history`.
        proposed_shares: How often each value of a gene occurs among the proposed candidates; see `report.tables.gene_shares`.
        front_shares: The same on the Pareto front, by-product candidates included.
        importance: Importance of the genes for accuracy and the logarithm of energy; see `report.importance`.
        curves: The selected subnet, the reference network at every T and networks without spikes, on the search split.
        export: The report of RUN/export, if it is of the same supernet and energy convention, and has the front, which older
            versions did not measure; otherwise None.
        damage: A line on rows of the archive that are damaged and left out, or None.
    """

    folder: Path
    convention: str
    data: str
    metric: str
    objectives: Objectives
    candidates: pd.DataFrame
    proposals: dict[str, list[list[str]]]
    histories: list[tables.SearchHistory]
    proposed_shares: dict[str, dict[str, float]]
    front_shares: dict[str, dict[str, float]]
    importance: pd.DataFrame
    curves: list[Curve]
    export: dict[str, Any] | None = None
    damage: str | None = None

    @classmethod
    def of(cls, run: RunDirectory, convention: Convention, executor: Executor | None = None) -> SearchReport:
        """Compute the tables from the archive and from the measurement of the reference network.

        Args:
            run: A searched run.
            convention: The energy convention.
            executor: Computes the importance of genes; this process if None.

        Returns:
            The tables.

        Raises:
            UserError: Nothing was searched yet, or the reference network was measured by an older version.
        """
        experiment = run.experiment
        objectives = objectives_of(experiment.search.objectives, run.input_shape, metric=experiment.metric)
        archive = Archive.newest(run.existing_archive(), convention)
        try:
            archived = with_objectives(archive, with_fitness(archive, run), objectives)
            proposals, damage = archive.proposals(), archive.damage()
        finally:
            archive.close()
        if archived.empty:
            raise UserError(f"{damage or f'{run.archive}: no candidates yet'}; run: autospike search {run.folder}")
        space, search = experiment.archived_space, experiment.search
        table = tables.candidates_of(archived, objectives)
        logarithms = np.log(table["energy_mj"].clip(lower=1e-300))
        quantities = {"accuracy": table["accuracy"].tolist(), "energy": logarithms.tolist()}
        gene_importance = (executor or ThisProcess()).submit(importance, space, *sample(table["architecture"].tolist(), quantities))
        box = tables.Box.of(table, objectives, space.largest().id)
        best = tables.front(table, objectives)
        proposed = table["architecture"][~table["free"]]  # by-products of a candidate have every T equally often
        proposed_shares, front_shares = tables.gene_shares_of(space, proposed.tolist(), best["architecture"].tolist())
        exported = _export_report(run, archive.protocol_id)
        return cls(
            folder=run.report if convention == search.energy_convention else run.report / convention.name.replace("/", "-"),
            convention=convention.name,
            data=experiment.data.title,
            metric=experiment.metric,
            objectives=objectives,
            candidates=table,
            proposals=proposals,
            histories=[tables.search_history(name, ids, table, box=box, objectives=objectives) for name, ids in proposals.items()],
            proposed_shares=proposed_shares,
            front_shares=front_shares,
            curves=[
                *_selected(run, archived, exported, objectives, convention),
                *_reference(run, convention),
                *_rivals(run, convention),
            ],
            export=exported if exported.get("convention") == convention.name and "front" in exported else None,
            damage=damage,
            importance=gene_importance.result(),
        )

    def write_tables(self) -> None:
        """Write the tables as CSV, and the front for papers.

        Raises:
            UserError: A file cannot be written.
        """
        files.write_chunks(self.folder / "candidates.csv", tables.csv_chunks(self.candidates))
        best = tables.front(self.candidates, self.objectives)
        files.write_text(self.folder / "front.csv", tables.to_csv(best))
        front = paper.numbers(best, self.objectives)
        images, texts = int(self.candidates["images"].max()), {"front.tex": paper.latex, "front.md": paper.markdown}
        files.write_text(self.folder / "front_plot.csv", paper.plot_data(front))
        for name, text in texts.items():
            files.write_text(self.folder / name, text(front, convention=self.convention, images=images, metric=self.metric))
        files.write_text(self.folder / "importance.csv", self.importance.to_csv(index=False))
        if self.export is not None:
            files.write_text(self.folder / "comparison.csv", comparison.table(self.export).to_csv(index=False))

    def figures(self) -> dict[str, Figure]:
        """Return the figures by the name of their PNG file."""
        title = f"{self.data}: {' and '.join(titles(self.objectives))} of the subnets"
        drawn = {
            "pareto.png": figures.pareto(
                self.candidates, self.curves, title=title, convention=self.convention, objectives=self.objectives
            ),
            "genes.png": figures.genes(self.proposed_shares, self.front_shares, title=f"{self.data}: values of the genes"),
        }
        if self.export is not None:
            drawn["comparison.png"] = comparison_figure.draw(self.export, title=f"{self.data}: networks on the test split")
        progress = figures.search(self.histories, title=f"{self.data}: progress of the search", objectives=self.objectives)
        return {**drawn, "search.png": progress}


def _selected(
    run: RunDirectory, archived: pd.DataFrame, report: dict[str, Any], objectives: Objectives, convention: Convention
) -> list[Curve]:
    """The subnet in RUN/export, or else the one that `export.pick` selects, with inherited and with fine-tuned weights."""
    config, exported, known = run.experiment.export, report.get("architecture_id"), set(archived["id"])
    if exported in known:
        index, label = archived["id"].tolist().index(exported), "exported subnet"
    else:
        index, label = pick_row(archived, config.pick, config, objectives), f"selected subnet ({config.pick})"
    row = archived.iloc[index]
    accuracy, images = float(row["accuracy"]), int(row["images"])
    without = scores_without_a_group(row["score"])
    interval = jackknife_interval(accuracy, without) if without else wilson_interval(round(accuracy * images), images)
    point = Point(accuracy=accuracy, interval=interval, energy_mj=float(row["energy_mj"]))
    paths = {path.parents[2].name: path for path in run.retrain.glob("*/fine-tuned/seed-0/measurement.json")}
    tuned = {name: _measured(path, lambda found: point_of(found, convention, "search")) for name, path in paths.items()}
    mine = tuned.pop(str(row["id"]), None)
    others = sorted((found for name, found in tuned.items() if name in known), key=lambda found: found.energy_mj)
    rest = [Curve(label="other subnets, fine-tuned", kind="fine-tuned", points=tuple(others))] if others else []
    if mine is None:
        return [Curve(label=label, kind="exported", points=(point,)), *rest]
    if report.get("weights") == "fine-tuned":
        chosen, same, name = mine, point, "the same, inherited weights"
    else:
        chosen, same, name = point, mine, "the same, fine-tuned"
    return [Curve(label=label, kind="exported", points=(chosen,)), Curve(label=name, kind="fine-tuned", points=(same,)), *rest]


def _export_report(run: RunDirectory, protocol_id: str) -> dict[str, Any]:
    """The report of RUN/export if it is of the archive's newest protocol, else nothing."""
    try:
        report: dict[str, Any] = files.read_json(run.export / "report.json")
        return report if report["provenance"]["protocol_id"] == protocol_id else {}
    except (UserError, KeyError, TypeError):  # there is none, or it is damaged: `export` writes it again
        return {}


def _rivals(run: RunDirectory, convention: Convention) -> list[Curve]:
    """The measured networks without spikes, on the search split."""
    paths = {name: run.rivals / name / "measurement.json" for name in run.experiment.rivals.networks}
    return [
        _measured(path, partial(single, convention=convention, split="search", label=RIVAL_NAMES[name], kind=kind_of(name)))
        for name, path in paths.items()
        if path.exists()
    ]


def _reference(run: RunDirectory, convention: Convention) -> list[Curve]:
    """The reference network at every T, on the search split; empty if the run has none."""
    if run.experiment.baseline_architecture is None:
        return []
    path = run.baseline / "measurement.json"
    measured = files.read_json(path)
    if isinstance(measured, dict) and "layers" not in measured:
        raise UserError(f"{run.baseline}: measured by an older version; run: autospike search {run.folder}")
    return [_measured(path, lambda found: reference_curve(found, convention, "search"))]


def _measured(path: Path, curve: Callable[[Any], Found]) -> Found:
    """Read a measurement and convert it."""
    try:
        return curve(files.read_json(path))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error!r}); delete it, then run the command again that wrote it") from None
