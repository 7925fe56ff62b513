"""`autospike list`: the names of search spaces, experiments, published networks and energy conventions. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autospike import catalogue
from autospike.console import definitions
from autospike.energy.conventions import CONVENTIONS, COSTS, WHEN
from autospike.space.published import PUBLISHED, Published


def list_names(kind: str) -> None:
    """Print the names of one kind, each with a description.

    Args:
        kind: A key of `KINDS`.
    """
    KINDS[kind]()


def _spaces() -> None:
    found = {name: _first_comment(path) for name, path in catalogue.files_of("search_spaces").items()}
    definitions(found, "Use a name as `space` of an experiment, or: autospike describe NAME")


def _experiments() -> None:
    found = {name: _first_comment(path) for name, path in catalogue.files_of("experiments").items()}
    definitions(found, "autospike run NAME --run FOLDER; autospike init DIR writes one to edit")


def _models() -> None:
    found = {name: _input_and_output(model) for name, model in PUBLISHED.items()}
    definitions(found, "Use a name as `baseline` of an experiment, or: autospike describe NAME")


def _conventions() -> None:
    found = {name: f"{convention.source} (costs: {convention.costs.name})" for name, convention in CONVENTIONS.items()}
    parts = ", ".join(f"/{part}-{when}" for part in ("image", "head") for when in WHEN)
    definitions(found, f"Modifiers: one cost (/{', /'.join(COSTS)}) and {parts}, as in spikformer/int8/image-once")


KINDS: dict[str, Callable[[], None]] = {
    "spaces": _spaces,
    "experiments": _experiments,
    "models": _models,
    "conventions": _conventions,
}


def _input_and_output(model: Published) -> str:
    size = f"{model.in_chans}x{model.image_size}x{model.image_size}"
    return f"{model.architecture.family}, input {size}, {model.num_classes} classes, T {model.architecture.time_steps}"


def _first_comment(path: Path) -> str:
    """The first line of a file without its comment sign."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
