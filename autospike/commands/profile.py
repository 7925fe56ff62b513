"""`autospike profile`: costs of the subnets of a search space, and the share of the space within limits. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autospike import catalogue
from autospike.config import ConstraintsConfig, Experiment
from autospike.console import short, table
from autospike.energy.conventions import DEFAULT, UJ_PER_MJ, Convention
from autospike.errors import UserError, first_problem
from autospike.files import read_yaml
from autospike.measurement import Evaluation
from autospike.randomness import keyed
from autospike.report.space_profile import DRAWS, CostProfile, centroid, profile_costs
from autospike.run_directory import RunDirectory
from autospike.searching.archive import Archive
from autospike.searching.constraints import Constraints
from autospike.space.input_shape import InputShape
from autospike.space.search_space import SearchSpace


def profile(path: Path, limits: Mapping[str, Any], *, image_size: int | None, channels: int | None, classes: int | None) -> None:
    """Print the size of a space, its smallest, middle and largest subnet, and the costs of random draws.

    Args:
        path: A search space or an experiment (YAML or the name of one), or a run.
        limits: Fields of `search.constraints` that replace those of an experiment or a run.
        image_size: Height and width in pixels. Default: of the experiment, or 32.
        channels: Channels of the images. Default: of the run, or 3.
        classes: Number of classes. Default: of the run, or 10.

    Raises:
        UserError: There is no space, or a limit is invalid.
    """
    run = RunDirectory.resume(path) if (path / "experiment.yaml").exists() else None
    space, experiment = (run.experiment.searched_space, run.experiment) if run else _read(path)
    known = run.input_shape if run else None
    shape = InputShape(
        image_size=image_size or (experiment.data.image_size if experiment else 32),
        channels=channels or (known.channels if known else 3),
        classes=classes or (known.classes if known else 10),
    )
    given = experiment.search.constraints.model_dump() if experiment else {}
    try:
        config = ConstraintsConfig.model_validate({**given, **limits})
    except ValidationError as error:
        raise first_problem(error, "search.constraints") from None
    convention = experiment.search.energy_convention if experiment else DEFAULT
    constraints = Constraints(config=config, shape=shape, fused=convention.fused)
    _show_subnets(path, space, constraints, run, convention)
    _show_draws(profile_costs(space, constraints, keyed(0, "profile")))


def _read(path: Path) -> tuple[SearchSpace, Experiment | None]:
    """The space of a file or name, and its experiment if it is one."""
    if not path.exists():
        path = {**catalogue.files_of("experiments"), **catalogue.files_of("search_spaces")}.get(str(path), path)
    if not path.exists():
        raise UserError(f"{path}: no run, search space or experiment of this name; see: autospike list spaces, list experiments")
    content = read_yaml(path)
    if isinstance(content, dict) and "stages" in content:
        return SearchSpace.from_dict(content, source=str(path)), None
    experiment = Experiment.load(path)
    return experiment.searched_space, experiment


def _show_subnets(
    path: Path, space: SearchSpace, constraints: Constraints, run: RunDirectory | None, convention: Convention
) -> None:
    named = {"smallest": space.smallest(), "middle": centroid(space), "largest": space.largest()}
    measured = _measured(run, convention) if run else None
    rows = []
    for name, architecture in named.items():
        found = constraints.costs(architecture)
        row = [
            f"{name} ({architecture.id})",
            str(found.time_steps),
            f"{found.params:,}",
            f"{found.macs / 1e6:,.2f}",
            f"{found.weights_kb:,.0f}",
            f"{found.activations_kb:,.0f}",
            f"{found.fan_in:,}",
        ]
        if measured is not None:
            evaluation = measured.get(architecture.id)
            row += _measured_cells(evaluation)
        rows.append(row)
    columns = ["", "T", "parameters", "M MACs/step", "weights kB", "activations kB", "fan-in"]
    metric = run.experiment.metric if run else ""
    columns += ["uJ", metric] if measured is not None else []
    size = space.size()
    shape = constraints.shape
    caption = f"for {shape.channels} x {shape.image_size} x {shape.image_size} images, {shape.classes} classes" if shape else ""
    caption += "; MACs, activations and fan-in without the decoder" if space.decoder is not None else ""
    if measured is not None:
        caption += f"; energy and {metric} from the archive, - if not measured"
    table(f"{path}: {size:.4g} architectures" if size < 1e300 else f"{path}: more than 1e300 architectures", columns, rows, caption)


def _measured_cells(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["-", "-"]
    return [f"{evaluation.energy.energy_mj * UJ_PER_MJ:.3f}", f"{evaluation.measurement.accuracy:.4f}"]


def _measured(run: RunDirectory, convention: Convention) -> dict[str, Evaluation] | None:
    """The evaluations of the three subnets that an archive has; None without an archive."""
    if not run.archive.exists():
        return None
    space = run.experiment.searched_space
    archive = Archive.newest(run.archive, convention)
    try:
        found = [archive.get(a) for a in (space.smallest(), centroid(space), space.largest())]
    finally:
        archive.close()
    return {e.measurement.architecture.id: e for e in found if e is not None}


def _show_draws(profiles: list[CostProfile]) -> None:
    rows = [
        [
            p.label,
            *map(short, p.quantiles),
            "-" if p.limit is None else f"{p.limit:,g}",
            "-" if p.share is None else f"{p.share:.1%}",
            "-" if p.gene is None else f"{p.gene} ({p.explained:.0%})",
        ]
        for p in profiles
    ]
    columns = ["", "10 %", "median", "90 %", "limit", "within", "gene that decides"]
    caption = f"{DRAWS:,} random draws; in parentheses the share of the variance that the gene explains alone"
    table("costs of random subnets", columns, rows, caption)
