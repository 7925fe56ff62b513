"""`autospike assess`: can a supernet be trusted? Candidates are trained alone and compared with their inherited accuracy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from autospike import files
from autospike.console import note, table
from autospike.errors import UserError
from autospike.evaluation.setup import open_for_measurement, protocol_id
from autospike.evaluation.trained_alone import measure_trained_alone
from autospike.randomness import keyed
from autospike.report import assessment, figures
from autospike.report.assessment import Assessment, Estimate
from autospike.report.tables import ESTIMATE, accuracy_intervals, candidates_of, to_csv
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.selection import with_fitness
from autospike.space.architecture import Architecture
from autospike.training.retraining import from_scratch, train_retrained
from autospike.training.setup import Setup, threads_of_torch


def assess(run: RunDirectory, *, candidates: int, budget_s: float | None = None) -> None:
    """Train candidates of the archive alone, and compare the ranking with that of their inherited weights.

    The candidates are drawn at random from strata of equal size by energy, once: later calls use the same ones, and add others if
    more are asked for. Finished trainings are not repeated.

    Args:
        run: A searched run.
        candidates: Number of candidates.
        budget_s: Largest duration in seconds. No training is started that would probably exceed it, except the first one.

    Raises:
        UserError: Nothing was searched yet, or a folder has a training by another recipe.
        Interrupted: By a signal, after a checkpoint.
    """
    threads = torch.get_num_threads()
    setup = open_for_measurement(run)
    protocol = protocol_id(setup, run.supernet)
    archived = _archived(run, protocol)
    with run.locked("assess"):
        run.assess.mkdir(exist_ok=True)
        chosen = _chosen(run, protocol, archived, candidates)
        written = archived.loc[chosen, "architecture"].to_dict()
        architectures = {str(name): Architecture.from_json(text) for name, text in written.items()}
        with threads_of_torch(run.experiment.threads or threads):
            measured = _trained(run, setup, list(architectures.values()), budget_s)
    if not measured:
        raise UserError(f"{run.assess}: no training has finished; give more time with --budget")
    found = _table(archived, measured)
    result = assessment.assess(found["inherited"].tolist(), found["alone"].tolist(), np.random.default_rng(run.experiment.seed))
    _report(run, found, result, asked=len(chosen), protocol=protocol)


def _archived(run: RunDirectory, protocol: str) -> pd.DataFrame:
    """The candidates that were measured on every image, by id; without those with early exit, which share their weights."""
    archive = Archive(run.existing_archive(), protocol, run.experiment.search.energy_convention, read_only=True)
    try:
        found = candidates_of(with_fitness(archive, run))
    finally:
        archive.close()
    if found.empty:
        raise UserError(f"{run.archive}: no candidates of this supernet yet; run: autospike search {run.folder}")
    whole = ~found[ESTIMATE] if ESTIMATE in found else True
    return found[(found["images"] == found["images"].max()) & whole].set_index("id", drop=False)


def _chosen(run: RunDirectory, protocol: str, archived: pd.DataFrame, number: int) -> list[str]:
    """Ids of the candidates, in the order in which they are trained; those of earlier calls first."""
    path, names = run.assess / "candidates.json", archived["id"].tolist()
    stored = files.read_json(path) if path.exists() else {}
    earlier = stored.get("ids", []) if isinstance(stored, dict) and stored.get("protocol_id") == protocol else []
    known = [names.index(name) for name in earlier if name in archived.index]
    if len(known) < number:
        rng = keyed(run.experiment.seed, "assess", len(known))
        known = assessment.stratified(archived["energy_mj"].tolist(), number, rng, chosen=known)
        files.write_json(path, {"protocol_id": protocol, "ids": [names[i] for i in known]})
    return [names[i] for i in known[:number]]


def _trained(
    run: RunDirectory, setup: Setup, architectures: Sequence[Architecture], budget_s: float | None
) -> dict[str, dict[str, Any]]:
    """Train networks alone from scratch while there is time; the measurements on the search split by id."""
    networks = [from_scratch(run, architecture, seed=0) for architecture in architectures]
    for network in networks:
        network.check_recipe()
    started, longest = time.monotonic(), 0.0
    measured: dict[str, dict[str, Any]] = {}
    for network in networks:
        begun = time.monotonic()
        if budget_s is not None and longest and begun - started + longest > budget_s:
            note(f"assess: {len(measured)} of {len(networks)} networks in the time given; run the same command again to go on")
            break
        train_retrained(run, setup, network)
        measured[network.architecture.id] = measure_trained_alone(run, setup, network.architecture, network.checkpoints)
        longest = max(longest, time.monotonic() - begun)
    return measured


def _table(archived: pd.DataFrame, measured: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row for each network that was trained alone."""
    rows = archived.loc[list(measured)]
    low, high = accuracy_intervals(rows)
    intervals = [found["search_accuracy_interval"] for found in measured.values()]
    return pd.DataFrame(
        {
            "id": rows["id"].tolist(),
            "inherited": rows["accuracy"].tolist(),
            "inherited_low": low,
            "inherited_high": high,
            "alone": [found["search_accuracy"] for found in measured.values()],
            "alone_low": [interval[0] for interval in intervals],
            "alone_high": [interval[1] for interval in intervals],
            "energy_mj": rows["energy_mj"].tolist(),
            "params": rows["params"].tolist(),
            "time_steps": rows["time_steps"].tolist(),
            "images": rows["images"].tolist(),
        }
    )


def _report(run: RunDirectory, found: pd.DataFrame, result: Assessment, *, asked: int, protocol: str) -> None:
    training, metric = run.experiment.from_scratch, run.experiment.metric
    title = f"{run.experiment.data.title}: inherited and stand-alone {metric}"
    with files.replacing_all(run.assess) as folder:
        files.write_text(folder / "candidates.csv", to_csv(found))
        files.write_json(
            folder / "assessment.json",
            {**result.to_json(), "trained": len(found), "asked": asked, "epochs": training.epochs, "protocol_id": protocol},
        )
        figures.save(assessment.draw(found, title=title, metric=metric), folder / "assessment.png")
    rows = [
        ["Kendall's tau", _cell(result.everywhere.kendall), _cell(result.top_third.kendall)],
        ["Spearman's rho", _cell(result.everywhere.spearman), _cell(result.top_third.spearman)],
        ["networks", str(result.everywhere.networks), str(result.top_third.networks)],
        ["inherited - alone (points)", _cell(result.difference, scale=100, digits=1), ""],
        *([f"regret of the best {k} (points)", f"{100 * regret:.1f}", ""] for k, regret in result.regret.items()),
    ]
    images = int(found["images"].max())
    caption = (
        f"{len(found)} of {asked} networks, {training.epochs} epochs each, one seed; {images} images of the search split. 95 % "
        f"bootstrap intervals over the networks. Top third: by inherited {metric}."
    )
    table(f"{run.folder}: inherited against stand-alone {metric}", ["", "all", "top third"], rows, caption)
    note(f"assess: see {run.assess / 'assessment.json'} and assessment.png")


def _cell(estimate: Estimate | None, *, scale: float = 1.0, digits: int = 2) -> str:
    if estimate is None:
        return "-"
    low, high = (f"{scale * end:+.{digits}f}" for end in estimate.interval)
    return f"{scale * estimate.value:+.{digits}f} ({low} to {high})"
