"""Fixtures that run a test once for every instruction set of the processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autospike.kernels.build import library, usable_instruction_sets, use_kernels

ISAS = [isa for isa in usable_instruction_sets() if library("lif", isa) is not None]


@pytest.fixture(params=ISAS or ["none"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this processor, one after the other; kernels in the test are compiled for it."""
    if not ISAS:
        pytest.skip("no C compiler here")
    with use_kernels(request.param):
        yield request.param


@pytest.fixture(params=[*ISAS, "off"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set, and the composite operations ("off")."""
    with use_kernels(request.param):
        yield request.param
