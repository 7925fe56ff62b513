"""Commands write no figures, unless a test asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_runs


@pytest.fixture(autouse=True)
def without_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Files of figures are empty, unless a test uses `with_figures`."""
    if "with_figures" in request.fixturenames:
        yield
        return
    with tiny_runs.without_figures():
        yield


@pytest.fixture
def with_figures() -> None:
    """Write the figures."""
