"""The search spaces and experiments that come with the package, by name.

They are YAML files: in a checkout of the repository under `search_spaces/` and `experiments/`, in an installed package beside its
modules.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from autospike.errors import UserError

Kind = Literal["experiments", "search_spaces"]

_PACKAGE = Path(__file__).parent


def files_of(kind: Kind) -> dict[str, Path]:
    """Return the files of a kind.

    Args:
        kind: Name of the folder.

    Returns:
        The files by their names without ending, sorted.
    """
    installed = _PACKAGE / kind
    folder = installed if installed.is_dir() else _PACKAGE.parent / kind
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(kind: Kind, given: str, folder: Path) -> Path:
    """Find the file that a path or a name means.

    Args:
        kind: Which files have names.
        given: A path, or the name of a file that comes with the package.
        folder: The folder that paths are relative to.

    Returns:
        The path, which may not exist if it has an ending or a parent folder; a file `given` has precedence over a name.

    Raises:
        UserError: It is a single word, and neither a file nor a known name.
    """
    path, known = folder / given, files_of(kind)
    if _is_path(given) or path.is_file():
        return path
    if given in known:
        return known[given]
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.4)
    similar = f"; similar names: {', '.join(close)}" if close else ""
    option = {"experiments": "experiments", "search_spaces": "spaces"}[kind]
    raise UserError(
        f"{given}: no file of this name in {folder.absolute()}, and no name that `autospike list {option}` prints{similar}"
    )


def _is_path(given: str) -> bool:
    """Return whether a text can only be a path: it has a parent folder or an ending, or is not printable.

    Args:
        given: A path, or the name of a search space or experiment.
    """
    return Path(given).name != given or Path(given).suffix != "" or not given.isprintable()
