"""Reads the fields of an experiment from a file: overrides, names of search spaces and networks, and relative paths."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from autospike import catalogue
from autospike.config.fields import MAX_PATH
from autospike.config.training import DEFAULT_LEARNING_RATE, FULL_RATE_WIDTH
from autospike.errors import UserError, quoted
from autospike.files import read_yaml
from autospike.parsing import parse_yaml
from autospike.space.narrowing import without_unused
from autospike.space.published import PUBLISHED, similar_networks
from autospike.space.search_space import SearchSpace

# Fields that are paths. The path after LOCAL_MODEL in the name of a teacher is one as well.
PATHS = (
    ("data", "root"),
    ("data", "cache"),
    ("training", "start_from"),
    ("training", "teacher", "weights"),
    ("training", "teacher", "model"),
    ("search", "optuna_storage"),
)
LOCAL_MODEL = "local-dir:"
SQLITE = "sqlite:///"


def read_fields(path: Path, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Read the fields of an experiment file and apply overrides.

    Args:
        path: The experiment file.
        overrides: Each `a.b=c` with c in YAML. The last one of a field applies. Their paths are relative to the current folder.
        folder: The folder that the paths in the file are relative to.

    Returns:
        The fields, with absolute paths.

    Raises:
        UserError: The file cannot be read, it is not a mapping, or an override has no such field.
    """
    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: an experiment is a mapping of fields, got {type(fields).__name__}")
    fields = with_absolute_paths(fields, folder)
    for override in overrides:
        if override.startswith("space."):
            fields = resolve_space(fields, str(path), folder)
        if override.startswith("baseline."):
            fields = resolve_baseline(fields, str(path))
        _apply_override(fields, override)
        if override.startswith("space="):
            fields = resolve_space(fields, f"--set {override}", Path.cwd())
    return with_absolute_paths(fields, Path.cwd())


def narrowing_overrides(trained: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Return overrides in which those of `space` set `search.space` instead, because the space of a trained supernet is fixed.

    Args:
        trained: The space that the supernet was trained on.
        overrides: `--set` overrides.

    Raises:
        UserError: An override of `space` is invalid.
    """
    of_space = [override for override in overrides if override.startswith("space.")]
    if not of_space:
        return list(overrides)
    fields = {"space": deepcopy(trained)}
    for override in of_space:
        _apply_override(fields, override)
    others = [override for override in overrides if override not in of_space]
    return [*others, f"search.space={json.dumps(without_unused(fields['space']))}"]


def with_absolute_paths(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return fields of an experiment with relative paths replaced by absolute ones.

    Args:
        fields: The fields. Values that are no paths are left as they are.
        folder: The folder that the paths are relative to.
    """
    for keys in PATHS:
        fields = _with_absolute(fields, keys, folder)
    return fields


def _with_absolute(fields: dict[str, Any], keys: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Copy the mappings on the way to one path, and make it absolute."""
    name, *inner = keys
    value = fields.get(name)
    if inner:
        return {**fields, name: _with_absolute(value, tuple(inner), folder)} if isinstance(value, dict) else fields
    if isinstance(value, Path):
        return {**fields, name: _absolute(str(value), folder)}
    if name == "cache" and value == "none":
        return fields
    if not isinstance(value, str) or not value or len(value) > MAX_PATH or not value.isprintable():
        return fields
    if name == "optuna_storage" and "://" in value:
        in_file = value.startswith(SQLITE) and value != f"{SQLITE}:memory:"
        return {**fields, name: f"{SQLITE}{_absolute(value.removeprefix(SQLITE), folder)}"} if in_file else fields
    if name != "model":
        return {**fields, name: _absolute(value, folder)}
    local = value.startswith(LOCAL_MODEL)
    return {**fields, name: f"{LOCAL_MODEL}{_absolute(value.removeprefix(LOCAL_MODEL), folder)}"} if local else fields


def _absolute(path: str, folder: Path) -> str:
    return os.path.normpath(folder.resolve() / path)


def resolve_space(fields: dict[str, Any], source: str, folder: Path) -> dict[str, Any]:
    """Replace the path or the name of a search space by its content.

    Args:
        fields: The fields of an experiment.
        source: Where they are from, for error messages.
        folder: The folder that the path is relative to.

    Returns:
        The fields, unchanged if the space is written out.

    Raises:
        UserError: There is no such search space, or it is invalid. The message names its file.
    """
    given = fields.get("space")
    if not isinstance(given, str | Path):
        return fields
    try:
        path = catalogue.find("search_spaces", str(given), folder)
    except UserError as error:
        raise UserError(f"{source}: space: {error}") from None
    if not path.exists():
        raise UserError(f"{path}: no such file; it is the space of {source}, whose paths are relative to {folder.absolute()}")
    SearchSpace.load(path)  # so that an error names the file of the space
    return {**fields, "space": read_yaml(path)}


def resolve_learning_rate(fields: dict[str, Any]) -> dict[str, Any]:
    """Fill in the default of `training.learning_rate`, which depends on the widths of the space.

    Args:
        fields: The fields of an experiment with a written out space.

    Returns:
        The fields, unchanged if they give a learning rate, or if the space is invalid.
    """
    training, space = fields.get("training"), fields.get("space")
    if not isinstance(training, dict) or "learning_rate" in training or not isinstance(space, dict):
        return fields
    try:
        width = max(stage.embed_dim for stage in SearchSpace.from_dict(space, source="space").largest().stages)
    except UserError:
        return fields
    rate = DEFAULT_LEARNING_RATE * min(1.0, FULL_RATE_WIDTH / width)
    return {**fields, "training": {**training, "learning_rate": rate}}


def resolve_baseline(fields: dict[str, Any], source: str) -> dict[str, Any]:
    """Replace the name of a published architecture by its fields.

    Args:
        fields: The fields of an experiment.
        source: Where they are from, for error messages.

    Returns:
        The fields, with those of the architecture as `baseline`.

    Raises:
        UserError: No published architecture has this name.
    """
    name = fields.get("baseline")
    if not isinstance(name, str) or name == "none":
        return fields
    if name not in PUBLISHED:
        raise UserError(
            f"{source}: baseline: no published architecture is called {quoted(name)}; choose none (no reference network), or "
            f"{similar_networks(name)}"
        )
    return {**fields, "baseline": PUBLISHED[name].architecture.to_dict()}


def _apply_override(fields: dict[str, Any], override: str) -> None:
    """Set one nested field in place, from `a.b=c`."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: write it as a.b=c, for example training.epochs=20")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UserError(f"--set {override}: {quoted(text)} is not YAML") from None
    target: Any = fields
    for i, key in enumerate(keys[:-1]):
        target = _child(target, key, override)
        if not isinstance(target, dict | list):
            raise UserError(f"--set {override}: {'.'.join(keys[: i + 1])} is {quoted(target)}, which has no fields")
    if isinstance(target, list):
        _child(target, keys[-1], override)
        target[int(keys[-1])] = value
    else:
        target[keys[-1]] = value


def _child(target: Any, key: str, override: str) -> Any:
    """Return an entry of a mapping (a new mapping if missing) or of a list."""
    if isinstance(target, dict):
        return target.setdefault(key, {})
    if not key.isdecimal() or len(key) > 9 or int(key) >= len(target):
        raise UserError(f"--set {override}: {key} is not an index of a list of length {len(target)}")
    return target[int(key)]
