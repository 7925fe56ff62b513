"""Which class of the data each class of a model is.

A model and a dataset have the same classes if the names are equal and in the same order. An imported model has numbers instead of
names, which say nothing about classes with other names; a class map says which they are.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autospike import files
from autospike.data.images import Split
from autospike.errors import UserError

# Names the class map by which the i-th class of the model is the i-th class of the data.
ORDER = "order"


def class_indices(model_classes: Sequence[str], data_classes: Sequence[str], class_map: str | None) -> tuple[int, ...] | None:
    """Return the class of the model that each class of the data is.

    Args:
        model_classes: Names of the classes of the model, in the order of the logits.
        data_classes: Names of the classes of the data, in the order of the labels.
        class_map: A file, JSON `{CLASS: FOLDER}` or CSV `CLASS,FOLDER`; "order" for the same order; None to compare names.

    Returns:
        For each class of the data its position among the classes of the model; None if no map is given and the names differ.

    Raises:
        UserError: The map cannot be read, names a class that does not exist, or leaves out a class of the data.
    """
    if class_map is None:
        return tuple(range(len(data_classes))) if tuple(model_classes) == tuple(data_classes) else None
    if class_map == ORDER:
        if len(model_classes) != len(data_classes):
            raise UserError(
                f"--class-map order: the model has {len(model_classes)} classes, the data have {len(data_classes)}; "
                "give a file with CLASS,FOLDER for each class of the data"
            )
        return tuple(range(len(data_classes)))
    pairs = _read_pairs(Path(class_map))
    known, folders = {name: i for i, name in enumerate(model_classes)}, set(data_classes)
    found: dict[str, int] = {}
    for name, folder in pairs:
        if name not in known:
            raise UserError(f"--class-map {class_map}: the model has no class {name!r}; its classes are {_some(model_classes)}")
        if folder not in folders:
            raise UserError(f"--class-map {class_map}: the data have no class {folder!r}; their classes are {_some(data_classes)}")
        if found.setdefault(folder, known[name]) != known[name]:
            raise UserError(f"--class-map {class_map}: two classes of the model are {folder!r}; name one of them")
    missing = next((folder for folder in data_classes if folder not in found), None)
    if missing is not None:
        raise UserError(f"--class-map {class_map}: no class of the model is {missing!r}; name one for every class of the data")
    if len(set(found.values())) < len(found):
        raise UserError(f"--class-map {class_map}: one class of the model is two of the data; name each at most once")
    return tuple(found[folder] for folder in data_classes)


def relabelled(split: Split, indices: Sequence[int]) -> Split:
    """Return a split whose labels are classes of a model.

    Args:
        split: The split.
        indices: The class of the model that each class of the data is; see `class_indices`.
    """
    return replace(split, labels=tuple(indices[label] for label in split.labels))


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read pairs of a class of the model and a class of the data.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    if path.suffix != ".csv":
        content = files.read_json(path)
        if not isinstance(content, dict) or not all(isinstance(folder, str) for folder in content.values()):
            raise UserError(f"--class-map {path}: must be JSON {{CLASS: FOLDER}} with names as values, or CSV (.csv) CLASS,FOLDER")
        return list(content.items())
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-map {path}: cannot be read ({error})") from None
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    wrong = next((i for i, row in enumerate(rows, start=1) if len(row) != 2), None)
    if wrong is not None:
        raise UserError(f"--class-map {path}: row {wrong} has {len(rows[wrong - 1])} columns; write CLASS,FOLDER")
    header = rows[:1] == [["class", "folder"]]
    return [(name, folder) for name, folder in rows[1 if header else 0 :]]


def _some(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
