"""Settings of malloc."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from autospike.memory.allocator import M_MMAP_MAX, MMAP_MAX_BLOCKS, retain_large_allocations


@pytest.fixture
def mmap_max_values(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the values to which M_MMAP_MAX is set, recorded by a replacement of glibc."""
    values: list[int] = []
    malloc = SimpleNamespace(mallopt=lambda option, value: values.append(value) if option == M_MMAP_MAX else None)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: malloc)
    return values


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_large_allocations_are_retained_until_the_outermost_block_ends(mmap_max_values: list[int]) -> None:
    with retain_large_allocations():
        with retain_large_allocations():
            pass
        with pytest.raises(RuntimeError), retain_large_allocations():
            raise RuntimeError
        assert set(mmap_max_values) == {0}
    assert mmap_max_values[-1] == MMAP_MAX_BLOCKS
    with retain_large_allocations():
        assert mmap_max_values[-1] == 0
    assert mmap_max_values.count(MMAP_MAX_BLOCKS) == 2
