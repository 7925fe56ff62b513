"""Import paths of the user's own functions and classes: `package.module:name`."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autospike.errors import UserError, quoted

_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_import_path(text: str) -> bool:
    """Return whether a text has the form `package.module:name`.

    Args:
        text: The text.
    """
    return _PATTERN.fullmatch(text) is not None


def load(path: str, *, source: str) -> Any:
    """Import what an import path names. Modules in the current folder are found as well.

    Args:
        path: The import path.
        source: The field or argument it is from, for error messages.

    Returns:
        The function, class or value.

    Raises:
        UserError: There is no such module, it cannot be imported, or it has no such name.
    """
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{source}: {path}: {error}; looked in {here}, in PYTHONPATH and in the installed packages") from None
    except Exception as error:  # the module may raise anything
        raise UserError(f"{source}: {path}: the import raised {_described(error)}") from None
    finally:
        if added:
            sys.path.remove(here)
    for attribute in name.split("."):
        try:
            value = getattr(value, attribute)
        except AttributeError as error:
            raise UserError(f"{source}: {path}: {error}; check the name after the colon") from None
    return value


def call(function: Any, *args: Any, path: str, source: str) -> Any:
    """Call a function of the user.

    Args:
        function: What `load` returned.
        *args: Its arguments.
        path: Its import path, for error messages.
        source: The field or argument it is from, for error messages.

    Returns:
        What it returns.

    Raises:
        UserError: It raised an error.
    """
    try:
        return function(*args)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{source}: {path} raised {_described(error)}") from error


def _described(error: Exception) -> str:
    """Type and message of an error, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:200]}{where}"


def of(value: Any, *, source: str) -> str:
    """Return the import path of a function or class, so that a run can record it.

    Args:
        value: A function or class at the top level of a module or notebook.
        source: The argument it is from, for error messages.

    Raises:
        UserError: It cannot be imported by its name, as a lambda or a function inside of another one.
    """
    path = f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"
    if not is_import_path(path) or load(path, source=source) is not value:
        raise UserError(f"{source}: {quoted(value)} has no import path; define it with def or class at the top level of a module")
    return path


def name_or_import_path(*names: str) -> Callable[[str], str]:
    """Return a validator of a field that is one of some names, or an import path.

    Args:
        *names: The names.

    Returns:
        A function that returns its argument, or raises ValueError.
    """

    def check(text: str) -> str:
        if text not in names and not is_import_path(text):
            listed = ", ".join(map(repr, names[:-1]))
            raise ValueError(
                f"input should be {listed} or {names[-1]!r}, or an import path package.module:name, got {quoted(text)}"
            )
        return text

    return check
