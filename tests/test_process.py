"""What a process asks of malloc."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from autospike import process
from autospike.process import M_MMAP_MAX, MOST_BLOCKS, large_blocks_kept


@pytest.fixture
def most_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What malloc was told of the number of blocks that it may have from the system."""
    told: list[int] = []
    malloc = SimpleNamespace(mallopt=lambda option, value: told.append(value) if option == M_MMAP_MAX else None)
    monkeypatch.setattr(process.ctypes, "CDLL", lambda _name: malloc)
    return told


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_large_blocks_are_kept_until_the_last_who_asked_is_done(most_blocks: list[int]) -> None:
    with large_blocks_kept():
        with large_blocks_kept():
            pass
        with pytest.raises(RuntimeError), large_blocks_kept():
            raise RuntimeError
        assert set(most_blocks) == {0}
    assert most_blocks[-1] == MOST_BLOCKS
    with large_blocks_kept():
        assert most_blocks[-1] == 0
    assert most_blocks.count(MOST_BLOCKS) == 2
