"""What a process asks of malloc."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from autospike.memory import allocator
from autospike.memory.allocator import M_MMAP_MAX, MMAP_MAX_BLOCKS, retain_large_allocations


@pytest.fixture
def most_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What malloc was told of the number of blocks that it may have from the system."""
    told: list[int] = []
    malloc = SimpleNamespace(mallopt=lambda option, value: told.append(value) if option == M_MMAP_MAX else None)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _name: malloc)
    return told


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_large_blocks_are_kept_until_the_last_who_asked_is_done(most_blocks: list[int]) -> None:
    with retain_large_allocations():
        with retain_large_allocations():
            pass
        with pytest.raises(RuntimeError), retain_large_allocations():
            raise RuntimeError
        assert set(most_blocks) == {0}
    assert most_blocks[-1] == MMAP_MAX_BLOCKS
    with retain_large_allocations():
        assert most_blocks[-1] == 0
    assert most_blocks.count(MMAP_MAX_BLOCKS) == 2
