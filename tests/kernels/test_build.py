"""The compiled kernel is built once, kept, and never needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autospike.kernels.build import library
from autospike.kernels.lif import kernel
from autospike.nn.neuron import LIF
from autospike.space.architecture import Neuron


def forget() -> None:
    kernel.cache_clear()
    library.cache_clear()


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no kernel loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield tmp_path / "autospike"
    forget()


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false", "true"])
def test_without_a_working_compiler_the_neuron_still_fires(monkeypatch: pytest.MonkeyPatch, compiler: str) -> None:
    monkeypatch.setenv("CC", compiler)
    assert kernel() is None
    assert LIF(Neuron())(torch.full((3, 1), 1.2)).flatten().tolist() == [0, 0, 1]


def test_it_is_built_once(fresh: Path) -> None:
    if kernel() is None:
        pytest.skip("no C compiler here")
    (library,) = fresh.iterdir()
    built = library.stat().st_mtime_ns
    forget()
    assert kernel() is not None
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [built]
