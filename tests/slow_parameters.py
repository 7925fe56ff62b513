"""Parameters of which a few run by default."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_except(default: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Return parameters for `pytest.mark.parametrize`; all but the default ones are marked `slow`.

    Args:
        default: Values that run by default, each of them one of `values`.
        values: All values; a tuple is one value for each of several arguments.
    """
    values = list(values)
    assert all(value in values for value in default), "a default value is not one of the parameters"
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=[] if value in default else pytest.mark.slow)
        for value in values
    ]
