"""`autospike retrain`: train selected subnets separately, from scratch and from inherited weights, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from autospike import files
from autospike.console import note, progress, table
from autospike.data.batches import FixedBatches
from autospike.energy.conventions import UJ_PER_MJ
from autospike.evaluation.random_subnets import random_subnets
from autospike.evaluation.setup import calibrated_subnet, held_out_batches, open_for_measurement, protocol_id
from autospike.events import Callback
from autospike.model_folder import MODEL_FILES, complete_report, final_measurement, write_report, write_run_model
from autospike.report import figures, retrained
from autospike.report.retrained import WAY_LABELS, MeanAndDeviation, RetrainedModel, SeedGroup
from autospike.report.tables import to_csv
from autospike.report.test_split import log_opening
from autospike.run_directory import RunDirectory
from autospike.searching.selection import pick_archived
from autospike.space.architecture import Architecture
from autospike.supernet import Supernet
from autospike.training.retraining import RetrainedNetwork, networks, train_retrained
from autospike.training.setup import Setup, load_trained_supernet, threads_of_torch


def retrain(run: RunDirectory, picks: Sequence[str], *, random: int = 0, callbacks: Sequence[Callback] = ()) -> None:
    """Retrain candidates of a searched run. Finished trainings and measurements are not repeated.

    Args:
        run: A searched run.
        picks: Selection rules or ids of candidates.
        random: Number of random subnets of the energy of the first selected one that are trained as well.
        callbacks: Receive the events of the trainings.

    Raises:
        UserError: Nothing was trained or searched yet, no candidate is selected, or a folder has a training by another recipe.
    """
    threads = torch.get_num_threads()
    setup = open_for_measurement(run)
    selected = _selected(run, setup, picks, random)
    compared = networks(run, dict.fromkeys(selected.values()))
    for network in compared:
        network.check_recipe()
    with run.locked("retrain"), threads_of_torch(run.experiment.threads or threads):
        _store_random(run, setup, selected)
        for network in compared:
            if network.way != "inherited":
                train_retrained(run, setup, network, callbacks)
    groups = retrained.group_by_seed(_measured(run, setup, compared))
    _report(run, selected, groups)
    _show(run, selected, groups, images=len(setup.images.splits["test"]))


def _selected(run: RunDirectory, setup: Setup, picks: Sequence[str], random: int) -> dict[str, Architecture]:
    """The architectures by the rule that selects them; `random-1` and so on are random ones."""
    supernet = load_trained_supernet(setup, run.experiment.search_space, run.supernet)  # raises if the training has not finished
    chosen = pick_archived(
        run, protocol_id(setup, run.supernet), picks, lambda damage: note(f"retrain: {damage}"), setup.input_shape
    )
    selected = {rule: evaluation.measurement.architecture for rule, evaluation in zip(picks, chosen, strict=True)}
    others = _random(run, setup, supernet, selected[picks[0]], random) if random else []
    return selected | {f"random-{number}": architecture for number, architecture in enumerate(others, start=1)}


def _random(run: RunDirectory, setup: Setup, supernet: Supernet, selected: Architecture, count: int) -> list[Architecture]:
    """Random subnets: those that an earlier call stored under the same settings, unless it drew fewer."""
    stored = _stored_random(run, setup, selected)
    return stored[:count] if len(stored) >= count else random_subnets(setup, supernet, selected, count)


def _stored_random(run: RunDirectory, setup: Setup, selected: Architecture) -> list[Architecture]:
    path = run.retrain / "random.json"
    stored = files.read_json(path) if path.exists() else None
    if not isinstance(stored, dict) or stored.get("settings") != _random_settings(run, setup, selected):
        return []
    return [Architecture.from_dict(values, source=str(path)) for values in stored.get("architectures", ())]


def _store_random(run: RunDirectory, setup: Setup, selected: dict[str, Architecture]) -> None:
    """Store the drawn subnets, because each draw is measured. A longer list is kept."""
    first = next(iter(selected.values()))
    drawn = [architecture.to_dict() for rule, architecture in selected.items() if rule.startswith("random-")]
    if len(drawn) > len(_stored_random(run, setup, first)):
        values = {"settings": _random_settings(run, setup, first), "architectures": drawn}
        files.write_json(run.retrain / "random.json", values)


def _random_settings(run: RunDirectory, setup: Setup, selected: Architecture) -> dict[str, Any]:
    """What the drawn subnets depend on."""
    search = run.experiment.search
    return {
        "selected": selected.id,
        "protocol_id": protocol_id(setup, run.supernet),
        "convention": search.energy_convention.name,
        "space": search.space,
    }


def _measured(run: RunDirectory, setup: Setup, compared: Sequence[RetrainedNetwork]) -> list[RetrainedModel]:
    waiting = [network for network in compared if not _is_measured(run, setup, network)]
    if waiting:
        measured = [network.architecture.id for network in waiting]
        log_opening(run, command="retrain", images=len(setup.images.splits["test"]), architecture_ids=measured)
        test = held_out_batches(setup)
        with progress("measure", total=len(waiting)) as bar:
            for done, network in enumerate(waiting):
                bar(done, WAY_LABELS[network.way])
                _measure(run, setup, network, test)
            bar(len(waiting), "")
    return [_read(run, network) for network in compared]


def _measure(run: RunDirectory, setup: Setup, network: RetrainedNetwork, test: FixedBatches) -> None:
    """Calibrate a network, write it as a timm model, and measure it on the test split."""
    files.check_replaceable(network.model, (*MODEL_FILES, "report.json"))
    model = calibrated_subnet(setup, load_trained_supernet(setup, network.space, network.checkpoints), network.architecture)
    write_run_model(setup, model, network.model)
    write_report(network.model, {**final_measurement(run, model, test), "provenance": _provenance(run, setup, network)})


def _is_measured(run: RunDirectory, setup: Setup, network: RetrainedNetwork) -> bool:
    return complete_report(network.model, {"provenance": _provenance(run, setup, network)}) is not None


def _provenance(run: RunDirectory, setup: Setup, network: RetrainedNetwork) -> dict[str, Any]:
    return {
        "run": str(run.folder.resolve()),
        "way": network.way,
        "seed": network.seed,
        "protocol_id": protocol_id(setup, network.checkpoints),
        "convention": run.experiment.search.energy_convention.name,
    }


def _read(run: RunDirectory, network: RetrainedNetwork) -> RetrainedModel:
    found = files.read_json(network.model / "report.json")
    return RetrainedModel(
        architecture_id=network.architecture.id,
        way=network.way,
        seed=network.seed,
        test_accuracy=found["test_accuracy"],
        energy_mj=found["energy_mj"],
        params=found["params"],
        time_steps=found["time_steps"],
        model=str(network.model.relative_to(run.folder)),
        test_accuracy_interval=tuple(found["test_accuracy_interval"]) if "test_accuracy_interval" in found else None,
    )


def _report(run: RunDirectory, selected: dict[str, Architecture], groups: Sequence[SeedGroup]) -> None:
    """Write `RUN/retrain/report.json`, and a table and a figure to `RUN/report`."""
    convention = run.experiment.search.energy_convention.name
    found = [{**group.row(), "networks": [asdict(model) for model in group.models]} for group in groups]
    picks = {rule: architecture.id for rule, architecture in selected.items()}
    files.check_replaceable(run.report, ("retrained.csv", *(path.name for path in figures.paths(run.report / "retrained.png"))))
    files.write_json(run.retrain / "report.json", {"picks": picks, "convention": convention, "ways": found})
    files.write_text(run.report / "retrained.csv", to_csv(retrained.table(groups)))
    rules = {name: ", ".join(rule for rule, found in picks.items() if found == name) for name in picks.values()}
    title = f"{run.experiment.data.title}: retrained networks"
    figure = figures.retrained(groups, title=title, convention=convention, names=rules, metric=run.experiment.metric)
    figures.save(figure, run.report / "retrained.png")
    note(f"retrain: see {run.retrain / 'report.json'} and {run.report / 'retrained.png'}")


def _show(run: RunDirectory, selected: dict[str, Architecture], groups: Sequence[SeedGroup], *, images: int) -> None:
    """Print a table with one row for each network and way of training."""
    randoms = {architecture.id: rule for rule, architecture in selected.items() if rule.startswith("random-")}
    rows = [
        [
            randoms.get(group.architecture_id, group.architecture_id),
            WAY_LABELS[group.way],
            _mean_cell(group.test_accuracy, digits=4),
            _mean_cell(group.energy_mj, digits=3, scale=UJ_PER_MJ),
            f"{group.models[0].params:,}",
            str(group.models[0].time_steps),
            str(len(group.models)),
        ]
        for group in groups
    ]
    columns = ["network", "weights", f"test {run.experiment.metric}", "energy (uJ/image)", "parameters", "T", "seeds"]
    caption = (
        f"{images} test images. Mean ± sample standard deviation over seeds; inherited weights have none, because a run has one "
        "supernet."
    )
    if randoms:
        caption += f" Random subnets have about the energy of the first selected one ({next(iter(selected.values())).id})."
    table(f"{run.retrain}: retrained", columns, rows, caption)


def _mean_cell(value: MeanAndDeviation, *, digits: int, scale: float = 1.0) -> str:
    deviation = "-" if value.deviation is None else f"{value.deviation * scale:.{digits}f}"
    return f"{value.mean * scale:.{digits}f} ± {deviation}"
